//! A model that plays a transcript: for demos and tests, never intelligence.
//!
//! # Transcripts
//!
//! A transcript is a text file of JSON Lines in UTF-8. Blank lines and lines
//! that begin with `//` are skipped. The first line is the header, each one
//! after it is one reply of the model, a *turn*:
//!
//! ```text
//! {"compy_transcript":1,"model":"scripted","note":"fixes slugify"}
//! // UNDERSTAND
//! {"text":"I look first.","tool_calls":[{"name":"read","arguments":{"path":"a.py"}}]}
//! {"fault":{"status":429,"retry_after_s":1}}
//! {"text":"Done.","expect":"def slugify","usage":{"input_uncached":900,"output":12}}
//! ```
//!
//! Which turn is played depends on one thing: the number of assistant messages
//! in the request. So the same request gets the same turn, also after the
//! daemon was killed, and one file serves any number of sessions.
//!
//! | field of a turn | meaning |
//! |---|---|
//! | `text` | what the model says; may be `""`. At least one of `text` and `tool_calls` is there |
//! | `tool_calls` | list of `{"name":..,"arguments":{..}}`; without `arguments` it is `{}`; `arguments_raw` is a text in its place, for arguments that are malformed on purpose |
//! | `expect` | a regular expression that must match what the model was told since its last turn (tool results and user messages, joined by line feeds); otherwise the call fails and says what was found |
//! | `usage` | any of `input_uncached`, `input_cached`, `cache_written`, `output`, `reasoning`; without it, an estimate of four bytes a token, where what was sent before the last turn counts as cached |
//! | `stop` | `end_turn`, `tool_use`, `output_cap`, `refusal`, or a provider's word; without it, `tool_use` with calls and `end_turn` without |
//! | `delay_ms` | time before the reply, at most 600000 |
//! | `turn` | number of the turn, from 0; recordings have it. Where a number comes again, the later line stands |
//!
//! A line with `fault` alone stands for a try that fails at its place in the
//! file: `{"fault":{"status":429,"retry_after_s":1}}` (any status from 400 to
//! 599; the wait is optional), `{"fault":"cut"}` for a reply that breaks off,
//! `{"fault":"hang"}` for one that never comes. Each happens once for as long
//! as the model lives, which is the session's time in one daemon.
//!
//! Ids of calls are `call_TURN_POSITION`. After the last turn, a call fails
//! with "has no more to say after N turns". Every mistake of a file is
//! reported at once, each with its line.

mod transcript;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use self::transcript::{CallLine, Header, TurnLine, stop_word};
pub use self::transcript::{Fault, Transcript, TranscriptError, Turn};
use super::{
    provider_error::{ErrorBody, Seen, SilentLimit},
    reply::{CallIds, cut},
};
use crate::{
    domain::conversation::{AssistantTurn, Message, StopReason, ToolCall, Usage},
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

/// Bytes that count as one token where a transcript gives no usage.
const BYTES_PER_TOKEN: usize = 4;
/// Most of a message that a failed expectation repeats, in bytes.
const FOUND_BYTES: usize = 600;

/// The model; see the module.
#[derive(Debug)]
pub struct ScriptedModel {
    file: String,
    transcript: Transcript,
    /// Faults that happened already, by turn. Held for a look-up only.
    spent_faults: Mutex<HashMap<usize, usize>>,
}

impl ScriptedModel {
    /// Reads a transcript.
    ///
    /// # Errors
    /// [`ModelError::Script`] with every mistake of the file.
    pub fn load(file: &Path) -> Result<Self, ModelError> {
        let name = file.display().to_string();
        match Transcript::load(file) {
            Ok(transcript) => Ok(Self::new(name, transcript)),
            Err(error) => Err(ModelError::Script {
                file: name,
                message: error.to_string(),
            }),
        }
    }

    /// Plays a transcript that is already read; `file` is for messages.
    #[must_use]
    pub fn new(file: String, transcript: Transcript) -> Self {
        Self {
            file,
            transcript,
            spent_faults: Mutex::default(),
        }
    }

    /// The next fault of a turn that has not happened yet.
    fn take_fault(&self, turn: usize) -> Option<Fault> {
        let mut spent = self
            .spent_faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let spent = spent.entry(turn).or_default();
        let fault = self.transcript.faults(turn).get(*spent)?;
        *spent += 1;
        Some(fault.clone())
    }

    fn error(&self, message: String) -> ModelError {
        ModelError::Script {
            file: self.file.clone(),
            message,
        }
    }

    fn turn(&self, number: usize, request: &ModelRequest) -> Result<&Turn, ModelError> {
        let Some(turn) = self.transcript.turn(number) else {
            let turns = self.transcript.len();
            return Err(self.error(format!("has no more to say after {turns} turns")));
        };
        let told = told_since_last_turn(&request.messages);
        turn.check(&told).map_err(|found| {
            let found = cut(found, FOUND_BYTES);
            let expected = turn.expect.as_ref().map_or("", |expect| expect.as_str());
            self.error(format!(
                "turn {number} (line {}) expects to be told something that matches `{expected}`, \
                 but was told: {found}",
                turn.line
            ))
        })?;
        Ok(turn)
    }
}

#[async_trait]
impl ModelPort for ScriptedModel {
    /// Cancel safety: a fault that was begun counts as happened.
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        if cancel.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        let number = request.turns_left_out + turns(&request.messages).count();
        if let Some(fault) = self.take_fault(number) {
            return Err(fail(fault, cancel).await);
        }
        let turn = self.turn(number, request)?;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ModelError::Cancelled),
            () = tokio::time::sleep(turn.delay) => {}
        }
        for line in turn.text.split_inclusive('\n') {
            let _ = progress.try_send(ModelProgress::Text(line.to_owned()));
        }
        for (name, _) in &turn.calls {
            let _ = progress.try_send(ModelProgress::ToolCallStarted { name: name.clone() });
        }
        Ok(reply(turn, request))
    }
}

