//! That no request can come to more than is set aside for it: a token for each byte
//! of what goes over the wire, and what a provider adds for each message.

use super::super::{anthropic::Anthropic, openai::OpenAi, transport::Dialect};
use super::*;
use crate::domain::{
    budget::{Bound, MESSAGE_TOKENS},
    compaction::{Cause, Window},
    context::Context,
    conversation::StopReason,
    edits::EditFormat,
    ids::SessionId,
    session::{
        event::{
            Created, Event, EventBody, ModelAnswered, Speaker, ToolEffect, ToolEnded, ToolOutcome,
        },
        options::{Budget, RULES_TOKENS, SessionLimits, SessionOptions, VerifyMode, WorkflowKind},
    },
    stage::Stage,
    tools,
};

/// What texts are made of: words, what is longer as JSON, and what is many bytes.
const PIECES: [&str; 8] = ["word ", "\"", "\\", "\n", "\u{1}", "ü", "漢", "{}"];

fn text(rng: &mut fastrand::Rng, most: usize) -> String {
    let count = rng.usize(..=most);
    (0..count)
        .map(|_| PIECES[rng.usize(..PIECES.len())])
        .collect()
}

fn created(system: String) -> Created {
    let options = SessionOptions {
        edit_format: EditFormat::Replace,
        model: "scripted:/none".parse().unwrap(),
        workflow: WorkflowKind::Swe,
        test_command: None,
        lint_command: None,
        verify: VerifyMode::Auto,
        allow_test_changes: false,
        limits: SessionLimits::default(),
        budget: Budget::default(),
        prices: None,
        window: Window::default(),
        rules_tokens: RULES_TOKENS,
        level: Default::default(),
        autonomy: Default::default(),
    };
    Created {
        session: SessionId::from_uuid(uuid::Uuid::from_u128(1)),
        task: "fix the sum".into(),
        workspace: "ws-00000000000000000000000000000001".parse().unwrap(),
        workspace_name: "sample".parse().unwrap(),
        repository: "repo".parse().unwrap(),
        system,
        tools: tools::definitions(EditFormat::Replace),
        options,
    }
}

/// A conversation as a session's log makes it.
struct Talk {
    context: Context,
    sequence: u64,
}

impl Talk {
    fn new(system: String) -> Self {
        Self {
            context: Context::begin(&created(system)),
            sequence: 1,
        }
    }

    fn append(&mut self, body: EventBody) {
        self.sequence += 1;
        self.context.apply(&Event {
            sequence: self.sequence,
            at_ms: 0,
            stage: Stage::Modify,
            body,
        });
    }

    fn say(&mut self, rng: &mut fastrand::Rng) {
        let text = format!("go on{}", text(rng, 8));
        let from = Speaker::Daemon;
        self.append(EventBody::MessageAdded { text, from });
    }

    fn answered(&mut self, turn: AssistantTurn, usage: Option<Usage>) {
        self.append(EventBody::ModelAnswered(Box::new(ModelAnswered {
            intent: self.sequence,
            turn,
            stop: StopReason::ToolUse,
            usage,
            duration_ms: 1,
            provider_request: None,
        })));
    }

    fn ended(&mut self, call_id: String, rng: &mut fastrand::Rng) {
        let outcome = match rng.bool() {
            true => ToolOutcome::Ok,
            false => ToolOutcome::Error,
        };
        self.append(EventBody::ToolEnded(Box::new(ToolEnded {
            intent: None,
            call_id,
            name: "read_file".into(),
            outcome,
            content: text(rng, 60),
            artifact: None,
            duration_ms: 1,
            failure: None,
            effect: ToolEffect::None,
        })));
    }

    fn compacted(&mut self, rng: &mut fastrand::Rng) {
        let keep_from = self.context.tail(rng.u64(..4_000)).min(self.sequence + 1);
        self.append(EventBody::Compacted {
            cause: Cause::Overflow,
            keep_from,
            left_out: self.context.messages_before(keep_from),
            briefing: format!("what holds{}", text(rng, 30)),
        });
    }

    fn request(&self) -> ModelRequest {
        ModelRequest {
            system: self.context.system().to_owned(),
            tools: self.context.tools().to_vec(),
            messages: self.context.messages().to_vec(),
            max_output_tokens: 512,
            turns_left_out: self.context.turns_left_out(),
        }
    }
}

