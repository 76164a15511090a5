//! The content of volumes, out of them and into them, through a helper.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use compyd_proto::tree::Delta;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{SnapshotsError, listing};
use crate::{
    domain::snapshot::{CapturedVolume, hash::ChunkHash},
    ports::{
        chunks::{ChunkError, ChunkPort, ChunkWriter},
        snapshot_runtime::volume_directory,
        trees::{
            CaptureEvent, FileKey, KeyedFile, KnownFiles, RestoreExtent, RestoreItem, TreeEntry,
            TreesPort, WriteOut,
        },
    },
};

/// Hashes asked about at once.
const HASHES_AT_ONCE: usize = 10_000;

/// What a volume held when it was looked at, and how to see what changed since.
#[derive(Debug, Clone, Default)]
pub(super) struct Captured {
    /// In walk order.
    pub(super) entries: Vec<TreeEntry>,
    /// By path, where the file need not be read again.
    keys: HashMap<Bytes, FileKey>,
    as_of_ns: i64,
}

impl Captured {
    /// Forgets the files whose chunks are not to be had any more; the others
    /// are kept for the batch.
    pub(super) async fn only_stored(
        mut self,
        writer: &mut dyn ChunkWriter,
    ) -> Result<Self, SnapshotsError> {
        let keyed = |entry: &&TreeEntry| self.keys.contains_key(&entry.path);
        let named: Vec<ChunkHash> = (self.entries.iter().filter(keyed))
            .flat_map(|entry| listing::content(entry).map(|(hash, _)| hash))
            .collect();
        let missing = missing(named, writer).await?;
        if !missing.is_empty() {
            let lost = |entry: &TreeEntry| {
                listing::content(entry).any(|(hash, _)| missing.contains(&hash))
            };
            for entry in self.entries.iter().filter(|entry| lost(entry)) {
                self.keys.remove(&entry.path);
            }
        }
        Ok(self)
    }

    /// What a volume holds that was just filled.
    fn restored(entries: &[TreeEntry], files: KnownFiles) -> Self {
        let keys = (files.files.into_iter())
            .filter_map(|file| Some((file.path, file.key?)))
            .collect();
        Self {
            entries: entries.to_vec(),
            keys,
            as_of_ns: files.as_of_ns,
        }
    }

    /// What a volume holds that lies over this one and was changed to hold
    /// these entries. An overlay shows a file that was not written with the
    /// number and the times it has below; one that was written is read again.
    pub(super) fn beneath(&self, entries: Vec<TreeEntry>, delta: &Delta<'_>) -> Self {
        let mut keys = self.keys.clone();
        for entry in &delta.entries {
            keys.remove(&entry.path);
        }
        Self {
            entries,
            keys,
            as_of_ns: self.as_of_ns,
        }
    }

    fn known(&self) -> KnownFiles {
        let files = self.keys.iter().map(|(path, key)| KeyedFile {
            path: path.clone(),
            key: Some(*key),
        });
        KnownFiles {
            files: files.collect(),
            as_of_ns: self.as_of_ns,
        }
    }
}

/// Which of these chunks are neither stored nor in the batch.
async fn missing(
    hashes: Vec<ChunkHash>,
    writer: &mut dyn ChunkWriter,
) -> Result<Vec<ChunkHash>, SnapshotsError> {
    let mut missing = Vec::new();
    for hashes in hashes.chunks(HASHES_AT_ONCE) {
        missing.extend(writer.missing(hashes.to_vec()).await?);
    }
    Ok(missing)
}

