//! Sessions on the wire.

use std::sync::Arc;

use compyd_proto::v1 as wire;

use super::{super::time::timestamp, cognition};
use crate::{
    api::grpc::session::SessionDefaults,
    domain::{
        budget::{Money, NotMoney, Scope},
        checks::CheckResult,
        compaction::Cause,
        conversation::{Arguments, ToolCall, Usage},
        forge::{ForgeCheckState, PullRequest},
        ids::{ArtifactId, SessionId, StepId},
        model_name::{ModelName, ModelNameError},
        prompts,
        proof::{Proof, TestRun},
        recovery::Failure,
        report::RunVerdict,
        session::{
            briefing,
            calls::{ModelCall, Prefix},
            checkpoint::Checkpoint,
            event::{
                AfterModelFailure, ApprovalRequest, ApprovalVerdict, Condition, Created, Event,
                EventBody, Question, QuestionAbout, Speaker, ToolOutcome,
            },
            options::{Budget, SessionLimits, SessionOptions, VerifyMode, WorkflowKind},
            spending::Mark,
            state::{SessionState, StageRecord},
            work::{Work, WorkResult},
        },
        stage::Stage,
        todo::{Todo, TodoState},
        workflow,
    },
    service::sessions::{Progress, Published, WatchItem},
};

/// Options that cannot be used; the text says which, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsMistake {
    /// No model was named and the daemon has no default.
    #[error("no model is named and the daemon has no default")]
    ModelMissing,
    /// The name names no model.
    #[error("{0}")]
    ModelInvalid(ModelNameError),
    /// A text that is no money.
    #[error("the budget of money: {0}")]
    MoneyInvalid(NotMoney),
    /// A budget of money cannot be held for a model without a price.
    #[error(
        "a budget of money needs to know what {0} costs: add its price to budget.prices in the daemon's configuration, or leave that budget out"
    )]
    PriceMissing(ModelName),
    /// There is no such autonomy.
    #[error("{0}")]
    AutonomyInvalid(String),
    /// A command that a shell could not split.
    #[error("the {which} command `{command}` cannot be split into words: {why}")]
    CommandInvalid {
        /// "test" or "lint".
        which: &'static str,
        /// As given.
        command: String,
        /// Why.
        why: String,
    },
}

/// Options as asked for, with the daemon's defaults filled in.
///
/// # Errors
/// See [`OptionsMistake`].
pub fn options(
    asked: Option<wire::SessionOptions>,
    defaults: &SessionDefaults,
) -> Result<SessionOptions, OptionsMistake> {
    let asked = asked.unwrap_or_default();
    let workflow = match asked.workflow() {
        wire::Workflow::Unspecified | wire::Workflow::Swe => WorkflowKind::Swe,
        wire::Workflow::None => WorkflowKind::None,
    };
    let verify = match asked.verify() {
        wire::Verify::Unspecified | wire::Verify::Auto => VerifyMode::Auto,
        wire::Verify::Manual => VerifyMode::Manual,
    };
    let model = match (asked.model.trim(), defaults.model.as_deref()) {
        ("", None) => return Err(OptionsMistake::ModelMissing),
        ("", Some(default)) => default,
        (name, _) => name,
    };
    let model: ModelName = model.parse().map_err(OptionsMistake::ModelInvalid)?;
    let money = match asked.budget_money.trim() {
        "" => defaults.budget.money,
        text => Some(text.parse().map_err(OptionsMistake::MoneyInvalid)?),
    };
    let prices = defaults.prices_of(&model);
    let window = defaults.window_of(&model);
    if prices.is_none() && (money.is_some() || defaults.days_cost_money) {
        return Err(OptionsMistake::PriceMissing(model));
    }
    Ok(SessionOptions {
        edit_format: defaults.edit_formats.of(&model.to_string()),
        model,
        workflow,
        test_command: command("test", &asked.test_command)?,
        lint_command: command("lint", &asked.lint_command)?,
        verify,
        allow_test_changes: asked.allow_test_changes,
        limits: SessionLimits {
            max_steps: or_default(asked.max_steps, defaults.limits.max_steps),
            max_time_ms: or_default(asked.max_time_ms, defaults.limits.max_time_ms),
            ..defaults.limits
        },
        budget: Budget {
            tokens: match asked.budget_tokens {
                0 => defaults.budget.tokens,
                tokens => Some(tokens),
            },
            money,
            ..defaults.budget
        },
        prices,
        window,
        rules_tokens: defaults.rules_tokens,
        level: super::policy::level_of(asked.level()),
        autonomy: super::policy::autonomy_of(asked.autonomy)
            .map_err(OptionsMistake::AutonomyInvalid)?,
    })
}

