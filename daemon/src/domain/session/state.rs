//! What a session is, folded from its log one event at a time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    checkpoint::{Checkpoint, RolledBack},
    event::{
        AfterModelFailure, ApprovalRequest, ApprovalVerdict, Condition, Created, Event, EventBody,
        Question, QuestionAbout, ToolEffect, ToolEnded, ToolOutcome,
    },
    gate,
    spending::Spending,
    work::{Again, BaseRun, CiResult, Commit, OpenedPullRequest, Validation, Work, WorkResult},
};
use crate::domain::{
    budget::Day,
    cognition::Ledger,
    conversation::{ToolCall, Usage},
    ids::{ArtifactId, SessionId, SnapshotId, StepId},
    policy::Unjudged,
    prompts,
    proof::Proof,
    recovery::{Failure, stuck::Trail},
    stage::Stage,
    todo::{Todo, TodoState},
    tools::{Tool, path_key},
};

/// Acts of medium risk that whoever merges is told, at most.
pub const RISKS_MAX: usize = 100;

/// A session after the events so far. Equal logs give equal states.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionState {
    /// How it began; shared, because states are published often and this part
    /// is large and never changes.
    pub created: Arc<Created>,
    /// Sequence number of the last event.
    pub sequence: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// When its last event happened.
    pub updated_at_ms: i64,
    /// Milliseconds in which it was running.
    pub active_ms: u64,
    /// Its condition.
    pub condition: Condition,
    /// Why it is in that condition.
    pub reason: String,
    /// The stage it is in, or ended in.
    pub stage: Stage,
    /// Every attempt at a stage, the last one being the present one.
    pub records: Vec<StageRecord>,
    /// What the present attempt has come to.
    pub attempt: Attempt,
    /// Its todos, by number.
    pub todos: Vec<Todo>,
    /// The effect under way.
    pub open: Option<Open>,
    /// Tool calls of the last reply that have no answer yet.
    pub calls: VecDeque<ToolCall>,
    /// What a person is asked.
    pub question: Option<Question>,
    /// Questions asked so far.
    pub questions_asked: u32,
    /// What people have answered to what it may do.
    pub approvals: Approvals,
    /// What was of medium risk and went on alone, each once, [`RISKS_MAX`] at most:
    /// for whoever merges.
    pub risks: Vec<String>,
    /// Replies without a tool call, in a row.
    pub silent_replies: u32,
    /// The piece of work that could not be done, since nothing else happened.
    pub failed_work: Option<FailedWork>,
    /// What checks failed with that only a person can mend, until one has looked.
    pub escalated: Option<String>,
    /// What the daemon last saw fail, with its output, for the model.
    pub last_failure: Option<String>,
    /// Hash of each file as the session last saw it, by [`path_key`].
    pub files: BTreeMap<String, String>,
    /// Files that it wrote and that were not judged as scripts.
    pub unjudged: Unjudged,
    /// What its reasoning is judged by.
    pub cognition: Ledger,
    /// Its last steps, to see whether it turns in circles.
    pub trail: Trail,
    /// Tokens so far, as the provider counted them.
    pub tokens: Usage,
    /// What all of it has cost.
    pub spending: Spending,
    /// Model calls in a row that brought no reply.
    pub model_failures: u32,
    /// Until when the provider asks to be left alone, in milliseconds since the
    /// Unix epoch; 0 where it never did. Whoever resumes the session does not
    /// change that.
    pub ask_from_ms: i64,
    /// Whether the provider said that the conversation is too long, and nothing
    /// was done about it yet.
    pub overflowed: bool,
    /// Whether the conversation was compacted since the model last answered.
    pub compacted: bool,
    /// Files that it changed, absolute.
    pub changed_files: BTreeSet<String>,
    /// Model calls so far.
    pub model_calls: u32,
    /// Tool calls with an answer so far.
    pub tool_calls: u32,
    /// What it started from.
    pub base: Option<Arc<BaseRun>>,
    /// The snapshot of that, which proofs are made in copies of.
    pub start: Option<SnapshotId>,
    /// What it was at each of its snapshots, oldest first.
    pub checkpoints: Vec<Arc<Checkpoint>>,
    /// The last rollback that began.
    pub rolled_back: Option<RolledBack>,
    /// Number of the event that last began to publish its branch; 0 before.
    pub publishing: u64,
    /// What the daemon's checks last said.
    pub validation: Option<Validation>,
    /// Its last commit.
    pub commit: Option<Commit>,
    /// Its last proof.
    pub proof: Option<Proof>,
    /// Its pull request.
    pub pull_request: Option<OpenedPullRequest>,
    /// Output of the checks of the pull request, by name.
    pub check_artifacts: Vec<(String, ArtifactId)>,
}

