//! Sessions as compyctl prints them.

use compyd_proto::v1::{
    ModelCall, Proof, PullRequest, Question, Session, SessionState, Stage, StageRecord, Todo,
    TodoState, TokenUsage, Verify, Workflow,
};
use serde::Serialize;

use super::{between, clock, count, table::Table, time};

/// A session in JSON. Lists leave `stages` and the todos' `criteria` empty.
#[derive(Debug, Serialize)]
pub(crate) struct SessionView {
    /// `se-` and 32 hex digits.
    pub(crate) id: String,
    /// The task in the user's words.
    pub(crate) task: String,
    /// Id of its workspace.
    pub(crate) workspace_id: String,
    /// Name of its workspace.
    pub(crate) workspace: String,
    /// Directory below /workspace.
    pub(crate) repository: String,
    /// `running`, `paused`, `waiting`, `interrupted`, `failed`, `verified`,
    /// `cancelled`.
    pub(crate) state: String,
    /// Why it is in that state.
    pub(crate) state_reason: String,
    /// Stage in capitals.
    pub(crate) stage: String,
    /// Model, as `PROVIDER:NAME`.
    pub(crate) model: String,
    /// Whether the model is a written script, not a language model.
    pub(crate) scripted: bool,
    /// `swe` or `none`.
    pub(crate) workflow: String,
    /// `auto` or `manual`.
    pub(crate) verify: String,
    /// The command that proves the task.
    pub(crate) test_command: String,
    /// The lint command.
    pub(crate) lint_command: String,
    /// Whether tests that exist may change.
    pub(crate) allow_test_changes: bool,
    /// `read`, `write` or `admin`.
    pub(crate) level: String,
    /// 0 to 3.
    pub(crate) autonomy: u32,
    /// Todos in order.
    pub(crate) todos: Vec<TodoView>,
    /// Attempts at stages in order.
    pub(crate) stages: Vec<StageView>,
    /// Tokens so far.
    pub(crate) tokens: TokensView,
    /// What they cost.
    pub(crate) spending: SpendingView,
    /// Model calls so far.
    pub(crate) model_calls: u32,
    /// Tool calls so far.
    pub(crate) tool_calls: u32,
    /// Sequence number of the last event.
    pub(crate) last_sequence: u64,
    /// When it started.
    pub(crate) started_at: Option<String>,
    /// When its last event happened.
    pub(crate) updated_at: Option<String>,
    /// Branch with its commits; may be empty.
    pub(crate) branch: String,
    /// Commit it started from.
    pub(crate) base_commit: String,
    /// Its last commit; may be empty.
    pub(crate) head_commit: String,
    /// Once opened.
    pub(crate) pull_request: Option<PullRequestView>,
    /// While it waits.
    pub(crate) question: Option<QuestionView>,
    /// Once there is one.
    pub(crate) proof: Option<ProofView>,
}

/// A todo in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct TodoView {
    /// From 1.
    pub(crate) id: u32,
    /// What is to be done.
    pub(crate) text: String,
    /// `pending`, `in_progress`, `claimed`, `verifying`, `verified`, `rejected`.
    pub(crate) state: String,
    /// What must hold.
    pub(crate) criteria: Vec<String>,
    /// Why it was last rejected, or what verified it.
    pub(crate) reason: String,
    /// Evidence; may be empty.
    pub(crate) evidence_artifact_id: String,
}

/// An attempt at a stage in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct StageView {
    /// In capitals.
    pub(crate) stage: String,
    /// From 1.
    pub(crate) attempt: u32,
    /// Why it was entered.
    pub(crate) why: String,
    /// How it ended; empty while it runs.
    pub(crate) outcome: String,
    /// When it was entered.
    pub(crate) entered_at: Option<String>,
    /// When it was left.
    pub(crate) left_at: Option<String>,
    /// Artifacts made in it.
    pub(crate) artifact_ids: Vec<String>,
    /// Snapshot of what it began with; empty where none was taken.
    pub(crate) snapshot_id: String,
    /// For the table.
    #[serde(skip)]
    took: Option<std::time::Duration>,
}