fn or_default<T: Default + PartialEq>(asked: T, default: T) -> T {
    if asked == T::default() {
        default
    } else {
        asked
    }
}

fn command(which: &'static str, text: &str) -> Result<Option<Vec<String>>, OptionsMistake> {
    let words = shell_words::split(text).map_err(|error| OptionsMistake::CommandInvalid {
        which,
        command: text.to_owned(),
        why: error.to_string(),
    })?;
    Ok((!words.is_empty()).then_some(words))
}

/// The options a session runs with.
#[must_use]
pub fn options_to_wire(options: &SessionOptions) -> wire::SessionOptions {
    let words =
        |argv: &Option<Vec<String>>| argv.as_ref().map(shell_words::join).unwrap_or_default();
    wire::SessionOptions {
        model: options.model.to_string(),
        workflow: match options.workflow {
            WorkflowKind::Swe => wire::Workflow::Swe,
            WorkflowKind::None => wire::Workflow::None,
        }
        .into(),
        test_command: words(&options.test_command),
        lint_command: words(&options.lint_command),
        verify: match options.verify {
            VerifyMode::Auto => wire::Verify::Auto,
            VerifyMode::Manual => wire::Verify::Manual,
        }
        .into(),
        allow_test_changes: options.allow_test_changes,
        max_steps: options.limits.max_steps,
        max_time_ms: options.limits.max_time_ms,
        budget_tokens: options.budget.tokens.unwrap_or(0),
        budget_money: (options.budget.money).map_or_else(String::new, |money| money.to_string()),
        level: super::policy::level(options.level).into(),
        autonomy: Some(u8::from(options.autonomy).into()),
    }
}

/// Empty for nothing.
fn money(money: Money) -> String {
    if money == Money::default() {
        String::new()
    } else {
        money.to_string()
    }
}

/// A model call on the wire.
#[must_use]
pub fn model_call(call: &ModelCall) -> wire::ModelCall {
    wire::ModelCall {
        sequence: call.sequence,
        answered_at: Some(timestamp(call.at_ms)),
        stage: stage(call.stage).into(),
        duration_ms: call.duration_ms,
        usage: call.usage.as_ref().map(usage),
        cost: call.cost.map_or_else(String::new, money),
        tokens: call.tokens,
        error: call.error.clone().unwrap_or_default(),
        prefix_break: match &call.prefix {
            Prefix::Broken(why) => why.describe(),
            Prefix::Kept | Prefix::Unknown => String::new(),
        },
    }
}

fn spending(state: &SessionState) -> wire::Spending {
    let reserved = state.spending.reserved.map(|reserved| reserved.amounts);
    let reserved = reserved.unwrap_or_default();
    let spent = state.spending.spent;
    wire::Spending {
        tokens: spent.tokens,
        money: money(spent.money),
        reserved_tokens: reserved.tokens,
        reserved_money: money(reserved.money),
    }
}

/// Whole sessions, or as a list shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Whole,
    /// Without stages and the todos' criteria.
    Listed,
}

/// A session.
#[must_use]
pub fn session(published: &Published, detail: Detail) -> wire::Session {
    let state = &published.state;
    // A full disk pauses a session that the log knows as running: the log is
    // what cannot be written.
    let (condition, reason) = match &published.halted {
        Some(why) if !state.condition.has_ended() => (Condition::Paused, why.clone()),
        Some(_) | None => (state.condition, state.reason.clone()),
    };
    let (branch, head_commit) = state
        .commit
        .as_ref()
        .map_or_else(Default::default, |commit| {
            (commit.branch.clone(), commit.commit.clone())
        });
    wire::Session {
        state: condition_to_wire(condition).into(),
        state_reason: reason,
        stage: stage(state.stage).into(),
        todos: state.todos.iter().map(|item| todo(item, detail)).collect(),
        stages: match detail {
            Detail::Whole => (state.records.iter())
                .map(|entered| record(entered, &state.checkpoints))
                .collect(),
            Detail::Listed => Vec::new(),
        },
        tokens: Some(usage(&state.tokens)),
        model_calls: state.model_calls,
        tool_calls: state.tool_calls,
        last_sequence: state.sequence,
        updated_at: Some(timestamp(state.updated_at_ms)),
        branch,
        base_commit: state
            .base
            .as_ref()
            .map(|base| base.commit.clone())
            .unwrap_or_default(),
        head_commit,
        pull_request: session_pull_request(state),
        question: (state.question.as_ref()).map(|asked| question(asked, Some(state))),
        approvals_expired: state.approvals.expired,
        proof: state.proof.as_ref().map(proof),
        spending: Some(spending(state)),
        ..beginning(&state.created, state.started_at_ms)
    }
}

