//! What a session was when a snapshot of its workspace was taken, and going back
//! to that.
//!
//! ```text
//! snapshot kept ──> Checkpoint ───────────────────┐ put back by the fold
//!     person ──> roll back: what is open is closed, the workspace restored, the
//!                stage entered again as a new attempt, the model told
//! ```
//!
//! The log only grows: what was done since stays in it, and so does what it cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    decide::answered,
    event::{AfterModelFailure, Condition, EventBody, ToolEffect, ToolEnded, ToolOutcome},
    request::{RequestRefusal, Response},
    state::{Effect, SessionState},
    work::{Again, Commit, OpenedPullRequest, Validation, Work, WorkResult},
};
use crate::domain::{
    cognition::Ledger,
    ids::{ArtifactId, SnapshotId},
    proof::Proof,
    recovery::stuck::Trail,
    stage::Stage,
    todo::Todo,
};

/// What calls and questions are told that a rollback cuts off.
const CUT_OFF: &str = "given up: a person rolled the session back";

/// A session at one of its snapshots.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The stage that was entered.
    pub stage: Stage,
    /// Its attempt.
    pub attempt: u32,
    /// The workspace at that time.
    pub snapshot: SnapshotId,
    /// Number of the event that the snapshot came with.
    pub sequence: u64,
    todos: Vec<Todo>,
    files: BTreeMap<String, String>,
    changed_files: BTreeSet<String>,
    cognition: Ledger,
    last_failure: Option<String>,
    validation: Option<Validation>,
    commit: Option<Commit>,
    proof: Option<Proof>,
    pull_request: Option<OpenedPullRequest>,
    check_artifacts: Vec<(String, ArtifactId)>,
}

/// Which checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollBackTo {
    /// The stage.
    pub stage: Stage,
    /// Its attempt; `None` means the last one with a snapshot.
    pub attempt: Option<u32>,
    /// Number of the session's last event when this was first asked for: a rollback
    /// to there that has begun since is the one that is meant. `None` means another.
    pub since: Option<u64>,
}

/// A rollback that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// Number of the event that began it.
    pub sequence: u64,
    /// The stage that it leads to.
    pub stage: Stage,
    /// Its attempt.
    pub attempt: u32,
}

impl RollBackTo {
    /// Whether a session has begun with it already, whatever came of it.
    #[must_use]
    pub fn has_begun(&self, state: &SessionState) -> bool {
        let Some((since, last)) = self.since.zip(state.rolled_back) else {
            return false;
        };
        last.sequence > since
            && last.stage == self.stage
            && self.attempt.is_none_or(|number| number == last.attempt)
    }
}

impl Checkpoint {
    /// The session as it is.
    pub(super) fn of(state: &SessionState, snapshot: SnapshotId) -> Self {
        Self {
            stage: state.stage,
            attempt: state.record().map_or(1, |record| record.attempt),
            snapshot,
            sequence: state.sequence,
            todos: state.todos.clone(),
            files: state.files.clone(),
            changed_files: state.changed_files.clone(),
            cognition: state.cognition.clone(),
            last_failure: state.last_failure.clone(),
            validation: state.validation.clone(),
            commit: state.commit.clone(),
            proof: state.proof.clone(),
            pull_request: state.pull_request.clone(),
            check_artifacts: state.check_artifacts.clone(),
        }
    }

    /// Makes the session what it was; what it has cost stays.
    pub(super) fn put_back(&self, state: &mut SessionState) {
        state.todos.clone_from(&self.todos);
        state.files.clone_from(&self.files);
        state.changed_files.clone_from(&self.changed_files);
        state.cognition.clone_from(&self.cognition);
        state.last_failure.clone_from(&self.last_failure);
        state.validation.clone_from(&self.validation);
        state.commit.clone_from(&self.commit);
        state.proof.clone_from(&self.proof);
        state.pull_request.clone_from(&self.pull_request);
        state.check_artifacts.clone_from(&self.check_artifacts);
        state.trail = Trail::default();
        state.failed_work = None;
        state.escalated = None;
        state.silent_replies = 0;
    }

