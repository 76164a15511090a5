//! A reply of the messages API, read event by event.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    adapters::model::{
        provider_error::{ErrorBody, Seen, SilentLimit},
        reply::{CallIds, MAX_CALLS, Reply, arguments, token_count, tool_name},
        transport::{Next, ReplyReader},
    },
    domain::conversation::{AssistantTurn, StopReason, ToolCall, Usage},
    ports::model::{ModelError, ModelProgress, ModelRequest},
};

/// Most content blocks of one reply: calls, with texts and thinking between.
const MAX_BLOCKS: usize = 3 * MAX_CALLS;

/// Collects the blocks of one reply.
pub(in crate::adapters::model) struct AnthropicReader {
    provider: String,
    ids: CallIds,
    /// By the provider's index.
    blocks: BTreeMap<u64, PartialBlock>,
    usage: PartialUsage,
    stop_reason: Option<String>,
    stopped: bool,
}

enum PartialBlock {
    Text(String),
    ToolUse {
        id: String,
        name: String,
        /// Arguments given whole at the start; deltas replace them.
        input: Value,
        json: String,
    },
    /// Signed or redacted thinking, to go back unchanged.
    Thinking(Value),
    /// Of a kind that we never asked for.
    Unknown,
}

/// Counts as far as they are known: later events repeat some of them.
#[derive(Debug, Default)]
struct PartialUsage {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    output: Option<u64>,
}

type Tell<'a> = &'a mut (dyn FnMut(ModelProgress) + Send);

impl AnthropicReader {
    pub(super) fn new(provider: String, request: &ModelRequest) -> Self {
        Self {
            provider,
            ids: CallIds::after(request),
            blocks: BTreeMap::new(),
            usage: PartialUsage::default(),
            stop_reason: None,
            stopped: false,
        }
    }

    fn start_block(&mut self, event: &Value, tell: Tell<'_>) -> Result<(), ModelError> {
        let index = self.index(event)?;
        if self.blocks.len() == MAX_BLOCKS {
            return Err(self.protocol(format!("it has more than {MAX_BLOCKS} blocks")));
        }
        let start = &event["content_block"];
        let block = match start["type"].as_str() {
            Some("text") => {
                let text = start["text"].as_str().unwrap_or_default().to_owned();
                if !text.is_empty() {
                    tell(ModelProgress::Text(text.clone()));
                }
                PartialBlock::Text(text)
            }
            Some("tool_use") => {
                let name = tool_name(start["name"].as_str().unwrap_or_default());
                tell(ModelProgress::ToolCallStarted { name: name.clone() });
                PartialBlock::ToolUse {
                    id: start["id"].as_str().unwrap_or_default().to_owned(),
                    name,
                    input: start["input"].clone(),
                    json: String::new(),
                }
            }
            Some("thinking" | "redacted_thinking") => PartialBlock::Thinking(start.clone()),
            _ => PartialBlock::Unknown,
        };
        match self.blocks.insert(index, block) {
            None => Ok(()),
            Some(_) => Err(self.protocol(format!("block {index} starts twice"))),
        }
    }

    fn block_delta(&mut self, event: &Value, tell: Tell<'_>) -> Result<(), ModelError> {
        let index = self.index(event)?;
        let delta = &event["delta"];
        let piece = |key: &str| delta[key].as_str().unwrap_or_default();
        match (
            delta["type"].as_str().unwrap_or_default(),
            self.blocks.get_mut(&index),
        ) {
            (_, None) => {
                return Err(self.protocol(format!("block {index} goes on without having begun")));
            }
            ("text_delta", Some(PartialBlock::Text(text))) => {
                text.push_str(piece("text"));
                tell(ModelProgress::Text(piece("text").to_owned()));
            }
            ("input_json_delta", Some(PartialBlock::ToolUse { json, .. })) => {
                json.push_str(piece("partial_json"));
            }
            ("thinking_delta", Some(PartialBlock::Thinking(block))) => {
                append(&mut block["thinking"], piece("thinking"));
                tell(ModelProgress::Reasoning(piece("thinking").to_owned()));
            }
            ("signature_delta", Some(PartialBlock::Thinking(block))) => {
                append(&mut block["signature"], piece("signature"));
            }
            // New kinds of deltas come with new features, none of them asked for.
            (_, Some(_)) => {}
        }
        Ok(())
    }

    fn index(&self, event: &Value) -> Result<u64, ModelError> {
        event["index"]
            .as_u64()
            .ok_or_else(|| self.protocol("a block has no index".to_owned()))
    }

