//! Deleting a snapshot.

use super::{Snapshots, SnapshotsError};
use crate::domain::{
    ids::SnapshotId,
    snapshot::journal::{DeleteStep, ImageRef, Progress},
};

impl Snapshots {
    /// Deletes a snapshot. Its image goes when no workspace is made from it,
    /// and once that workspace is gone otherwise. Waits for restores and forks
    /// under way.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`], [`SnapshotsError::Needed`];
    /// [`SnapshotsError::FinishedLater`] where an engine or a store does not do its
    /// part.
    pub async fn delete(&self, id: &SnapshotId) -> Result<(), SnapshotsError> {
        self.delete_because(id, "it was asked for").await
    }

    /// The same, for a reason that goes on record with it.
    pub(super) async fn delete_because(
        &self,
        id: &SnapshotId,
        why: &str,
    ) -> Result<(), SnapshotsError> {
        self.ready()?;
        let _alone = self.inner.deleting.write().await;
        let manifest = self.get(id).await?;
        if let Some(session) = self.needed_by(&manifest).await {
            let snapshot = id.clone();
            return Err(SnapshotsError::Needed { snapshot, session });
        }
        let image = ImageRef::of(id);
        let used = self.inner.workspaces.is_base(&image);
        let progress = Progress::Delete {
            snapshot: id.clone(),
            step: DeleteStep::Begun {
                image: (!used).then_some(image),
            },
        };
        let operation = self.begin(&manifest.workspace, progress).await?;
        // From here on it is deleted, by the next daemon if not by this one.
        if let Some(audit) = self.inner.workspaces.events().audit() {
            audit.snapshot_deleted(&manifest.workspace, id, why);
        }
        self.finish(&operation).await?;
        self.remove_unused_images().await?;
        self.tidy_copies_logged().await;
        tracing::info!(snapshot_id = %id, workspace_id = %manifest.workspace, "snapshot deleted");
        Ok(())
    }
}
