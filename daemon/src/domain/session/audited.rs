//! What of a session's events goes to the audit log.

use super::{
    event::{ApprovalRequest, ApprovalVerdict, EventBody, QuestionAbout, ToolEnded, ToolOutcome},
    gate,
    state::{Effect, Open, SessionState},
    work::{Work, WorkResult},
};
use crate::domain::{
    audit::{Entry, Kind, Outcome, chain::Hash},
    conversation::{Arguments, ToolCall},
    ids::{ExecId, StepId},
    policy::{RiskKind, classify},
    tools::ToolRequest,
};

/// Who acts in a session: its model.
const MODEL: &str = "model";
/// Who acts in a session: the daemon itself.
const DAEMON: &str = "daemon";
/// Who acts in a session: whoever answered, where nobody kept who it was.
const PERSON: &str = "person";
/// The detail of what may begin only once its record is on disk.
const PUBLISHES: &str = "publishes";

/// The records of events that are appended to a session at this time.
#[must_use]
pub fn entries(before: &SessionState, at_ms: i64, events: &[EventBody]) -> Vec<Entry> {
    let mut calls: Vec<&ToolCall> = before.calls.iter().collect();
    let mut entries = Vec::new();
    for (sequence, event) in (before.sequence + 1..).zip(events) {
        if let EventBody::ModelAnswered(answer) = event {
            calls.extend(&answer.turn.tool_calls);
        }
        entries.extend(entry(before, &calls, at_ms, sequence, event));
    }
    entries
}

fn entry(
    before: &SessionState,
    calls: &[&ToolCall],
    at_ms: i64,
    sequence: u64,
    event: &EventBody,
) -> Option<Entry> {
    let new = |kind, caller| {
        Entry::new(at_ms, kind, caller)
            .in_workspace(&before.created.workspace)
            .in_session(before.id())
    };
    let step = StepId::of(before.id(), sequence);
    match event {
        EventBody::ToolStarted {
            call,
            expected_hash: _,
            risks: _,
        } => {
            let entry = in_step(new(Kind::ToolStarted, MODEL), &step).called(call);
            Some(match publishes(before, call) {
                true => entry.with(PUBLISHES, true),
                false => entry,
            })
        }
        EventBody::ToolEnded(ended) => {
            let call = open_call(before.open.as_ref(), ended);
            let call = call.or_else(|| calls.iter().copied().find(|call| call.id == ended.call_id));
            let mut entry = new(Kind::ToolCall, MODEL).with_tool(&ended.name);
            if let Some(call) = call {
                entry = entry.called(call);
            }
            if let Some(intent) = ended.intent {
                entry = in_step(entry, &StepId::of(before.id(), intent));
            }
            Some(entry.answered(ended))
        }
        EventBody::WorkStarted {
            work,
            attempt,
            argv,
        } => {
            let entry = in_step(new(Kind::ToolStarted, DAEMON), &step)
                .with_tool(work.name())
                .with("attempt", *attempt);
            Some(if argv.is_empty() {
                entry
            } else {
                entry.with("argv", argv.clone())
            })
        }
        EventBody::WorkEnded {
            intent,
            work,
            result,
            failures: _,
            artifacts,
        } => {
            let step = StepId::of(before.id(), *intent);
            let kind = match work {
                Work::Publish => Kind::Push,
                Work::BaseRun
                | Work::SnapshotStart
                | Work::SnapshotStage
                | Work::SnapshotAct
                | Work::RollBack { .. }
                | Work::Validate
                | Work::VerifyTodo { .. }
                | Work::Commit
                | Work::Prove
                | Work::OpenPullRequest
                | Work::RunCi => Kind::ToolCall,
            };
            let entry = in_step(new(kind, DAEMON), &step)
                .with_tool(work.name())
                .with("result_sha256", hash_of(result));
            let entry = match result {
                WorkResult::Failed { error, again: _ } => entry
                    .with_outcome(Outcome::Failed)
                    .with("error", error.clone()),
                WorkResult::BaseRun(_)
                | WorkResult::StartSnapshot { .. }
                | WorkResult::StageSnapshot { .. }
                | WorkResult::ActSnapshot { .. }
                | WorkResult::RolledBack { .. }
                | WorkResult::Validated(_)
                | WorkResult::TodoChecked(_)
                | WorkResult::Committed(_)
                | WorkResult::Proved(_)
                | WorkResult::Published { .. }
                | WorkResult::PullRequestOpened(_)
                | WorkResult::CiEnded(_) => entry.with_outcome(Outcome::Ok),
            };
            let artifacts: Vec<String> = artifacts.iter().map(ToString::to_string).collect();
            Some(if artifacts.is_empty() {
                entry
            } else {
                entry.with("artifacts", artifacts)
            })
        }
        EventBody::QuestionAsked { question } => {
            let entry = new(Kind::Approval, DAEMON)
                .decided_by(&question.id)
                .with("event", "asked")
                .with("question", question.text.clone());
            Some(match &question.about {
                QuestionAbout::Model => entry.with("about", "a question of the model"),
                QuestionAbout::Proof { commit } => entry
                    .with("about", "what a proof leaves to judge")
                    .with("commit", commit.clone()),
                QuestionAbout::Approval(asked) => entry
                    .with_tool(asked.tool.name())
                    .with(
                        "about",
                        match asked.call.as_str() {
                            ApprovalRequest::SPENDING => "spending",
                            _ => "a tool call",
                        },
                    )
                    .with("call", asked.call.clone())
                    .with("act", asked.act.clone())
                    .with("directory", asked.directory.clone())
                    .with("tier", asked.tier.name())
                    .with("classes", asked.classes.clone())
                    .with("why", asked.why.clone())
                    .with("expires_at_ms", asked.expires_at_ms),
                QuestionAbout::Circle => entry.with("about", "a session that turns in circles"),
                QuestionAbout::Todo {
                    id,
                    tree,
                    artifact: _,
                } => entry
                    .with("about", "a todo")
                    .with("todo", *id)
                    .with("tree", tree.clone()),
            })
        }
        EventBody::QuestionAnswered {
            question,
            accepted,
            text,
            verdict,
            by,
        } => {
            let outcome = match accepted {
                true => Outcome::Ok,
                false => Outcome::Denied,
            };
            let caller = match (verdict, by) {
                (Some(ApprovalVerdict::Expired), _) => DAEMON,
                (Some(_) | None, Some(by)) => by.as_str(),
                (Some(_) | None, None) => PERSON,
            };
            let entry = new(Kind::Approval, caller)
                .decided_by(question)
                .with_outcome(outcome)
                .with("event", "answered")
                .with("answer", text.clone());
            Some(match verdict {
                Some(verdict) => entry.with("verdict", verdict.name()),
                None => entry,
            })
        }
        EventBody::StateChanged { to, reason } => Some(
            new(Kind::Session, DAEMON)
                .with("condition", to.name())
                .with("reason", reason.clone()),
        ),
        EventBody::Created(_)
        | EventBody::StageEntered { .. }
        | EventBody::StageLeft { .. }
        | EventBody::MessageAdded { .. }
        | EventBody::BudgetReserved(_)
        | EventBody::BudgetNoted { .. }
        | EventBody::Compacted { .. }
        | EventBody::ModelAsked
        | EventBody::ModelAnswered(_)
        | EventBody::ModelFailed { .. }
        | EventBody::Cognition(_)
        | EventBody::TodoChanged { .. }
        | EventBody::CircleFound(_) => None,
    }
}

