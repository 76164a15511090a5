//! What differs between two snapshots, or between a snapshot and now.
//!
//! Two snapshots are compared by their listings alone. "Now" is read through a
//! helper while the workspace does what it does: nobody stands still for it, and
//! a file that is being written may be told as it was or as it will be.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::PoisonError,
};

use async_trait::async_trait;
use bytes::Bytes;
use compyd_proto::{agent::TreeEntryKind, tree::walk_order};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Snapshots, SnapshotsError, listing,
    volumes::{self, Captured},
};
use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        snapshot::{CapturedVolume, Snapshot, hash::ChunkHash},
        workspace::Workspace,
    },
    ports::{
        chunks::{Chunk, ChunkError, ChunkPin, ChunkWriter, StoredBatch},
        snapshot_runtime::{VolumeAccess, helper_container},
        trees::{TreeEntry, WriteOut},
    },
};

/// What to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffRequest {
    /// What was before.
    pub from: SnapshotId,
    /// What is after.
    pub to: DiffTo,
}

/// The later side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffTo {
    /// A snapshot, also of another workspace.
    Snapshot(SnapshotId),
    /// A workspace as it is.
    Now(WorkspaceId),
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// In the volumes; by volume, in walk order.
    pub changes: Vec<Change>,
    /// In the root file system.
    pub root: RootDiff,
}

/// What differs in the root file system, of which no listing is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootDiff {
    /// Both are one image.
    Same,
    /// Each is an image of its own; what is in them is not compared.
    OtherImage,
    /// It is not looked at: that of a workspace as it is now.
    NotCompared,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it is.
    pub volume: CapturedVolume,
    /// Below the volume; empty for its root.
    pub path: Bytes,
    /// What happened to it.
    pub what: What,
    /// What it was; `None` when it was not there.
    pub before: Option<Side>,
    /// What it is; `None` when it is not there.
    pub after: Option<Side>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another kind of thing.
    Kind,
    /// Its content is another.
    Content,
    /// Its content is the same; mode, owner, time, attributes or other names of
    /// it differ.
    Metadata,
}

/// A path on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// What it is.
    pub kind: TreeEntryKind,
    /// Its size in bytes; 0 for what is no file.
    pub size_bytes: u64,
}

type Volumes = BTreeMap<CapturedVolume, Vec<TreeEntry>>;

impl Snapshots {
    /// Compares. To be run to its end: a helper is to be removed. Where nobody waits
    /// for the answer any more, `gone` says so, and volumes are read no further.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`], [`SnapshotsError::Damaged`],
    /// [`SnapshotsError::NoContainer`] of a workspace as it is now,
    /// [`SnapshotsError::Abandoned`]; an engine or a store that does not do its part.
    pub async fn diff(
        &self,
        request: DiffRequest,
        gone: &CancellationToken,
    ) -> Result<Diff, SnapshotsError> {
        self.ready()?;
        let _read = self.inner.deleting.read().await;
        let from = self.get(&request.from).await?;
        let (to, root) = match request.to {
            DiffTo::Now(workspace) => (self.look(&workspace, gone).await?, RootDiff::NotCompared),
            DiffTo::Snapshot(id) => {
                let to = self.get(&id).await?;
                let root = match to.image.id == from.image.id {
                    true => RootDiff::Same,
                    false => RootDiff::OtherImage,
                };
                // What is the same as a whole need not be read.
                let differs = |volume: &CapturedVolume| {
                    let hash = |s: &Snapshot| s.volumes.get(volume).map(|tree| tree.hash);
                    hash(&from) != hash(&to)
                };
                let (mut before, mut after) = (Volumes::new(), Volumes::new());
                for volume in CapturedVolume::ALL.into_iter().filter(differs) {
                    for (side, manifest) in [(&mut before, &from), (&mut after, &to)] {
                        if let Some(tree) = manifest.volumes.get(&volume) {
                            let entries = listing::read(tree, &*self.inner.chunks).await?;
                            side.insert(volume, entries);
                        }
                    }
                }
                return Ok(Diff {
                    changes: compare_all(&before, &after),
                    root,
                });
            }
        };
        let mut before = Volumes::new();
        for (volume, tree) in &from.volumes {
            before.insert(*volume, listing::read(tree, &*self.inner.chunks).await?);
        }
        Ok(Diff {
            changes: compare_all(&before, &to),
            root,
        })
    }