/// Tokens in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct TokensView {
    /// Input not read from a cache.
    pub(crate) input_uncached: u64,
    /// Input read from a cache.
    pub(crate) input_cached: u64,
    /// Input written to a cache.
    pub(crate) cache_written: u64,
    /// Output.
    pub(crate) output: u64,
}

/// A model call that was answered or may have cost something, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct CallView {
    /// Sequence number of its intent.
    pub(crate) sequence: u64,
    /// When it was answered, or ended without an answer.
    pub(crate) answered_at: Option<String>,
    /// Stage in capitals.
    pub(crate) stage: String,
    /// From request to reply, or until it was known that there is none.
    pub(crate) duration_ms: u64,
    /// `null` when the provider did not say.
    pub(crate) tokens: Option<TokensView>,
    /// Tokens that count as spent: the most that it can have taken when the provider
    /// did not say.
    pub(crate) tokens_spent: u64,
    /// In the currency of the daemon's prices, likewise; empty without a price.
    pub(crate) cost: String,
    /// Why no answer came; empty when one did.
    pub(crate) error: String,
    /// Why what was sent before was paid for again; empty when it was not, or
    /// when the provider does not tell.
    pub(crate) prefix_break: String,
}

impl From<ModelCall> for CallView {
    fn from(call: ModelCall) -> Self {
        CallView {
            sequence: call.sequence,
            answered_at: time(call.answered_at.as_ref()),
            stage: stage_name(call.stage()).to_owned(),
            duration_ms: call.duration_ms,
            tokens: call.usage.map(Into::into),
            tokens_spent: call.tokens,
            cost: call.cost,
            error: call.error,
            prefix_break: call.prefix_break,
        }
    }
}

/// What is said of a call that counts as spent and brought nothing.
const NO_ANSWER: &str = "(no answer)";

/// Model calls, one line each.
pub(crate) fn calls_table(calls: &[CallView]) -> Table {
    let mut table = Table::new(&[
        "EVENT",
        "STAGE",
        "UNCACHED",
        "CACHED",
        "OUTPUT",
        "SPENT",
        "COST",
        "TOOK",
        "PREFIX PAID AGAIN",
    ]);
    for call in calls {
        let of = |tokens: fn(&TokensView) -> u64| {
            let tokens = call.tokens.as_ref().map(tokens);
            tokens.map_or_else(String::new, count)
        };
        let note = match call.error.as_str() {
            "" => call.prefix_break.clone(),
            _ => NO_ANSWER.to_owned(),
        };
        table.row([
            &call.sequence.to_string(),
            &call.stage,
            &of(|tokens| tokens.input_uncached + tokens.cache_written),
            &of(|tokens| tokens.input_cached),
            &of(|tokens| tokens.output),
            &count(call.tokens_spent),
            &call.cost,
            &format!("{:.1} s", call.duration_ms as f64 / 1e3),
            &note,
        ]);
    }
    table
}

/// What model calls cost, in JSON. A call whose cost nobody knows counts with the
/// most that it could cost.
#[derive(Debug, Serialize)]
pub(crate) struct SpendingView {
    /// Tokens, input and output.
    pub(crate) tokens: u64,
    /// In the currency of the daemon's prices; empty where the model has none.
    pub(crate) money: String,
    /// Set aside for the call under way.
    pub(crate) reserved_tokens: u64,
    /// Likewise.
    pub(crate) reserved_money: String,
    /// What may be spent; 0 means as many as it takes.
    pub(crate) limit_tokens: u64,
    /// Likewise; empty means as much as it takes.
    pub(crate) limit_money: String,
}

/// A pull request in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct PullRequestView {
    /// From 1.
    pub(crate) number: u64,
    /// URL or path.
    pub(crate) url: String,
    /// Title.
    pub(crate) title: String,
    /// Branch to be merged.
    pub(crate) head: String,
    /// Branch to merge into.
    pub(crate) base: String,
    /// Markdown.
    pub(crate) body: String,
    /// Its checks.
    pub(crate) checks: Vec<PullRequestCheckView>,
    /// Artifact with the diff.
    pub(crate) diff_artifact_id: String,
}

/// A check of a pull request in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct PullRequestCheckView {
    /// Name.
    pub(crate) name: String,
    /// `running`, `passed` or `failed`.
    pub(crate) state: String,
    /// A line for people.
    pub(crate) summary: String,
    /// Artifact with the output; may be empty.
    pub(crate) artifact_id: String,
}

