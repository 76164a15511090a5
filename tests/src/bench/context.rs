//! The conversation that a model is told in a long session.

use std::time::Instant;

use compyd::domain::{
    compaction::Window,
    context::Context,
    conversation::{Arguments, AssistantTurn, StopReason, ToolCall, Usage},
    edits::EditFormat,
    prompts,
    session::{
        event::{Created, Event, EventBody, ModelAnswered, ToolEffect, ToolEnded, ToolOutcome},
        options::{Budget, RULES_TOKENS, SessionLimits, SessionOptions, VerifyMode, WorkflowKind},
    },
    stage::Stage,
    tools,
};
use serde_json::json;

use super::{Better, Measured, Report};

/// Events of the session.
const EVENTS: u64 = 2_000;
const ROUNDS: usize = 200;

/// Measures it folded from the log, and after one more step; needs no daemon.
pub fn measure(report: &mut Report) {
    let created = created();
    let events: Vec<Event> = (2..=EVENTS).map(event).collect();
    let (mut whole, mut next) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut context = Context::begin(&created);
        events.iter().for_each(|event| context.apply(event));
        whole.push(begun.elapsed().as_secs_f64() * 1e3);
        // One more step, and the messages as the model's request takes them.
        let begun = Instant::now();
        for sequence in EVENTS + 1..=EVENTS + 4 {
            context.apply(&event(sequence));
        }
        let told = context.messages().to_vec();
        next.push(begun.elapsed().as_secs_f64() * 1e3);
        assert!(told.len() as u64 > EVENTS / 4, "{} messages", told.len());
    }
    for (name, ours) in [
        ("context of 2,000 events from the log", whole),
        ("context of 2,000 events after one more step", next),
    ] {
        let measured = Measured {
            name,
            unit: "ms",
            better: Better::Less,
            ours,
            theirs: Vec::new(),
        };
        report.add(measured, "under 5 ms", |ours, _| ours.p99 < 5.0);
    }
}

fn created() -> Created {
    let options = SessionOptions {
        model: "scripted:/none".parse().expect("it is a name"),
        workflow: WorkflowKind::Swe,
        test_command: None,
        lint_command: None,
        verify: VerifyMode::Auto,
        allow_test_changes: false,
        edit_format: EditFormat::Replace,
        limits: SessionLimits::default(),
        budget: Budget::default(),
        prices: None,
        window: Window::default(),
        rules_tokens: RULES_TOKENS,
        level: Default::default(),
        autonomy: Default::default(),
    };
    Created {
        session: compyd::domain::ids::SessionId::from_uuid(uuid::Uuid::from_u128(1)),
        task: "fix the sum".to_owned(),
        workspace: "ws-00000000000000000000000000000001"
            .parse()
            .expect("it is an id"),
        workspace_name: "sample".parse().expect("it is a name"),
        repository: "repo".parse().expect("it is a name"),
        system: prompts::system("fix the sum", "/workspace/repo", &options),
        tools: tools::definitions(EditFormat::Replace),
        options,
    }
}

/// An event of a session that asks, is answered, and runs a command that prints
/// two kilobytes.
fn event(sequence: u64) -> Event {
    let call = ToolCall {
        id: format!("call-{}", sequence / 4),
        name: "run_command".to_owned(),
        arguments: Arguments::Object(
            [("command".to_owned(), json!(format!("make step-{sequence}")))]
                .into_iter()
                .collect(),
        ),
    };
    let body = match sequence % 4 {
        0 => EventBody::ModelAsked,
        1 => EventBody::ModelAnswered(Box::new(ModelAnswered {
            intent: sequence - 1,
            turn: AssistantTurn {
                text: "I look at what it prints. ".repeat(4),
                tool_calls: vec![call],
                opaque: Vec::new(),
            },
            stop: StopReason::ToolUse,
            usage: Some(Usage::default()),
            duration_ms: 900,
            provider_request: None,
        })),
        2 => EventBody::ToolStarted {
            call,
            expected_hash: None,
            risks: Vec::new(),
        },
        _ => EventBody::ToolEnded(Box::new(ToolEnded {
            intent: Some(sequence - 1),
            call_id: call.id,
            name: call.name,
            outcome: ToolOutcome::Ok,
            content: "tests/test_a.py::test_b PASSED in 0.1s\n".repeat(50),
            artifact: None,
            duration_ms: 100,
            failure: None,
            effect: ToolEffect::CommandRan,
        })),
    };
    Event {
        sequence,
        at_ms: 0,
        stage: Stage::Modify,
        body,
    }
}
