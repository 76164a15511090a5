//! Making the layers of an image one.
//!
//! ```text
//! base image ----> helper, writable <---- what differs      commit: one layer
//! image ---------> helper ---------------'                  over the base
//! ```
//!
//! Both helpers see nothing but the files of their images. Files that the images
//! share are the same inodes, so looking at them is enough to know them; only
//! what the layers changed is read, through the store of chunks. It works the same
//! whatever keeps the images, and the base stays shared.
//!
//! An image is flattened in the middle of its snapshot, and its snapshot's tag
//! moves to the new one: so a kill undoes both with the snapshot, and a failure
//! leaves the image as it was committed. An image that is made anew to leave out
//! files with credentials is kept so or not at all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use compyd_proto::tree::{Delta, delta};
use futures_util::TryStreamExt as _;
use uuid::Uuid;

use super::{
    Snapshots, SnapshotsError, listing, root::HeldRoot, scan::ScannedTrees, take::Taking, volumes,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        redaction::Redactor,
        snapshot::{
            journal::{ImageRef, Operation, SnapshotStep},
            layers::BaseImage,
        },
    },
    ports::{
        chunks::ChunkWriter,
        runtime::ContainerId,
        snapshot_runtime::{CommittedImage, FileAccess, ImageHelperPlan, helper_container},
        trees::{
            CaptureEvent, CapturedEntry, KeyedFile, KnownFiles, RestoreExtent, TreeEntry,
            TreeEntryKind, TreesPort, WriteOut,
        },
    },
};

/// The whole file system of a helper.
const ROOT: &str = "/";

/// An image with its layers made one, and the files that were left out of it with
/// the markers of their credentials.
type Remade = (CommittedImage, BTreeMap<String, String>);

/// The containers of a flattening.
struct Helpers {
    /// Sees the files of the image.
    read: WorkspaceId,
    /// Sees the files of its base, and becomes the new image.
    write: WorkspaceId,
}

impl Helpers {
    fn step(&self, image: &CommittedImage) -> SnapshotStep {
        SnapshotStep::Flattening {
            read: helper_container(&self.read),
            write: helper_container(&self.write),
            image: ImageRef(image.id.clone()),
        }
    }
}

impl Snapshots {
    /// Makes the layers of a snapshot's image one where they have become too
    /// many. What goes wrong leaves the image as it is, for the next snapshot
    /// to try again.
    ///
    /// # Errors
    /// A store or an engine that cannot even put in order what was begun.
    pub(super) async fn flatten_if_due(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        image: CommittedImage,
    ) -> Result<CommittedImage, SnapshotsError> {
        let tag = ImageRef::of(&taking.snapshot);
        let made_from = &taking.workspace.definition.image;
        let layers = self.inner.runtime.layers(&tag.0, made_from).await?;
        let Some(base) = layers.flatten_onto(self.inner.options.layers_max) else {
            return Ok(image);
        };
        tracing::info!(snapshot_id = %taking.snapshot, layers = layers.count,
            base_layers = base.count, "making the layers of an image one");
        let nothing = Arc::new(Redactor::new([]));
        match self
            .remake(taking, operation, &image, base, nothing)
            .await?
        {
            Ok((flat, _)) => Ok(flat),
            Err(error) => {
                tracing::warn!(snapshot_id = %taking.snapshot, layers = layers.count, %error,
                    "the layers of an image are left as they are; the next snapshot tries again");
                Ok(image)
            }
        }
    }

    /// Makes a snapshot's image anew without the files that hold a credential, and
    /// says which those are. What goes wrong ends the snapshot.
    ///
    /// # Errors
    /// [`SnapshotsError::Credential`] when the image that it was begun with is gone,
    /// or a file would stay.
    pub(super) async fn without_credentials(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        root: &HeldRoot,
        redactor: Arc<Redactor>,
    ) -> Result<Remade, SnapshotsError> {
        let tag = ImageRef::of(&taking.snapshot);
        let made_from = &taking.workspace.definition.image;
        let layers = self.inner.runtime.layers(&tag.0, made_from).await?;
        let base = layers.base.ok_or_else(|| {
            SnapshotsError::Credential(format!(
                "files of the root file system hold a credential and cannot be left out, as image {made_from} is gone; pull it, or delete the files"
            ))
        })?;
        let remade = self.remake(taking, operation, &root.image, &base, redactor);
        let (image, left_out) = remade.await??;
        match root
            .left_out
            .keys()
            .find(|path| !left_out.contains_key(*path))
        {
            None => Ok((image, left_out)),
            Some(path) => Err(SnapshotsError::Credential(format!(
                "{path} in the root file system holds a credential and cannot be left out; delete it"
            ))),
        }
    }