/// A question in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct QuestionView {
    /// Id to answer with.
    pub(crate) id: String,
    /// What is asked.
    pub(crate) text: String,
    /// Todo in question; `null` when it is about none.
    pub(crate) todo_id: Option<u32>,
    /// The approval in question, by id; `null` when it is about none.
    pub(crate) approval_id: Option<String>,
}

impl QuestionView {
    /// The command that answers it.
    pub(crate) fn answered_by(&self, session_id: &str) -> String {
        if let Some(id) = &self.approval_id {
            return format!(
                "compyctl approval approve {id} [--for session|project] | deny {id} [--text WORDS]"
            );
        }
        match self.todo_id {
            Some(todo) => format!(
                "compyctl session verify {session_id} {todo} [--note TEXT] | --reject REASON"
            ),
            None => {
                format!("compyctl session answer {session_id} --yes | --no [--text WORDS]")
            }
        }
    }
}

/// The daemon's proof in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ProofView {
    /// Whether all runs agree.
    pub(crate) proved: bool,
    /// Why.
    pub(crate) reason: String,
    /// Each run.
    pub(crate) runs: Vec<ProofRunView>,
    /// Tests that failed on the base and pass now.
    pub(crate) fail_to_pass: Vec<String>,
    /// Test files that differ from the base.
    pub(crate) changed_test_files: Vec<String>,
    /// Tree that was proved.
    pub(crate) tree: String,
    /// Artifact with the whole evidence.
    pub(crate) evidence_artifact_id: String,
}

/// A run of the proof in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ProofRunView {
    /// `base`, `branch`, `branch with the base's tests`.
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// Working directory.
    pub(crate) cwd: String,
    /// How the command ended.
    pub(crate) ended: String,
    /// Tests passed.
    pub(crate) passed: u32,
    /// Tests failed or broken.
    pub(crate) failed: u32,
    /// Tests skipped.
    pub(crate) skipped: u32,
    /// Verdict on the run.
    pub(crate) verdict: String,
    /// Artifact with the output.
    pub(crate) artifact_id: String,
}

/// What `run -o json` and `session watch -o json` end with.
#[derive(Debug, Serialize)]
pub(crate) struct RunResult {
    /// The session's state: `verified` is the only good end.
    pub(crate) verdict: String,
    /// Code that compyctl exits with.
    pub(crate) exit_code: u8,
    /// Everything about the session.
    pub(crate) session: SessionView,
}

impl From<Session> for SessionView {
    fn from(session: Session) -> Self {
        let state = session.state();
        let stage = session.stage();
        let options = session.options.unwrap_or_default();
        SessionView {
            state: state_name(state).to_owned(),
            stage: stage_name(stage).to_owned(),
            scripted: is_scripted(&options.model),
            workflow: match options.workflow() {
                Workflow::Unspecified | Workflow::Swe => "swe",
                Workflow::None => "none",
            }
            .to_owned(),
            verify: match options.verify() {
                Verify::Unspecified | Verify::Auto => "auto",
                Verify::Manual => "manual",
            }
            .to_owned(),
            level: crate::policy::level_name(options.level()).to_owned(),
            autonomy: options.autonomy(),
            model: options.model,
            test_command: options.test_command,
            lint_command: options.lint_command,
            allow_test_changes: options.allow_test_changes,
            started_at: time(session.started_at.as_ref()),
            updated_at: time(session.updated_at.as_ref()),
            id: session.id,
            task: session.task,
            workspace_id: session.workspace_id,
            workspace: session.workspace_name,
            repository: session.repository,
            state_reason: session.state_reason,
            todos: session.todos.into_iter().map(Into::into).collect(),
            stages: session.stages.into_iter().map(Into::into).collect(),
            tokens: session.tokens.unwrap_or_default().into(),
            spending: {
                let spending = session.spending.unwrap_or_default();
                SpendingView {
                    tokens: spending.tokens,
                    money: spending.money,
                    reserved_tokens: spending.reserved_tokens,
                    reserved_money: spending.reserved_money,
                    limit_tokens: options.budget_tokens,
                    limit_money: options.budget_money,
                }
            },
            model_calls: session.model_calls,
            tool_calls: session.tool_calls,
            last_sequence: session.last_sequence,
            branch: session.branch,
            base_commit: session.base_commit,
            head_commit: session.head_commit,
            pull_request: session.pull_request.map(Into::into),
            question: session.question.map(Into::into),
            proof: session.proof.map(Into::into),
        }
    }
}