fn turn(rng: &mut fastrand::Rng, number: usize) -> AssistantTurn {
    let mut tool_calls = Vec::new();
    for at in 0..rng.usize(..4) {
        let arguments = match rng.u8(..4) {
            0 => Arguments::Malformed {
                raw: text(rng, 200),
                error: "EOF".into(),
            },
            1 => Arguments::Object(Map::new()),
            _ => Arguments::Object(object(json!({"path": text(rng, 20), "n": rng.u32(..)}))),
        };
        tool_calls.push(ToolCall {
            id: format!("call_{number}_{at}"),
            name: "read_file".into(),
            arguments,
        });
    }
    let mut opaque = Vec::new();
    if rng.u8(..4) == 0 {
        opaque.push(json!({
            "type": "thinking",
            "thinking": text(rng, 40),
            "signature": "c2lnbmVk",
        }));
    }
    AssistantTurn {
        text: text(rng, 40),
        tool_calls,
        opaque,
    }
}

/// Bytes of what a model wrote in a turn.
fn written(turn: &AssistantTurn) -> u64 {
    let calls = turn.tool_calls.iter().map(|call| {
        let arguments = match &call.arguments {
            Arguments::Object(object) => Value::Object(object.clone()).to_string().len(),
            Arguments::Malformed { raw, .. } => raw.len(),
        };
        (call.id.len() + call.name.len() + arguments) as u64
    });
    let opaque = turn.opaque.iter().map(said);
    turn.text.len() as u64 + calls.sum::<u64>() + opaque.sum::<u64>()
}

/// Bytes of what a part of a request says: its texts, and the arguments of calls as
/// JSON. What stands around them is the provider's to put into tokens.
fn said(part: &Value) -> u64 {
    match part {
        Value::String(text) => text.len() as u64,
        Value::Array(parts) => parts.iter().map(said).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| match name.as_str() {
                "role" | "type" | "cache_control" => 0,
                "input" => field.to_string().len() as u64,
                _ => said(field),
            })
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// What a provider puts a frame of its own around: a message, and each call and
/// result in it.
fn frames(message: &Value) -> u64 {
    let of = |field: &str| {
        let parts = message[field].as_array().into_iter().flatten();
        let is_framed = |part: &&Value| {
            let kind = part["type"].as_str();
            matches!(kind, Some("tool_use" | "tool_result" | "function"))
        };
        parts.filter(is_framed).count() as u64
    };
    1 + of("content") + of("tool_calls")
}

/// The most tokens that a request can be.
fn worst_of(body: &Value) -> u64 {
    let messages = body["messages"].as_array().unwrap().iter();
    let messages = messages.map(|message| said(message) + frames(message) * MESSAGE_TOKENS);
    let tools = body["tools"].to_string().len() as u64;
    said(&body["system"]) + tools + messages.sum::<u64>()
}

fn every_call_is_bounded(dialect: &impl Dialect, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut talk = Talk::new(format!("You are careful.{}", text(&mut rng, 300)));
    for number in 0..rng.usize(1..40) {
        let request = talk.request();
        let bound = Bound::of(talk.context.measured(), request.max_output_tokens);
        let body: Value = serde_json::from_slice(&dialect.encode(&request)).unwrap();
        assert_eq!(body["max_tokens"], bound.output);
        let worst = worst_of(&body);
        assert!(
            worst <= bound.input,
            "seed {seed}, call {number}: {worst} tokens, {bound:?}"
        );
        let turn = turn(&mut rng, number);
        let calls: Vec<String> = (turn.tool_calls.iter())
            .map(|call| call.id.clone())
            .collect();
        // Now and then the provider does not say.
        let usage = (rng.u8(..5) > 0).then(|| Usage {
            input_uncached: worst,
            output: written(&turn),
            ..Usage::default()
        });
        talk.answered(turn, usage);
        let answers_none = calls.is_empty();
        for call_id in calls {
            talk.ended(call_id, &mut rng);
        }
        if answers_none || rng.u8(..4) == 0 {
            talk.say(&mut rng);
        }
        if rng.u8(..12) == 0 {
            talk.compacted(&mut rng);
        }
    }
}

#[test]
fn no_request_is_more_tokens_than_are_set_aside_for_it() {
    for seed in 0..300 {
        every_call_is_bounded(&OpenAi::unconnected(), seed);
        every_call_is_bounded(&Anthropic::unconnected(), seed);
    }
}