    /// Its name for people: "MODIFY#2".
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}#{}", self.stage, self.attempt)
    }
}

/// What is said to the model once the workspace is as it was.
pub(super) fn told(stage: Stage) -> String {
    format!(
        "A person rolled this session back: the workspace is as it was when {stage} began. Every \
         edit, command and installed program since is undone, and so are todos and evidence since \
         then. What you read and learnt after that may not hold: look again, and take another way \
         than the one that was rolled back."
    )
}

/// What a wish to roll back comes to.
pub(super) fn respond(state: &SessionState, to: RollBackTo) -> Response {
    if to.has_begun(state) {
        return Response::AlreadySo;
    }
    match state.condition {
        Condition::Running => return Response::Refused(RequestRefusal::Running),
        Condition::Failed | Condition::Verified | Condition::Cancelled => {
            return Response::Refused(RequestRefusal::Ended(state.condition));
        }
        Condition::Paused | Condition::Waiting | Condition::Interrupted => {}
    }
    let fits = |checkpoint: &&Arc<Checkpoint>| {
        checkpoint.stage == to.stage && to.attempt.is_none_or(|number| number == checkpoint.attempt)
    };
    let Some(checkpoint) = state.checkpoints.iter().rev().find(fits) else {
        let asked = match to.attempt {
            Some(number) => format!("{}#{number}", to.stage),
            None => to.stage.to_string(),
        };
        let known = state.checkpoints.iter().map(|known| known.name()).collect();
        return Response::Refused(RequestRefusal::NoSnapshot { asked, known });
    };
    // What the forge has, it keeps: work that starts from before it could never be
    // published on the same branch.
    if state.publishing > checkpoint.sequence {
        let to = checkpoint.name();
        return Response::Refused(RequestRefusal::Published { to });
    }
    let work = Work::RollBack {
        stage: checkpoint.stage,
        attempt: checkpoint.attempt,
        snapshot: checkpoint.snapshot.clone(),
    };
    let mut events = close(state);
    events.push(EventBody::WorkStarted {
        work,
        attempt: 1,
        argv: Vec::new(),
    });
    let reason = format!("a person rolls it back to {}", checkpoint.name());
    let to = Condition::Running;
    events.push(EventBody::StateChanged { to, reason });
    Response::Accepted(events)
}

/// Outcomes for everything that has none, so that nothing is left open.
fn close(state: &SessionState) -> Vec<EventBody> {
    let error = || CUT_OFF.to_owned();
    let mut events = Vec::new();
    let mut calls = state.calls.iter();
    if let Some(open) = &state.open {
        let intent = open.intent;
        events.push(match &open.effect {
            Effect::AskModel => EventBody::ModelFailed {
                intent,
                error: error(),
                then: AfterModelFailure::AskAgain,
                free: false,
                wait_ms: None,
            },
            Effect::RunTool { call, .. } => {
                calls.next();
                EventBody::ToolEnded(Box::new(ToolEnded {
                    intent: Some(intent),
                    call_id: call.id.clone(),
                    name: call.name.clone(),
                    outcome: ToolOutcome::Error,
                    content: error(),
                    artifact: None,
                    duration_ms: 0,
                    failure: None,
                    effect: ToolEffect::None,
                }))
            }
            Effect::DoWork { work, .. } => EventBody::WorkEnded {
                intent,
                work: work.clone(),
                result: WorkResult::Failed {
                    error: error(),
                    again: Again::MayHelp,
                },
                failures: Vec::new(),
                artifacts: Vec::new(),
            },
        });
    }
    if let Some(question) = &state.question {
        events.push(EventBody::QuestionAnswered {
            question: question.id.clone(),
            accepted: false,
            text: error(),
            verdict: None,
            by: None,
        });
    }
    events
        .extend(calls.map(|call| answered(call, ToolOutcome::Refused, CUT_OFF, ToolEffect::None)));
    events
}
