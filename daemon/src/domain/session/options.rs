//! What a session is started with.

use serde::{Deserialize, Serialize};

use crate::domain::{
    budget::{Marks, Money, Prices},
    compaction::Window,
    edits::EditFormat,
    model_name::ModelName,
    policy::{Autonomy, Level},
};

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
    /// How the model is asked to write edits.
    #[serde(default)]
    pub edit_format: EditFormat,
    /// What it may use.
    pub limits: SessionLimits,
    /// What its model calls may cost.
    #[serde(default)]
    pub budget: Budget,
    /// What its model costs; `None` where nobody said.
    #[serde(default)]
    pub prices: Option<Prices>,
    /// How much its model can be told.
    #[serde(default)]
    pub window: Window,
    /// Tokens of the repository's own rules that its model is told at most.
    #[serde(default = "rules_tokens")]
    pub rules_tokens: u32,
    /// The most that it may do.
    #[serde(default)]
    pub level: Level,
    /// How far it goes without a person.
    #[serde(default)]
    pub autonomy: Autonomy,
}

/// What a model is told of a repository's own rules, when nobody says otherwise.
pub const RULES_TOKENS: u32 = 4_000;

fn rules_tokens() -> u32 {
    RULES_TOKENS
}

/// What a session's model calls may cost, beside its steps and its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Tokens, input and output; `None` means as many as it takes.
    pub tokens: Option<u64>,
    /// Money; only with [prices](SessionOptions::prices).
    pub money: Option<Money>,
    /// When people are told and asked.
    pub marks: Marks,
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
