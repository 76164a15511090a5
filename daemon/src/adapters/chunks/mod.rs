//! Chunks in pack files.
//!
//! ```text
//! chunks/00000001.pack   chunk | chunk | ... | index
//! chunks/00000002.pack   chunk | ... | index
//! chunks/tmp/            packs of batches under way, removed at the next start
//! ```
//!
//! A batch writes packs of its own. They are synced as they become full and
//! get their names when the batch is finished: a crash before that leaves
//! nothing, one in the middle of it leaves chunks that no manifest names. A
//! pack never changes; pruning writes what is left of some into a new one and
//! then removes them, so that after a crash a chunk may be there twice, which
//! does no harm.
//!
//! Where each chunk is, is kept in memory, 51 to 103 bytes for each, and found
//! again from the packs' own indexes when the store is opened.

mod pack;
pub(super) mod pins;
mod prune;
mod record;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use self::{
    pack::{Entry, OpenError, PackState, SealedPack, UnfinishedPack},
    pins::{Pin, Pins},
    prune::FilePruning,
    writer::FileChunkWriter,
};
use super::disk_space::{free_bytes, is_disk_full, sync_dir};
use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{Chunk, ChunkError, ChunkPort, ChunkWriter, Pruning},
};

/// A pack with this much is full.
const PACK_BYTES: u64 = 64 << 20;
/// Chunks of a stream that are read at once.
const READ_TOGETHER: usize = 16;
/// How many times that is read ahead.
const READ_AHEAD: usize = 2;

/// Chunks in a directory. Clones share it.
#[derive(Debug, Clone)]
pub struct FileChunks {
    store: Arc<Store>,
}

impl FileChunks {
    /// Opens or makes the directory and removes what a crash left unfinished.
    /// Below `low_water_bytes` of free space nothing more is written. Blocks:
    /// call it off the async threads.
    ///
    /// # Errors
    /// [`ChunkError::NewerFormat`], [`ChunkError::DiskFull`] or
    /// [`ChunkError::Io`].
    pub fn open(root: impl Into<PathBuf>, low_water_bytes: u64) -> Result<Self, ChunkError> {
        Self::open_with(root.into(), low_water_bytes, PACK_BYTES)
    }

    fn open_with(root: PathBuf, low_water_bytes: u64, pack_bytes: u64) -> Result<Self, ChunkError> {
        let store = Store {
            unfinished: root.join("tmp"),
            root,
            low_water_bytes,
            pack_bytes,
            state: Mutex::default(),
            pins: Arc::default(),
            turn: Arc::default(),
        };
        store.prepare()?;
        let store = Arc::new(store);
        Ok(Self { store })
    }
}

#[async_trait]
impl ChunkPort for FileChunks {
    async fn writer(&self) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        let store = self.store.clone();
        blocking(move || store.require_room()).await?;
        Ok(Box::new(FileChunkWriter::new(self.store.clone())))
    }

    async fn read(&self, hash: &ChunkHash) -> Result<Bytes, ChunkError> {
        let (store, hash) = (self.store.clone(), *hash);
        let mut read = blocking(move || store.read(&[hash])).await?;
        read.pop().ok_or(ChunkError::Missing(hash))
    }

    fn stream(&self, hashes: Vec<ChunkHash>) -> BoxStream<'static, Result<Bytes, ChunkError>> {
        let store = self.store.clone();
        let groups: Vec<Vec<_>> = hashes.chunks(READ_TOGETHER).map(<[_]>::to_vec).collect();
        stream::iter(groups)
            .map(move |group| {
                let store = store.clone();
                blocking(move || store.read(&group))
            })
            .buffered(READ_AHEAD)
            .map_ok(|chunks| stream::iter(chunks).map(Ok))
            .try_flatten()
            .boxed()
    }

    async fn prune(&self) -> Box<dyn Pruning> {
        let turn = self.store.turn.clone().lock_owned().await;
        Box::new(FilePruning::begin(self.store.clone(), turn))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ChunkError> + Send + 'static,
) -> Result<T, ChunkError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ChunkError::Io {
                action: "run its work".to_owned(),
                message: error.to_string(),
            })
        })
}