    /// Makes what an image has over its base one layer, without the files in which
    /// this redactor finds something; the outer error is of who cannot even put in
    /// order what was begun.
    async fn remake(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        image: &CommittedImage,
        base: &BaseImage,
        redactor: Arc<Redactor>,
    ) -> Result<Result<Remade, SnapshotsError>, SnapshotsError> {
        let helpers = Helpers {
            read: WorkspaceId::from_uuid(Uuid::now_v7()),
            write: WorkspaceId::from_uuid(Uuid::now_v7()),
        };
        self.advance(operation, taking.progress(helpers.step(image)))
            .await?;
        let flattened = self.flatten(taking, &helpers, base, redactor).await;
        for helper in [&helpers.read, &helpers.write] {
            self.remove_container(&helper_container(helper)).await?;
        }
        if flattened.is_ok() {
            // Its tag has gone to the new one.
            let old = ImageRef(image.id.clone());
            self.inner.runtime.remove_image(&old).await?;
        }
        Ok(flattened)
    }

    async fn flatten(
        &self,
        taking: &Taking<'_>,
        helpers: &Helpers,
        base: &BaseImage,
        redactor: Arc<Redactor>,
    ) -> Result<Remade, SnapshotsError> {
        let tag = ImageRef::of(&taking.snapshot);
        // Both to their ends: what is being made must be there to be removed.
        let (read, write) = tokio::join!(
            self.open_image(&helpers.read, &tag.0, FileAccess::Read),
            self.open_image(&helpers.write, &base.id, FileAccess::Write),
        );
        let (read, write) = (ScannedTrees::new(read?, redactor), write?);
        let mut writer = self.inner.chunks.writer().await?;
        let before = look(&*write).await?;
        let after = read_changed(&read, &before, &mut *writer).await?;
        // The pin holds until what was read is in its place.
        let stored = writer.finish().await?;
        let Delta { removes, entries } = delta(&before.entries, &after);
        let mut changed = Vec::with_capacity(entries.len());
        let by_path: HashMap<&Bytes, &TreeEntry> = (before.entries.iter())
            .map(|entry| (&entry.path, entry))
            .collect();
        for entry in entries {
            if !is_complete(entry) {
                return Err(SnapshotsError::Agent(
                    "a file that changed came without content",
                ));
            }
            let old = by_path.get(&entry.path).copied();
            changed.push(visible(entry.clone(), old));
        }
        tracing::debug!(snapshot_id = %taking.snapshot, removes = removes.len(),
            entries = changed.len(), of = after.len(), "what the layers changed");
        let steps = Delta {
            removes,
            entries: changed.iter().collect(),
        };
        let (extent, chunks) = (RestoreExtent::Delta, &*self.inner.chunks);
        volumes::restore(&*write, ROOT, extent, &steps, chunks).await?;
        drop(stored.pin);
        let container = ContainerId(helper_container(&helpers.write).0);
        let runtime = &self.inner.runtime;
        let made = runtime.commit_like(&container, &tag, &taking.snapshot);
        Ok((made.await?, read.found()))
    }

    /// Starts a helper that sees the files of an image.
    async fn open_image(
        &self,
        id: &WorkspaceId,
        image: &str,
        access: FileAccess,
    ) -> Result<Arc<dyn TreesPort>, SnapshotsError> {
        let link_dir = self.inner.workspaces.links().prepare(id).await?;
        let plan = ImageHelperPlan {
            id: id.clone(),
            image: image.to_owned(),
            link_dir,
            access,
        };
        let container = self.inner.runtime.create_image_helper(&plan).await?;
        self.start_helper(id, &container).await
    }
}

/// What a file system holds, without the content of its files.
#[derive(Default)]
struct Looked {
    /// In walk order, without mounts.
    entries: Vec<TreeEntry>,
    known: KnownFiles,
}

