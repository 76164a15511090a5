//! The events of a session's log.
//!
//! An effect is two events: its intent, whose sequence number makes the step's
//! id, and its outcome, which names the intent. Everything else is one event.
//! Events that belong together are appended together, all or none.

use serde::{Deserialize, Serialize};

use super::{
    options::SessionOptions,
    spending::{Mark, Reserved},
    work::{Work, WorkResult},
};
use crate::domain::{
    budget::{Quantity, Scope},
    cognition::CognitiveEvent,
    compaction::Cause,
    conversation::{AssistantTurn, StopReason, ToolCall, ToolDefinition, Usage},
    ids::{ArtifactId, RepositoryName, SessionId, StepId, WorkspaceId, WorkspaceName},
    policy::Tier,
    recovery::{Failure, FailureType, RecoveryAction, stuck::Intervention},
    redaction::Redactor,
    stage::Stage,
    todo::Todo,
    tools::Tool,
};

/// One entry of a session's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Stage it happened in.
    pub stage: Stage,
    /// What happened.
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventBody {
    /// The session was created: always the first event.
    Created(Box<Created>),
    /// A stage was entered.
    StageEntered {
        /// Which.
        to: Stage,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Why.
        why: String,
    },
    /// A stage was left.
    StageLeft {
        /// Which.
        from: Stage,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Stage that follows.
        next: Stage,
        /// Why.
        why: String,
    },
    /// The daemon or a person said something to the model.
    MessageAdded {
        /// As the model sees it, not empty.
        text: String,
        /// Who said it.
        from: Speaker,
    },
    /// So much is set aside for the model call that follows.
    BudgetReserved(Reserved),
    /// People are told of a budget.
    BudgetNoted {
        /// Whose.
        scope: Scope,
        /// Of what.
        quantity: Quantity,
        /// Why.
        mark: Mark,
        /// What is used, in the quantity's smallest unit.
        used: u64,
        /// What may be.
        limit: u64,
    },
    /// A new epoch of the conversation begins: most of it is left out of what
    /// the model is told.
    Compacted {
        /// Why.
        cause: Cause,
        /// What happened from this sequence number on stays as it was.
        keep_from: u64,
        /// Messages that are left out.
        left_out: u64,
        /// What the model is told instead, not empty.
        briefing: String,
    },
    /// Intent: the model is being asked.
    ModelAsked,
    /// Outcome: the model answered.
    ModelAnswered(Box<ModelAnswered>),
    /// Outcome: no answer came.
    ModelFailed {
        /// Sequence number of the intent.
        intent: u64,
        /// Why.
        error: String,
        /// What follows.
        then: AfterModelFailure,
        /// Whether it certainly cost nothing; else what was reserved counts as
        /// spent.
        #[serde(default)]
        free: bool,
        /// How long the provider asks to be left alone, in milliseconds, where it
        /// says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
    /// Intent: a tool call begins that acts on the workspace.
    ToolStarted {
        /// The call.
        call: ToolCall,
        /// blake3 that a file to be changed must have: as the session last saw
        /// it.
        expected_hash: Option<String>,
        /// What is of medium risk in it and was not asked about: "install: pip
        /// install x".
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        risks: Vec<String>,
    },
    /// A tool call has its answer: the outcome of an intent, or of a call that
    /// concerns the log alone, or a refusal.
    ToolEnded(Box<ToolEnded>),
    /// The session thought about itself, or should have.
    Cognition(CognitiveEvent),
    /// A todo was added or changed: its whole new value.
    TodoChanged {
        /// The todo.
        todo: Todo,
    },
    /// Intent: a piece of the daemon's own work begins.
    WorkStarted {
        /// Which.
        work: Work,
        /// Number of the try, from 1; tries follow failures to do the work, not
        /// bad results.
        attempt: u32,
        /// Program and arguments, where one command is the heart of it.
        argv: Vec<String>,
    },
    /// Outcome: a piece of the daemon's own work has ended.
    WorkEnded {
        /// Sequence number of the intent.
        intent: u64,
        /// Which.
        work: Work,
        /// What came of it.
        result: WorkResult,
        /// What failed, where something did: each kind once.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failures: Vec<Failure>,
        /// Artifacts made by it.
        artifacts: Vec<ArtifactId>,
    },
    /// The session turns in circles, and this is done about it; the model is told.
    CircleFound(Intervention),
    /// The session's condition changed.
    StateChanged {
        /// To this.
        to: Condition,
        /// Why, for a person.
        reason: String,
    },
    /// The session asks a person.
    QuestionAsked {
        /// What.
        question: Question,
    },
    /// A person answered.
    QuestionAnswered {
        /// Id of the question.
        question: String,
        /// Whether the person accepts.
        accepted: bool,
        /// The person's words; may be empty.
        text: String,
        /// Of an approval: what was answered, or that nobody did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<ApprovalVerdict>,
        /// Who answered, as the API knows the caller; `None` where nobody did, and
        /// in logs of daemons that did not keep it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// How a session began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// The session.
    pub session: SessionId,
    /// What is to be done, in the user's words: 1 byte to 64 KiB.
    pub task: String,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The workspace's name at the time.
    pub workspace_name: WorkspaceName,
    /// Directory of its repository below `/workspace`.
    pub repository: RepositoryName,
    /// Options, defaults filled in.
    pub options: SessionOptions,
    /// The system prompt, kept so that a newer daemon says the same.
    pub system: String,
    /// The tools, kept for the same reason.
    pub tools: Vec<ToolDefinition>,
}

/// Who said something to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The daemon: a stage's prompt, a correction.
    Daemon,
    /// A person.
    Person,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswered {
    /// Sequence number of the intent.
    pub intent: u64,
    /// What it said and asked for.
    pub turn: AssistantTurn,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens, where the provider told.
    pub usage: Option<Usage>,
    /// From request to reply.
    pub duration_ms: u64,
    /// The provider's id of the request.
    pub provider_request: Option<String>,
}

/// What follows a model call without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterModelFailure {
    /// It is asked again.
    AskAgain,
    /// The conversation is compacted, and it is asked again.
    Compact,
    /// A person has to look; then it is asked again.
    Pause,
    /// The session ends.
    Fail,
}

/// The answer to a tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolEnded {
    /// Sequence number of the intent; `None` when there was nothing to do in
    /// the world.
    pub intent: Option<u64>,
    /// Id of the call.
    pub call_id: String,
    /// Name of the tool, as the model said it.
    pub name: String,
    /// How it went.
    pub outcome: ToolOutcome,
    /// What the model sees, bounded, not empty.
    pub content: String,
    /// The whole output, where the content is not whole.
    pub artifact: Option<ArtifactId>,
    /// From start to end.
    pub duration_ms: u64,
    /// What it failed with, where it failed and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<KnownFailure>,
    /// What the session knows after it that it did not know before.
    #[serde(default, skip_serializing_if = "ToolEffect::is_none")]
    pub effect: ToolEffect,
}

