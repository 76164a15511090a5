//! The audit log: who asked for what, what was done, and what was decided.
//!
//! It is a chain of lines. Each holds a record and the record's SHA-256; each
//! record names the hash of the one before it. From time to time a record is a
//! [checkpoint]: signed, so that everything before it is as well.
//!
//! ```text
//! {"hash":"H1","record":{"seq":1,"prev":"00..","at_ms":..,"kind":"daemon",..}}
//! {"hash":"H2","record":{"seq":2,"prev":"H1",..,"kind":"tool_call",..}}
//! {"hash":"H3","record":{"seq":3,"prev":"H2",..,"kind":"checkpoint","key":"..","signature":".."}}
//! ```
//!
//! The lines on disk and those that are exported are the same bytes, so anybody
//! can check an export with SHA-256 and Ed25519 alone. What a verifier has to
//! hold a log to is in [`verify`].

pub mod chain;
pub mod checkpoint;
pub mod query;
pub mod verify;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::{SessionId, StepId, WorkspaceId};

/// Bytes of one text in a record; the rest is replaced by the hash of all of it.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Bytes of all texts in the details of a record; what comes after them is
/// replaced by hashes. One call cannot push others out of the log.
pub const MAX_RECORD_BYTES: usize = 32 * MAX_TEXT_BYTES;

/// How the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditUpkeep {
    /// How long records are kept.
    pub keep: Duration,
    /// Bytes that the log may take; the oldest records go beyond it.
    pub max_bytes: u64,
    /// At least how often new records are signed.
    pub checkpoint_every: Duration,
}

/// What is to be recorded: a record before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch, by the clock of who recorded it.
    pub at_ms: i64,
    /// What it is about.
    pub kind: Kind,
    /// Who acted: `uid:1000`, `token:NAME`, `tcp:127.0.0.1` for somebody who has
    /// not proved who they are, `model` or `daemon`.
    pub caller: String,
    /// In which workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// In which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// In which step of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Id of the command in the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id of the decision that let it happen or refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Name of the tool or of the API's method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// How it went; `None` while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Everything else, by kind.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call of the API that may change something has begun.
    ApiStarted,
    /// A call of the API has ended.
    ApiCall,
    /// A tool call that acts on a workspace has begun.
    ToolStarted,
    /// A tool call has its answer.
    ToolCall,
    /// A person was asked, or has answered.
    Approval,
    /// A connection of a workspace to the world was decided on.
    Network,
    /// A credential is used.
    CredentialUse,
    /// A snapshot was taken, restored, forked or deleted.
    Snapshot,
    /// What is allowed has changed.
    PolicyChange,
    /// Somebody proved, or failed to prove, who they are.
    Login,
    /// A branch goes to a forge.
    Push,
    /// A session began, ended, or was stopped or continued.
    Session,
    /// The daemon started or ended, or something happened to this log.
    Daemon,
    /// Everything before is signed.
    Checkpoint,
    /// What is before a checkpoint is removed.
    Retention,
}

/// How what a record is about went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Tried, and failed.
    Failed,
    /// Refused; nothing was done.
    Denied,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::ApiStarted,
        Self::ApiCall,
        Self::ToolStarted,
        Self::ToolCall,
        Self::Approval,
        Self::Network,
        Self::CredentialUse,
        Self::Snapshot,
        Self::PolicyChange,
        Self::Login,
        Self::Push,
        Self::Session,
        Self::Daemon,
        Self::Checkpoint,
        Self::Retention,
    ];

    /// Its name in records: "api_call".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiStarted => "api_started",
            Self::ApiCall => "api_call",
            Self::ToolStarted => "tool_started",
            Self::ToolCall => "tool_call",
            Self::Approval => "approval",
            Self::Network => "network",
            Self::CredentialUse => "credential_use",
            Self::Snapshot => "snapshot",
            Self::PolicyChange => "policy_change",
            Self::Login => "login",
            Self::Push => "push",
            Self::Session => "session",
            Self::Daemon => "daemon",
            Self::Checkpoint => "checkpoint",
            Self::Retention => "retention",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Denied];

    /// Its name in records: "denied".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Denied => "denied",
        }
    }

    /// The outcome with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

impl Entry {
    /// An entry that says who did what kind of thing when, and nothing else yet.
    #[must_use]
    pub fn new(at_ms: i64, kind: Kind, caller: impl Into<String>) -> Self {
        Self {
            at_ms,
            kind,
            caller: bounded(&caller.into()),
            workspace: None,
            session: None,
            step: None,
            process: None,
            decision: None,
            tool: None,
            outcome: None,
            detail: Map::new(),
        }
    }