/// A session as it was created.
fn beginning(created: &Created, at_ms: i64) -> wire::Session {
    wire::Session {
        id: created.session.to_string(),
        task: created.task.clone(),
        workspace_id: created.workspace.to_string(),
        workspace_name: created.workspace_name.to_string(),
        repository: created.repository.to_string(),
        state: wire::SessionState::Running.into(),
        stage: stage(workflow::first_stage(created.options.workflow)).into(),
        options: Some(options_to_wire(&created.options)),
        last_sequence: 1,
        started_at: Some(timestamp(at_ms)),
        updated_at: Some(timestamp(at_ms)),
        ..wire::Session::default()
    }
}

fn session_pull_request(state: &SessionState) -> Option<wire::PullRequest> {
    let opened = state.pull_request.as_ref()?;
    let diff = opened.diff.as_ref();
    Some(pull_request(
        &opened.pull_request,
        diff,
        &state.check_artifacts,
    ))
}

fn pull_request(
    opened: &PullRequest,
    diff: Option<&ArtifactId>,
    check_artifacts: &[(String, ArtifactId)],
) -> wire::PullRequest {
    let checks = opened.checks.iter().map(|check| wire::PullRequestCheck {
        name: check.name.clone(),
        passed: check.state == ForgeCheckState::Passed,
        completed: match check.state {
            ForgeCheckState::Running => false,
            ForgeCheckState::Passed | ForgeCheckState::Failed => true,
        },
        summary: check.summary.clone(),
        artifact_id: check_artifacts
            .iter()
            .find(|(name, _)| *name == check.name)
            .map(|(_, id)| id.to_string())
            .unwrap_or_default(),
    });
    wire::PullRequest {
        number: opened.number,
        url: opened.url.clone(),
        title: opened.draft.title.clone(),
        head: opened.draft.head.clone(),
        base: opened.draft.base.clone(),
        body: opened.draft.body.clone(),
        checks: checks.collect(),
        diff_artifact_id: id(diff),
    }
}

fn record(record: &StageRecord, checkpoints: &[Arc<Checkpoint>]) -> wire::StageRecord {
    let mut checkpoints = checkpoints.iter();
    let checkpoint =
        checkpoints.find(|known| known.stage == record.stage && known.attempt == record.attempt);
    wire::StageRecord {
        snapshot_id: checkpoint.map_or_else(String::new, |known| known.snapshot.to_string()),
        stage: stage(record.stage).into(),
        attempt: record.attempt,
        why: record.why.clone(),
        input_commit: record.input.commit.clone().unwrap_or_default(),
        input_tree: record.input.tree.clone().unwrap_or_default(),
        briefing: record.input.briefing.clone().unwrap_or_default(),
        outcome: record.outcome.clone().unwrap_or_default(),
        entered_at: Some(timestamp(record.entered_at_ms)),
        left_at: record.left_at_ms.map(timestamp),
        artifact_ids: ids(&record.artifacts),
    }
}

fn todo(todo: &Todo, detail: Detail) -> wire::Todo {
    let (state, reason, evidence) = match &todo.state {
        TodoState::Pending => (wire::TodoState::Pending, String::new(), None),
        TodoState::InProgress => (wire::TodoState::InProgress, String::new(), None),
        TodoState::Claimed { claim } => (wire::TodoState::Claimed, claim.clone(), None),
        TodoState::Verifying { claim } => (wire::TodoState::Verifying, claim.clone(), None),
        TodoState::Verified(evidence) => (
            wire::TodoState::Verified,
            evidence.summary.clone(),
            evidence.artifact.as_ref(),
        ),
        TodoState::Rejected { reason, artifact } => {
            (wire::TodoState::Rejected, reason.clone(), artifact.as_ref())
        }
    };
    wire::Todo {
        id: todo.id,
        text: todo.text.clone(),
        state: state.into(),
        criteria: match detail {
            Detail::Whole => todo.criteria.iter().map(prompts::criterion).collect(),
            Detail::Listed => Vec::new(),
        },
        reason,
        evidence_artifact_id: id(evidence),
    }
}

