//! A reply of chat completions, read frame by frame.

use serde_json::Value;

use crate::{
    adapters::model::{
        provider_error::{self, ErrorBody, Seen, SilentLimit},
        reply::{CallIds, MAX_CALLS, Reply, arguments, token_count, tool_name},
        transport::{Next, ReplyReader},
    },
    domain::conversation::{AssistantTurn, StopReason, ToolCall, Usage},
    ports::model::{ModelError, ModelProgress, ModelRequest},
};

/// Collects the deltas of one reply.
pub(in crate::adapters::model) struct OpenAiReader {
    provider: String,
    ids: CallIds,
    text: String,
    thinking: InlineThinking,
    refused: bool,
    calls: Vec<PartialCall>,
    finish_reason: Option<String>,
    done: bool,
    usage: Option<Usage>,
}

/// A tool call whose arguments are still arriving.
#[derive(Debug, Default)]
struct PartialCall {
    /// The provider's index. Later deltas carry nothing else.
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

type Tell<'a> = &'a mut (dyn FnMut(ModelProgress) + Send);

impl OpenAiReader {
    pub(super) fn new(provider: String, request: &ModelRequest) -> Self {
        Self {
            provider,
            ids: CallIds::after(request),
            text: String::new(),
            thinking: InlineThinking::default(),
            refused: false,
            calls: Vec::new(),
            finish_reason: None,
            done: false,
            usage: None,
        }
    }

    fn delta(&mut self, delta: &Value, tell: Tell<'_>) -> Result<(), ModelError> {
        if let Some(reasoning) = reasoning(delta) {
            tell(ModelProgress::Reasoning(reasoning));
        }
        if let Some(content) = text(&delta["content"]) {
            let piece = self.thinking.split(content, tell);
            self.say(piece, tell);
        }
        if let Some(refusal) = text(&delta["refusal"]) {
            self.refused = true;
            self.say(refusal.to_owned(), tell);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call_delta(call, tell)?;
        }
        Ok(())
    }

    fn say(&mut self, piece: String, tell: Tell<'_>) {
        if !piece.is_empty() {
            self.text.push_str(&piece);
            tell(ModelProgress::Text(piece));
        }
    }

    /// Calls are told apart by `index` alone: only the first delta of a call
    /// carries an id. A different id together with a name starts another call
    /// even so, for servers that number every call 0 and send each one whole.
    fn call_delta(&mut self, delta: &Value, tell: Tell<'_>) -> Result<(), ModelError> {
        let index = delta["index"].as_u64();
        let id = delta["id"].as_str().unwrap_or_default();
        let name = delta["function"]["name"].as_str().unwrap_or_default();
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None => self.calls.len().checked_sub(1),
        };
        let continued = known.filter(|&at| {
            let call = &self.calls[at];
            name.is_empty() || call.name.is_empty() || id.is_empty() || call.id == id
        });
        let at = match continued {
            Some(at) => at,
            None if self.calls.len() == MAX_CALLS => {
                return Err(self.protocol(format!("it asks for more than {MAX_CALLS} tools")));
            }
            None => {
                self.calls.push(PartialCall {
                    index,
                    ..PartialCall::default()
                });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id = id.to_owned();
        }
        if call.name.is_empty() && !name.is_empty() {
            call.name = tool_name(name);
            tell(ModelProgress::ToolCallStarted {
                name: call.name.clone(),
            });
        }
        match &delta["function"]["arguments"] {
            Value::String(fragment) => call.arguments.push_str(fragment),
            // Some servers send an object where the text of one belongs.
            object @ Value::Object(_) => call.arguments.push_str(&object.to_string()),
            _ => {}
        }
        Ok(())
    }