    /// What the volumes of a workspace hold now.
    async fn look(
        &self,
        id: &WorkspaceId,
        gone: &CancellationToken,
    ) -> Result<Volumes, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let held = gone.run_until_cancelled(workspaces.hold(id)).await;
        let _held = held.ok_or(SnapshotsError::Abandoned)?;
        let workspace = workspaces.living(id)?;
        if workspaces.runtime().find(id).await?.is_none() {
            let name = workspace.definition.name.clone();
            return Err(SnapshotsError::NoContainer(name));
        }
        let helper = WorkspaceId::from_uuid(Uuid::now_v7());
        let seen = self.look_through(&helper, &workspace, gone).await;
        // One that a kill leaves is swept at the next start.
        self.remove_container(&helper_container(&helper)).await?;
        seen
    }

    async fn look_through(
        &self,
        helper: &WorkspaceId,
        workspace: &Workspace,
        gone: &CancellationToken,
    ) -> Result<Volumes, SnapshotsError> {
        // Not given up halfway: what the engine is asked for, it makes.
        let trees = self
            .open_helper(helper, workspace, VolumeAccess::Read, None)
            .await?;
        let mut remembered = self.remembered(workspace);
        let mut volumes = Volumes::new();
        for volume in CapturedVolume::ALL {
            let before = remembered.remove(&volume).unwrap_or_default();
            let write_out = WriteOut::No;
            let mut nowhere = Nowhere;
            let seen = volumes::capture(&*trees, volume, &before, write_out, &mut nowhere);
            let seen = gone.run_until_cancelled(seen).await;
            let seen = seen.ok_or(SnapshotsError::Abandoned)??;
            volumes.insert(volume, seen.entries);
        }
        Ok(volumes)
    }

    /// What is known of the volumes from the last snapshot, so that what did not
    /// change since need not be read.
    fn remembered(&self, workspace: &Workspace) -> BTreeMap<CapturedVolume, Captured> {
        let remembered = (self.inner.remembered.lock()).unwrap_or_else(PoisonError::into_inner);
        match remembered.get(&workspace.id) {
            Some(found) if found.generation == workspace.generation => found.volumes.clone(),
            Some(_) | None => BTreeMap::new(),
        }
    }
}

/// A batch that keeps nothing: only the names of chunks are wanted.
struct Nowhere;

#[async_trait]
impl ChunkWriter for Nowhere {
    async fn missing(&mut self, _: Vec<ChunkHash>) -> Result<Vec<ChunkHash>, ChunkError> {
        Ok(Vec::new())
    }

    async fn put(&mut self, _: Chunk) -> Result<(), ChunkError> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<StoredBatch, ChunkError> {
        Ok(StoredBatch {
            chunks: 0,
            stored_bytes: 0,
            pin: ChunkPin::new(()),
        })
    }
}

fn compare_all(before: &Volumes, after: &Volumes) -> Vec<Change> {
    let mut changes = Vec::new();
    for volume in CapturedVolume::ALL {
        let [before, after] =
            [before, after].map(|side| side.get(&volume).map_or(&[][..], Vec::as_slice));
        compare(volume, before, after, &mut changes);
    }
    changes
}

/// Adds what differs between two trees in walk order.
fn compare(
    volume: CapturedVolume,
    before: &[TreeEntry],
    after: &[TreeEntry],
    changes: &mut Vec<Change>,
) {
    let (firsts_before, firsts_after) = (Firsts::of(before), Firsts::of(after));
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => walk_order(&old.path, &new.path),
        };
        let was = (order.is_le()).then(|| old.next()).flatten();
        let is = (order.is_ge()).then(|| new.next()).flatten();
        let found = match (was, is) {
            (Some(_), None) => Some(What::Removed),
            (None, Some(_)) => Some(What::Added),
            (Some(was), Some(is)) => {
                let other_names = was.hard_link != is.hard_link;
                let (was, is) = (firsts_before.first(was), firsts_after.first(is));
                difference(was, is).or_else(|| other_names.then_some(What::Metadata))
            }
            (None, None) => None,
        };
        let path = was.or(is).map(|entry| entry.path.clone());
        if let (Some(what), Some(path)) = (found, path) {
            changes.push(Change {
                volume,
                path,
                what,
                before: was.map(|entry| side(firsts_before.first(entry))),
                after: is.map(|entry| side(firsts_after.first(entry))),
            });
        }
    }
}

/// The first names of files that have several: the others' properties.
struct Firsts<'a> {
    by_path: HashMap<&'a Bytes, &'a TreeEntry>,
}

impl<'a> Firsts<'a> {
    fn of(entries: &'a [TreeEntry]) -> Self {
        let mut by_path: HashMap<&Bytes, &TreeEntry> = (entries.iter())
            .filter(|entry| !entry.hard_link.is_empty())
            .map(|entry| (&entry.hard_link, entry))
            .collect();
        for entry in entries {
            if let Some(first) = by_path.get_mut(&entry.path) {
                *first = entry;
            }
        }
        Self { by_path }
    }