fn question(question: &Question, of: Option<&SessionState>) -> wire::Question {
    wire::Question {
        id: question.id.clone(),
        text: question.text.clone(),
        todo_id: match question.about {
            QuestionAbout::Model
            | QuestionAbout::Circle
            | QuestionAbout::Approval(_)
            | QuestionAbout::Proof { .. } => 0,
            QuestionAbout::Todo { id, .. } => id,
        },
        approval: match &question.about {
            QuestionAbout::Approval(request) => Some(approval(&question.id, request, of)),
            QuestionAbout::Model
            | QuestionAbout::Circle
            | QuestionAbout::Proof { .. }
            | QuestionAbout::Todo { .. } => None,
        },
    }
}

/// An approval that a session waits for; `of` is that session, where it is known.
#[must_use]
pub fn approval(
    question: &str,
    request: &ApprovalRequest,
    of: Option<&SessionState>,
) -> wire::Approval {
    let session = of.map_or_else(String::new, |state| state.id().to_string());
    let id = match of {
        Some(_) => format!("{session}:{question}"),
        None => question.to_owned(),
    };
    wire::Approval {
        id,
        session_id: session,
        workspace_name: of.map_or_else(String::new, |state| {
            state.created.workspace_name.to_string()
        }),
        tool: request.tool.name().to_owned(),
        act: request.act.clone(),
        directory: request.directory.clone(),
        diff: request.diff.clone().unwrap_or_default(),
        hosts: request.hosts.clone(),
        tier: super::policy::tier(request.tier).into(),
        classes: request.classes.clone(),
        why: request.why.clone(),
        refusal: request.refusal.clone(),
        expires_at: Some(timestamp(request.expires_at_ms)),
    }
}

fn verdict(verdict: ApprovalVerdict) -> wire::ApprovalVerdict {
    match verdict {
        ApprovalVerdict::Once => wire::ApprovalVerdict::Once,
        ApprovalVerdict::Session => wire::ApprovalVerdict::Session,
        ApprovalVerdict::Project => wire::ApprovalVerdict::Project,
        ApprovalVerdict::Denied => wire::ApprovalVerdict::Denied,
        ApprovalVerdict::Expired => wire::ApprovalVerdict::Expired,
    }
}

fn proof(proof: &Proof) -> wire::Proof {
    wire::Proof {
        proved: proof.proved,
        reason: proof.reason.clone(),
        runs: proof.runs.iter().map(run).collect(),
        fail_to_pass: proof.fail_to_pass.clone(),
        changed_test_files: proof.changed_test_files.clone(),
        tree: proof.tree.clone(),
        evidence_artifact_id: id(proof.evidence.as_ref()),
    }
}

fn run(run: &TestRun) -> wire::ProofRun {
    let report = run.report.as_ref();
    wire::ProofRun {
        name: run.name.clone(),
        argv: run.argv.clone(),
        cwd: run.cwd.clone(),
        ended: run.exit.status.to_string(),
        passed: report.map_or(0, |report| report.passed),
        failed: report.map_or(0, |report| report.failed + report.errors),
        skipped: report.map_or(0, |report| report.skipped),
        verdict: match &run.verdict {
            RunVerdict::Passed | RunVerdict::PassedByExit => "passed",
            RunVerdict::Failed
            | RunVerdict::Disagree(_)
            | RunVerdict::TimedOut
            | RunVerdict::Broken(_) => "failed",
            RunVerdict::NoTests => "no tests ran",
            RunVerdict::Unreadable(_) => "cannot be read",
        }
        .into(),
        artifact_id: id(run.artifact.as_ref()),
    }
}

fn usage(usage: &Usage) -> wire::TokenUsage {
    wire::TokenUsage {
        input_uncached: usage.input_uncached,
        input_cached: usage.input_cached,
        cache_written: usage.cache_written,
        output: usage.output,
    }
}

