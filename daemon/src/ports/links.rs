//! Links to the agents of workspaces: who may dial, and who has.
//!
//! Nothing above this port knows how the bytes travel: an agent that dials a
//! socket of ours today, the stdio of one long exec later.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{agent::AgentPort, tunnel::TunnelPort};
use crate::domain::ids::WorkspaceId;

/// Links to the agents of workspaces.
#[async_trait]
pub trait LinksPort: Send + Sync {
    /// Makes ready for the agent of a workspace that is about to start, and
    /// returns the directory on the host to mount into its container. The same
    /// directory every time; what listens in it is new every time, and a link
    /// that was there is dropped.
    async fn prepare(&self, workspace: &WorkspaceId) -> Result<PathBuf, LinkError>;

    /// Makes sure that the agent of a workspace that runs already can dial.
    /// Leaves a link, or a listener, as it is.
    async fn ensure(&self, workspace: &WorkspaceId) -> Result<(), LinkError>;

    /// Waits for the link of a workspace.
    ///
    /// Cancel safety: dropping the future loses nothing.
    async fn connected(
        &self,
        workspace: &WorkspaceId,
        timeout: Duration,
    ) -> Result<Arc<dyn AgentPort>, LinkError>;

    /// The link of a workspace as it is now; never waits.
    fn current(&self, workspace: &WorkspaceId) -> Option<Arc<dyn AgentPort>>;

    /// The tunnels of a workspace's link as it is now; `None` also where its
    /// agent knows of none. Never waits.
    fn tunnel(&self, workspace: &WorkspaceId) -> Option<Arc<dyn TunnelPort>>;

    /// Drops the link and the listener of a workspace; the directory stays.
    async fn close(&self, workspace: &WorkspaceId);

    /// Closes, and removes the directory.
    async fn remove(&self, workspace: &WorkspaceId) -> Result<(), LinkError>;

    /// Whose directories are there without a listener.
    async fn unattended(&self) -> Result<Vec<WorkspaceId>, LinkError>;

    /// Workspaces whose link was lost, as it happens. A receiver that lags
    /// misses some: look at every workspace then.
    fn lost(&self) -> broadcast::Receiver<WorkspaceId>;
}

/// Why there is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The directory or its socket cannot be made.
    #[error("cannot listen for the agent in {dir}: {message}")]
    Listen {
        /// The directory.
        dir: String,
        /// The cause.
        message: String,
    },
    /// Nobody dialled in time.
    #[error("the agent did not connect within {seconds} s{hint}")]
    Timeout {
        /// The time allowed.
        seconds: u64,
        /// Why the last dialler was refused, where one was; or empty.
        hint: String,
    },
}