/// Reads a volume into a batch: all of it, or what changed since `before`,
/// whose chunks are in the batch or stored. Where it is not written out first,
/// what is remembered of it is trusted as of `before` and no later.
pub(super) async fn capture(
    trees: &dyn TreesPort,
    volume: CapturedVolume,
    before: &Captured,
    write_out: WriteOut,
    writer: &mut dyn ChunkWriter,
) -> Result<Captured, SnapshotsError> {
    let by_path: HashMap<&Bytes, &TreeEntry> = (before.entries.iter())
        .map(|entry| (&entry.path, entry))
        .collect();
    let mut captured = Captured::default();
    let mut events = trees.capture(volume_directory(volume), before.known(), write_out);
    let mut ended = false;
    while let Some(event) = events.try_next().await? {
        match event {
            CaptureEvent::Chunk(chunk) => writer.put(chunk).await?,
            CaptureEvent::Entry(seen) => {
                let mut entry = seen.entry;
                if seen.same {
                    let known = by_path.get(&entry.path);
                    entry.extents = known
                        .ok_or(SnapshotsError::Agent(
                            "a file is said to be known and is not",
                        ))?
                        .extents
                        .clone();
                }
                if !listing::is_sound(&entry) {
                    return Err(SnapshotsError::Agent("a hash is not 32 bytes"));
                }
                if let Some(key) = seen.key {
                    captured.keys.insert(entry.path.clone(), key);
                }
                captured.entries.push(entry);
            }
            CaptureEvent::Ended { as_of_ns } => {
                captured.as_of_ns = match write_out {
                    WriteOut::First => as_of_ns,
                    // A page that got dirty since then may be written again
                    // without a trace.
                    WriteOut::No => before.as_of_ns,
                };
                ended = true;
            }
        }
    }
    if !ended {
        return Err(SnapshotsError::Agent("a capture ended early"));
    }
    // What is named has to be there, whatever the agent said.
    let named = (captured.entries.iter())
        .flat_map(|entry| listing::content(entry).map(|(hash, _)| hash))
        .collect();
    if !missing(named, writer).await?.is_empty() {
        return Err(SnapshotsError::Agent("a chunk that is named did not come"));
    }
    Ok(captured)
}

/// Makes a volume hold a tree and nothing else. Returns it as a capture would
/// see it.
pub(super) async fn fill(
    trees: &dyn TreesPort,
    volume: CapturedVolume,
    entries: &[TreeEntry],
    chunks: &dyn ChunkPort,
) -> Result<Captured, SnapshotsError> {
    let all = Delta {
        removes: Vec::new(),
        entries: entries.iter().collect(),
    };
    let files = restore(
        trees,
        volume_directory(volume),
        RestoreExtent::Whole,
        &all,
        chunks,
    )
    .await?;
    Ok(Captured::restored(entries, files))
}

/// Makes a volume that holds one tree hold another.
pub(super) async fn change(
    trees: &dyn TreesPort,
    volume: CapturedVolume,
    delta: &Delta<'_>,
    chunks: &dyn ChunkPort,
) -> Result<(), SnapshotsError> {
    let directory = volume_directory(volume);
    restore(trees, directory, RestoreExtent::Delta, delta, chunks)
        .await
        .map(drop)
}

/// Does these steps in a directory. Every chunk that they name is stored.
pub(super) async fn restore(
    trees: &dyn TreesPort,
    directory: &str,
    extent: RestoreExtent,
    steps: &Delta<'_>,
    chunks: &dyn ChunkPort,
) -> Result<KnownFiles, SnapshotsError> {
    let hashes = (steps.entries.iter())
        .flat_map(|entry| listing::content(entry).map(|(hash, _)| hash))
        .collect();
    let content = chunks.stream(hashes);
    let failure: Arc<Mutex<Option<ChunkError>>> = Arc::default();
    let failed = failure.clone();
    let removes: Vec<_> = (steps.removes.iter().cloned())
        .map(RestoreItem::Remove)
        .collect();
    let entries: Vec<TreeEntry> = steps.entries.iter().map(|entry| (*entry).clone()).collect();
    // Each entry, then as many contents as it has chunks. Content that cannot
    // be read ends the items, and what was filled is thrown away.
    let items = stream::unfold(
        (entries.into_iter(), 0, content, failed),
        |(mut entries, due, mut content, failed)| async move {
            if due == 0 {
                let entry = entries.next()?;
                let due = listing::content(&entry).count();
                let item = RestoreItem::Entry(Box::new(entry));
                return Some((item, (entries, due, content, failed)));
            }
            match content.next().await? {
                Ok(bytes) => {
                    let item = RestoreItem::Content(bytes);
                    Some((item, (entries, due - 1, content, failed)))
                }
                Err(error) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            }
        },
    );
    let items = stream::iter(removes).chain(items).boxed();
    let restored = trees.restore(directory, extent, items).await;
    let failure = failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(error) = failure {
        return Err(error.into());
    }
    let restored = restored?;
    if restored.entries != steps.entries.len() as u64 {
        return Err(SnapshotsError::Agent("not every entry was put in place"));
    }
    Ok(restored.files)
}
