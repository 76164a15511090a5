//! A request as the messages API wants it.
//!
//! The order of keys is the order of fields, and `messages` comes after all
//! that never changes: but for the cache marks, two requests of one
//! conversation share their bytes up to the end of the shorter one's messages.
//! Consecutive user messages stay apart for the same reason; the provider
//! joins them.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    adapters::model::reply::arguments_value,
    domain::conversation::{AssistantTurn, Message, ToolDefinition, ToolResult},
    ports::model::ModelRequest,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    system: [Block<'a>; 1],
    messages: Vec<WireMessage<'a>>,
    max_tokens: u32,
    stream: bool,
}

#[derive(Serialize)]
struct WireTool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

/// A cache mark. Always the last key, so that an object with and without it
/// begins with the same bytes.
#[derive(Serialize)]
struct CacheControl {
    #[serde(rename = "type")]
    kind: &'static str,
}

const EPHEMERAL: Option<CacheControl> = Some(CacheControl { kind: "ephemeral" });

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: Vec<Content<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Block(Block<'a>),
    /// A block of the provider's own, as it came.
    Opaque(&'a Value),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: Map<String, Value>,
    },
    ToolResult {
        tool_use_id: &'a str,
        content: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
}

pub(super) fn encode(model: &str, request: &ModelRequest) -> Vec<u8> {
    let mut tools: Vec<_> = request.tools.iter().map(tool).collect();
    if let Some(last) = tools.last_mut() {
        last.cache_control = EPHEMERAL;
    }
    let mut messages: Vec<_> = request.messages.iter().map(message).collect();
    for marked in messages
        .iter_mut()
        .rev()
        .filter(|message| message.role == "user")
        .take(2)
    {
        mark(marked);
    }
    let body = Body {
        model,
        tools,
        system: [Block::Text {
            text: &request.system,
            cache_control: EPHEMERAL,
        }],
        messages,
        max_tokens: request.max_output_tokens,
        stream: true,
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
        name,
        description,
        input_schema: parameters,
        cache_control: None,
    }
}

fn message(message: &Message) -> WireMessage<'_> {
    match message {
        Message::User { text } => WireMessage {
            role: "user",
            content: vec![text_block(text)],
        },
        Message::Assistant(turn) => WireMessage {
            role: "assistant",
            content: assistant(turn),
        },
        Message::ToolResults { results } => WireMessage {
            role: "user",
            content: results.iter().map(result).collect(),
        },
    }
}

fn assistant(turn: &AssistantTurn) -> Vec<Content<'_>> {
    let is_thinking = |block: &&Value| {
        matches!(
            block["type"].as_str(),
            Some("thinking" | "redacted_thinking")
        )
    };
    let mut content: Vec<_> = turn
        .opaque
        .iter()
        .filter(is_thinking)
        .map(Content::Opaque)
        .collect();
    // An empty turn happens; the provider refuses one in a history.
    if !turn.text.trim().is_empty() || turn.tool_calls.is_empty() {
        content.push(text_block(&turn.text));
    }
    content.extend(turn.tool_calls.iter().map(|call| {
        let input = arguments_value(&call.arguments);
        Content::Block(Block::ToolUse {
            id: &call.id,
            name: &call.name,
            input,
        })
    }));
    content
}

fn result(result: &ToolResult) -> Content<'_> {
    Content::Block(Block::ToolResult {
        tool_use_id: &result.call_id,
        content: if result.content.is_empty() {
            "(no output)"
        } else {
            &result.content
        },
        is_error: result.is_error,
        cache_control: None,
    })
}

/// The provider refuses a text without anything but white space.
fn text_block(text: &str) -> Content<'_> {
    let text = if text.trim().is_empty() {
        "(nothing)"
    } else {
        text
    };
    Content::Block(Block::Text {
        text,
        cache_control: None,
    })
}

fn mark(message: &mut WireMessage<'_>) {
    match message.content.last_mut() {
        Some(Content::Block(
            Block::Text { cache_control, .. } | Block::ToolResult { cache_control, .. },
        )) => *cache_control = EPHEMERAL,
        Some(Content::Block(Block::ToolUse { .. }) | Content::Opaque(_)) | None => {}
    }
}
