//! What is said between the daemon and a model, in the daemon's own words.
//!
//! A conversation is derived from a session's log and only ever grows at its
//! end. Adapters turn it into a provider's format and back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A tool as the model sees it. Byte-identical for the whole session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// Unique in a request; `[a-z_]{1,64}`.
    pub name: String,
    /// What the tool does and when to use it.
    pub description: String,
    /// JSON Schema of the arguments, an object; keys ordered.
    pub parameters: Value,
}

/// One entry of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// Said by a person, or by the daemon on its own account (stage prompts,
    /// corrections).
    User {
        /// Plain text, not empty.
        text: String,
    },
    /// Said by the model.
    Assistant(AssistantTurn),
    /// The answers to every tool call of the turn before, in its order.
    ToolResults {
        /// One for each call.
        results: Vec<ToolResult>,
    },
}

/// One reply of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AssistantTurn {
    /// Text for people; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Tools it asks for, in order; may be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Blocks that only the provider understands and that must go back to it
    /// unchanged (signed thinking), as it sent them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<Value>,
}

/// A tool that the model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The provider's id, unique within the conversation.
    pub id: String,
    /// Name of the tool, as the model said it; it may not exist.
    pub name: String,
    /// What the model wants to pass.
    pub arguments: Arguments,
}

/// The arguments of a tool call, which a model can get wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arguments {
    /// A JSON object. An empty text counts as an empty object.
    Object(Map<String, Value>),
    /// Not a JSON object.
    Malformed {
        /// What the model sent, cut at 64 KiB.
        raw: String,
        /// Why it is not an object, for the model to read.
        error: String,
    },
}

/// The answer to a tool call, as the model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// Id of the call.
    pub call_id: String,
    /// Bounded text.
    pub content: String,
    /// Whether the call failed or was refused.
    pub is_error: bool,
}

/// Tokens of one model call, as the provider counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens that were neither read from nor written to a cache.
    pub input_uncached: u64,
    /// Input tokens read from the provider's cache.
    pub input_cached: u64,
    /// Input tokens written to the provider's cache.
    pub cache_written: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Output tokens spent on reasoning, where the provider says so.
    pub reasoning: u64,
}

impl Usage {
    /// Every token of the call, input and output.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input_uncached + self.input_cached + self.cache_written + self.output
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_uncached += other.input_uncached;
        self.input_cached += other.input_cached;
        self.cache_written += other.cache_written;
        self.output += other.output;
        self.reasoning += other.reasoning;
    }
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It had said what it wanted to say.
    EndTurn,
    /// It waits for its tools.
    ToolUse,
    /// The output cap was reached; the reply is cut.
    OutputCap,
    /// The provider refused on grounds of content.
    Refusal,
    /// Anything else, in the provider's word.
    Other(String),
}