/// An item of a watch.
#[must_use]
pub fn watch_item(session: &SessionId, item: WatchItem) -> wire::WatchSessionResponse {
    use wire::watch_session_response::Item;
    let item = match item {
        WatchItem::Event(happened) => Item::Event(event(session, &happened)),
        WatchItem::Progress(happening) => Item::Progress(progress(happening)),
    };
    wire::WatchSessionResponse { item: Some(item) }
}

fn progress(progress: Progress) -> wire::SessionProgress {
    use wire::session_progress::What;
    let what = match progress {
        Progress::ModelText(text) => What::ModelText(text),
        Progress::ModelReasoning(text) => What::ModelReasoning(text),
        Progress::CommandOutput(data) => What::CommandOutput(data),
        Progress::Notice(text) => What::Notice(text),
    };
    wire::SessionProgress { what: Some(what) }
}

/// An event of a session's log.
#[must_use]
pub fn event(session: &SessionId, event: &Event) -> wire::SessionEvent {
    wire::SessionEvent {
        sequence: event.sequence,
        time: Some(timestamp(event.at_ms)),
        stage: stage(event.stage).into(),
        summary: briefing::line(&event.body),
        event: Some(body(session, event)),
    }
}

fn body(session: &SessionId, event: &Event) -> wire::session_event::Event {
    use wire::session_event::Event as Wire;
    let own_step = event.step(session).to_string();
    let step = |intent: u64| StepId::of(session, intent).to_string();
    match &event.body {
        EventBody::Created(created) => Wire::Created(wire::SessionCreated {
            session: Some(beginning(created, event.at_ms)),
        }),
        EventBody::StageEntered { to, attempt, why } => Wire::StageEntered(wire::StageEntered {
            stage: stage(*to).into(),
            attempt: *attempt,
            why: why.clone(),
        }),
        EventBody::StageLeft {
            from,
            attempt,
            next,
            why,
        } => Wire::StageLeft(wire::StageLeft {
            stage: stage(*from).into(),
            attempt: *attempt,
            next: stage(*next).into(),
            why: why.clone(),
        }),
        EventBody::MessageAdded { text, from } => Wire::MessageAdded(wire::MessageAdded {
            text: text.clone(),
            from_person: *from == Speaker::Person,
        }),
        EventBody::BudgetReserved(reserved) => Wire::BudgetReserved(wire::BudgetReserved {
            tokens: reserved.amounts.tokens,
            money: money(reserved.amounts.money),
        }),
        EventBody::BudgetNoted {
            scope,
            quantity,
            mark,
            used,
            limit,
        } => Wire::BudgetNoted(wire::BudgetNoted {
            mark: match mark {
                Mark::Warning => wire::BudgetMark::Warning,
                Mark::Pause => wire::BudgetMark::Pause,
                Mark::Overrun => wire::BudgetMark::Overrun,
            }
            .into(),
            of_the_day: matches!(scope, Scope::Day(_)),
            quantity: quantity.name().to_owned(),
            used: quantity.show(*used),
            limit: quantity.show(*limit),
        }),
        EventBody::Compacted {
            cause,
            left_out,
            briefing,
            ..
        } => Wire::Compacted(wire::Compacted {
            overflow: *cause == Cause::Overflow,
            left_out: *left_out,
            briefing: briefing.clone(),
        }),
        EventBody::CircleFound(found) => Wire::MessageAdded(wire::MessageAdded {
            text: found.text.clone(),
            from_person: false,
        }),
        EventBody::ModelAsked => Wire::ModelAsked(wire::ModelAsked { step_id: own_step }),
        EventBody::ModelAnswered(answer) => Wire::ModelAnswered(wire::ModelAnswered {
            step_id: step(answer.intent),
            text: answer.turn.text.clone(),
            tools: answer.turn.tool_calls.iter().map(tool_request).collect(),
            usage: answer.usage.as_ref().map(usage),
            duration_ms: answer.duration_ms,
        }),
        EventBody::ModelFailed {
            intent,
            error,
            then,
            ..
        } => Wire::ModelFailed(wire::ModelFailed {
            step_id: step(*intent),
            error: error.clone(),
            retried: matches!(
                then,
                AfterModelFailure::AskAgain | AfterModelFailure::Compact
            ),
        }),
        EventBody::ToolStarted { call, .. } => Wire::ToolStarted(wire::ToolStarted {
            step_id: own_step,
            tool: Some(tool_request(call)),
        }),
        EventBody::ToolEnded(ended) => Wire::ToolEnded(wire::ToolEnded {
            step_id: ended.intent.map_or(own_step, step),
            call_id: ended.call_id.clone(),
            name: ended.name.clone(),
            outcome: match ended.outcome {
                ToolOutcome::Ok => wire::ToolOutcome::Ok,
                ToolOutcome::Error => wire::ToolOutcome::Error,
                ToolOutcome::Refused => wire::ToolOutcome::Refused,
            }
            .into(),
            content: ended.content.clone(),
            artifact_id: id(ended.artifact.as_ref()),
            duration_ms: ended.duration_ms,
            failure: (ended.failure.as_ref())
                .map_or_else(String::new, |failure| failure.kind.name().to_owned()),
        }),
        EventBody::Cognition(cognitive) => Wire::CognitionNoted(cognition::noted(cognitive)),
        EventBody::TodoChanged { todo: changed } => Wire::TodoChanged(wire::TodoChanged {
            todo: Some(todo(changed, Detail::Whole)),
        }),
        EventBody::WorkStarted { work, argv, .. } => Wire::CheckStarted(wire::CheckStarted {
            step_id: own_step,
            name: work.name(),
            argv: argv.clone(),
        }),
        EventBody::WorkEnded {
            intent,
            work,
            result,
            failures,
            artifacts,
        } => work_ended(step(*intent), work, result, failures, artifacts),
        EventBody::StateChanged { to, reason } => Wire::StateChanged(wire::StateChanged {
            state: condition_to_wire(*to).into(),
            reason: reason.clone(),
        }),
        EventBody::QuestionAsked { question: asked } => Wire::QuestionAsked(wire::QuestionAsked {
            question: Some(question(asked, None)),
        }),
        EventBody::QuestionAnswered {
            question,
            accepted,
            text,
            verdict: given,
            by: _,
        } => Wire::QuestionAnswered(wire::QuestionAnswered {
            question_id: question.clone(),
            accepted: *accepted,
            text: text.clone(),
            verdict: given
                .map_or(wire::ApprovalVerdict::Unspecified, verdict)
                .into(),
        }),
    }
}