impl From<Todo> for TodoView {
    fn from(todo: Todo) -> Self {
        TodoView {
            state: todo_state_name(todo.state()).to_owned(),
            id: todo.id,
            text: todo.text,
            criteria: todo.criteria,
            reason: todo.reason,
            evidence_artifact_id: todo.evidence_artifact_id,
        }
    }
}

impl From<StageRecord> for StageView {
    fn from(record: StageRecord) -> Self {
        StageView {
            stage: stage_name(record.stage()).to_owned(),
            took: match (&record.entered_at, &record.left_at) {
                (Some(entered), Some(left)) => Some(between(entered, left)),
                _ => None,
            },
            attempt: record.attempt,
            why: record.why,
            outcome: record.outcome,
            entered_at: time(record.entered_at.as_ref()),
            left_at: time(record.left_at.as_ref()),
            artifact_ids: record.artifact_ids,
            snapshot_id: record.snapshot_id,
        }
    }
}

impl From<TokenUsage> for TokensView {
    fn from(usage: TokenUsage) -> Self {
        TokensView {
            input_uncached: usage.input_uncached,
            input_cached: usage.input_cached,
            cache_written: usage.cache_written,
            output: usage.output,
        }
    }
}

impl From<PullRequest> for PullRequestView {
    fn from(pull_request: PullRequest) -> Self {
        PullRequestView {
            number: pull_request.number,
            url: pull_request.url,
            title: pull_request.title,
            head: pull_request.head,
            base: pull_request.base,
            body: pull_request.body,
            checks: pull_request
                .checks
                .into_iter()
                .map(|check| PullRequestCheckView {
                    state: match (check.completed, check.passed) {
                        (false, _) => "running",
                        (true, true) => "passed",
                        (true, false) => "failed",
                    }
                    .to_owned(),
                    name: check.name,
                    summary: check.summary,
                    artifact_id: check.artifact_id,
                })
                .collect(),
            diff_artifact_id: pull_request.diff_artifact_id,
        }
    }
}

impl From<Question> for QuestionView {
    fn from(question: Question) -> Self {
        QuestionView {
            id: question.id,
            text: question.text,
            todo_id: (question.todo_id != 0).then_some(question.todo_id),
            approval_id: question.approval.map(|approval| approval.id),
        }
    }
}

impl From<Proof> for ProofView {
    fn from(proof: Proof) -> Self {
        ProofView {
            proved: proof.proved,
            reason: proof.reason,
            runs: proof
                .runs
                .into_iter()
                .map(|run| ProofRunView {
                    name: run.name,
                    argv: run.argv,
                    cwd: run.cwd,
                    ended: run.ended,
                    passed: run.passed,
                    failed: run.failed,
                    skipped: run.skipped,
                    verdict: run.verdict,
                    artifact_id: run.artifact_id,
                })
                .collect(),
            fail_to_pass: proof.fail_to_pass,
            changed_test_files: proof.changed_test_files,
            tree: proof.tree,
            evidence_artifact_id: proof.evidence_artifact_id,
        }
    }
}

/// Whether a model's name says that it is a written script.
pub(crate) fn is_scripted(model: &str) -> bool {
    model.starts_with("scripted:")
}

/// The stable name of a state.
pub(crate) fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Unspecified => "unknown",
        SessionState::Running => "running",
        SessionState::Paused => "paused",
        SessionState::Waiting => "waiting",
        SessionState::Interrupted => "interrupted",
        SessionState::Failed => "failed",
        SessionState::Verified => "verified",
        SessionState::Cancelled => "cancelled",
    }
}

/// The name of a stage, in capitals.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified => "-",
        Stage::Understand => "UNDERSTAND",
        Stage::Plan => "PLAN",
        Stage::Locate => "LOCATE",
        Stage::Modify => "MODIFY",
        Stage::Validate => "VALIDATE",
        Stage::Debug => "DEBUG",
        Stage::Pr => "PR",
        Stage::Ci => "CI",
        Stage::Iterate => "ITERATE",
        Stage::Complete => "COMPLETE",
        Stage::Failed => "FAILED",
    }
}

