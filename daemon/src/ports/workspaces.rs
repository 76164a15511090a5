//! Workspaces as sessions need them: an agent that answers, and clean copies.
//!
//! The workspace service implements this; session code knows no container.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

use super::agent::AgentPort;
use crate::domain::{
    ids::{RepositoryName, SessionId, SnapshotId, WorkspaceId},
    snapshot::SnapshotReason,
    workspace::Workspace,
};

/// Access to workspaces.
#[async_trait]
pub trait WorkspacesPort: Send + Sync {
    /// A workspace as the store has it.
    async fn get(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError>;

    /// The agent of a workspace, which is started first where needed.
    async fn agent(&self, id: &WorkspaceId) -> Result<Arc<dyn AgentPort>, WorkspaceAccessError>;

    /// A workspace with every repository that is in it, those included that
    /// nobody has told of; it is started first where needed.
    async fn find_repositories(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError>;

    /// Makes a clean workspace like another (image, limits, network, user, egress)
    /// with one repository from a bundle on the host, set up as far as that goes:
    /// a setup that failed is in the workspace's record. The same `key` finds the
    /// one made before.
    async fn create_clean(
        &self,
        like: &WorkspaceId,
        key: &str,
        repository: &CleanRepository<'_>,
    ) -> Result<WorkspaceId, WorkspaceAccessError>;

    /// Takes a snapshot of a workspace under an id that the caller chose: one
    /// that is there by now is not taken again.
    async fn take_snapshot(
        &self,
        of: &WorkspaceId,
        id: &SnapshotId,
        reason: SnapshotReason,
    ) -> Result<(), WorkspaceAccessError>;

    /// Puts a workspace back to a snapshot, for a session that works in it, and
    /// keeps what it was as a snapshot under an id that the caller chose: with the
    /// same id again, after a kill, neither is done twice. A snapshot that is gone
    /// is [`WorkspaceAccessError::Broken`]; the workspace is as it was then.
    async fn roll_back(
        &self,
        of: &WorkspaceId,
        to: &SnapshotId,
        keep: &SnapshotId,
        session: &SessionId,
    ) -> Result<(), WorkspaceAccessError>;

    /// Makes a clean workspace from a snapshot of another, which it may reach
    /// the same hosts as. The same `key` finds the one made before. A snapshot
    /// that is gone is [`WorkspaceAccessError::Broken`].
    async fn fork_clean(
        &self,
        like: &WorkspaceId,
        snapshot: &SnapshotId,
        key: &str,
    ) -> Result<WorkspaceId, WorkspaceAccessError>;

    /// Deletes a workspace that [`create_clean`](Self::create_clean) or
    /// [`fork_clean`](Self::fork_clean) made.
    async fn delete_clean(&self, id: &WorkspaceId) -> Result<(), WorkspaceAccessError>;

    /// Deletes the clean workspace of a key, where there is one.
    async fn delete_clean_of(&self, key: &str) -> Result<(), WorkspaceAccessError>;

    /// Deletes every clean workspace but those of these keys: what others an
    /// earlier life of the daemon made nobody uses any more.
    async fn keep_clean(&self, keys: &[String]) -> Result<(), WorkspaceAccessError>;
}

/// The repository of a clean workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanRepository<'a> {
    /// Directory below `/workspace`.
    pub name: &'a RepositoryName,
    /// A bundle on the host.
    pub bundle: &'a Path,
    /// Branch in the bundle to check out.
    pub branch: &'a str,
    /// Commit, in hex, whose setup file counts: what is checked out has no say
    /// in how it is set up.
    pub setup_at: &'a str,
}

/// Why a workspace cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkspaceAccessError {
    /// There is none with this id.
    #[error("there is no workspace {0}")]
    Unknown(WorkspaceId),
    /// Not now; trying again may help.
    #[error("the workspace cannot be reached now: {0}")]
    Unavailable(String),
    /// Trying again does not help.
    #[error("the workspace cannot be used: {0}")]
    Broken(String),
}
