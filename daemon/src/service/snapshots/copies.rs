//! How the volumes of a restore or a fork come to hold their trees.
//!
//! ```text
//! a copy of the tree is there      overlay over it; nothing is written
//! restore, a copy is near          overlay over it, and what differs
//! otherwise                        the copy is made first, whole
//! overlays do not work here        plain volumes, filled
//! ```
//!
//! A copy is filled by a helper and registered when it is whole and durable;
//! from then on nobody writes to it. What was not registered a kill cut off,
//! and [`tidy_copies`](Snapshots::tidy_copies) removes it. One lock keeps
//! everybody from removing a copy between the choice of it and the overlay.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use compyd_proto::tree::{Delta, delta};

use super::{
    Snapshots, SnapshotsError, listing,
    volumes::{self, Captured},
};
use crate::{
    domain::{
        ids::WorkspaceId,
        redaction::Redactor,
        snapshot::{
            CapturedVolume, Snapshot, VolumeTree,
            copies::{TreeCopy, VolumeRef, disk_bytes, to_evict},
        },
        workspace::Workspace,
    },
    ports::{
        chunks::PruneMode,
        runtime::OverlayVolumes,
        snapshot_runtime::{NewVolume, VolumeAccess, helper_container},
        trees::{TreeEntry, TreeEntryKind},
    },
};

/// Copies that are compared with a tree to restore, the last used first.
const COMPARED: usize = 4;
/// Copies whose files are remembered as a capture would know them: some tens
/// of megabytes each for a hundred thousand files.
const REMEMBERED_COPIES: usize = 8;

/// Copies that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::service) struct TidiedCopies {
    /// How many.
    pub(in crate::service) count: u64,
    /// What they take on disk, about; 0 for those that were not finished.
    pub(in crate::service) bytes: u64,
}

/// What volumes are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A fork: others of the same snapshot may follow.
    Fork,
    /// A restore.
    Restore,
}

/// What a volume is made of.
#[derive(Debug)]
enum Ground {
    /// Nothing: the tree is a root alone.
    Nothing,
    /// A copy that holds the tree.
    Same(TreeCopy),
    /// A copy that holds another tree, with these entries.
    Near(TreeCopy, Vec<TreeEntry>),
    /// A copy that is yet to be made.
    NewCopy,
    /// A plain volume that is filled.
    Plain,
}

/// A volume being made.
struct Making {
    volume: CapturedVolume,
    root: TreeEntry,
    /// Of its tree; empty where nothing has to be written.
    entries: Vec<TreeEntry>,
    ground: Ground,
}

impl Making {
    /// What has to be written into the volume itself.
    fn writes(&self) -> bool {
        matches!(self.ground, Ground::Near(..) | Ground::Plain)
    }
}

impl Snapshots {
    /// Makes the captured volumes of a workspace's new generation, and for a fork
    /// its container, as a snapshot has them. The helper's name is in the journal; it is gone when
    /// this returns without an error.
    pub(super) async fn make_volumes(
        &self,
        helper: &WorkspaceId,
        of: &Workspace,
        manifest: &Snapshot,
        purpose: Purpose,
    ) -> Result<(), SnapshotsError> {
        let _alone = self.inner.copies.lock().await;
        let mut making = Vec::new();
        for volume in CapturedVolume::ALL {
            let tree = manifest.volumes.get(&volume);
            making.push(self.plan_volume(volume, tree, of, purpose).await?);
        }
        self.make_copies(helper, of, manifest, &mut making).await?;
        let mut new = Vec::new();
        for one in &making {
            let lower = match &one.ground {
                Ground::Same(copy) | Ground::Near(copy, _) => Some(copy.volume.clone()),
                Ground::Nothing | Ground::NewCopy | Ground::Plain => None,
            };
            if let Ground::Same(copy) | Ground::Near(copy, _) = &one.ground {
                self.touch(copy).await?;
            }
            new.push(NewVolume {
                volume: one.volume,
                lower,
                root: one.root.clone(),
            });
        }
        self.create_volumes(of, &new, purpose).await?;
        let known = self.write_volumes(helper, of, making).await?;
        // What came from a snapshot was looked through for the credentials of its
        // time, if for any.
        let redactor = match self.redactor() {
            redactor if redactor.is_empty() => redactor,
            _ => Arc::new(Redactor::new([])),
        };
        self.remember(of, known, redactor);
        Ok(())
    }