/// A failure that the catalogue knows, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFailure {
    /// The catalogue's entry; empty for [`FailureType::Unknown`].
    pub id: String,
    /// What kind it is.
    pub kind: FailureType,
    /// What follows.
    pub action: RecoveryAction,
}

/// How a tool call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It did what it was asked.
    Ok,
    /// It ran and failed.
    Error,
    /// The daemon refused; nothing ran.
    Refused,
}

/// What a tool call left behind, as far as the session's decisions need it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolEffect {
    /// Nothing.
    #[default]
    None,
    /// A file was seen.
    FileSeen {
        /// Absolute path, as asked for.
        path: String,
        /// blake3 of the whole file.
        hash: String,
    },
    /// A file was changed.
    FileChanged {
        /// Absolute path, as asked for.
        path: String,
        /// blake3 before; `None` when there was no file.
        before: Option<String>,
        /// blake3 after.
        after: String,
    },
    /// Several files were changed together.
    FilesChanged {
        /// Each of them.
        files: Vec<ChangedFile>,
    },
    /// A command ran, which may have changed anything.
    CommandRan,
    /// The model may leave the stage.
    StageDone {
        /// Its words.
        summary: String,
    },
}

/// One of several files that were changed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Absolute path, as asked for.
    pub path: String,
    /// blake3 before; `None` when there was no file.
    pub before: Option<String>,
    /// blake3 after; `None` when it was removed.
    pub after: Option<String>,
}

impl ToolEffect {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The condition of a session. What it waits for, and why it ended, is in the
/// events around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A driver works on it.
    Running,
    /// A person, or an outage, stopped it; it can be resumed.
    Paused,
    /// It waits for a person's answer.
    Waiting,
    /// The daemon ended while it ran; it can be resumed.
    Interrupted,
    /// It ended without proof.
    Failed,
    /// It ended with the daemon's own proof.
    Verified,
    /// A person ended it.
    Cancelled,
}