async fn look(trees: &dyn TreesPort) -> Result<Looked, SnapshotsError> {
    let mut looked = Looked::default();
    let mut events = trees.look(ROOT);
    while let Some(event) = events.try_next().await? {
        match event {
            CaptureEvent::Chunk(_) => {
                return Err(SnapshotsError::Agent("a look came with content"));
            }
            CaptureEvent::Entry(seen) => looked.add(*seen),
            CaptureEvent::Ended { as_of_ns } => {
                looked.known.as_of_ns = as_of_ns;
                return Ok(looked);
            }
        }
    }
    Err(SnapshotsError::Agent("a look ended early"))
}

impl Looked {
    fn add(&mut self, seen: CapturedEntry) {
        if seen.mount {
            return;
        }
        if let Some(key) = seen.key {
            self.known.files.push(KeyedFile {
                path: seen.entry.path.clone(),
                key: Some(key),
            });
        }
        self.entries.push(seen.entry);
    }
}

/// Reads what is not in the base already into a batch. Entries of files that are
/// come without extents, as those of a look do.
async fn read_changed(
    trees: &dyn TreesPort,
    base: &Looked,
    writer: &mut dyn ChunkWriter,
) -> Result<Vec<TreeEntry>, SnapshotsError> {
    let mut entries = Vec::new();
    let mut events = trees.capture(ROOT, base.known.clone(), WriteOut::No);
    while let Some(event) = events.try_next().await? {
        match event {
            CaptureEvent::Chunk(chunk) => writer.put(chunk).await?,
            CaptureEvent::Entry(seen) if seen.mount => {}
            CaptureEvent::Entry(seen) => {
                if !listing::is_sound(&seen.entry) {
                    return Err(SnapshotsError::Agent("a hash is not 32 bytes"));
                }
                entries.push(seen.entry);
            }
            CaptureEvent::Ended { .. } => return Ok(entries),
        }
    }
    Err(SnapshotsError::Agent("a capture ended early"))
}

/// Whether the content of an entry is known.
fn is_complete(entry: &TreeEntry) -> bool {
    let length: u64 = entry.extents.iter().map(|extent| extent.length).sum();
    !entry.hard_link.is_empty() || length == entry.size_bytes
}

/// An entry as it is seen by an engine that tells changes by size and whole
/// seconds: a file that changed while both stayed the same is made a second
/// younger, or its content would be lost.
fn visible(entry: TreeEntry, old: Option<&TreeEntry>) -> TreeEntry {
    let hidden = old.is_some_and(|old| {
        old.kind == entry.kind
            && old.mode == entry.mode
            && (old.uid, old.gid) == (entry.uid, entry.gid)
            && old.size_bytes == entry.size_bytes
            && old.mtime_s == entry.mtime_s
    });
    let holds = !entry.extents.is_empty() || entry.kind() == TreeEntryKind::Symlink;
    if !hidden || !holds || !entry.hard_link.is_empty() {
        return entry;
    }
    TreeEntry {
        mtime_s: entry.mtime_s.saturating_add(1),
        ..entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::trees::Extent;

    fn file(mtime_s: i64, size_bytes: u64) -> TreeEntry {
        TreeEntry {
            path: Bytes::from_static(b"f"),
            kind: TreeEntryKind::File.into(),
            mtime_s,
            size_bytes,
            extents: vec![Extent {
                length: size_bytes,
                hash: vec![0; 32].into(),
            }],
            ..TreeEntry::default()
        }
    }

    #[test]
    fn a_change_that_an_engine_would_not_see_is_made_to_be_seen() {
        let old = file(7, 3);
        for (new, expected) in [
            (file(7, 3), 8),
            (file(7, 4), 7),
            (file(9, 3), 9),
            (
                TreeEntry {
                    mode: 0o4755,
                    ..file(7, 3)
                },
                7,
            ),
        ] {
            assert_eq!(
                visible(new.clone(), Some(&old)).mtime_s,
                expected,
                "{new:?}"
            );
        }
        assert_eq!(visible(file(7, 3), None).mtime_s, 7);
    }

    #[test]
    fn a_file_without_its_content_is_not_complete() {
        let looked = TreeEntry {
            extents: vec![],
            ..file(7, 3)
        };
        assert!(!is_complete(&looked));
        assert!(is_complete(&file(7, 3)));
        assert!(is_complete(&TreeEntry {
            extents: vec![],
            ..file(7, 0)
        }));
    }
}