    async fn create_volumes(
        &self,
        of: &Workspace,
        new: &[NewVolume],
        purpose: Purpose,
    ) -> Result<(), SnapshotsError> {
        let (workspaces, runtime) = (&self.inner.workspaces, &self.inner.runtime);
        match purpose {
            // The container of a restore is made in the swap: the newest one is
            // taken for the workspace's.
            Purpose::Restore => {
                let plan = workspaces.plan(of, PathBuf::new());
                runtime.create_volumes(&plan, new).await?;
                runtime.make_roots(&plan, new).await?;
            }
            Purpose::Fork => {
                let link_dir = workspaces.links().prepare(&of.id).await?;
                let plan = workspaces.plan(of, link_dir);
                runtime.create_volumes(&plan, new).await?;
                // Both to their ends: what is dropped goes on in the engine.
                let (roots, container) = tokio::join!(
                    runtime.make_roots(&plan, new),
                    workspaces.runtime().create(&plan)
                );
                roots?;
                container?;
            }
        }
        Ok(())
    }

    async fn plan_volume(
        &self,
        volume: CapturedVolume,
        tree: Option<&VolumeTree>,
        of: &Workspace,
        purpose: Purpose,
    ) -> Result<Making, SnapshotsError> {
        let chunks = &*self.inner.chunks;
        let Some(tree) = tree else {
            let root = TreeEntry {
                mode: 0o755,
                ..TreeEntry::default()
            };
            return Ok(Making {
                volume,
                root,
                entries: Vec::new(),
                ground: Ground::Nothing,
            });
        };
        let mut making = Making {
            volume,
            root: listing::root(tree, chunks).await?,
            entries: Vec::new(),
            ground: Ground::Nothing,
        };
        if tree.entries <= 1 {
            return Ok(making);
        }
        if !self.overlays_work(of).await? {
            making.ground = Ground::Plain;
            making.entries = listing::read(tree, chunks).await?;
            return Ok(making);
        }
        let copies = self.copies_there().await?;
        if let Some(copy) = copies.iter().find(|copy| copy.tree.hash == tree.hash) {
            making.ground = Ground::Same(copy.clone());
            return Ok(making);
        }
        making.entries = listing::read(tree, chunks).await?;
        making.ground = if making.entries.iter().any(looks_like_a_whiteout) {
            Ground::Plain
        } else {
            match purpose {
                Purpose::Fork => Ground::NewCopy,
                Purpose::Restore => {
                    let near = self.nearest(copies, tree, &making.entries).await;
                    near.map_or(Ground::NewCopy, |(copy, from)| Ground::Near(copy, from))
                }
            }
        };
        Ok(making)
    }

    async fn overlays_work(&self, of: &Workspace) -> Result<bool, SnapshotsError> {
        if !self.inner.options.overlays {
            return Ok(false);
        }
        let runtime = self.inner.workspaces.runtime();
        let tried = runtime.overlay_volumes(of.image()).await?;
        Ok(tried == OverlayVolumes::Work)
    }

