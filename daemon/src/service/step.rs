//! What a piece of work is done for: a step of a session.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::artifacts::ArtifactAbout;
use crate::domain::{
    artifact::ArtifactKind,
    ids::{ExecId, SessionId, StepId},
    stage::Stage,
};

/// The step that checks and proofs are part of. Every command that they run has
/// an id made from the step's, so that doing the same step again, after a
/// restart, finds the commands of the first time instead of running them twice.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// The session.
    pub session: SessionId,
    /// The stage.
    pub stage: Stage,
    /// The step.
    pub step: StepId,
    /// Ends the work, and in the workspace every process of it.
    pub cancel: CancellationToken,
    /// Takes output as it comes; what it has no room for is not sent.
    pub progress: Option<mpsc::Sender<Bytes>>,
}

impl StepContext {
    /// The id of a command of this step. The same name gives the same id.
    #[must_use]
    pub fn exec(&self, name: &str) -> ExecId {
        let id = format!("{}.{name}", self.step);
        id.parse().unwrap_or_else(|_| {
            let short = blake3::hash(id.as_bytes()).to_hex();
            short
                .as_str()
                .parse()
                .expect("64 hex digits are a valid exec id")
        })
    }

    /// What an artifact of this step is recorded with.
    #[must_use]
    pub fn about(&self, kind: ArtifactKind, title: impl Into<String>) -> ArtifactAbout {
        ArtifactAbout {
            session: self.session.clone(),
            stage: self.stage,
            step: Some(self.step.clone()),
            kind,
            title: title.into(),
            media_type: match kind {
                ArtifactKind::Evidence | ArtifactKind::TestReport => "application/json",
                ArtifactKind::Diff => "text/x-diff; charset=utf-8",
                ArtifactKind::Output | ArtifactKind::Other => "text/plain; charset=utf-8",
            }
            .to_owned(),
        }
    }
}
