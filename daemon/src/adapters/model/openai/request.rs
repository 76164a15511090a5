//! A request as chat completions want it.
//!
//! The order of keys is the order of fields, and `messages` comes after all
//! that never changes: two requests of one conversation share their bytes up
//! to the end of the shorter one's messages.

use serde::Serialize;
use serde_json::Value;

use super::OutputCap;
use crate::{
    adapters::model::reply::arguments_value,
    domain::conversation::{AssistantTurn, Message, ToolCall, ToolDefinition},
    ports::model::ModelRequest,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    messages: Vec<WireMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct WireTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: WireFunction<'a>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum WireMessage<'a> {
    System {
        content: &'a str,
    },
    User {
        content: &'a str,
    },
    Assistant {
        /// Null beside tool calls; a text, if an empty one, without.
        content: Option<&'a str>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<WireCall<'a>>,
    },
    Tool {
        tool_call_id: &'a str,
        content: String,
    },
}

#[derive(Serialize)]
struct WireCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CalledFunction<'a>,
}

#[derive(Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    arguments: String,
}

pub(super) fn encode(model: &str, cap: OutputCap, request: &ModelRequest) -> Vec<u8> {
    let (max_tokens, max_completion_tokens) = match cap {
        OutputCap::MaxTokens => (Some(request.max_output_tokens), None),
        OutputCap::MaxCompletionTokens => (None, Some(request.max_output_tokens)),
    };
    let mut messages = vec![WireMessage::System {
        content: &request.system,
    }];
    for message in &request.messages {
        push(message, &mut messages);
    }
    let body = Body {
        model,
        tools: request.tools.iter().map(tool).collect(),
        messages,
        max_tokens,
        max_completion_tokens,
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
        },
    };
    serde_json::to_vec(&body).expect("the body has text keys only")
}

fn tool(definition: &ToolDefinition) -> WireTool<'_> {
    let ToolDefinition {
        name,
        description,
        parameters,
    } = definition;
    WireTool {
        kind: "function",
        function: WireFunction {
            name,
            description,
            parameters,
        },
    }
}

fn push<'a>(message: &'a Message, messages: &mut Vec<WireMessage<'a>>) {
    match message {
        Message::User { text } => messages.push(WireMessage::User { content: text }),
        Message::Assistant(turn) => messages.push(assistant(turn)),
        Message::ToolResults { results } => {
            messages.extend(results.iter().map(|result| WireMessage::Tool {
                tool_call_id: &result.call_id,
                // The format has no mark for a failure.
                content: match result.is_error {
                    true => format!("[failed] {}", result.content),
                    false => result.content.clone(),
                },
            }));
        }
    }
}

fn assistant(turn: &AssistantTurn) -> WireMessage<'_> {
    let silent = turn.text.is_empty() && !turn.tool_calls.is_empty();
    WireMessage::Assistant {
        content: (!silent).then_some(turn.text.as_str()),
        tool_calls: turn.tool_calls.iter().map(call).collect(),
    }
}

fn call(call: &ToolCall) -> WireCall<'_> {
    let arguments = Value::Object(arguments_value(&call.arguments)).to_string();
    let function = CalledFunction {
        name: &call.name,
        arguments,
    };
    WireCall {
        id: &call.id,
        kind: "function",
        function,
    }
}