/// The stable name of a todo's state.
pub(crate) fn todo_state_name(state: TodoState) -> &'static str {
    match state {
        TodoState::Unspecified => "unknown",
        TodoState::Pending => "pending",
        TodoState::InProgress => "in_progress",
        TodoState::Claimed => "claimed",
        TodoState::Verifying => "verifying",
        TodoState::Verified => "verified",
        TodoState::Rejected => "rejected",
    }
}

/// A todo's mark at the head of its line.
pub(crate) fn todo_mark(state: &str) -> &'static str {
    match state {
        "in_progress" => "[>]",
        "claimed" => "[?]",
        "verifying" => "[~]",
        "verified" => "[x]",
        "rejected" => "[!]",
        _ => "[ ]",
    }
}

/// `12.3k in (10.0k cached), 900 out`.
pub(crate) fn tokens_line(tokens: &TokensView) -> String {
    format!(
        "{} uncached + {} cached in, {} out",
        count(tokens.input_uncached),
        count(tokens.input_cached),
        count(tokens.output)
    )
}

/// `12.3k of 50.0k tokens, 0.25 of 2.00`; money only where there is a price.
pub(crate) fn spending_line(spending: &SpendingView) -> String {
    let limit = |limit: String, is_set: bool| {
        if is_set {
            format!(" of {limit}")
        } else {
            String::new()
        }
    };
    let tokens = format!(
        "{}{} tokens",
        count(spending.tokens),
        limit(count(spending.limit_tokens), spending.limit_tokens > 0)
    );
    let of_money = limit(
        spending.limit_money.clone(),
        !spending.limit_money.is_empty(),
    );
    match spending.money.as_str() {
        "" => tokens,
        money => format!("{tokens}, {money}{of_money}"),
    }
}

/// Sessions, one line each.
pub(crate) fn list_table(sessions: &[SessionView]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "STAGE", "WORKSPACE", "STARTED", "TASK"]);
    for session in sessions {
        table.row([
            &session.id,
            &session.state,
            &session.stage,
            &session.workspace,
            session.started_at.as_deref().unwrap_or_default(),
            &crate::terminal::clipped(&session.task.replace('\n', " "), 60),
        ]);
    }
    table
}

/// The todos with their marks, criteria and reasons.
pub(crate) fn todo_lines(todos: &[TodoView]) -> Vec<String> {
    let mut lines = Vec::new();
    for todo in todos {
        lines.push(format!(
            "{} {}. {}",
            todo_mark(&todo.state),
            todo.id,
            todo.text
        ));
        lines.extend(
            todo.criteria
                .iter()
                .map(|criterion| format!("      must hold: {criterion}")),
        );
        if !todo.reason.is_empty() {
            lines.push(format!("      {}: {}", todo.state, todo.reason));
        }
    }
    lines
}

/// The proof's runs.
pub(crate) fn proof_table(proof: &ProofView) -> Table {
    let mut table = Table::new(&[
        "RUN", "ENDED", "PASSED", "FAILED", "SKIPPED", "VERDICT", "COMMAND",
    ]);
    for run in &proof.runs {
        table.row([
            &run.name,
            &run.ended,
            &run.passed.to_string(),
            &run.failed.to_string(),
            &run.skipped.to_string(),
            &run.verdict,
            &shell_words::join(&run.argv),
        ]);
    }
    table
}

/// The attempts at stages.
pub(crate) fn stage_table(stages: &[StageView]) -> Table {
    let mut table = Table::new(&[
        "STAGE",
        "ATTEMPT",
        "SNAPSHOT",
        "TIME",
        "OUTCOME",
        "ENTERED BECAUSE",
    ]);
    for stage in stages {
        let snapshot = if stage.snapshot_id.is_empty() {
            ""
        } else {
            "yes"
        };
        table.row([
            &stage.stage,
            &stage.attempt.to_string(),
            &snapshot.to_owned(),
            &stage.took.map(clock).unwrap_or_default(),
            &stage.outcome,
            &stage.why,
        ]);
    }
    table
}
