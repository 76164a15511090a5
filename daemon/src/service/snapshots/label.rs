//! Naming a snapshot that there is.

use super::{Snapshots, SnapshotsError};
use crate::domain::{
    ids::{SnapshotId, SnapshotLabel},
    snapshot::Snapshot,
};

impl Snapshots {
    /// Gives a snapshot a label, another one, or none. One with a label is kept
    /// until a person deletes it, whatever it was taken for.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`], [`SnapshotsError::Unsettled`]; what the store
    /// fails with.
    pub async fn label(
        &self,
        id: &SnapshotId,
        label: Option<SnapshotLabel>,
    ) -> Result<Snapshot, SnapshotsError> {
        self.ready()?;
        // Who deletes it now would have it come back.
        let _alone = self.inner.deleting.write().await;
        let labelled = Snapshot {
            label,
            ..self.get(id).await?
        };
        let store = self.inner.workspaces.store();
        store.put_snapshot(&labelled).await?;
        tracing::info!(snapshot_id = %id, label = ?labelled.label, "snapshot labelled");
        Ok(labelled)
    }
}
