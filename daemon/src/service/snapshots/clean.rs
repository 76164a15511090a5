//! Snapshots as the beginnings of clean workspaces: taken for a session, forked
//! for its checks.

use async_trait::async_trait;
use uuid::Uuid;

use super::{Before, Fork, ForkFrom, Restore, RunningSessions, Snapshots, SnapshotsError};
use crate::{
    domain::{
        idle::IdleStop,
        ids::{SessionId, SnapshotId, WorkspaceId},
        snapshot::SnapshotReason,
        workspace::Purpose,
    },
    ports::workspaces::WorkspaceAccessError,
    service::workspaces::{CleanCopies, CleanFork, WorkspacesError},
};

#[async_trait]
impl CleanCopies for Snapshots {
    async fn take(
        &self,
        id: &SnapshotId,
        of: &WorkspaceId,
        reason: SnapshotReason,
    ) -> Result<(), WorkspaceAccessError> {
        let taken = self.take_as(id.clone(), of, None, reason).await;
        taken.map(drop).map_err(|error| access(of, error))
    }

    async fn roll_back(
        &self,
        of: &WorkspaceId,
        to: &SnapshotId,
        keep: &SnapshotId,
        session: &SessionId,
    ) -> Result<(), WorkspaceAccessError> {
        let what = Restore {
            workspace: of.clone(),
            snapshot: to.clone(),
            before: Before::Snapshot(keep.clone()),
            sessions: RunningSessions::Own(session.clone()),
        };
        let restored = self.restore(what).await;
        restored.map(drop).map_err(|error| access(of, error))
    }

    async fn fork(&self, fork: CleanFork) -> Result<WorkspaceId, WorkspaceAccessError> {
        let id = WorkspaceId::from_uuid(Uuid::now_v7());
        let what = Fork {
            id: id.clone(),
            from: ForkFrom::Snapshot(fork.snapshot),
            name: fork.name,
            // None is taken: there is one already.
            new_snapshot: SnapshotId::from_uuid(Uuid::now_v7()),
            purpose: Purpose::Checks,
            egress: fork.egress,
            idle_stop: IdleStop::Never,
        };
        let made = Self::fork(self, what).await;
        made.map(drop).map_err(|error| access(&id, error))?;
        Ok(id)
    }
}

/// What a session does about an error: without its workspace or its snapshot it
/// cannot go on, whatever else an engine, a disk or a store says may be over
/// when it is asked again.
fn access(workspace: &WorkspaceId, error: SnapshotsError) -> WorkspaceAccessError {
    match error {
        SnapshotsError::Workspaces(WorkspacesError::Unknown(_)) => {
            WorkspaceAccessError::Unknown(workspace.clone())
        }
        error @ (SnapshotsError::Unknown(_)
        | SnapshotsError::ImageGone(_)
        | SnapshotsError::Damaged(_)) => WorkspaceAccessError::Broken(format!(
            "{error}; a session needs the snapshot that it began with: start it again"
        )),
        // Asked again it is the same.
        error @ SnapshotsError::Credential(_) => WorkspaceAccessError::Broken(error.to_string()),
        error @ (SnapshotsError::NoContainer(_)
        | SnapshotsError::Unsettled
        | SnapshotsError::TooManyLayers { .. }
        | SnapshotsError::PausedTooLong { .. }
        | SnapshotsError::FinishedLater(_)
        | SnapshotsError::Needed { .. }
        | SnapshotsError::Abandoned
        | SnapshotsError::Deleting
        | SnapshotsError::Agent(_)
        | SnapshotsError::Unreadable { .. }
        | SnapshotsError::Archive(_)
        | SnapshotsError::ImageLoad(_)
        | SnapshotsError::Chunks(_)
        | SnapshotsError::Workspaces(_)) => WorkspaceAccessError::Unavailable(error.to_string()),
    }
}
