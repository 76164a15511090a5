//! Pausing: a person freezes a workspace and lets it go on.
//!
//! ```text
//!            pause                      the engine restarts
//!  Running ---------> Paused (desired) ---------------------> Stopped, says why
//!     ^                  |
//!     `------ resume ----'         use: refused, never undone silently
//! ```
//!
//! What is frozen lives in the memory of its processes. A restart of the daemon
//! finds it as it was. After one of the engine it has ended: then there is
//! nothing left to keep frozen, and the workspace is stopped like any other.
//!
//! Snapshots pause for a moment, too. Those are the engine's pauses of a
//! workspace that should run, and are undone by who made them.

use super::{Workspaces, WorkspacesError, lifecycle::Took, view::WorkspaceView};
use crate::{
    domain::{
        ids::WorkspaceId,
        workspace::{Desired, Workspace},
        workspace_event::{Happening, StartCause, StopCause},
    },
    ports::runtime::ContainerStatus,
};

impl Workspaces {
    /// Freezes every process of a workspace; one that is paused is left as it
    /// is.
    ///
    /// # Errors
    /// [`WorkspacesError::Stopped`], [`WorkspacesError::Busy`] while sessions
    /// run in it, an engine that does not answer.
    pub async fn pause(&self, id: &WorkspaceId) -> Result<WorkspaceView, WorkspacesError> {
        self.without_sessions(id, false).await?;
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let workspace = self.record(id)?;
        match workspace.desired {
            Desired::Running => {
                // It may have died: then there is nothing to freeze but what is
                // started first.
                self.bring_up_for(&workspace, StartCause::Request).await?;
            }
            Desired::Paused => {}
            Desired::Stopped => {
                return Err(WorkspacesError::Stopped(workspace.definition.name.clone()));
            }
            Desired::Deleted => {
                return Err(WorkspacesError::Deleting(workspace.definition.name.clone()));
            }
        }
        let workspace = self.desire(id, Desired::Paused).await?;
        self.settle_paused(&workspace).await?;
        self.get(id).await
    }

    /// Lets a paused workspace go on; one that runs is left as it is.
    ///
    /// # Errors
    /// [`WorkspacesError::Stopped`], an engine that does not answer.
    pub async fn resume(&self, id: &WorkspaceId) -> Result<WorkspaceView, WorkspacesError> {
        let workspace = self.record(id)?;
        if workspace.desired == Desired::Stopped {
            return Err(WorkspacesError::Stopped(workspace.definition.name.clone()));
        }
        self.start(id).await
    }

    /// Freezes a workspace that should be paused, or stops it where what was
    /// frozen has ended; the caller holds its lock.
    pub(super) async fn settle_paused(&self, workspace: &Workspace) -> Result<(), WorkspacesError> {
        let id = &workspace.id;
        let Some(container) = self.inner.runtime.find(id).await? else {
            return self.lose_pause(id).await;
        };
        match container.status {
            ContainerStatus::Running | ContainerStatus::Restarting => {
                tracing::info!(workspace_id = %id, container_id = %container.id.0, "pausing");
                self.inner.runtime.pause(&container.id).await?;
                self.inner.events.record(workspace, Happening::Paused).await;
                Ok(())
            }
            ContainerStatus::Paused => Ok(self.inner.links.ensure(id).await?),
            ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Broken => {
                self.lose_pause(id).await
            }
        }
    }

    /// Stops a workspace for good of which what was frozen has ended, and makes
    /// its container again where that is gone.
    async fn lose_pause(&self, id: &WorkspaceId) -> Result<(), WorkspacesError> {
        let cause = StopCause::PauseLost;
        let workspace = self.desire_stopped(id, cause).await?;
        self.inner.links.close(id).await;
        tracing::warn!(workspace_id = %id, "what was paused has ended; the workspace is stopped");
        let what = Happening::Stopped { cause };
        self.inner.events.record(&workspace, what).await;
        self.ensure_container(&workspace).await
    }

    /// Refuses use of a workspace that a person paused, unless what was frozen
    /// has ended meanwhile; the caller holds its lock.
    pub(super) async fn refuse_paused(&self, id: &WorkspaceId) -> Result<(), WorkspacesError> {
        let workspace = self.record(id)?;
        if workspace.desired != Desired::Paused {
            return Ok(());
        }
        self.settle_paused(&workspace).await?;
        match self.record(id)?.desired {
            Desired::Paused => Err(WorkspacesError::Paused(workspace.definition.name.clone())),
            Desired::Running | Desired::Stopped | Desired::Deleted => Ok(()),
        }
    }

    /// Records what it took to make the agent of a workspace answer.
    pub(super) async fn record_start(&self, workspace: &Workspace, took: Took, cause: StartCause) {
        let what = match took {
            Took::Nothing => return,
            Took::Start => Happening::Started { cause },
            Took::Unpause => Happening::Resumed,
        };
        self.inner.events.record(workspace, what).await;
    }
}