    /// Links it to a workspace.
    #[must_use]
    pub fn in_workspace(mut self, workspace: &WorkspaceId) -> Self {
        self.workspace = Some(workspace.to_string());
        self
    }

    /// Links it to a session.
    #[must_use]
    pub fn in_session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.to_string());
        self
    }

    /// Links it to a step of a session.
    #[must_use]
    pub fn in_step(mut self, step: &StepId) -> Self {
        self.step = Some(step.to_string());
        self
    }

    /// Links it to a command in the workspace.
    #[must_use]
    pub fn by_process(mut self, process: impl Into<String>) -> Self {
        self.process = Some(bounded(&process.into()));
        self
    }

    /// Links it to what let it happen or refused it.
    #[must_use]
    pub fn decided_by(mut self, decision: impl Into<String>) -> Self {
        self.decision = Some(bounded(&decision.into()));
        self
    }

    /// Names the tool or the API's method.
    #[must_use]
    pub fn with_tool(mut self, tool: impl Into<String>) -> Self {
        self.tool = Some(bounded(&tool.into()));
        self
    }

    /// Says how it went.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Adds a detail, as long as it is; what is recorded is
    /// [in bounds](Self::in_bounds).
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(key.to_owned(), value.into());
        self
    }

    /// With every text of its details as `map` makes it. Comes before the bounds:
    /// of what is cut in two, no half could be recognised.
    #[must_use]
    pub fn map_texts(mut self, map: &dyn Fn(&str) -> String) -> Self {
        self.detail
            .values_mut()
            .for_each(|value| map_within(value, map));
        self
    }

    /// With every text of its details [bounded].
    #[must_use]
    pub fn in_bounds(mut self) -> Self {
        self.detail.values_mut().for_each(bound);
        self
    }

    /// Its fields as JSON, without the braces.
    #[must_use]
    pub fn fields(&self) -> String {
        let json = serde_json::to_string(self).expect("entries have string keys");
        json[1..json.len() - 1].to_owned()
    }
}

/// A text of at most [`MAX_TEXT_BYTES`] and a bit: what is cut off is replaced
/// by the length and the SHA-256 of the whole.
#[must_use]
pub fn bounded(text: &str) -> String {
    bounded_to(text, MAX_TEXT_BYTES)
}

fn bounded_to(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let fits = |end: &usize| text.is_char_boundary(*end);
    let kept = (0..=most).rev().find(fits).unwrap_or(0);
    let hash = chain::Hash::of(text.as_bytes());
    let whole = text.len();
    format!("{}… [{whole} bytes, sha256 {hash}]", &text[..kept])
}

/// Values of one record: an array or object with more is cut.
const MAX_VALUES: usize = 256;

/// What a detail may still have.
struct Left {
    values: usize,
    bytes: usize,
}

fn bound(value: &mut Value) {
    let mut left = Left {
        values: MAX_VALUES,
        bytes: MAX_RECORD_BYTES,
    };
    bound_within(value, &mut left);
}

fn bound_within(value: &mut Value, left: &mut Left) {
    left.values = left.values.saturating_sub(1);
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => {
            let most = MAX_TEXT_BYTES.min(left.bytes);
            left.bytes -= text.len().min(most);
            if text.len() > most {
                *text = bounded_to(text, most);
            }
        }
        Value::Array(values) => {
            if values.len() > left.values {
                let (whole, hash) = (values.len(), hash_of(values));
                values.truncate(left.values);
                values.push(format!("… [{whole} values, sha256 {hash}]").into());
            }
            values
                .iter_mut()
                .for_each(|value| bound_within(value, left));
        }
        Value::Object(fields) => {
            if fields.len() > left.values {
                let (whole, hash) = (fields.len(), hash_of(fields));
                let beyond: Vec<String> = fields.keys().skip(left.values).cloned().collect();
                for key in beyond {
                    fields.remove(&key);
                }
                fields.insert(
                    "…".to_owned(),
                    format!("[{whole} fields, sha256 {hash}]").into(),
                );
            }
            fields
                .values_mut()
                .for_each(|value| bound_within(value, left));
        }
    }
}

fn map_within(value: &mut Value, map: &dyn Fn(&str) -> String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => *text = map(text),
        Value::Array(values) => values.iter_mut().for_each(|value| map_within(value, map)),
        Value::Object(fields) => fields.values_mut().for_each(|value| map_within(value, map)),
    }
}

fn hash_of(value: &impl Serialize) -> chain::Hash {
    chain::Hash::of(&serde_json::to_vec(value).expect("values have string keys"))
}
