//! What an effect brought, as the events that go into the log together.

use super::{
    checkpoint,
    decide::{answered, ask, ends_by_itself, leaving},
    event::{
        AfterModelFailure, Condition, EventBody, KnownFailure, ModelAnswered, QuestionAbout,
        Speaker, ToolEffect, ToolEnded, ToolOutcome,
    },
    options::VerifyMode,
    spending,
    state::{Effect, Open, SessionState},
    work::{TodoCheck, Work, WorkResult},
};
use crate::domain::{
    cognition::{CognitiveEvent, Hint},
    conversation::{AssistantTurn, StopReason, ToolCall, Usage},
    ids::ArtifactId,
    prompts::{self, told},
    recovery::Failure,
    stage::Stage,
    todo::{Evidence, Judge, TodoState},
    tools::{Tool, ToolRequest},
};

/// What an effect brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The model's answer.
    Reply(Reply),
    /// No answer from the model.
    NoReply(NoReply),
    /// What a tool did.
    Tool(ToolAnswer),
    /// What came of the daemon's own work.
    Work {
        /// The result.
        result: WorkResult,
        /// What failed, where something did.
        failures: Vec<Failure>,
        /// Artifacts made on the way.
        artifacts: Vec<ArtifactId>,
    },
}

/// A model's answer, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What it said and asked for.
    pub turn: AssistantTurn,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens, where the provider told.
    pub usage: Option<Usage>,
    /// From request to reply.
    pub duration_ms: u64,
    /// The provider's id of the request.
    pub provider_request: Option<String>,
}

/// Why the model did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoReply {
    /// Why.
    pub error: String,
    /// What follows.
    pub then: AfterModelFailure,
    /// Whether it certainly cost nothing.
    pub free: bool,
    /// How long the provider asks to be left alone, in milliseconds, where it says
    /// so.
    pub wait_ms: Option<u64>,
}

/// What a tool did.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolAnswer {
    /// How it went.
    pub outcome: ToolOutcome,
    /// What the model sees, bounded.
    pub content: String,
    /// The whole output, where the content is not whole.
    pub artifact: Option<ArtifactId>,
    /// From start to end.
    pub duration_ms: u64,
    /// What it failed with, where that is known.
    pub failure: Option<KnownFailure>,
    /// What the session knows now.
    pub effect: ToolEffect,
}

/// The events that an outcome is kept as. The outcome is that of `open`, which
/// is the effect under way in `state`.
#[must_use]
pub fn events(state: &SessionState, open: &Open, outcome: Outcome) -> Vec<EventBody> {
    match outcome {
        Outcome::Reply(reply) => model_answered(state, open.intent, reply),
        Outcome::NoReply(failure) => no_reply(state, open.intent, failure),
        Outcome::Tool(answer) => tool_ended(open, answer),
        Outcome::Work {
            result,
            failures,
            artifacts,
        } => work_ended(state, open, result, failures, artifacts),
    }
}

fn model_answered(state: &SessionState, intent: u64, reply: Reply) -> Vec<EventBody> {
    let correction = correction(state, &reply);
    let overrun = spending::overrun(state, reply.usage.as_ref());
    let mut events = vec![EventBody::ModelAnswered(Box::new(ModelAnswered {
        intent,
        turn: reply.turn,
        stop: reply.stop,
        usage: reply.usage,
        duration_ms: reply.duration_ms,
        provider_request: reply.provider_request,
    }))];
    if let Some(text) = correction {
        let hint = Hint::NoNextStep;
        events.push(EventBody::Cognition(CognitiveEvent::Hinted { hint }));
        let text = format!("{text} {}", hint.reminder());
        let from = Speaker::Daemon;
        events.push(EventBody::MessageAdded { text, from });
    }
    events.extend(overrun);
    events
}