/// Whether what a record is about may only happen once it is on disk: an
/// approval, and a call that pushes or merges, whoever has let it. The daemon's own
/// push is recorded by who makes it.
#[must_use]
pub fn comes_first(entry: &Entry) -> bool {
    entry.kind == Kind::Approval
        || entry.kind == Kind::ToolStarted && entry.detail.contains_key(PUBLISHES)
}

/// Whether a call pushes a branch, or merges into any.
fn publishes(state: &SessionState, call: &ToolCall) -> bool {
    let Ok(request) = ToolRequest::parse(call) else {
        return false;
    };
    let repository = state.repository_dir();
    let subject = gate::subject(&repository, &request);
    // Which branches are protected is the policy's to say, and it may change.
    let any_branch = ["*".to_owned()];
    let acts = classify::acts(request.tool(), &subject, &repository, &any_branch);
    let findings = acts.iter().flat_map(|act| &act.findings);
    let mut kinds = findings.map(|finding| finding.kind);
    kinds.any(|kind| matches!(kind, RiskKind::Push | RiskKind::ForcePush | RiskKind::Merge))
}

/// A step's command has the step's id.
fn in_step(entry: Entry, step: &StepId) -> Entry {
    entry
        .in_step(step)
        .by_process(ExecId::from(step.clone()).to_string())
}

/// The call of the step under way, if this is its answer.
fn open_call<'a>(open: Option<&'a Open>, ended: &ToolEnded) -> Option<&'a ToolCall> {
    match &open?.effect {
        Effect::RunTool {
            call,
            expected_hash: _,
        } => (call.id == ended.call_id).then_some(call),
        Effect::AskModel | Effect::DoWork { .. } => None,
    }
}

fn hash_of(result: &WorkResult) -> String {
    let json = serde_json::to_vec(result).expect("results have string keys and finite numbers");
    Hash::of(&json).to_string()
}

impl Entry {
    fn called(self, call: &ToolCall) -> Self {
        let entry = self.with_tool(&call.name).with("call", call.id.clone());
        match &call.arguments {
            Arguments::Object(arguments) => entry.with("arguments", arguments.clone()),
            Arguments::Malformed { raw, error: _ } => {
                entry.with("malformed_arguments", raw.clone())
            }
        }
    }

    fn answered(self, ended: &ToolEnded) -> Self {
        let hash = Hash::of(ended.content.as_bytes()).to_string();
        let mut entry = self
            .with("call", ended.call_id.clone())
            .with("result_sha256", hash)
            .with("result_bytes", ended.content.len())
            .with("duration_ms", ended.duration_ms);
        if let Some(artifact) = &ended.artifact {
            entry = entry.with("artifact", artifact.to_string());
        }
        match ended.outcome {
            ToolOutcome::Ok => entry.with_outcome(Outcome::Ok),
            ToolOutcome::Error => entry.with_outcome(Outcome::Failed),
            ToolOutcome::Refused => entry
                .with_outcome(Outcome::Denied)
                .with("reason", ended.content.clone()),
        }
    }
}