    fn first(&self, entry: &'a TreeEntry) -> &'a TreeEntry {
        match entry.hard_link.is_empty() {
            true => entry,
            false => self.by_path.get(&entry.hard_link).unwrap_or(&entry),
        }
    }
}

fn side(entry: &TreeEntry) -> Side {
    Side {
        kind: entry.kind(),
        size_bytes: entry.size_bytes,
    }
}

/// What differs between two things at the same path.
fn difference(was: &TreeEntry, is: &TreeEntry) -> Option<What> {
    if was.kind != is.kind {
        return Some(What::Kind);
    }
    let content = |entry: &TreeEntry| {
        let target = entry.link_target.clone();
        (target, entry.device_major, entry.device_minor)
    };
    if was.extents != is.extents || content(was) != content(is) {
        return Some(What::Content);
    }
    // The time of a directory tells that what is in it changed, which is told.
    let time = |entry: &TreeEntry| match entry.kind() {
        TreeEntryKind::Directory => (0, 0),
        TreeEntryKind::Unspecified
        | TreeEntryKind::File
        | TreeEntryKind::Symlink
        | TreeEntryKind::Fifo
        | TreeEntryKind::CharacterDevice
        | TreeEntryKind::BlockDevice => (entry.mtime_s, entry.mtime_ns),
    };
    let metadata = |entry: &TreeEntry| (entry.mode, entry.uid, entry.gid, time(entry));
    let differs = metadata(was) != metadata(is) || was.xattrs != is.xattrs;
    differs.then_some(What::Metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::trees::Extent;

    fn entry(path: &'static str, kind: TreeEntryKind) -> TreeEntry {
        TreeEntry {
            path: Bytes::from_static(path.as_bytes()),
            kind: kind.into(),
            mode: 0o644,
            ..TreeEntry::default()
        }
    }

    fn file(path: &'static str, content: &'static [u8]) -> TreeEntry {
        let extent = Extent {
            length: content.len() as u64,
            hash: Bytes::copy_from_slice(ChunkHash::of(content).as_bytes()),
        };
        TreeEntry {
            size_bytes: content.len() as u64,
            extents: vec![extent],
            ..entry(path, TreeEntryKind::File)
        }
    }

    fn link(path: &'static str, to: &'static str) -> TreeEntry {
        TreeEntry {
            mode: 0,
            hard_link: Bytes::from_static(to.as_bytes()),
            ..entry(path, TreeEntryKind::File)
        }
    }

    fn seen(before: &[TreeEntry], after: &[TreeEntry]) -> Vec<(String, What)> {
        let mut changes = Vec::new();
        compare(CapturedVolume::Work, before, after, &mut changes);
        let path = |change: &Change| String::from_utf8(change.path.to_vec()).unwrap();
        changes.iter().map(|c| (path(c), c.what)).collect()
    }

    #[test]
    fn each_path_is_told_once_with_what_happened_to_it() {
        let root = || entry("", TreeEntryKind::Directory);
        let before = [
            root(),
            file("content", b"1"),
            file("gone", b"1"),
            file("kind", b"1"),
            file("mode", b"1"),
            file("same", b"1"),
        ];
        let mut mode = file("mode", b"1");
        mode.mode = 0o600;
        let mut changed_root = root();
        changed_root.mtime_s = 7;
        let after = [
            changed_root,
            file("content", b"12"),
            entry("kind", TreeEntryKind::Directory),
            file("kind/new", b"1"),
            mode,
            file("same", b"1"),
        ];
        let told = |path: &str, what| (path.to_owned(), what);
        assert_eq!(
            seen(&before, &after),
            [
                told("content", What::Content),
                told("gone", What::Removed),
                told("kind", What::Kind),
                told("kind/new", What::Added),
                told("mode", What::Metadata),
            ]
        );
        assert_eq!(seen(&before, &before), []);
        assert_eq!(seen(&[], &before[..1]), [told("", What::Added)]);
        let mut changes = Vec::new();
        compare(CapturedVolume::Home, &before, &after, &mut changes);
        assert_eq!(
            changes[0],
            Change {
                volume: CapturedVolume::Home,
                path: Bytes::from_static(b"content"),
                what: What::Content,
                before: Some(Side {
                    kind: TreeEntryKind::File,
                    size_bytes: 1
                }),
                after: Some(Side {
                    kind: TreeEntryKind::File,
                    size_bytes: 2
                }),
            }
        );
    }

    #[test]
    fn every_name_of_a_file_is_told_when_it_changes() {
        let before = [file("a", b"1"), link("b", "a"), link("c", "a")];
        let after = [file("a", b"2"), link("b", "a"), link("c", "a")];
        let told: Vec<_> = seen(&before, &after).into_iter().collect();
        let all = ["a", "b", "c"].map(|path| (path.to_owned(), What::Content));
        assert_eq!(told, all);
        // A name of its own: the same content, and no longer the same file.
        let parted = [file("a", b"1"), link("b", "a"), file("c", b"1")];
        assert_eq!(seen(&before, &parted), [("c".to_owned(), What::Metadata)]);
    }
}