/// What the model is told when its reply asks for no tool.
fn correction(state: &SessionState, reply: &Reply) -> Option<String> {
    if !reply.turn.tool_calls.is_empty() || ends_by_itself(state) {
        return None;
    }
    let said_nothing = reply.turn.text.trim().is_empty();
    Some(match &reply.stop {
        StopReason::OutputCap => {
            prompts::output_cap(state.created.options.limits.max_output_tokens)
        }
        StopReason::Refusal => prompts::provider_refusal(),
        StopReason::EndTurn | StopReason::ToolUse | StopReason::Other(_) if said_nothing => {
            prompts::empty_reply(state.stage)
        }
        StopReason::EndTurn | StopReason::ToolUse | StopReason::Other(_) => {
            prompts::no_tool_call(state.stage)
        }
    })
}

fn no_reply(state: &SessionState, intent: u64, failure: NoReply) -> Vec<EventBody> {
    let NoReply {
        error,
        then,
        free,
        wait_ms,
    } = failure;
    let failed = EventBody::ModelFailed {
        intent,
        error: error.clone(),
        then,
        free,
        wait_ms,
    };
    match then {
        // A second time in a row it would not help either.
        AfterModelFailure::Compact if state.compacted => {
            let mut events = vec![failed];
            events.extend(leaving(state, Stage::Failed, &error));
            events
        }
        AfterModelFailure::AskAgain | AfterModelFailure::Compact => vec![failed],
        AfterModelFailure::Pause => {
            let reason = match wait_ms {
                Some(wait_ms) => format!(
                    "{error}; the provider asks to be left alone for {} s; resume after that",
                    wait_ms.div_ceil(1000)
                ),
                None => format!("{error}; resume when that is mended"),
            };
            let to = Condition::Paused;
            vec![failed, EventBody::StateChanged { to, reason }]
        }
        AfterModelFailure::Fail => {
            let mut events = vec![failed];
            events.extend(leaving(state, Stage::Failed, &error));
            events
        }
    }
}

fn tool_ended(open: &Open, answer: ToolAnswer) -> Vec<EventBody> {
    let (call_id, name) = match &open.effect {
        Effect::RunTool { call, .. } => (call.id.clone(), call.name.clone()),
        Effect::AskModel | Effect::DoWork { .. } => (String::new(), String::new()),
    };
    let hint = match &open.effect {
        Effect::RunTool { call, .. } => Hint::of(call, answer.outcome, &answer.content),
        Effect::AskModel | Effect::DoWork { .. } => None,
    };
    let mut content = match answer.content.trim() {
        "" => "(nothing)".to_owned(),
        _ => answer.content,
    };
    let mut events = Vec::with_capacity(2);
    if let Some(hint) = hint {
        content = format!("{}\n{}", content.trim_end(), hint.reminder());
        events.push(EventBody::Cognition(CognitiveEvent::Hinted { hint }));
    }
    events.push(EventBody::ToolEnded(Box::new(ToolEnded {
        intent: Some(open.intent),
        call_id,
        name,
        outcome: answer.outcome,
        content,
        artifact: answer.artifact,
        duration_ms: answer.duration_ms,
        failure: answer.failure,
        effect: answer.effect,
    })));
    events
}

fn work_ended(
    state: &SessionState,
    open: &Open,
    result: WorkResult,
    failures: Vec<Failure>,
    artifacts: Vec<ArtifactId>,
) -> Vec<EventBody> {
    let work = match &open.effect {
        Effect::DoWork { work, .. } => work.clone(),
        Effect::AskModel | Effect::RunTool { .. } => Work::Validate,
    };
    let follows = match &result {
        WorkResult::TodoChecked(check) => todo_checked(state, check, &failures),
        WorkResult::RolledBack { .. } => rolled_back(state, &work),
        WorkResult::BaseRun(_)
        | WorkResult::StartSnapshot { .. }
        | WorkResult::StageSnapshot { .. }
        | WorkResult::ActSnapshot { .. }
        | WorkResult::Validated(_)
        | WorkResult::Committed(_)
        | WorkResult::Proved(_)
        | WorkResult::Published { .. }
        | WorkResult::PullRequestOpened(_)
        | WorkResult::CiEnded(_)
        | WorkResult::Failed { .. } => Vec::new(),
    };
    let intent = open.intent;
    let mut events = vec![EventBody::WorkEnded {
        intent,
        work,
        result,
        failures,
        artifacts,
    }];
    events.extend(follows);
    events
}

