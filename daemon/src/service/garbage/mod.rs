//! Everything that the daemon made and nothing needs any more, of every kind.
//!
//! ```text
//! containers, helpers, volumes   the engine's, by label        orphans.rs
//! images, copies, chunks         what no snapshot names        service/snapshots
//! links                          directories of agents' sockets
//! blobs                          content that no artifact has
//! ```
//!
//! What is looked for is looked at first, and what names it read after that:
//! whoever makes something writes down before that it will, so nothing of an
//! operation under way is ever among the orphans. What no journal names has to
//! be old.

mod orphans;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    snapshots::{Prune, PruneReport, Snapshots, SnapshotsError},
    workspaces::Workspaces,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        orphans::{Role, UNRECORDED_AGE_MS},
        snapshot::journal::Operation,
    },
    metrics,
    ports::{
        blobs::{BlobError, BlobPort, StoredBlob},
        chunks::PruneMode,
        inventory::InventoryPort,
        links::LinkError,
        runtime::RuntimeError,
        snapshot_runtime::helper_id,
        store::{StoreError, StorePort},
    },
};

/// Garbage that the background collector leaves in a file of chunks rather
/// than rewrite it, in percent.
const COLLECTOR_WASTE_PERCENT: u8 = 50;

/// The kinds, in the order in which they are told.
pub const KINDS: [&str; 8] = [
    "containers",
    "helpers",
    "volumes",
    "images",
    "copies",
    "chunks",
    "links",
    "blobs",
];

/// What collecting gave of one kind, or would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// How many are gone.
    pub count: u64,
    /// Bytes of disk that are free again; 0 where that is not known.
    pub freed_bytes: u64,
    /// How many more were found that nothing names, and left: each may be the
    /// only copy of somebody's files.
    pub kept: u64,
}

/// What to collect, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Whether anything is changed.
    pub mode: PruneMode,
    /// What becomes of what may be the only copy of somebody's files.
    pub only_copies: OnlyCopies,
    /// How long something must have been in the engine; what is known from the
    /// journal to be of no use needs no age.
    pub grace: Duration,
    /// As in [`Prune`].
    pub waste_percent: u8,
}

/// What becomes of what may be the only copy of somebody's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyCopies {
    /// It is counted and left.
    Keep,
    /// It is removed.
    Remove,
}

impl Collect {
    /// Everything at once, as a person asks for it.
    #[must_use]
    pub fn now(mode: PruneMode, only_copies: OnlyCopies) -> Self {
        Self {
            mode,
            only_copies,
            grace: Duration::ZERO,
            waste_percent: 0,
        }
    }

    /// What has been of no use for a while, where removing it is cheap.
    fn in_the_background(grace: Duration) -> Self {
        Self {
            mode: PruneMode::Remove,
            only_copies: OnlyCopies::Keep,
            grace,
            waste_percent: COLLECTOR_WASTE_PERCENT,
        }
    }
}