impl Condition {
    /// Whether nothing can follow.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Failed | Self::Verified | Self::Cancelled => true,
            Self::Running | Self::Paused | Self::Waiting | Self::Interrupted => false,
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Waiting => "waiting",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Verified => "verified",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Unique in the session: "q1".
    pub id: String,
    /// What is asked.
    pub text: String,
    /// What it is about.
    pub about: QuestionAbout,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionAbout {
    /// The model wants to know.
    Model,
    /// What the proof of a commit leaves to judge, and a person has to accept:
    /// changes of tests, tests that fail as they did before.
    #[serde(alias = "test_changes")]
    Proof {
        /// The commit, in hex.
        commit: String,
    },
    /// A tool call that a person has to approve.
    Approval(Box<ApprovalRequest>),
    /// The session turns in circles, and nothing else has helped.
    Circle,
    /// A todo whose criteria hold and which a person has to accept.
    Todo {
        /// Its number.
        id: u32,
        /// Tree on which the criteria held.
        tree: String,
        /// The evidence.
        artifact: Option<ArtifactId>,
    },
}

/// What a person is asked to approve: one tool call, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Id of the call; [`SPENDING`](Self::SPENDING), or "publish" and the commit.
    pub call: String,
    /// The tool.
    pub tool: Tool,
    /// The command as it would run, or the tool and its files.
    pub act: String,
    /// Where it would be done, absolute.
    pub directory: String,
    /// What would become of a file, where a file tool changes one; bounded.
    pub diff: Option<String>,
    /// Hosts that it names.
    pub hosts: Vec<String>,
    /// How much can go wrong.
    pub tier: Tier,
    /// What makes it the same as another call, sorted: what was answered for the
    /// session or the project holds for calls with no other classes.
    pub classes: Vec<String>,
    /// Why it is asked.
    pub why: String,
    /// What a refusal does.
    pub refusal: String,
    /// When it counts as refused, in milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

impl ApprovalRequest {
    /// What stands for the call where a session has spent much and would go on.
    pub const SPENDING: &str = "spend";
}

/// What was answered to an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalVerdict {
    /// This call may be made.
    Once,
    /// It and its like may be made in this session.
    Session,
    /// It and its like may be made in every session of this project: of the same
    /// repository in the same workspace.
    Project,
    /// It is refused, and so is its like in this session.
    Denied,
    /// Nobody answered in time, which refuses it.
    Expired,
}

impl ApprovalVerdict {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "approved once",
            Self::Session => "approved for this session",
            Self::Project => "approved for this project",
            Self::Denied => "refused",
            Self::Expired => "not answered in time, which refuses it",
        }
    }
}

impl Event {
    /// The step that this event begins, if it is an intent.
    #[must_use]
    pub fn step(&self, session: &SessionId) -> StepId {
        StepId::of(session, self.sequence)
    }

    /// As the store keeps it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("events have string keys and finite numbers")
    }

    /// The same event without the values of credentials, which must not get into
    /// a log, nor from there to a model.
    ///
    /// # Errors
    /// A value is so like a word of the format that nothing is left of it.
    pub fn redacted(self, redactor: &Redactor) -> Result<Self, EventError> {
        if redactor.is_empty() {
            return Ok(self);
        }
        let body =
            serde_json::to_value(&self.body).expect("events have string keys and finite numbers");
        let clean = redactor.json(body.clone());
        if clean == body {
            return Ok(self);
        }
        let body = serde_json::from_value(clean).map_err(|error| EventError(error.to_string()))?;
        Ok(Self { body, ..self })
    }

    /// As it was stored.
    ///
    /// # Errors
    /// The bytes are no event that this daemon knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, EventError> {
        serde_json::from_slice(bytes).map_err(|error| EventError(error.to_string()))
    }
}

/// Bytes that are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event of the log cannot be read: {0}; was it written by a newer daemon?")]
pub struct EventError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Event {
        Event {
            sequence: 3,
            at_ms: 5,
            stage: Stage::Plan,
            body: EventBody::MessageAdded {
                text: text.to_owned(),
                from: Speaker::Person,
            },
        }
    }

    #[test]
    fn an_event_is_written_without_the_values_of_credentials() {
        let redactor = Redactor::new([("npm", b"t0ken \"of\" npm".as_slice())]);
        let clean = said("the token is t0ken \"of\" npm").redacted(&redactor);
        assert_eq!(clean, Ok(said("the token is [redacted:npm]")));
        let other = said("there is none");
        assert_eq!(other.clone().redacted(&redactor), Ok(other));
    }

    #[test]
    fn a_value_like_a_word_of_the_format_is_an_error_and_not_a_leak() {
        let redactor = Redactor::new([("odd", b"message_added".as_slice())]);
        let error = said("x").redacted(&redactor).unwrap_err();
        assert!(error.to_string().contains("redacted:odd"), "{error}");
    }
}
