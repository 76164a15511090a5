//! Snapshots as the results of setups: found by key, restored, kept.

use async_trait::async_trait;
use uuid::Uuid;

use super::{Before, Restore, RunningSessions, Snapshots, SnapshotsError};
use crate::{
    domain::{
        ids::{OperationId, SnapshotId, WorkspaceId},
        setup::SetupKey,
        snapshot::SnapshotReason,
    },
    service::workspaces::BakedSetups,
};

#[async_trait]
impl BakedSetups for Snapshots {
    async fn find(&self, key: &SetupKey) -> Option<SnapshotId> {
        let found = self.inner.workspaces.store().baked_setup(key).await;
        let id = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "kept setups cannot be looked up");
            None
        })?;
        match self.usable(&id).await {
            Ok(_) => Some(id),
            Err(error) => {
                tracing::info!(snapshot_id = %id, %error, "a kept setup is of no use any more");
                None
            }
        }
    }

    async fn restore(&self, workspace: &WorkspaceId, snapshot: &SnapshotId) -> Result<(), String> {
        let what = Restore {
            workspace: workspace.clone(),
            snapshot: snapshot.clone(),
            // There is nothing in it yet.
            before: Before::Discard(OperationId::from_uuid(Uuid::now_v7())),
            sessions: RunningSessions::Refuse,
        };
        let restored = Self::restore(self, what).await;
        restored.map(drop).map_err(|error| error.to_string())
    }

    async fn keep(
        &self,
        workspace: &WorkspaceId,
        key: &SetupKey,
    ) -> Result<Option<SnapshotId>, String> {
        let kept = self.keep_setup(workspace, key).await;
        kept.map_err(|error| error.to_string())
    }
}

impl Snapshots {
    async fn keep_setup(
        &self,
        workspace: &WorkspaceId,
        key: &SetupKey,
    ) -> Result<Option<SnapshotId>, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        if !workspaces.living(workspace)?.setup.pristine {
            return Ok(None);
        }
        let store = workspaces.store();
        let of_workspace = store.snapshots(Some(workspace)).await?;
        let cut_off = of_workspace
            .into_iter()
            .find(|snapshot| snapshot.reason == SnapshotReason::Setup);
        let taken = match cut_off {
            // A kill came before it was kept. Nobody has used the workspace
            // since, so it holds the same.
            Some(snapshot) => snapshot,
            None => self.take(workspace, None, SnapshotReason::Setup).await?,
        };
        // Whoever uses the workspace says so first, and waits for the lock that
        // the snapshot was taken under.
        if !workspaces.living(workspace)?.setup.pristine {
            self.delete_because(&taken.id, "the workspace was used before it could be kept")
                .await?;
            return Ok(None);
        }
        store.put_baked_setup(key, &taken.id).await?;
        tracing::info!(workspace_id = %workspace, snapshot_id = %taken.id, "setup kept");
        Ok(Some(taken.id))
    }
}