    fn error(&self, event: &Value) -> ModelError {
        let error = ErrorBody::from_value(event).unwrap_or_default();
        Seen {
            provider: &self.provider,
            status: 200,
            meaning: meaning(&error),
            error,
            wait: None,
            // A stream has no headers to be silent in.
            silent_limit: SilentLimit::Rate,
        }
        .classify()
    }

    fn stop(&self, asks: bool) -> StopReason {
        match self.stop_reason.as_deref() {
            Some("max_tokens") => StopReason::OutputCap,
            Some("refusal") => StopReason::Refusal,
            _ if asks => StopReason::ToolUse,
            Some("end_turn") | None => StopReason::EndTurn,
            Some(other) => StopReason::Other(tool_name(other)),
        }
    }

    fn protocol(&self, message: String) -> ModelError {
        ModelError::Protocol {
            provider: self.provider.clone(),
            message,
        }
    }
}

impl ReplyReader for AnthropicReader {
    fn event(&mut self, data: &str, tell: Tell<'_>) -> Result<Next, ModelError> {
        let event: Value = serde_json::from_str(data)
            .map_err(|error| self.protocol(format!("an event is not JSON: {error}")))?;
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.usage.merge(&event["message"]["usage"]),
            "content_block_start" => self.start_block(&event, tell)?,
            "content_block_delta" => self.block_delta(&event, tell)?,
            "message_delta" => {
                self.usage.merge(&event["usage"]);
                if let Some(reason) = event["delta"]["stop_reason"].as_str() {
                    self.stop_reason = Some(reason.to_owned());
                }
            }
            "message_stop" => {
                self.stopped = true;
                return Ok(Next::Done);
            }
            "error" => return Err(self.error(&event)),
            // `ping`, `content_block_stop`, and events that are yet to come.
            _ => {}
        }
        Ok(Next::More)
    }

    fn is_complete(&self) -> bool {
        self.stopped || self.stop_reason.is_some()
    }

    fn end(mut self, why: &str) -> Result<Reply, ModelError> {
        if !self.is_complete() {
            let message = format!("no stop_reason came: {why}");
            return Err(ModelError::Cut {
                provider: self.provider,
                message,
            });
        }
        let mut turn = AssistantTurn::default();
        for block in std::mem::take(&mut self.blocks).into_values() {
            match block {
                PartialBlock::Text(text) => {
                    if !turn.text.is_empty() && !text.is_empty() {
                        turn.text.push_str("\n\n");
                    }
                    turn.text.push_str(&text);
                }
                PartialBlock::ToolUse {
                    id,
                    name,
                    input,
                    json,
                } => {
                    let position = turn.tool_calls.len();
                    if position == MAX_CALLS {
                        let message = format!("it asks for more than {MAX_CALLS} tools");
                        return Err(self.protocol(message));
                    }
                    let json = if json.is_empty() {
                        input.to_string()
                    } else {
                        json
                    };
                    let id = self.ids.assign(&id, position);
                    turn.tool_calls.push(ToolCall {
                        id,
                        name,
                        arguments: arguments(&json),
                    });
                }
                PartialBlock::Thinking(block) => turn.opaque.push(block),
                PartialBlock::Unknown => {}
            }
        }
        let stop = self.stop(!turn.tool_calls.is_empty());
        Ok(Reply {
            turn,
            stop,
            usage: self.usage.complete(),
        })
    }
}

impl PartialUsage {
    /// Counts that are present replace what was known; absent ones keep it.
    fn merge(&mut self, usage: &Value) {
        let count = |key: &str, known: Option<u64>| token_count(&usage[key]).or(known);
        self.input = count("input_tokens", self.input);
        self.cache_read = count("cache_read_input_tokens", self.cache_read);
        self.cache_written = count("cache_creation_input_tokens", self.cache_written);
        self.output = count("output_tokens", self.output);
    }

    fn complete(&self) -> Option<Usage> {
        Some(Usage {
            input_uncached: self.input?,
            input_cached: self.cache_read.unwrap_or(0),
            cache_written: self.cache_written.unwrap_or(0),
            output: self.output?,
            reasoning: 0,
        })
    }
}

fn append(field: &mut Value, piece: &str) {
    match field {
        Value::String(text) => text.push_str(piece),
        other => *other = Value::String(piece.to_owned()),
    }
}

/// The HTTP status that an error inside a stream stands for.
pub(super) fn meaning(error: &ErrorBody) -> u16 {
    match error.kind.as_str() {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "overloaded_error" => 529,
        _ => 500,
    }
}
