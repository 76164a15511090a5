//! Appends each reply to a transcript that `scripted` plays.
//!
//! One file holds one conversation: the header of the file names it, and the
//! replies of another one are not mixed in. Each line carries the number of
//! its turn, so that a call that is asked again replaces what it said before.
//! Secrets are removed; signed thinking is left out, as nobody can check it
//! later. A recording that fails is a warning and never costs a reply.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    redaction::{Redactor, StoredCredentials},
    scripted::{CallLine, Header, TurnLine, stop_word},
};
use crate::{
    domain::{
        conversation::{Arguments, Message, ToolCall},
        secret::Secret,
    },
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

const NOTE: &str = "recorded; secrets removed";

/// A model whose replies are written down.
pub(super) struct RecordingModel {
    inner: Arc<dyn ModelPort>,
    model: String,
    /// Held while a line is appended, so that lines do not mix.
    file: Mutex<PathBuf>,
    redactor: Redactor,
}

/// Why a reply was not written down.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("cannot append to the file")]
    Io(#[from] io::Error),
    #[error("it holds something other than a transcript")]
    NotATranscript(#[source] serde_json::Error),
    #[error("it holds another conversation; give each session a file of its own")]
    OtherConversation,
}

impl RecordingModel {
    pub(super) fn new(
        inner: Arc<dyn ModelPort>,
        model: String,
        file: PathBuf,
        keys: &[Secret],
        stored: StoredCredentials,
    ) -> Self {
        Self {
            inner,
            model,
            file: Mutex::new(file),
            redactor: Redactor::new(keys, stored),
        }
    }

    async fn record(&self, request: &ModelRequest, reply: &ModelReply) {
        let header = Header::new(self.model.clone(), NOTE, conversation(request));
        let line =
            serde_json::to_string(&self.line(request, reply)).expect("a line has text keys only");
        let file = self.file.lock().await;
        let path = file.clone();
        let appended = tokio::task::spawn_blocking(move || append(&path, &header, &line)).await;
        let failure = match appended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => anyhow::Error::from(error),
            Err(panicked) => anyhow::Error::from(panicked),
        };
        tracing::warn!(file = %file.display(), error = format!("{failure:#}"), "a reply is not recorded");
    }

    fn line(&self, request: &ModelRequest, reply: &ModelReply) -> TurnLine {
        let is_turn = |message: &&Message| matches!(message, Message::Assistant(_));
        let calls = &reply.turn.tool_calls;
        TurnLine {
            turn: Some(request.messages.iter().filter(is_turn).count()),
            text: Some(self.redactor.text(&reply.turn.text)),
            tool_calls: (!calls.is_empty())
                .then(|| calls.iter().map(|call| self.call_line(call)).collect()),
            usage: reply.usage.map(Into::into),
            stop: Some(stop_word(&reply.stop).to_owned()),
            ..TurnLine::default()
        }
    }

    fn call_line(&self, call: &ToolCall) -> CallLine {
        let (arguments, arguments_raw) = match &call.arguments {
            Arguments::Object(object) => (Some(self.redactor.object(object.clone())), None),
            Arguments::Malformed { raw, .. } => (None, Some(self.redactor.text(raw))),
        };
        CallLine {
            name: call.name.clone(),
            arguments,
            arguments_raw,
        }
    }
}

#[async_trait]
impl ModelPort for RecordingModel {
    /// Cancel safety: as the inner model; a line that was begun is finished.
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let reply = self.inner.call(request, progress, cancel).await?;
        self.record(request, &reply).await;
        Ok(reply)
    }
}

