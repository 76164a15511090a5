//! What a session is started with.

use serde::{Deserialize, Serialize};

use crate::domain::model_name::ModelName;

/// Longest task in bytes, after trimming.
pub const TASK_MAX_BYTES: usize = 64 * 1024;

/// How a session works, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// The model it talks to.
    pub model: ModelName,
    /// The stages it goes through.
    pub workflow: WorkflowKind,
    /// Program and arguments that prove the task; `None` means detected.
    pub test_command: Option<Vec<String>>,
    /// Program and arguments of the linter; `None` means detected.
    pub lint_command: Option<Vec<String>>,
    /// Who verifies claims.
    pub verify: VerifyMode,
    /// Whether the task may change tests that exist.
    pub allow_test_changes: bool,
    /// What it may use.
    pub limits: SessionLimits,
}

/// The stages a session goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowKind {
    /// Every stage, from UNDERSTAND to a pull request that passed CI.
    Swe,
    /// MODIFY, VALIDATE, and PR without the pull request: the daemon commits
    /// and proves, and publishes nothing.
    None,
}

/// Who verifies claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyMode {
    /// The daemon.
    Auto,
    /// The daemon, and then a person.
    Manual,
}

/// What a session may use. Each reached limit ends it with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLimits {
    /// Model calls, above zero.
    pub max_steps: u32,
    /// Milliseconds in which it runs; pauses and waiting are free.
    pub max_time_ms: u64,
    /// Entries into DEBUG.
    pub debug_rounds: u32,
    /// Entries into ITERATE.
    pub iterate_rounds: u32,
    /// Tokens of one reply, sent with every call.
    pub max_output_tokens: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            max_steps: 200,
            max_time_ms: 2 * 60 * 60 * 1000,
            debug_rounds: 5,
            iterate_rounds: 3,
            max_output_tokens: 16_000,
        }
    }
}
