//! Everything that the daemon made and nothing needs any more, of every kind.

use super::snapshots::{Prune, Snapshots, SnapshotsError};
use crate::ports::chunks::PruneMode;

/// What collecting gave of one kind, or would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// `images`, `chunks`.
    pub kind: &'static str,
    /// How many are gone.
    pub count: u64,
    /// Bytes of disk that are free again; 0 where that is not known.
    pub freed_bytes: u64,
}

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Garbage {
    snapshots: Snapshots,
}

impl Garbage {
    /// Collects what these leave behind.
    #[must_use]
    pub fn new(snapshots: Snapshots) -> Self {
        Self { snapshots }
    }

    /// Removes what nothing needs, or says what that would give; one answer for
    /// each kind.
    ///
    /// # Errors
    /// As for [`Snapshots::prune`].
    pub async fn collect(&self, mode: PruneMode) -> Result<Vec<Collected>, SnapshotsError> {
        let pruned = self.snapshots.prune(Prune::everything(mode)).await?;
        Ok(vec![
            Collected {
                kind: "images",
                count: pruned.images,
                freed_bytes: 0,
            },
            Collected {
                kind: "chunks",
                count: pruned.chunks,
                freed_bytes: pruned.freed_bytes,
            },
        ])
    }
}
