//! Removing what nothing names any more.
//!
//! What is live is what the manifests name: those that are stored, and those of
//! operations that were cut off and could not be settled yet. Chunks of a
//! snapshot that is being taken are kept by its pin.

use std::collections::HashSet;

use super::{Snapshots, SnapshotsError, listing};
use crate::{
    domain::{
        ids::SnapshotId,
        snapshot::{Snapshot, hash::ChunkHash, retention::Retention},
    },
    ports::chunks::{PruneMode, PruneOptions},
};

/// What to prune, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Which snapshots go first; by default none.
    pub retention: Retention,
    /// Whether anything is changed.
    pub mode: PruneMode,
    /// As in [`PruneOptions`].
    pub waste_percent: u8,
}

impl Prune {
    /// Everything that nothing names, and no snapshot.
    #[must_use]
    pub fn everything(mode: PruneMode) -> Self {
        Self {
            retention: Retention::default(),
            mode,
            waste_percent: 0,
        }
    }
}

/// What pruning gave, or would give.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneReport {
    /// Snapshots that are gone, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Images that nothing needed; without those that went with their snapshot.
    pub images: u64,
    /// Chunks that are gone.
    pub chunks: u64,
    /// Bytes of disk that the chunks gave back.
    pub freed_bytes: u64,
}

impl Snapshots {
    /// Removes the snapshots that the rules let go and no session needs, and then
    /// everything that nothing names.
    ///
    /// # Errors
    /// [`SnapshotsError::Unreadable`]: what a snapshot names is not known, so no
    /// chunk was removed; an engine, a disk or a store that does not do its
    /// part. What is gone by then stays gone; it may be called again.
    pub async fn prune(&self, what: Prune) -> Result<PruneReport, SnapshotsError> {
        self.ready()?;
        let all = self.inner.workspaces.store().snapshots(None).await?;
        let now_ms = self.inner.workspaces.now_ms();
        let mut expired: HashSet<SnapshotId> =
            what.retention.expired(&all, now_ms).into_iter().collect();
        let mut snapshots = Vec::new();
        for snapshot in all {
            if !expired.contains(&snapshot.id) {
                continue;
            }
            match self.needed_by(&snapshot).await {
                Some(_) => drop(expired.remove(&snapshot.id)),
                None => snapshots.push(snapshot),
            }
        }
        snapshots.sort_by_key(|snapshot| snapshot.created_at_ms);
        let images = match what.mode {
            PruneMode::Measure => self.unused_images().await?.len() as u64,
            PruneMode::Remove => {
                for snapshot in &snapshots {
                    match self.delete_because(&snapshot.id, "it was pruned").await {
                        Ok(()) => {}
                        // Somebody else was quicker.
                        Err(SnapshotsError::Unknown(_)) => {}
                        // Kept after all, until its session has ended.
                        Err(SnapshotsError::Needed { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                self.remove_unused_images().await?
            }
        };
        let pruning = self.inner.chunks.prune().await;
        let live = self.live(&expired).await?;
        let options = PruneOptions {
            mode: what.mode,
            waste_percent: what.waste_percent,
        };
        let pruned = pruning.run(live, options).await?;
        Ok(PruneReport {
            snapshots,
            images,
            chunks: pruned.chunks,
            freed_bytes: pruned.freed_bytes,
        })
    }

    /// The chunks that manifests name, but for those of some snapshots.
    async fn live(
        &self,
        except: &HashSet<SnapshotId>,
    ) -> Result<HashSet<ChunkHash>, SnapshotsError> {
        let store = self.inner.workspaces.store();
        // The operations first: one that ends now has stored its manifest.
        let mut manifests: Vec<Snapshot> = (store.operations().await?.iter())
            .filter_map(|operation| operation.progress.unstored().cloned())
            .collect();
        let stored = store.snapshots(None).await?;
        manifests.extend(stored.into_iter().filter(|s| !except.contains(&s.id)));
        let mut live = HashSet::new();
        let mut seen = HashSet::new();
        for manifest in manifests {
            for tree in manifest.volumes.values() {
                if !seen.insert(tree.hash) {
                    continue;
                }
                let entries = listing::read(tree, &*self.inner.chunks).await;
                let entries = entries.map_err(|cause| SnapshotsError::Unreadable {
                    snapshot: manifest.id.clone(),
                    cause: Box::new(cause),
                })?;
                live.extend(&tree.listing);
                let content = entries.iter().flat_map(listing::content);
                live.extend(content.map(|(hash, _)| hash));
            }
        }
        Ok(live)
    }
}