/// What follows a rollback: the model is told, and the stage is entered again.
fn rolled_back(state: &SessionState, work: &Work) -> Vec<EventBody> {
    let Work::RollBack { stage, .. } = work else {
        return Vec::new();
    };
    let (text, from) = (checkpoint::told(*stage), Speaker::Daemon);
    let mut events = vec![EventBody::MessageAdded { text, from }];
    events.extend(leaving(state, *stage, "a person rolled it back"));
    events
}

/// What follows a check of a todo: its new state, and the answer to the claim
/// that asked for it, where one did.
fn todo_checked(state: &SessionState, check: &TodoCheck, failures: &[Failure]) -> Vec<EventBody> {
    let Some(todo) = state.todo(check.todo) else {
        return Vec::new();
    };
    let claim = claim_of(state, check.todo);
    let report = prompts::criteria_report(&check.results);
    if todo.criteria.is_empty() {
        let evidence = match &todo.state {
            TodoState::Claimed { claim } | TodoState::Verifying { claim } => claim.as_str(),
            TodoState::Pending
            | TodoState::InProgress
            | TodoState::Verified(_)
            | TodoState::Rejected { .. } => "files have changed since it was accepted",
        };
        let text = format!(
            "Todo {}: {}\nIt has no criterion that the daemon could check. What the model says: \
             {evidence}\nDo you accept it?",
            todo.id, todo.text
        );
        let about = QuestionAbout::Todo {
            id: todo.id,
            tree: check.tree.clone(),
            artifact: check.artifact.clone(),
        };
        return ask(state, text, about);
    }
    if !check.holds {
        let reason = format!("not every criterion holds:\n{report}");
        let artifact = check.artifact.clone();
        let todo = todo.with(TodoState::Rejected {
            reason: reason.clone(),
            artifact,
        });
        let id = todo.id;
        let mut events = vec![EventBody::TodoChanged { todo }];
        events.extend(claim.map(|call| {
            let text = format!("Todo {id} is rejected: {reason}{}", told(failures));
            answered(call, ToolOutcome::Error, text, ToolEffect::None)
        }));
        return events;
    }
    if state.created.options.verify == VerifyMode::Manual {
        // Who accepted an older tree has not seen this one.
        let since = match claim {
            Some(_) => "",
            None => "Files have changed since it was accepted. ",
        };
        let text = format!(
            "Todo {}: {}\n{since}The daemon's checks hold:\n{report}\nDo you accept it?",
            todo.id, todo.text
        );
        let about = QuestionAbout::Todo {
            id: todo.id,
            tree: check.tree.clone(),
            artifact: check.artifact.clone(),
        };
        return ask(state, text, about);
    }
    let evidence = Evidence {
        tree: check.tree.clone(),
        summary: summary(check),
        artifact: check.artifact.clone(),
        judge: Judge::Daemon,
    };
    let todo = todo.with(TodoState::Verified(evidence));
    let id = todo.id;
    let mut events = vec![EventBody::TodoChanged { todo }];
    events.extend(claim.map(|call| {
        let text = format!("Todo {id} is verified:\n{report}");
        answered(call, ToolOutcome::Ok, text, ToolEffect::None)
    }));
    events
}

fn summary(check: &TodoCheck) -> String {
    let count = check.results.len();
    format!("{count} of {count} criteria hold")
}

/// The call that waits for the verdict on a todo.
pub(super) fn claim_of(state: &SessionState, todo: u32) -> Option<&ToolCall> {
    let call = state.calls.front()?;
    if call.name != Tool::TodoClaim.name() {
        return None;
    }
    match ToolRequest::parse(call) {
        Ok(ToolRequest::TodoClaim(claim)) if claim.id == todo => Some(call),
        Ok(_) | Err(_) => None,
    }
}
