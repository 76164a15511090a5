//! The model port: one call in, one reply out, with progress on the way.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::conversation::{AssistantTurn, Message, StopReason, ToolDefinition, Usage};

/// Everything a model is told in one call.
///
/// `system` and `tools` are byte-identical for the whole session and
/// `messages` only grows at its end, so that providers can cache the prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// System prompt, not empty.
    pub system: String,
    /// Tools it may ask for, in a fixed order; may be empty.
    pub tools: Vec<ToolDefinition>,
    /// The conversation; starts with a user message, not empty.
    pub messages: Vec<Message>,
    /// Output cap in tokens, always sent; above zero.
    pub max_output_tokens: u32,
    /// Turns of the model that are in no message any more: a compaction left them
    /// out. Never sent; a transcript counts by it.
    pub turns_left_out: usize,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    /// What it said and what tools it asks for.
    pub turn: AssistantTurn,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens, where the provider told; `None` must be settled at the upper
    /// bound.
    pub usage: Option<Usage>,
    /// The provider's id of the request, for its support.
    pub provider_request_id: Option<String>,
}

/// What happens while a call runs, for people who watch. Never stored as such.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelProgress {
    /// More text of the reply.
    Text(String),
    /// More of the reasoning that the provider shows.
    Reasoning(String),
    /// The model began to ask for a tool.
    ToolCallStarted {
        /// Name of the tool.
        name: String,
    },
    /// A try failed and another follows.
    Retrying {
        /// Number of the try that failed, from 1.
        attempt: u32,
        /// Wait before the next.
        wait: Duration,
        /// Why it failed.
        cause: String,
    },
}

/// A language model.
#[async_trait]
pub trait ModelPort: Send + Sync {
    /// Asks once. The future ends soon after `cancel` fires, with
    /// [`ModelError::Cancelled`], and closes the connection. Progress is sent
    /// with `try_send`: a slow watcher loses progress and never slows a call.
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError>;
}

/// Why a model call brought no reply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The caller gave up.
    #[error("the model call was cancelled")]
    Cancelled,
    /// No connection, or it broke before the reply began.
    #[error("cannot reach {provider}: {message}")]
    Unreachable {
        /// Provider and host.
        provider: String,
        /// The cause.
        message: String,
    },
    /// The stream ended or broke before the reply was complete.
    #[error("{provider} cut its reply: {message}")]
    Cut {
        /// Provider.
        provider: String,
        /// What was missing.
        message: String,
    },
    /// Nothing arrived for the idle limit.
    #[error("{provider} sent nothing for {idle:?}")]
    Idle {
        /// Provider.
        provider: String,
        /// The limit that passed.
        idle: Duration,
    },
    /// Too many requests; asking later helps.
    #[error("{provider} limits the rate: {message}")]
    RateLimited {
        /// Provider.
        provider: String,
        /// The provider's words.
        message: String,
        /// How long it asks to wait, where it says.
        retry_after: Option<Duration>,
    },
    /// Overloaded or failing on its side; asking later may help.
    #[error("{provider} failed with status {status}: {message}")]
    Server {
        /// Provider.
        provider: String,
        /// HTTP status; 200 for an error inside a stream.
        status: u16,
        /// The provider's words.
        message: String,
        /// How long it asks to wait, where it says.
        retry_after: Option<Duration>,
    },
    /// Out of credit or over a spending limit; asking again does not help.
    #[error("{provider} refuses for lack of credit or quota: {message}; check billing there")]
    Quota {
        /// Provider.
        provider: String,
        /// The provider's words.
        message: String,
    },
    /// The key is missing, wrong or not allowed to do this.
    #[error("{provider} refuses the key: {message}")]
    Auth {
        /// Provider.
        provider: String,
        /// The provider's words, or which variable to set.
        message: String,
    },
    /// The conversation no longer fits the model's window.
    #[error("the conversation no longer fits the window of {provider}: {message}")]
    ContextOverflow {
        /// Provider.
        provider: String,
        /// The provider's words.
        message: String,
    },
    /// The provider found the request wrong; asking the same again does not
    /// help.
    #[error("{provider} refuses the request with status {status}: {message}")]
    InvalidRequest {
        /// Provider.
        provider: String,
        /// HTTP status.
        status: u16,
        /// The provider's words.
        message: String,
    },
    /// The reply cannot be understood.
    #[error("the reply of {provider} cannot be understood: {message}")]
    Protocol {
        /// Provider.
        provider: String,
        /// What was wrong with it.
        message: String,
    },
    /// The model cannot be made: its name, its key or its file.
    #[error("the model {name} cannot be used: {message}")]
    Unusable {
        /// The model's name.
        name: String,
        /// Why.
        message: String,
    },
    /// A script cannot be read or has no more to say.
    #[error("script {file}: {message}")]
    Script {
        /// The transcript's file.
        file: String,
        /// What is wrong, with the line where there is one.
        message: String,
    },
}

/// Whether asking the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAdvice {
    /// It cannot.
    Never,
    /// It can, after the caller's own backoff.
    Backoff,
    /// It can, not before this time.
    After(Duration),
}

impl ModelError {
    /// Whether the provider may have counted tokens for the call: it had taken
    /// it up. A refusal before a reply begins costs nothing; a server that breaks
    /// down, or a gateway that gives up waiting for one, may have been at work.
    #[must_use]
    pub fn may_have_cost(&self) -> bool {
        match self {
            Self::Cancelled | Self::Cut { .. } | Self::Idle { .. } | Self::Protocol { .. } => true,
            Self::Server { status, .. } => matches!(status, 200 | 408 | 500 | 502 | 504),
            Self::Unreachable { .. }
            | Self::RateLimited { .. }
            | Self::Quota { .. }
            | Self::Auth { .. }
            | Self::ContextOverflow { .. }
            | Self::InvalidRequest { .. }
            | Self::Unusable { .. }
            | Self::Script { .. } => false,
        }
    }

    /// Whether asking the same again can help.
    #[must_use]
    pub fn retry(&self) -> RetryAdvice {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => {
                retry_after.map_or(RetryAdvice::Backoff, RetryAdvice::After)
            }
            Self::Unreachable { .. } | Self::Cut { .. } | Self::Idle { .. } => RetryAdvice::Backoff,
            Self::Cancelled
            | Self::Quota { .. }
            | Self::Auth { .. }
            | Self::ContextOverflow { .. }
            | Self::InvalidRequest { .. }
            | Self::Protocol { .. }
            | Self::Unusable { .. }
            | Self::Script { .. } => RetryAdvice::Never,
        }
    }
}