/// Why collecting stopped. What is gone by then stays gone; it may be done
/// again.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// Snapshots, the engine, the store or a link.
    #[error(transparent)]
    Snapshots(#[from] SnapshotsError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

macro_rules! through_snapshots {
    ($($error:ty),*) => {$(
        impl From<$error> for GarbageError {
            fn from(error: $error) -> Self {
                Self::Snapshots(error.into())
            }
        }
    )*};
}
through_snapshots!(RuntimeError, StoreError, LinkError);

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Garbage {
    inner: Arc<Inner>,
}

struct Inner {
    snapshots: Snapshots,
    workspaces: Workspaces,
    engine: Arc<dyn InventoryPort>,
    store: Arc<dyn StorePort>,
    blobs: Arc<dyn BlobPort>,
    /// Held by who collects.
    alone: tokio::sync::Mutex<()>,
}

impl Garbage {
    /// Collects what these leave behind.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        workspaces: Workspaces,
        engine: Arc<dyn InventoryPort>,
        store: Arc<dyn StorePort>,
        blobs: Arc<dyn BlobPort>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                snapshots,
                workspaces,
                engine,
                store,
                blobs,
                alone: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Removes what nothing needs, or says what that would give; one answer for
    /// each of [`KINDS`], in their order.
    ///
    /// # Errors
    /// As for [`Snapshots::prune`]; an engine, a disk or a store that does not
    /// do its part.
    pub async fn collect(&self, what: Collect) -> Result<Vec<Collected>, GarbageError> {
        let _alone = self.inner.alone.lock().await;
        let prune = Prune {
            waste_percent: what.waste_percent,
            ..Prune::everything(what.mode)
        };
        // First: it refuses while operations that were cut off are not settled.
        let PruneReport {
            images,
            chunks,
            freed_bytes,
            ..
        } = self.inner.snapshots.prune(prune).await?;
        let [containers, helpers, volumes] = self.collect_objects(what).await?;
        let copies = self.inner.snapshots.tidy_copies(what.mode).await?;
        let all = vec![
            containers,
            helpers,
            volumes,
            of("images", images, 0),
            of("copies", copies.count, copies.bytes),
            of("chunks", chunks, freed_bytes),
            self.collect_links(what.mode).await?,
            self.collect_blobs(what.mode).await?,
        ];
        if what.mode == PruneMode::Remove {
            for one in &all {
                metrics::garbage_collected(one.kind, one.count, one.freed_bytes, one.kept);
            }
        }
        Ok(all)
    }

    /// Collects from time to time, until it is told to stop. What is under way
    /// then goes on at the next start.
    pub async fn run_collector(&self, every: Duration, grace: Duration, stop: CancellationToken) {
        let collect = async {
            loop {
                tokio::time::sleep(every).await;
                match self.collect(Collect::in_the_background(grace)).await {
                    Ok(all) => all.iter().for_each(log),
                    Err(GarbageError::Snapshots(SnapshotsError::Unsettled)) => {}
                    Err(error) => {
                        tracing::warn!(%error, "collecting failed; it is tried again later");
                    }
                }
            }
        };
        stop.run_until_cancelled(collect).await;
    }

    /// Directories of links that no workspace and no helper has.
    async fn collect_links(&self, mode: PruneMode) -> Result<Collected, GarbageError> {
        let (workspaces, links) = (&self.inner.workspaces, self.inner.workspaces.links());
        let mut found = of("links", 0, 0);
        let unattended = links.unattended().await?;
        let contained = self.inner.engine.inventory().await?;
        let contained: HashSet<_> = (contained.iter())
            .filter_map(|object| match &object.role {
                Role::Container { workspace, .. } => Some(workspace),
                Role::Volume { .. } | Role::Helper { .. } | Role::HelperVolume { .. } => None,
            })
            .collect();
        for id in unattended {
            if workspaces.knows(&id) || contained.contains(&id) {
                continue;
            }
            let Some(_held) = workspaces.try_hold(&id) else {
                continue;
            };
            let operations = self.inner.store.operations().await?;
            if workspaces.knows(&id) || names(&operations).contains(&id) {
                continue;
            }
            found.count += 1;
            if mode == PruneMode::Remove {
                tracing::info!(workspace_id = %id, "removing the directory of a link that nobody has");
                links.remove(&id).await?;
            }
        }
        Ok(found)
    }

    /// Blobs that no artifact names: a kill came before its record, or the
    /// store was lost.
    async fn collect_blobs(&self, mode: PruneMode) -> Result<Collected, GarbageError> {
        // Blobs have the times of the disk's clock, as this is.
        let before_ms = self.inner.workspaces.now_ms() - UNRECORDED_AGE_MS;
        let mut found = of("blobs", 0, 0);
        let old = |blob: &StoredBlob| blob.put_at_ms < before_ms;
        let blobs = self.inner.blobs.list().await?.into_iter().filter(old);
        let named = self.inner.store.artifact_hashes().await?;
        for blob in blobs.filter(|blob| !named.contains(blob.hash.as_str())) {
            let gone = match mode {
                PruneMode::Measure => true,
                PruneMode::Remove => self.inner.blobs.remove(&blob.hash, before_ms).await?,
            };
            if gone {
                found.count += 1;
                found.freed_bytes += blob.size_bytes;
            }
        }
        Ok(found)
    }
}

fn of(kind: &'static str, count: u64, freed_bytes: u64) -> Collected {
    Collected {
        kind,
        count,
        freed_bytes,
        kept: 0,
    }
}

fn log(collected: &Collected) {
    let Collected {
        kind,
        count,
        freed_bytes,
        kept,
    } = collected;
    if *count > 0 {
        tracing::info!(kind, count, freed_bytes, "what nothing needs was removed");
    }
    if *kept > 0 {
        tracing::warn!(
            kind,
            kept,
            "nothing names these, and they may be the only copy of somebody's files: \
             `compyctl gc --volumes` removes them"
        );
    }
}

/// Workspaces and helpers that operations under way name.
fn names(operations: &[Operation]) -> HashSet<WorkspaceId> {
    let mut names = HashSet::new();
    for operation in operations {
        names.insert(operation.workspace.clone());
        names.extend(operation.progress.helpers().filter_map(helper_id));
    }
    names
}
