//! Artifacts: what a session leaves behind, kept by content hash.

use serde::{Deserialize, Serialize};

use super::ids::{ArtifactId, SessionId, StepId};
use super::stage::Stage;

/// The record of an artifact; its bytes are a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its id.
    pub id: ArtifactId,
    /// Session that made it.
    pub session: SessionId,
    /// Stage it was made in.
    pub stage: Stage,
    /// Step that made it; `None` when it belongs to the stage as a whole.
    pub step: Option<StepId>,
    /// What it is.
    pub kind: ArtifactKind,
    /// A line for people.
    pub title: String,
    /// blake3 of the content in hex.
    pub hash: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Media type.
    pub media_type: String,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// Full output of a tool or command.
    Output,
    /// A diff.
    Diff,
    /// A test report.
    TestReport,
    /// Evidence of a verification, as JSON.
    Evidence,
    /// Anything else.
    Other,
}