/// What the clones, batches and prunings share.
#[derive(Debug)]
struct Store {
    root: PathBuf,
    /// Below `root`, so that a rename stays within the file system.
    unfinished: PathBuf,
    low_water_bytes: u64,
    pack_bytes: u64,
    /// Locked before the pins. A file that it names is there while it is
    /// locked.
    state: Mutex<State>,
    pins: Arc<Pins>,
    /// Held by the pruning under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What is durable, and where.
#[derive(Debug, Default)]
struct State {
    chunks: HashMap<ChunkHash, Place>,
    packs: BTreeMap<u32, Pack>,
    /// The number of the newest pack.
    newest: u32,
}

/// The place of a chunk's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    pack: u32,
    offset: u32,
    length: u32,
}

/// What is known of a pack.
#[derive(Debug, Clone, Copy)]
struct Pack {
    /// Of its file.
    bytes: u64,
    state: PackState,
}

/// What a new pack does to chunks that are elsewhere already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    /// They stay there; what is in the new pack is garbage.
    Stay,
    /// They are in the new pack from now on.
    Move,
}

impl State {
    fn add(
        &mut self,
        number: u32,
        pack: Pack,
        entries: impl IntoIterator<Item = Entry>,
        elsewhere: Elsewhere,
    ) {
        self.newest = self.newest.max(number);
        self.packs.insert(number, pack);
        for entry in entries {
            let place = Place {
                pack: number,
                offset: entry.offset,
                length: entry.length,
            };
            match self.chunks.entry(entry.hash) {
                hash_map::Entry::Vacant(vacant) => drop(vacant.insert(place)),
                hash_map::Entry::Occupied(mut found) => match elsewhere {
                    Elsewhere::Stay => {}
                    Elsewhere::Move => drop(found.insert(place)),
                },
            }
        }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self) -> Result<(), ChunkError> {
        let numbers = self.prepare_dirs().map_err(|error| {
            let action = format!("prepare {}", self.root.display());
            self.failure(action, &error)
        })?;
        let mut state = self.lock();
        for number in numbers {
            let path = self.path(number);
            let contents = pack::open(&path).map_err(|error| match error {
                OpenError::Io(error) => self.failure(format!("read {}", path.display()), &error),
                OpenError::NewerFormat => ChunkError::NewerFormat {
                    pack: path.display().to_string(),
                },
            })?;
            if contents.state == PackState::Salvaged {
                let (pack, chunks) = (path.display(), contents.entries.len());
                tracing::warn!(%pack, chunks, "a pack is damaged; what is sound of it is used");
            }
            let pack = Pack {
                bytes: contents.bytes,
                state: contents.state,
            };
            state.add(number, pack, contents.entries, Elsewhere::Stay);
        }
        Ok(())
    }

    fn prepare_dirs(&self) -> io::Result<Vec<u32>> {
        fs::create_dir_all(&self.unfinished)?;
        for left in fs::read_dir(&self.unfinished)? {
            fs::remove_file(left?.path())?;
        }
        sync_dir(&self.root)?;
        if let Some(parent) = self.root.parent() {
            sync_dir(parent)?;
        }
        pack::numbers(&self.root)
    }

    fn path(&self, number: u32) -> PathBuf {
        pack::path(&self.root, number)
    }

    fn failure(&self, action: String, error: &io::Error) -> ChunkError {
        if is_disk_full(error) {
            return self.disk_full();
        }
        ChunkError::Io {
            action,
            message: error.to_string(),
        }
    }

    fn disk_full(&self) -> ChunkError {
        ChunkError::DiskFull(self.root.display().to_string())
    }