fn work_ended(
    step_id: String,
    work: &Work,
    result: &WorkResult,
    failures: &[Failure],
    artifacts: &[ArtifactId],
) -> wire::session_event::Event {
    use wire::session_event::Event as Wire;
    let failures = failures
        .iter()
        .map(|failure| failure.kind.name().to_owned())
        .collect();
    let passed = match result {
        WorkResult::Committed(commit) => {
            return Wire::Committed(wire::Committed {
                branch: commit.branch.clone(),
                commit: commit.commit.clone(),
                subject: commit.subject.clone(),
            });
        }
        WorkResult::Proved(made) => {
            return Wire::ProofMade(wire::ProofMade {
                proof: Some(proof(made)),
                failures,
            });
        }
        WorkResult::PullRequestOpened(opened) => {
            let diff = opened.diff.as_ref();
            return Wire::PullRequestOpened(wire::PullRequestOpened {
                pull_request: Some(pull_request(&opened.pull_request, diff, &[])),
            });
        }
        WorkResult::BaseRun(base) => base.tests.verdict.is_pass(),
        WorkResult::Validated(validation) => validation.checks.iter().all(CheckResult::passed),
        WorkResult::TodoChecked(checked) => checked.holds,
        WorkResult::StartSnapshot { .. }
        | WorkResult::StageSnapshot { .. }
        | WorkResult::ActSnapshot { .. }
        | WorkResult::RolledBack { .. }
        | WorkResult::Published { .. } => true,
        WorkResult::CiEnded(ci) => ci.passed,
        WorkResult::Failed { .. } => false,
    };
    Wire::CheckEnded(wire::CheckEnded {
        step_id,
        name: work.name(),
        passed,
        summary: briefing::result_line(result),
        artifact_ids: ids(artifacts),
        failures,
    })
}

fn tool_request(call: &ToolCall) -> wire::ToolRequest {
    wire::ToolRequest {
        call_id: call.id.clone(),
        name: call.name.clone(),
        arguments: match &call.arguments {
            Arguments::Object(object) => serde_json::Value::Object(object.clone()).to_string(),
            Arguments::Malformed { raw, .. } => raw.clone(),
        },
    }
}