/// What people have answered to what a session may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approvals {
    /// The call that was approved and is not made yet.
    pub once: Option<String>,
    /// The call before which a snapshot was taken.
    pub snapshotted: Option<String>,
    /// Classes that were approved for the session.
    pub session: BTreeSet<String>,
    /// Classes that were approved for the project, in this session.
    pub project: BTreeSet<String>,
    /// Classes that were refused, with the words for the model.
    pub refused: BTreeMap<String, String>,
    /// How many nobody answered in time.
    pub expired: u32,
}

impl Approvals {
    fn answer(&mut self, request: &ApprovalRequest, verdict: ApprovalVerdict, words: &str) {
        let classes = request.classes.iter().cloned();
        match verdict {
            // It is about all calls up to the next mark.
            ApprovalVerdict::Once if request.call == ApprovalRequest::SPENDING => {
                self.session.extend(classes);
            }
            ApprovalVerdict::Once => {}
            ApprovalVerdict::Session => self.session.extend(classes),
            ApprovalVerdict::Project => {
                self.session.extend(classes.clone());
                self.project.extend(classes);
            }
            ApprovalVerdict::Denied | ApprovalVerdict::Expired => {
                let words = refusal_words(verdict, words);
                self.refused
                    .extend(classes.map(|class| (class, words.clone())));
                self.expired += u32::from(verdict == ApprovalVerdict::Expired);
                return;
            }
        }
        self.once = Some(request.call.clone());
    }
}

/// What the model is told of a refusal.
pub(super) fn refusal_words(verdict: ApprovalVerdict, words: &str) -> String {
    match (verdict, words.trim()) {
        (ApprovalVerdict::Expired, _) => {
            "nobody answered in time, so it is refused: go on without it".to_owned()
        }
        (_, "") => "a person refused it: go on without it".to_owned(),
        (_, words) => format!("a person refused it: {words}"),
    }
}

/// One attempt at a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRecord {
    /// Which stage.
    pub stage: Stage,
    /// From 1.
    pub attempt: u32,
    /// Why it was entered.
    pub why: String,
    /// What it was entered with.
    pub input: StageInput,
    /// How it ended; `None` while it runs.
    pub outcome: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub entered_at_ms: i64,
    /// Milliseconds since the Unix epoch; `None` while it runs.
    pub left_at_ms: Option<i64>,
    /// Artifacts made in it.
    pub artifacts: Vec<ArtifactId>,
}

/// What an attempt at a stage was entered with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageInput {
    /// The session's last commit, else the one it started from, in hex; `None`
    /// before the base run.
    pub commit: Option<String>,
    /// Tree of the working copy as the daemon's checks last saw it, in hex.
    pub tree: Option<String>,
    /// What the model was told first; `None` where it does not work.
    pub briefing: Option<String>,
}

/// What the present attempt at a stage has come to: forgotten when the stage is
/// left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attempt {
    /// Whether a snapshot of what it began with was taken, or could not be.
    pub snapshotted: bool,
    /// Whether the model was told what the stage is for.
    pub prompted: bool,
    /// Replies of the model, those that only reason left out.
    pub steps: u32,
    /// The model's words when it asked to leave and the gate was open.
    pub done: Option<String>,
    /// What the daemon's checks said.
    pub validation: Option<Validation>,
    /// Todos that were checked again.
    pub rechecked: BTreeSet<u32>,
    /// The commit.
    pub commit: Option<Commit>,
    /// The proof.
    pub proof: Option<Proof>,
    /// The commit that was published.
    pub published: Option<String>,
    /// The pull request.
    pub pull_request: Option<OpenedPullRequest>,
    /// The forge's checks.
    pub ci: Option<CiResult>,
    /// A person's verdict on what the proof leaves to judge, and the commit it is
    /// about.
    pub accepted: Option<(String, bool)>,
}