/// The reply that a turn stands for.
pub(super) fn reply(turn: &Turn, request: &ModelRequest) -> ModelReply {
    let mut ids = CallIds::after(request);
    let calls = turn
        .calls
        .iter()
        .enumerate()
        .map(|(position, (name, arguments))| ToolCall {
            id: ids.assign("", position),
            name: name.clone(),
            arguments: arguments.clone(),
        });
    let said = AssistantTurn {
        text: turn.text.clone(),
        tool_calls: calls.collect(),
        opaque: Vec::new(),
    };
    let stop = turn.stop.clone().unwrap_or(match turn.calls.is_empty() {
        true => StopReason::EndTurn,
        false => StopReason::ToolUse,
    });
    let usage = turn.usage.unwrap_or_else(|| estimate(request, &said));
    ModelReply {
        turn: said,
        stop,
        usage: Some(usage),
        provider_request_id: None,
    }
}

async fn fail(fault: Fault, cancel: &CancellationToken) -> ModelError {
    let provider = "scripted".to_owned();
    let message = "a fault of the transcript".to_owned();
    match fault {
        Fault::Cut => ModelError::Cut { provider, message },
        Fault::Hang => {
            cancel.cancelled().await;
            ModelError::Cancelled
        }
        Fault::Status {
            status,
            retry_after,
        } => Seen {
            provider: &provider,
            status,
            meaning: status,
            error: ErrorBody {
                message,
                ..ErrorBody::default()
            },
            wait: retry_after,
            silent_limit: SilentLimit::Rate,
        }
        .classify(),
    }
}

fn turns(messages: &[Message]) -> impl Iterator<Item = &AssistantTurn> {
    messages.iter().filter_map(|message| match message {
        Message::Assistant(turn) => Some(turn),
        Message::User { .. } | Message::ToolResults { .. } => None,
    })
}

fn told_since_last_turn(messages: &[Message]) -> String {
    let last_turn = messages
        .iter()
        .rposition(|message| matches!(message, Message::Assistant(_)));
    let since = &messages[last_turn.map_or(0, |at| at + 1)..];
    let mut told = Vec::new();
    for message in since {
        match message {
            Message::User { text } => told.push(text.as_str()),
            Message::ToolResults { results } => {
                told.extend(results.iter().map(|result| result.content.as_str()));
            }
            Message::Assistant(_) => {}
        }
    }
    told.join("\n")
}

fn estimate(request: &ModelRequest, said: &AssistantTurn) -> Usage {
    let bytes_of = |messages: &[Message]| messages.iter().map(message_bytes).sum::<usize>();
    let tools = &request.tools;
    let fixed_bytes = request.system.len()
        + tools
            .iter()
            .map(|tool| {
                tool.name.len() + tool.description.len() + tool.parameters.to_string().len()
            })
            .sum::<usize>();
    let messages = &request.messages;
    let last_turn = messages
        .iter()
        .rposition(|message| matches!(message, Message::Assistant(_)));
    let sent_before = last_turn.map_or(0, |at| fixed_bytes + bytes_of(&messages[..at]));
    let tokens = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN) as u64;
    Usage {
        input_uncached: tokens(fixed_bytes + bytes_of(messages) - sent_before),
        input_cached: tokens(sent_before),
        cache_written: 0,
        output: tokens(turn_bytes(said)),
        reasoning: 0,
    }
}

fn message_bytes(message: &Message) -> usize {
    match message {
        Message::User { text } => text.len(),
        Message::Assistant(turn) => turn_bytes(turn),
        Message::ToolResults { results } => results.iter().map(|result| result.content.len()).sum(),
    }
}

fn turn_bytes(turn: &AssistantTurn) -> usize {
    let call_bytes = |call: &ToolCall| {
        call.name.len() + serde_json::to_string(&call.arguments).map_or(0, |json| json.len())
    };
    turn.text.len() + turn.tool_calls.iter().map(call_bytes).sum::<usize>()
}

/// How long a hang or a delay may take is the caller's business; this is the
/// most that a transcript may ask for.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