    /// The registered copies whose volumes the engine has, the last used
    /// first.
    async fn copies_there(&self) -> Result<Vec<TreeCopy>, SnapshotsError> {
        let there = self.inner.runtime.copies().await?;
        let mut copies = self.inner.workspaces.store().tree_copies().await?;
        copies.retain(|copy| there.iter().any(|one| one.volume == copy.volume));
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.used_at_ms));
        Ok(copies)
    }

    /// The copy that a tree differs least from, where that is less than half
    /// of the tree, and what it holds.
    async fn nearest(
        &self,
        copies: Vec<TreeCopy>,
        tree: &VolumeTree,
        entries: &[TreeEntry],
    ) -> Option<(TreeCopy, Vec<TreeEntry>)> {
        let mut nearest = None;
        let mut least = disk_bytes(tree.entries, tree.bytes) / 2;
        for copy in copies.into_iter().take(COMPARED) {
            // The chunks of its listing may have been pruned.
            let Ok(from) = listing::read(&copy.tree, &*self.inner.chunks).await else {
                continue;
            };
            let cost = cost(&delta(&from, entries));
            if cost < least {
                least = cost;
                nearest = Some((copy, from));
            }
        }
        nearest
    }

    /// Makes the copies that are wanted and not there.
    async fn make_copies(
        &self,
        helper: &WorkspaceId,
        of: &Workspace,
        manifest: &Snapshot,
        making: &mut [Making],
    ) -> Result<(), SnapshotsError> {
        let mut wanted = BTreeMap::new();
        for one in making.iter() {
            if let Ground::NewCopy = one.ground {
                let tree = &manifest.volumes[&one.volume];
                let volume = self.inner.runtime.create_copy(&tree.hash).await?;
                wanted.insert(one.volume, volume);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let access = VolumeAccess::Copies(wanted.clone());
        let trees = self.open_helper(helper, of, access, None).await?;
        let mut filled = Vec::new();
        for one in making.iter_mut() {
            let Some(volume) = wanted.remove(&one.volume) else {
                continue;
            };
            let chunks = &*self.inner.chunks;
            let known = volumes::fill(&*trees, one.volume, &one.entries, chunks).await?;
            let copy = TreeCopy {
                volume,
                tree: manifest.volumes[&one.volume].clone(),
                used_at_ms: self.inner.workspaces.now_ms(),
            };
            self.remember_copy(&copy.volume, known);
            one.entries = Vec::new();
            one.ground = Ground::Same(copy.clone());
            filled.push(copy);
        }
        // Nobody writes to what is registered.
        self.remove_container(&helper_container(helper)).await?;
        for copy in filled {
            tracing::debug!(volume = %copy.volume.0, bytes = copy.disk_bytes(),
                "made a copy of a tree");
            self.inner.workspaces.store().put_tree_copy(&copy).await?;
        }
        Ok(())
    }

    /// Writes what volumes do not hold yet. Returns what is known of their
    /// files.
    async fn write_volumes(
        &self,
        helper: &WorkspaceId,
        of: &Workspace,
        making: Vec<Making>,
    ) -> Result<BTreeMap<CapturedVolume, Captured>, SnapshotsError> {
        let mut known = BTreeMap::new();
        let trees = match making.iter().any(Making::writes) {
            true => Some(
                self.open_helper(helper, of, VolumeAccess::Write, None)
                    .await?,
            ),
            false => None,
        };
        let chunks = &*self.inner.chunks;
        for one in making {
            match (one.ground, &trees) {
                (Ground::Same(copy), _) => {
                    known.extend(self.recall_copy(&copy.volume).map(|k| (one.volume, k)));
                }
                (Ground::Near(copy, from), Some(trees)) => {
                    let changes = delta(&from, &one.entries);
                    volumes::change(&**trees, one.volume, &changes, chunks).await?;
                    if let Some(below) = self.recall_copy(&copy.volume) {
                        let above = below.beneath(one.entries.clone(), &changes);
                        known.insert(one.volume, above);
                    }
                }
                (Ground::Plain, Some(trees)) => {
                    let filled = volumes::fill(&**trees, one.volume, &one.entries, chunks).await?;
                    known.insert(one.volume, filled);
                }
                (Ground::Nothing | Ground::NewCopy, _)
                | (Ground::Near(..) | Ground::Plain, None) => {}
            }
        }
        if trees.is_some() {
            self.remove_container(&helper_container(helper)).await?;
        }
        Ok(known)
    }

    async fn touch(&self, copy: &TreeCopy) -> Result<(), SnapshotsError> {
        let used = TreeCopy {
            used_at_ms: self.inner.workspaces.now_ms(),
            ..copy.clone()
        };
        Ok(self.inner.workspaces.store().put_tree_copy(&used).await?)
    }

    /// Removes copies that were not finished, that no snapshot names, and that
    /// there is no room for, or finds them. What something lies over stays, and
    /// what the engine does not let go.
    pub(in crate::service) async fn tidy_copies(
        &self,
        mode: PruneMode,
    ) -> Result<TidiedCopies, SnapshotsError> {
        let _alone = self.inner.copies.lock().await;
        let (runtime, store) = (&self.inner.runtime, self.inner.workspaces.store());
        let there = runtime.copies().await?;
        let registered = store.tree_copies().await?;
        let in_use: HashSet<VolumeRef> = (there.iter().filter(|copy| copy.in_use))
            .map(|copy| copy.volume.clone())
            .collect();
        let is_registered = |volume: &VolumeRef| registered.iter().any(|c| c.volume == *volume);
        let mut tidied = TidiedCopies::default();
        for copy in &there {
            if copy.in_use || is_registered(&copy.volume) {
                continue;
            }
            if mode == PruneMode::Remove {
                tracing::info!(volume = %copy.volume.0, "removing a copy that was not finished");
                let removed = runtime.remove_copy(&copy.volume).await;
                let removed = removed.map_err(Into::into);
                if !self.is_done(&copy.volume.0, removed).await? {
                    continue;
                }
            }
            tidied.count += 1;
        }
        let snapshots = store.snapshots(None).await?;
        let named = (snapshots.iter().flat_map(|s| s.volumes.values()))
            .map(|tree| tree.hash)
            .collect();
        let max_bytes = self.inner.options.copies_max_bytes;
        for volume in to_evict(&registered, &in_use, &named, max_bytes) {
            if mode == PruneMode::Remove {
                tracing::info!(volume = %volume.0, "removing a copy of a tree");
                // The record last: a volume without one would be taken for unfinished.
                let removed = runtime.remove_copy(&volume).await;
                if !self.is_done(&volume.0, removed.map_err(Into::into)).await? {
                    continue;
                }
                store.remove_tree_copy(&volume).await?;
                self.copies_known().remove(&volume);
            }
            let record = registered.iter().find(|copy| copy.volume == volume);
            tidied.count += 1;
            tidied.bytes += record.map_or(0, TreeCopy::disk_bytes);
        }
        Ok(tidied)
    }

    /// The same where there is somebody with a result to tell already.
    pub(super) async fn tidy_copies_logged(&self) {
        if let Err(error) = self.tidy_copies(PruneMode::Remove).await {
            tracing::warn!(%error, "copies of trees are tidied up later");
        }
    }

    fn copies_known(&self) -> std::sync::MutexGuard<'_, HashMap<VolumeRef, Captured>> {
        let known = self.inner.copies_known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_copy(&self, volume: &VolumeRef, known: Captured) {
        let mut all = self.copies_known();
        if all.len() >= REMEMBERED_COPIES
            && let Some(other) = all.keys().next().cloned()
        {
            all.remove(&other);
        }
        all.insert(volume.clone(), known);
    }

    fn recall_copy(&self, volume: &VolumeRef) -> Option<Captured> {
        self.copies_known().get(volume).cloned()
    }
}

/// What a delta writes, about.
fn cost(delta: &Delta<'_>) -> u64 {
    let content = (delta.entries.iter())
        .flat_map(|entry| listing::content(entry).map(|(_, length)| length))
        .sum();
    let entries = delta.entries.len() + delta.removes.len();
    disk_bytes(entries as u64, content)
}

/// Below an overlay such a device hides what it is named like.
fn looks_like_a_whiteout(entry: &TreeEntry) -> bool {
    entry.kind() == TreeEntryKind::CharacterDevice
        && (entry.device_major, entry.device_minor) == (0, 0)
}