/// An effect whose intent is in the log and whose outcome is not.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// Sequence number of the intent.
    pub intent: u64,
    /// The step that it begins.
    pub step: StepId,
    /// When it began, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// What it is.
    pub effect: Effect,
}

/// What reaches beyond the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask the model.
    AskModel,
    /// Run a tool in the workspace.
    RunTool {
        /// The call.
        call: ToolCall,
        /// Hash that a file to be changed must have.
        expected_hash: Option<String>,
    },
    /// Do a piece of the daemon's own work.
    DoWork {
        /// Which.
        work: Work,
        /// From 1.
        attempt: u32,
    },
}

impl Effect {
    /// Whether it changes nothing: nobody can tell whether it was done.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::RunTool { call, .. } => Tool::named(&call.name).is_some_and(Tool::only_looks),
            Self::AskModel | Self::DoWork { .. } => false,
        }
    }
}

/// A piece of work that could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedWork {
    /// Which.
    pub work: Work,
    /// Number of the try that failed, from 1.
    pub attempt: u32,
    /// Why.
    pub error: String,
    /// Whether the same again can help.
    pub again: Again,
}

/// A log that does not begin with the session's creation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log does not begin with the session's creation but with event {0}")]
pub struct HeadlessLog(u64);

impl SessionState {
    /// The state after the first event.
    ///
    /// # Errors
    /// The event is no creation.
    pub fn begin(first: &Event) -> Result<Self, HeadlessLog> {
        let EventBody::Created(created) = &first.body else {
            return Err(HeadlessLog(first.sequence));
        };
        Ok(Self {
            created: Arc::new((**created).clone()),
            sequence: first.sequence,
            started_at_ms: first.at_ms,
            updated_at_ms: first.at_ms,
            active_ms: 0,
            condition: Condition::Running,
            reason: String::new(),
            stage: first.stage,
            records: Vec::new(),
            attempt: Attempt::default(),
            todos: Vec::new(),
            open: None,
            calls: VecDeque::new(),
            question: None,
            questions_asked: 0,
            approvals: Approvals::default(),
            risks: Vec::new(),
            silent_replies: 0,
            failed_work: None,
            escalated: None,
            last_failure: None,
            files: BTreeMap::new(),
            unjudged: Unjudged::default(),
            cognition: Ledger::of(created),
            trail: Trail::default(),
            tokens: Usage::default(),
            spending: Spending::default(),
            model_failures: 0,
            ask_from_ms: 0,
            overflowed: false,
            compacted: false,
            changed_files: BTreeSet::new(),
            model_calls: 0,
            tool_calls: 0,
            base: None,
            start: None,
            checkpoints: Vec::new(),
            rolled_back: None,
            publishing: 0,
            validation: None,
            commit: None,
            proof: None,
            pull_request: None,
            check_artifacts: Vec::new(),
        })
    }