/// Tells conversations apart without keeping what was said in them.
fn conversation(request: &ModelRequest) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(request.system.as_bytes());
    if let Some(Message::User { text }) = request.messages.first() {
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

fn append(file: &Path, header: &Header, line: &str) -> Result<(), RecordError> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    let mut first_line = String::new();
    BufReader::new(&file).read_line(&mut first_line)?;
    let mut text = String::new();
    if first_line.is_empty() {
        text = serde_json::to_string(header).map_err(RecordError::NotATranscript)?;
        text.push('\n');
    } else {
        let found: Header =
            serde_json::from_str(&first_line).map_err(RecordError::NotATranscript)?;
        if found.conversation != header.conversation {
            return Err(RecordError::OtherConversation);
        }
    }
    text.push_str(line);
    text.push('\n');
    Ok(file.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;
    use crate::{
        adapters::model::scripted::{ScriptedModel, Transcript},
        domain::conversation::AssistantTurn,
    };

    const KEY: &str = "a-key-of-no-known-shape";

    fn recording(script: &str, file: &Path) -> RecordingModel {
        let inner = ScriptedModel::new("x".into(), Transcript::parse(script).unwrap());
        let keys = vec![Secret::new(KEY)];
        RecordingModel::new(
            Arc::new(inner),
            "openai:m".into(),
            file.to_owned(),
            &keys,
            StoredCredentials::default(),
        )
    }

    fn script() -> String {
        let call = json!({"name": "run", "arguments": {"command": format!("curl -H 'k: {KEY}'")}});
        let bad = json!({"name": "run", "arguments_raw": format!("{{\"{KEY}")});
        let turn = json!({"text": "my key is sk-ant-api03-a1B2c3D4e5F6g7H8i9J0", "tool_calls": [call, bad],
            "usage": {"input_uncached": 5, "output": 3}});
        format!("{{\"compy_transcript\":1}}\n{turn}\n{{\"text\":\"done\"}}\n")
    }

    async fn play(model: &dyn ModelPort, task: &str) -> Vec<ModelReply> {
        let (progress, _watch) = mpsc::channel(16);
        let mut request = ModelRequest {
            system: "s".into(),
            tools: Vec::new(),
            messages: vec![Message::User { text: task.into() }],
            max_output_tokens: 10,
            turns_left_out: 0,
        };
        let mut replies = Vec::new();
        for _ in 0..2 {
            let reply = model
                .call(&request, &progress, &CancellationToken::new())
                .await
                .unwrap();
            request.messages.push(Message::Assistant(AssistantTurn {
                ..reply.turn.clone()
            }));
            request.messages.push(Message::User {
                text: "go on".into(),
            });
            replies.push(reply);
        }
        replies
    }

    #[tokio::test]
    async fn a_recording_plays_the_same_replies_without_the_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.jsonl");
        let said = play(&recording(&script(), &file), "task").await;

        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains(KEY) && !text.contains("sk-ant-api03"),
            "{text}"
        );
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let played = play(&ScriptedModel::load(&file).unwrap(), "task").await;
        assert_eq!(played[1], said[1]);
        assert_eq!(played[0].usage, said[0].usage);
        assert_eq!(played[0].turn.tool_calls.len(), 2);
        assert!(matches!(
            played[0].turn.tool_calls[1].arguments,
            Arguments::Malformed { .. }
        ));
        assert_eq!(played[0].turn.text, "my key is [secret removed]");
    }

    #[tokio::test]
    async fn a_call_that_is_asked_again_replaces_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.jsonl");
        play(&recording(&script(), &file), "task").await;
        // A new process asks again from the start.
        play(&recording(&script(), &file), "task").await;
        assert_eq!(Transcript::load(&file).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn another_conversation_is_not_mixed_in_and_loses_no_reply() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.jsonl");
        play(&recording(&script(), &file), "task").await;
        let before = std::fs::read(&file).unwrap();
        assert_eq!(
            play(&recording(&script(), &file), "another task")
                .await
                .len(),
            2
        );
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_loses_no_reply() {
        let model = recording(&script(), Path::new("/nonexistent/r.jsonl"));
        assert_eq!(play(&model, "task").await.len(), 2);
    }
}
