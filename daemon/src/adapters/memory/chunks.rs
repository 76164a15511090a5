//! Chunks in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::OwnedMutexGuard;

use crate::{
    adapters::chunks::pins::{Frozen, Pin, Pins},
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{
        Chunk, ChunkError, ChunkPin, ChunkPort, ChunkWriter, PruneMode, PruneOptions, Pruned,
        Pruning, StoredBatch,
    },
};

/// A store of chunks in memory. Its disk is full when
/// [`fill_disk`](Self::fill_disk) says so.
#[derive(Debug, Default)]
pub struct MemoryChunks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Locked before the pins.
    state: Mutex<State>,
    pins: Arc<Pins>,
    /// Held by the pruning under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    disk_full: bool,
    chunks: HashMap<ChunkHash, Chunk>,
}

impl MemoryChunks {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every write fails with [`ChunkError::DiskFull`].
    pub fn fill_disk(&self) {
        self.shared.lock().disk_full = true;
    }

    /// Writes succeed again.
    pub fn free_disk(&self) {
        self.shared.lock().disk_full = false;
    }

    /// How many chunks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().chunks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<MutexGuard<'_, State>, ChunkError> {
        let state = self.lock();
        if state.disk_full {
            return Err(ChunkError::DiskFull("memory".to_owned()));
        }
        Ok(state)
    }

    fn read(&self, hash: &ChunkHash) -> Result<Bytes, ChunkError> {
        let chunk = self.lock().chunks.get(hash).cloned();
        chunk.ok_or(ChunkError::Missing(*hash))?.decode()
    }
}

#[async_trait]
impl ChunkPort for MemoryChunks {
    async fn writer(&self) -> Result<Box<dyn ChunkWriter>, ChunkError> {
        drop(self.shared.writable()?);
        Ok(Box::new(MemoryWriter {
            shared: self.shared.clone(),
            pin: self.shared.pins.pin(),
            chunks: Ok(HashMap::new()),
        }))
    }

    async fn read(&self, hash: &ChunkHash) -> Result<Bytes, ChunkError> {
        self.shared.read(hash)
    }

    fn stream(&self, hashes: Vec<ChunkHash>) -> BoxStream<'static, Result<Bytes, ChunkError>> {
        let shared = self.shared.clone();
        stream::iter(hashes)
            .map(move |hash| shared.read(&hash))
            .boxed()
    }

    async fn prune(&self) -> Box<dyn Pruning> {
        let turn = self.shared.turn.clone().lock_owned().await;
        Box::new(MemoryPruning {
            shared: self.shared.clone(),
            pins: self.shared.pins.freeze(),
            _turn: turn,
        })
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    pin: Pin,
    /// What was put and is new, or why nothing more is taken.
    chunks: Result<HashMap<ChunkHash, Chunk>, ChunkError>,
}

impl MemoryWriter {
    fn try_put(&mut self, chunk: Chunk) -> Result<(), ChunkError> {
        let chunks = self.chunks.as_mut().map_err(|error| error.clone())?;
        let state = self.shared.writable()?;
        self.pin.hold([chunk.hash]);
        if !state.chunks.contains_key(&chunk.hash) {
            chunk.decode()?;
            chunks.insert(chunk.hash, chunk);
        }
        Ok(())
    }
}

#[async_trait]
impl ChunkWriter for MemoryWriter {
    async fn missing(&mut self, hashes: Vec<ChunkHash>) -> Result<Vec<ChunkHash>, ChunkError> {
        let put = self.chunks.as_ref().map_err(|error| error.clone())?;
        let state = self.shared.lock();
        let (there, missing): (Vec<_>, Vec<_>) = hashes
            .into_iter()
            .partition(|hash| state.chunks.contains_key(hash) || put.contains_key(hash));
        self.pin.hold(there);
        Ok(missing)
    }

    async fn put(&mut self, chunk: Chunk) -> Result<(), ChunkError> {
        let outcome = self.try_put(chunk);
        if let Err(error) = &outcome {
            self.chunks = Err(error.clone());
        }
        outcome
    }

    async fn finish(self: Box<Self>) -> Result<StoredBatch, ChunkError> {
        let new = self.chunks?;
        let mut state = self.shared.writable()?;
        let stored = StoredBatch {
            chunks: new.len() as u64,
            stored_bytes: new.values().map(|chunk| chunk.data.len() as u64).sum(),
            pin: ChunkPin::new(self.pin),
        };
        state.chunks.extend(new);
        Ok(stored)
    }
}

struct MemoryPruning {
    shared: Arc<Shared>,
    pins: Frozen,
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl Pruning for MemoryPruning {
    async fn run(
        self: Box<Self>,
        live: HashSet<ChunkHash>,
        options: PruneOptions,
    ) -> Result<Pruned, ChunkError> {
        let mut state = self.shared.lock();
        let held = self.pins.held();
        let keep = |hash: &ChunkHash| live.contains(hash) || held.contains(hash);
        let garbage = state.chunks.values().filter(|chunk| !keep(&chunk.hash));
        let pruned = garbage.fold(
            Pruned {
                chunks: 0,
                freed_bytes: 0,
            },
            |sum, chunk| Pruned {
                chunks: sum.chunks + 1,
                freed_bytes: sum.freed_bytes + chunk.data.len() as u64,
            },
        );
        match options.mode {
            PruneMode::Measure => {}
            PruneMode::Remove => state.chunks.retain(|hash, _| keep(hash)),
        }
        Ok(pruned)
    }
}
