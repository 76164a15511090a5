//! Replies as they go over the wire, in the shape that real servers send.

use serde_json::{Value, json};

use super::WireDialect;
use crate::{
    adapters::model::scripted::Turn,
    domain::conversation::{Arguments, StopReason, Usage},
};

/// One `data:` frame of chat completions.
#[must_use]
pub fn frame(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// One event of the messages API.
#[must_use]
pub fn event(value: &Value) -> String {
    format!(
        "event: {}\ndata: {value}\n\n",
        value["type"].as_str().unwrap_or_default()
    )
}

/// The start of a reply that is going to break off.
#[must_use]
pub fn opening(dialect: WireDialect) -> String {
    match dialect {
        WireDialect::OpenAi => {
            frame(&json!({"choices": [{"index": 0, "delta": {"content": "I beg"}}]}))
        }
        WireDialect::Anthropic => anthropic_opening(0),
    }
}

/// A turn of a transcript as a whole stream. Its `number` makes the ids of its
/// calls; `request_bytes` is what usage is estimated from where it has none.
#[must_use]
pub fn turn(dialect: WireDialect, number: usize, turn: &Turn, request_bytes: usize) -> String {
    let estimate = Usage {
        input_uncached: (request_bytes / 4) as u64,
        output: (turn.text.len() / 4) as u64 + 1,
        ..Usage::default()
    };
    let usage = turn.usage.unwrap_or(estimate);
    match dialect {
        WireDialect::OpenAi => openai_turn(number, turn, usage),
        WireDialect::Anthropic => anthropic_turn(number, turn, usage),
    }
}

fn openai_turn(number: usize, turn: &Turn, usage: Usage) -> String {
    let choice = |delta: Value, finish: Value| {
        frame(&json!({
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            "usage": null,
        }))
    };
    let mut text = choice(json!({"role": "assistant", "content": ""}), Value::Null);
    for piece in turn.text.split_inclusive(' ') {
        text += &choice(json!({"content": piece}), Value::Null);
    }
    for (index, (name, arguments)) in turn.calls.iter().enumerate() {
        let id = format!("call_t{number}c{index}");
        let function = json!({"name": name, "arguments": ""});
        let start = json!({"index": index, "id": id, "type": "function", "function": function});
        text += &choice(json!({"content": null, "tool_calls": [start]}), Value::Null);
        for piece in pieces(&raw(arguments)) {
            let more = json!({"index": index, "function": {"arguments": piece}});
            text += &choice(json!({"tool_calls": [more]}), Value::Null);
        }
    }
    let finish = match stop(turn) {
        StopReason::EndTurn => "stop".to_owned(),
        StopReason::ToolUse => "tool_calls".to_owned(),
        StopReason::OutputCap => "length".to_owned(),
        StopReason::Refusal => "content_filter".to_owned(),
        StopReason::Other(word) => word,
    };
    text += &choice(json!({}), json!(finish));
    let prompt = usage.input_uncached + usage.input_cached + usage.cache_written;
    text += &frame(&json!({"choices": [], "usage": {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.input_cached,
            "cache_write_tokens": usage.cache_written,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }}));
    text + "data: [DONE]\n\n"
}

fn anthropic_opening(input_tokens: u64) -> String {
    let usage = json!({"input_tokens": input_tokens, "output_tokens": 1});
    event(
        &json!({"type": "message_start", "message": {"role": "assistant", "content": [],
        "stop_reason": null, "usage": usage}}),
    )
}

fn anthropic_turn(number: usize, turn: &Turn, usage: Usage) -> String {
    let mut text = anthropic_opening(usage.input_uncached);
    let mut index = 0;
    let mut block = |start: Value, deltas: Vec<Value>| {
        text +=
            &event(&json!({"type": "content_block_start", "index": index, "content_block": start}));
        text += &event(&json!({"type": "ping"}));
        for delta in deltas {
            text += &event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        text += &event(&json!({"type": "content_block_stop", "index": index}));
        index += 1;
    };
    if !turn.text.is_empty() {
        let pieces = turn.text.split_inclusive(' ');
        let deltas = pieces.map(|piece| json!({"type": "text_delta", "text": piece}));
        block(json!({"type": "text", "text": ""}), deltas.collect());
    }
    for (position, (name, arguments)) in turn.calls.iter().enumerate() {
        let id = format!("toolu_t{number}c{position}");
        let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let raw = raw(arguments);
        let pieces = std::iter::once("").chain(pieces(&raw));
        let deltas = pieces.map(|piece| json!({"type": "input_json_delta", "partial_json": piece}));
        block(start, deltas.collect());
    }
    let reason = match stop(turn) {
        StopReason::EndTurn => "end_turn".to_owned(),
        StopReason::ToolUse => "tool_use".to_owned(),
        StopReason::OutputCap => "max_tokens".to_owned(),
        StopReason::Refusal => "refusal".to_owned(),
        StopReason::Other(word) => word,
    };
    let counts = json!({
        "input_tokens": usage.input_uncached,
        "cache_read_input_tokens": usage.input_cached,
        "cache_creation_input_tokens": usage.cache_written,
        "output_tokens": usage.output,
    });
    text += &event(
        &json!({"type": "message_delta", "delta": {"stop_reason": reason},
        "usage": counts}),
    );
    text + &event(&json!({"type": "message_stop"}))
}

fn stop(turn: &Turn) -> StopReason {
    turn.stop.clone().unwrap_or(match turn.calls.is_empty() {
        true => StopReason::EndTurn,
        false => StopReason::ToolUse,
    })
}

fn raw(arguments: &Arguments) -> String {
    match arguments {
        Arguments::Object(object) if object.is_empty() => String::new(),
        Arguments::Object(object) => Value::Object(object.clone()).to_string(),
        Arguments::Malformed { raw, .. } => raw.clone(),
    }
}

/// A text in pieces of a few characters, as models send them.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(7).map_or(rest.len(), |(at, _)| at);
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