    fn require_room(&self) -> Result<(), ChunkError> {
        match free_bytes(&self.root) {
            Ok(free) if free < self.low_water_bytes => Err(self.disk_full()),
            // A disk that does not tell is found out by the write.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn begin_pack(&self) -> Result<UnfinishedPack, ChunkError> {
        self.require_room()?;
        UnfinishedPack::create(&self.unfinished)
            .map_err(|error| self.failure("begin a pack".to_owned(), &error))
    }

    /// Which of these are stored; they are pinned at once.
    fn hold(&self, pin: &Pin, hashes: &[ChunkHash]) -> Vec<bool> {
        let state = self.lock();
        let there: Vec<_> = (hashes.iter())
            .map(|hash| state.chunks.contains_key(hash))
            .collect();
        let held = hashes.iter().zip(&there).filter(|(_, there)| **there);
        pin.hold(held.map(|(hash, _)| *hash));
        there
    }

    /// Gives packs their names, durably, and makes their chunks known.
    fn publish(&self, packs: Vec<SealedPack>, elsewhere: Elsewhere) -> Result<(), ChunkError> {
        if packs.is_empty() {
            return Ok(());
        }
        let numbers = {
            let mut state = self.lock();
            let first = state.newest + 1;
            state.newest += packs.len() as u32;
            first..=state.newest
        };
        let mut named = Vec::with_capacity(packs.len());
        let outcome = (numbers.zip(packs))
            .try_for_each(|(number, pack)| {
                let path = self.path(number);
                pack.file.persist(&path).map_err(|error| error.error)?;
                named.push((number, path, pack.bytes, pack.entries));
                Ok(())
            })
            .and_then(|()| sync_dir(&self.root));
        if let Err(error) = outcome {
            for (_, path, ..) in named {
                // Left there, it would be found by the next start, as garbage.
                let _ = fs::remove_file(path);
            }
            return Err(self.failure("name a pack".to_owned(), &error));
        }
        let mut state = self.lock();
        for (number, _, bytes, entries) in named {
            let pack = Pack {
                bytes,
                state: PackState::Whole,
            };
            state.add(number, pack, entries, elsewhere);
        }
        Ok(())
    }

    /// The raw bytes of chunks, verified.
    fn read(&self, hashes: &[ChunkHash]) -> Result<Vec<Bytes>, ChunkError> {
        let (places, files) = self.locate(hashes)?;
        let mut chunks = Vec::with_capacity(hashes.len());
        for (hash, place) in hashes.iter().zip(places) {
            let damaged = || ChunkError::Damaged {
                hash: *hash,
                pack: self.path(place.pack).display().to_string(),
            };
            let file = files.get(&place.pack).ok_or_else(damaged)?;
            let chunk = self.read_record(file, *hash, place)?;
            let raw = chunk.and_then(|chunk| chunk.decode().ok());
            chunks.push(raw.ok_or_else(damaged)?);
        }
        Ok(chunks)
    }

    fn read_record(
        &self,
        file: &File,
        hash: ChunkHash,
        place: Place,
    ) -> Result<Option<Chunk>, ChunkError> {
        let entry = Entry {
            hash,
            offset: place.offset,
            length: place.length,
        };
        pack::read(file, &entry).map_err(|error| {
            let path = self.path(place.pack);
            self.failure(format!("read {}", path.display()), &error)
        })
    }

    /// Where chunks are, and the files, which stay readable when pruning
    /// removes them.
    fn locate(&self, hashes: &[ChunkHash]) -> Result<(Vec<Place>, HashMap<u32, File>), ChunkError> {
        let state = self.lock();
        let mut files = HashMap::new();
        let mut places = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let place = *(state.chunks.get(hash)).ok_or(ChunkError::Missing(*hash))?;
            if let hash_map::Entry::Vacant(vacant) = files.entry(place.pack) {
                vacant.insert(self.open_pack(place.pack)?);
            }
            places.push(place);
        }
        Ok((places, files))
    }

    fn open_pack(&self, number: u32) -> Result<File, ChunkError> {
        let path = self.path(number);
        File::open(&path).map_err(|error| self.failure(format!("open {}", path.display()), &error))
    }
}

/// The packs in a directory.
#[cfg(test)]
fn packs(root: &std::path::Path) -> Vec<PathBuf> {
    let numbers = pack::numbers(root).unwrap();
    numbers.into_iter().map(|n| pack::path(root, n)).collect()
}