    /// What a list of ended sessions needs of it: without what the model was
    /// told, the stages and what checks printed.
    #[must_use]
    pub fn listed(&self) -> Self {
        let created = Created {
            system: String::new(),
            tools: Vec::new(),
            ..Created::clone(&self.created)
        };
        let base = self.base.as_ref().map(|base| {
            Arc::new(BaseRun {
                others: Vec::new(),
                knowledge: None,
                ..BaseRun::clone(base)
            })
        });
        Self {
            created: Arc::new(created),
            base,
            records: Vec::new(),
            checkpoints: Vec::new(),
            attempt: Attempt::default(),
            files: BTreeMap::new(),
            changed_files: BTreeSet::new(),
            unjudged: Unjudged::default(),
            cognition: Ledger::default(),
            trail: Trail::default(),
            calls: VecDeque::new(),
            last_failure: None,
            validation: None,
            ..self.clone()
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.created.session
    }

    /// Its repository's directory in the workspace, absolute.
    #[must_use]
    pub fn repository_dir(&self) -> String {
        format!("/workspace/{}", self.created.repository)
    }

    /// How long the provider still asks to be left alone at a time, in
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub fn provider_wait(&self, at_ms: i64) -> Duration {
        let left_ms = self.ask_from_ms.saturating_sub(at_ms);
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }

    /// A todo by number.
    #[must_use]
    pub fn todo(&self, id: u32) -> Option<&Todo> {
        self.todos.iter().find(|todo| todo.id == id)
    }

    /// How often a stage was entered.
    #[must_use]
    pub fn attempts_at(&self, stage: Stage) -> u32 {
        self.records
            .iter()
            .fold(0, |count, record| count + u32::from(record.stage == stage))
    }

    /// The present attempt's record.
    #[must_use]
    pub fn record(&self) -> Option<&StageRecord> {
        self.records.last()
    }

    /// Folds in the next event.
    pub fn apply(&mut self, event: &Event) {
        self.keep_time(event);
        self.cognition.apply(event);
        self.sequence = event.sequence;
        self.trail.apply(&event.body, self.calls.iter());
        match &event.body {
            // A log has one creation, and it made this state.
            EventBody::Created(_) => {}
            EventBody::StageEntered { to, attempt, why } => {
                self.stage = *to;
                // In logs of before it went on.
                self.escalated = None;
                self.attempt = Attempt::default();
                let input = self.input();
                self.records.push(StageRecord {
                    stage: *to,
                    attempt: *attempt,
                    why: why.clone(),
                    input,
                    outcome: None,
                    entered_at_ms: event.at_ms,
                    left_at_ms: None,
                    artifacts: Vec::new(),
                });
            }
            EventBody::StageLeft { why, .. } => {
                if let Some(record) = self.records.last_mut() {
                    record.outcome = Some(why.clone());
                    record.left_at_ms = Some(event.at_ms);
                }
            }
            EventBody::MessageAdded { text, .. } => {
                self.attempt.prompted = true;
                if let Some(record) = self.records.last_mut() {
                    record.input.briefing.get_or_insert_with(|| text.clone());
                }
            }
            EventBody::BudgetReserved(reserved) => self.spending.reserve(*reserved),
            EventBody::BudgetNoted {
                scope,
                quantity,
                mark,
                ..
            } => {
                self.spending.noted.insert((*scope, *quantity, *mark));
            }
            EventBody::ModelAsked => {
                self.model_calls += 1;
                self.escalated = None;
                self.begin_effect(event, Effect::AskModel);
            }
            EventBody::ModelAnswered(answer) => {
                self.open = None;
                self.model_failures = 0;
                self.compacted = false;
                self.tokens += answer.usage.unwrap_or_default();
                let prices = self.created.options.prices;
                let day = Day::of(event.at_ms);
                self.spending
                    .settle(day, answer.usage.as_ref(), prices.as_ref());
                self.calls = answer.turn.tool_calls.iter().cloned().collect();
                let only_reasons = !self.calls.is_empty()
                    && self
                        .calls
                        .iter()
                        .all(|call| call.name == Tool::Think.name());
                if !only_reasons {
                    self.attempt.steps += 1;
                }
                if self.calls.is_empty() {
                    self.silent_replies += 1;
                } else {
                    self.silent_replies = 0;
                }
            }
            EventBody::Compacted { .. } => {
                self.overflowed = false;
                self.compacted = true;
            }
            EventBody::ModelFailed {
                free,
                then,
                wait_ms,
                ..
            } => {
                self.open = None;
                // Where a person looks first, the person says when.
                if let (AfterModelFailure::AskAgain, Some(wait_ms)) = (then, wait_ms) {
                    let wait_ms = i64::try_from(*wait_ms).unwrap_or(i64::MAX);
                    let from_ms = event.at_ms.saturating_add(wait_ms);
                    self.ask_from_ms = self.ask_from_ms.max(from_ms);
                }
                self.overflowed = *then == AfterModelFailure::Compact;
                self.model_failures += 1;
                let day = Day::of(event.at_ms);
                if *free {
                    self.spending.settle_free(day);
                } else {
                    self.spending.settle(day, None, None);
                }
            }
            EventBody::ToolStarted {
                call,
                expected_hash,
                risks,
            } => {
                let new = risks.iter().filter(|risk| !self.risks.contains(risk));
                let new: Vec<String> = new.cloned().collect();
                self.risks.extend(new);
                self.risks.truncate(RISKS_MAX);
                let (call, expected_hash) = (call.clone(), expected_hash.clone());
                self.begin_effect(
                    event,
                    Effect::RunTool {
                        call,
                        expected_hash,
                    },
                );
            }
            EventBody::ToolEnded(ended) => self.end_tool(ended),
            EventBody::TodoChanged { todo } => {
                match self.todos.iter_mut().find(|known| known.id == todo.id) {
                    Some(known) => *known = todo.clone(),
                    None => self.todos.push(todo.clone()),
                }
            }
            EventBody::WorkStarted { work, attempt, .. } => {
                self.failed_work = None;
                if let Work::VerifyTodo { todo } = work {
                    self.set_todo(*todo, Todo::verifying);
                }
                if *work == Work::Publish {
                    self.publishing = event.sequence;
                }
                if let Work::RollBack { stage, attempt, .. } = work {
                    self.rolled_back = Some(RolledBack {
                        sequence: event.sequence,
                        stage: *stage,
                        attempt: *attempt,
                    });
                }
                let (work, attempt) = (work.clone(), *attempt);
                self.begin_effect(event, Effect::DoWork { work, attempt });
            }
            EventBody::WorkEnded {
                work,
                result,
                failures,
                artifacts,
                ..
            } => {
                self.keep_artifacts(artifacts);
                let attempt = match self.open.take().map(|open| open.effect) {
                    Some(Effect::DoWork { attempt, .. }) => attempt,
                    Some(Effect::AskModel | Effect::RunTool { .. }) | None => 1,
                };
                self.end_work(work, result, attempt);
                match result {
                    // Whether it is tried again says what follows.
                    WorkResult::Failed { .. } => {}
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
                    | WorkResult::CiEnded(_) => self.escalated = escalated(work, failures),
                }
                self.note_failures(failures);
            }
            // The trail keeps it.
            EventBody::CircleFound(_) => {}
            EventBody::StateChanged { to, reason } => {
                if *to == Condition::Running {
                    self.failed_work = None;
                    self.escalated = None;
                    self.silent_replies = 0;
                    self.model_failures = 0;
                }
                self.condition = *to;
                self.reason.clone_from(reason);
            }
            EventBody::QuestionAsked { question } => {
                self.questions_asked += 1;
                self.question = Some(question.clone());
            }
            EventBody::QuestionAnswered {
                accepted,
                text,
                verdict,
                ..
            } => match self.question.take().map(|question| question.about) {
                Some(QuestionAbout::Proof { commit }) => {
                    self.attempt.accepted = Some((commit, *accepted));
                }
                Some(QuestionAbout::Approval(request)) => {
                    if let Some(verdict) = verdict {
                        self.approvals.answer(&request, *verdict, text);
                    }
                }
                Some(QuestionAbout::Model | QuestionAbout::Circle | QuestionAbout::Todo { .. })
                | None => {}
            },
            // The ledger has it.
            EventBody::Cognition(_) => {}
        }
    }

    /// What a stage that is entered now starts from.
    fn input(&self) -> StageInput {
        let base = self.base.as_deref();
        let commit = self.commit.as_ref().map(|commit| &commit.commit);
        let tree = self.validation.as_ref().map(|validation| &validation.tree);
        StageInput {
            commit: commit.or(base.map(|base| &base.commit)).cloned(),
            tree: tree.or(base.map(|base| &base.tree)).cloned(),
            briefing: None,
        }
    }

    /// Time counts while the session runs; what passed before an interruption
    /// was noticed does not.
    fn keep_time(&mut self, event: &Event) {
        let interrupted = matches!(
            event.body,
            EventBody::StateChanged {
                to: Condition::Interrupted,
                ..
            }
        );
        if self.condition == Condition::Running && !interrupted {
            let passed = event.at_ms.saturating_sub(self.updated_at_ms);
            let passed = u64::try_from(passed).unwrap_or(0);
            self.active_ms += passed;
            self.spending.passed(Day::of(event.at_ms), passed);
        }
        self.updated_at_ms = event.at_ms;
    }

    fn begin_effect(&mut self, event: &Event, effect: Effect) {
        self.open = Some(Open {
            intent: event.sequence,
            step: event.step(&self.created.session),
            since_ms: event.at_ms,
            effect,
        });
    }

    fn end_tool(&mut self, ended: &ToolEnded) {
        if ended.intent.is_some() {
            self.open = None;
        }
        self.tool_calls += 1;
        if let Some(call) = self.calls.pop_front()
            && ended.outcome != ToolOutcome::Refused
        {
            let repository = self.repository_dir();
            gate::note_written(&mut self.unjudged, &call, &repository);
        }
        self.approvals.once = None;
        self.approvals.snapshotted = None;
        self.keep_artifacts(ended.artifact.as_slice());
        match &ended.effect {
            ToolEffect::None | ToolEffect::CommandRan => {}
            ToolEffect::FileSeen { path, hash } => {
                self.files.insert(path_key(path), hash.clone());
            }
            ToolEffect::FileChanged { path, after, .. } => {
                self.changed_files.insert(path_key(path));
                self.files.insert(path_key(path), after.clone());
            }
            ToolEffect::FilesChanged { files } => {
                for file in files {
                    let key = path_key(&file.path);
                    self.changed_files.insert(key.clone());
                    match &file.after {
                        Some(after) => self.files.insert(key, after.clone()),
                        None => self.files.remove(&key),
                    };
                }
            }
            ToolEffect::StageDone { summary } => {
                if ended.outcome == ToolOutcome::Ok {
                    self.attempt.done = Some(summary.clone());
                }
            }
        }
    }

    fn end_work(&mut self, work: &Work, result: &WorkResult, attempt: u32) {
        match result {
            WorkResult::BaseRun(base) => self.base = Some(Arc::new((**base).clone())),
            WorkResult::StartSnapshot { snapshot } => {
                self.start = Some(snapshot.clone());
                self.keep_checkpoint(snapshot);
            }
            WorkResult::StageSnapshot { snapshot } => self.keep_checkpoint(snapshot),
            WorkResult::ActSnapshot { .. } => {
                self.approvals.snapshotted = self.calls.front().map(|call| call.id.clone());
            }
            WorkResult::RolledBack { to, .. } => {
                let mut checkpoints = self.checkpoints.iter().rev();
                let found = checkpoints.find(|known| known.snapshot == *to).cloned();
                if let Some(checkpoint) = found {
                    checkpoint.put_back(self);
                }
            }
            WorkResult::Validated(validation) => {
                self.last_failure = failed_checks(validation);
                self.validation = Some(validation.clone());
                self.attempt.validation = Some(validation.clone());
            }
            WorkResult::TodoChecked(check) => {
                self.attempt.rechecked.insert(check.todo);
                if !check.holds {
                    self.last_failure = Some(prompts::criteria_report(&check.results));
                }
            }
            WorkResult::Committed(commit) => {
                self.attempt.commit = Some(commit.clone());
                self.commit = Some(commit.clone());
            }
            WorkResult::Proved(proof) => {
                self.last_failure = (!proof.proved).then(|| proof.reason.clone());
                self.attempt.proof = Some((**proof).clone());
                self.proof = Some((**proof).clone());
            }
            WorkResult::Published { commit } => self.attempt.published = Some(commit.clone()),
            WorkResult::PullRequestOpened(opened) => {
                self.attempt.pull_request = Some(opened.clone());
                self.pull_request = Some(opened.clone());
            }
            WorkResult::CiEnded(ci) => {
                if let Some(opened) = &mut self.pull_request {
                    opened.pull_request = ci.pull_request.clone();
                }
                self.check_artifacts.clone_from(&ci.artifacts);
                self.last_failure = (!ci.passed).then(|| ci.view.clone());
                self.attempt.ci = Some(ci.clone());
            }
            // It goes on without: there is nothing to roll back to then.
            WorkResult::Failed { .. } if *work == Work::SnapshotStage => {
                self.attempt.snapshotted = true;
            }
            WorkResult::Failed { error, again } => {
                if let Work::VerifyTodo { todo } = work {
                    self.set_todo(*todo, unverified);
                }
                self.failed_work = Some(FailedWork {
                    work: work.clone(),
                    attempt,
                    error: error.clone(),
                    again: *again,
                });
            }
        }
    }

    fn keep_checkpoint(&mut self, snapshot: &SnapshotId) {
        self.attempt.snapshotted = true;
        let checkpoint = Checkpoint::of(self, snapshot.clone());
        self.checkpoints.push(Arc::new(checkpoint));
    }

    /// What is known of failures goes to whoever is told of them.
    fn note_failures(&mut self, failures: &[Failure]) {
        if failures.is_empty() {
            return;
        }
        if let Some(failed) = &mut self.failed_work
            && failed.again == Again::MayHelp
            && failures.iter().any(Failure::is_for_a_person)
        {
            failed.again = Again::NeedsPerson;
        }
        let known = prompts::told(failures);
        match (&mut self.failed_work, &mut self.last_failure) {
            (Some(failed), _) => failed.error.push_str(&known.replace('\n', " ")),
            (None, Some(failure)) => {
                *failure = format!("{}{known}", prompts::bounded(failure));
            }
            (None, None) => {}
        }
    }

    fn set_todo(&mut self, id: u32, change: impl Fn(&Todo) -> Todo) {
        if let Some(todo) = self.todos.iter_mut().find(|todo| todo.id == id) {
            *todo = change(todo);
        }
    }

    fn keep_artifacts(&mut self, artifacts: &[ArtifactId]) {
        if let Some(record) = self.records.last_mut() {
            record.artifacts.extend_from_slice(artifacts);
        }
    }

    /// The open question, when it is about a todo.
    #[must_use]
    pub fn todo_in_question(&self) -> Option<u32> {
        match self.question.as_ref().map(|question| &question.about) {
            Some(QuestionAbout::Todo { id, .. }) => Some(*id),
            Some(
                QuestionAbout::Model
                | QuestionAbout::Circle
                | QuestionAbout::Approval(_)
                | QuestionAbout::Proof { .. },
            )
            | None => None,
        }
    }

    /// The approval that the session waits for.
    #[must_use]
    pub fn approval_in_question(&self) -> Option<(&Question, &ApprovalRequest)> {
        let question = self.question.as_ref()?;
        match &question.about {
            QuestionAbout::Approval(request) => Some((question, request)),
            QuestionAbout::Model
            | QuestionAbout::Circle
            | QuestionAbout::Proof { .. }
            | QuestionAbout::Todo { .. } => None,
        }
    }
}

/// What only a person can mend of what a piece of work found.
fn escalated(work: &Work, failures: &[Failure]) -> Option<String> {
    let mut failures = failures.iter();
    let failure = failures.find(|failure| failure.is_for_a_person())?;
    Some(format!("{}: {}", work.name(), failure.told()))
}

/// Output of the checks that failed, where any did.
fn failed_checks(validation: &Validation) -> Option<String> {
    let views: Vec<String> = validation
        .checks
        .iter()
        .filter(|check| !check.passed())
        .map(|check| {
            let argv = check.command.argv.join(" ");
            let view = prompts::bounded(&check.view);
            format!(
                "$ {argv}\n{view}\n({}: {})",
                check.exit.status, check.summary
            )
        })
        .collect();
    (!views.is_empty()).then(|| views.join("\n\n"))
}

/// A todo whose check could not be done: the claim stands.
fn unverified(todo: &Todo) -> Todo {
    match &todo.state {
        TodoState::Verifying { claim } => todo.with(TodoState::Claimed {
            claim: claim.clone(),
        }),
        TodoState::Pending
        | TodoState::InProgress
        | TodoState::Claimed { .. }
        | TodoState::Verified(_)
        | TodoState::Rejected { .. } => todo.clone(),
    }
}