fn condition_to_wire(condition: Condition) -> wire::SessionState {
    match condition {
        Condition::Running => wire::SessionState::Running,
        Condition::Paused => wire::SessionState::Paused,
        Condition::Waiting => wire::SessionState::Waiting,
        Condition::Interrupted => wire::SessionState::Interrupted,
        Condition::Failed => wire::SessionState::Failed,
        Condition::Verified => wire::SessionState::Verified,
        Condition::Cancelled => wire::SessionState::Cancelled,
    }
}

/// A stage on the wire.
#[must_use]
pub fn stage(stage: Stage) -> wire::Stage {
    match stage {
        Stage::Understand => wire::Stage::Understand,
        Stage::Plan => wire::Stage::Plan,
        Stage::Locate => wire::Stage::Locate,
        Stage::Modify => wire::Stage::Modify,
        Stage::Validate => wire::Stage::Validate,
        Stage::Debug => wire::Stage::Debug,
        Stage::Pr => wire::Stage::Pr,
        Stage::Ci => wire::Stage::Ci,
        Stage::Iterate => wire::Stage::Iterate,
        Stage::Complete => wire::Stage::Complete,
        Stage::Failed => wire::Stage::Failed,
    }
}

/// A stage from the wire; `None` for none, or one of a newer client.
#[must_use]
pub fn stage_of(stage: wire::Stage) -> Option<Stage> {
    Stage::ALL
        .into_iter()
        .find(|known| self::stage(*known) == stage)
}

fn id(id: Option<&ArtifactId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

fn ids(ids: &[ArtifactId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::edits::EditFormat;

    fn defaults(model: Option<&str>) -> SessionDefaults {
        SessionDefaults {
            model: model.map(str::to_owned),
            ..SessionDefaults::default()
        }
    }

    #[test]
    fn options_are_filled_in_from_the_daemons_defaults() {
        let asked = wire::SessionOptions {
            test_command: "python -m pytest -q 'a b'".into(),
            max_steps: 7,
            ..wire::SessionOptions::default()
        };
        let defaults = defaults(Some("scripted:/s.jsonl"));
        let options = options(Some(asked), &defaults).unwrap();
        assert_eq!(
            options.test_command.as_deref().unwrap(),
            ["python", "-m", "pytest", "-q", "a b"]
        );
        assert_eq!(options.lint_command, None);
        assert_eq!(options.limits.max_steps, 7);
        assert_eq!(options.limits.max_time_ms, defaults.limits.max_time_ms);
        assert_eq!(options.edit_format, EditFormat::Replace);
        assert_eq!(options_to_wire(&options).model, "scripted:/s.jsonl");
    }

    #[test]
    fn options_that_cannot_be_used_say_which() {
        let mistake = |asked, default| {
            options(Some(asked), &defaults(default))
                .unwrap_err()
                .to_string()
        };
        let nothing = wire::SessionOptions::default();
        assert!(mistake(nothing.clone(), None).contains("no model"));
        let odd_model = wire::SessionOptions {
            model: "gpt".into(),
            ..nothing.clone()
        };
        assert!(mistake(odd_model, None).contains("`gpt`"));
        let odd_command = wire::SessionOptions {
            lint_command: "ruff 'x".into(),
            ..nothing
        };
        assert!(mistake(odd_command, Some("openai:x")).contains("lint command"));
    }

    #[test]
    fn a_budget_of_money_wants_a_price() {
        let asked = |model: &str, money: &str| wire::SessionOptions {
            model: model.into(),
            budget_tokens: 5_000,
            budget_money: money.into(),
            ..wire::SessionOptions::default()
        };
        let mut defaults = defaults(None);
        let mistake = |defaults: &SessionDefaults, money| {
            options(Some(asked("openai:x", money)), defaults).unwrap_err()
        };
        let missing = OptionsMistake::PriceMissing("openai:x".parse().unwrap());
        assert_eq!(mistake(&defaults, "2.5"), missing);
        assert!(matches!(
            mistake(&defaults, "much"),
            OptionsMistake::MoneyInvalid(_)
        ));
        // A transcript costs nothing.
        options(Some(asked("scripted:/x", "2.5")), &defaults).unwrap();
        defaults.prices = vec!["openai:*=1/1/1/2".parse().unwrap()];
        let options = options(Some(asked("openai:x", "2.5")), &defaults).unwrap();
        let back = options_to_wire(&options);
        assert_eq!(
            (back.budget_tokens, back.budget_money.as_str()),
            (5_000, "2.50")
        );
    }
}