    fn stop(&self) -> StopReason {
        let asks = !self.calls.is_empty();
        match self.finish_reason.as_deref() {
            Some("length") => StopReason::OutputCap,
            Some("content_filter") => StopReason::Refusal,
            _ if self.refused => StopReason::Refusal,
            // `stop` beside tool calls happens: what was sent counts.
            _ if asks => StopReason::ToolUse,
            Some("stop") | None => StopReason::EndTurn,
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

impl ReplyReader for OpenAiReader {
    fn event(&mut self, data: &str, tell: Tell<'_>) -> Result<Next, ModelError> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Next::Done);
        }
        let frame: Value = serde_json::from_str(data)
            .map_err(|error| self.protocol(format!("a frame is not JSON: {error}")))?;
        if let Some(error) = ErrorBody::from_value(&frame) {
            let seen = Seen {
                provider: &self.provider,
                status: 200,
                meaning: meaning(&error),
                wait: provider_error::wait_in_words(&error.message),
                error,
                silent_limit: SilentLimit::Rate,
            };
            return Err(seen.classify());
        }
        // The last count stands: some servers repeat it.
        let counts = usage(&frame["usage"]).or_else(|| usage(&frame["x_groq"]["usage"]));
        self.usage = counts.or(self.usage);
        let choice = &frame["choices"][0];
        self.delta(&choice["delta"], tell)?;
        if let Some(reason) = text(&choice["finish_reason"]) {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(Next::More)
    }

    fn is_complete(&self) -> bool {
        self.done || self.finish_reason.is_some()
    }

    fn end(mut self, why: &str) -> Result<Reply, ModelError> {
        if !self.is_complete() {
            let message = format!("no finish_reason came: {why}");
            return Err(ModelError::Cut {
                provider: self.provider,
                message,
            });
        }
        let held_back = self.thinking.finish();
        self.text.push_str(&held_back);
        let stop = self.stop();
        let mut tool_calls = Vec::with_capacity(self.calls.len());
        for (position, call) in self.calls.into_iter().enumerate() {
            tool_calls.push(ToolCall {
                id: self.ids.assign(&call.id, position),
                name: call.name,
                arguments: arguments(&call.arguments),
            });
        }
        let turn = AssistantTurn {
            text: self.text,
            tool_calls,
            opaque: Vec::new(),
        };
        Ok(Reply {
            turn,
            stop,
            usage: self.usage,
        })
    }
}

/// A text that is there and not empty.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// Servers name the reasoning differently, and some name it twice.
fn reasoning(delta: &Value) -> Option<String> {
    if let Some(reasoning) = text(&delta["reasoning_content"]).or(text(&delta["reasoning"])) {
        return Some(reasoning.to_owned());
    }
    let details = delta["reasoning_details"].as_array()?;
    let pieces = details
        .iter()
        .filter_map(|part| text(&part["text"]).or(text(&part["summary"])));
    Some(pieces.collect::<String>()).filter(|reasoning| !reasoning.is_empty())
}

fn usage(value: &Value) -> Option<Usage> {
    let prompt = token_count(&value["prompt_tokens"])?;
    let completion = token_count(&value["completion_tokens"])?;
    let input = &value["prompt_tokens_details"];
    let input_cached = token_count(&input["cached_tokens"])
        .unwrap_or(0)
        .min(prompt);
    let written = token_count(&input["cache_write_tokens"]).unwrap_or(0);
    let cache_written = written.min(prompt - input_cached);
    let output = &value["completion_tokens_details"];
    let reasoning = token_count(&output["reasoning_tokens"]).unwrap_or(0);
    // xAI counts reasoning beside the completion, the others inside it; the
    // total tells which.
    let total = token_count(&value["total_tokens"]);
    let beside = reasoning > 0 && total == Some(prompt + completion + reasoning);
    Some(Usage {
        input_uncached: prompt - input_cached - cache_written,
        input_cached,
        cache_written,
        output: if beside {
            completion + reasoning
        } else {
            completion
        },
        reasoning,
    })
}

/// The HTTP status that an error inside a stream stands for.
pub(super) fn meaning(error: &ErrorBody) -> u16 {
    if let Some(status) = error
        .code
        .parse()
        .ok()
        .filter(|code| (400..600).contains(code))
    {
        return status;
    }
    let status = |word: &str| match word {
        "rate_limit_exceeded" | "rate_limit_error" | "requests" | "tokens" => Some(429),
        "server_is_overloaded" | "slow_down" => Some(503),
        "invalid_api_key" | "authentication_error" => Some(401),
        "invalid_request_error" | "BadRequestError" => Some(400),
        _ => None,
    };
    status(&error.code)
        .or_else(|| status(&error.kind))
        .unwrap_or(500)
}

/// Takes `<think>..</think>` at the start of a reply out of its text. The tags
/// may be split over deltas.
#[derive(Debug)]
enum InlineThinking {
    /// What came so far may be the start of the opening tag.
    Undecided(String),
    /// Inside; holds what may be the start of the closing tag.
    Inside(String),
    /// After the closing tag, before the first character that is no space.
    Between,
    /// Over, or never begun.
    Over,
}

impl Default for InlineThinking {
    fn default() -> Self {
        Self::Undecided(String::new())
    }
}

impl InlineThinking {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";

    /// Takes the next piece, tells the reasoning in it and gives the text.
    fn split(&mut self, piece: &str, tell: Tell<'_>) -> String {
        match self {
            Self::Over => piece.to_owned(),
            Self::Between => {
                let text = piece.trim_start().to_owned();
                if !text.is_empty() {
                    *self = Self::Over;
                }
                text
            }
            Self::Undecided(held) => {
                held.push_str(piece);
                let start = held.trim_start();
                if let Some(inside) = start.strip_prefix(Self::OPEN) {
                    let inside = inside.to_owned();
                    *self = Self::Inside(String::new());
                    return self.split(&inside, tell);
                }
                if Self::OPEN.starts_with(start) {
                    return String::new();
                }
                let text = std::mem::take(held);
                *self = Self::Over;
                text
            }
            Self::Inside(held) => {
                held.push_str(piece);
                if let Some((inside, text)) = held.split_once(Self::CLOSE) {
                    reason(inside, tell);
                    let text = text.to_owned();
                    *self = Self::Between;
                    return self.split(&text, tell);
                }
                let keep = (1..Self::CLOSE.len())
                    .rev()
                    .find(|&length| held.ends_with(&Self::CLOSE[..length]))
                    .unwrap_or(0);
                let tail = held.split_off(held.len() - keep);
                reason(held, tell);
                *held = tail;
                String::new()
            }
        }
    }

    /// What was held back and turned out to be text.
    fn finish(&mut self) -> String {
        match std::mem::replace(self, Self::Over) {
            Self::Undecided(held) => held,
            Self::Inside(_) | Self::Between | Self::Over => String::new(),
        }
    }
}

fn reason(text: &str, tell: Tell<'_>) {
    if !text.is_empty() {
        tell(ModelProgress::Reasoning(text.to_owned()));
    }
}
