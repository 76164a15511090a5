//! A batch: chunks verified and written on tokio's blocking threads, a group
//! of them while the next one comes in.

use std::{collections::HashSet, mem, sync::Arc};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{
    Elsewhere, Store, blocking,
    pack::{SealedPack, UnfinishedPack},
    pins::Pin,
};
use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{Chunk, ChunkError, ChunkPin, ChunkWriter, StoredBatch},
};

/// Chunks handed over together have about this many bytes,
const GROUP_BYTES: usize = 4 << 20;
/// or are this many.
const GROUP: usize = 1024;

/// The async end of a batch.
pub(super) struct FileChunkWriter {
    store: Arc<Store>,
    pin: Arc<Pin>,
    /// All that was put, so that nothing is written twice.
    put: HashSet<ChunkHash>,
    waiting: Vec<Chunk>,
    waiting_bytes: usize,
    work: Work,
}

/// Who has the batch.
enum Work {
    Idle(Batch),
    Busy(JoinHandle<Result<Batch, ChunkError>>),
    /// Nobody: something failed, and what is on disk is not known.
    Failed,
}

impl FileChunkWriter {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let pin = Arc::new(store.pins.pin());
        let batch = Batch {
            store: store.clone(),
            pin: pin.clone(),
            open: None,
            sealed: Vec::new(),
            chunks: 0,
            stored_bytes: 0,
        };
        Self {
            store,
            pin,
            put: HashSet::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            work: Work::Idle(batch),
        }
    }

    /// Waits for the group under way.
    ///
    /// Cancel safety: the batch is not lost, the next call waits again.
    async fn idle(&mut self) -> Result<Batch, ChunkError> {
        let outcome = match &mut self.work {
            Work::Busy(handle) => Some(handle.await),
            Work::Idle(_) | Work::Failed => None,
        };
        match (outcome, mem::replace(&mut self.work, Work::Failed)) {
            (None, Work::Idle(batch)) => Ok(batch),
            (Some(Ok(outcome)), _) => outcome,
            (Some(Err(error)), _) => Err(broken(error.to_string())),
            (None, Work::Busy(_) | Work::Failed) => {
                Err(broken("an earlier part of it failed".to_owned()))
            }
        }
    }

    /// Gives what waits to the batch.
    async fn hand_over(&mut self) -> Result<(), ChunkError> {
        let mut batch = self.idle().await?;
        let chunks = mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.work = Work::Busy(tokio::task::spawn_blocking(move || {
            batch.add(chunks).map(|()| batch)
        }));
        Ok(())
    }
}

fn broken(message: String) -> ChunkError {
    ChunkError::Io {
        action: "go on with a batch".to_owned(),
        message,
    }
}

#[async_trait]
impl ChunkWriter for FileChunkWriter {
    async fn missing(&mut self, hashes: Vec<ChunkHash>) -> Result<Vec<ChunkHash>, ChunkError> {
        let (store, pin) = (self.store.clone(), self.pin.clone());
        let found = blocking(move || {
            let there = store.hold(&pin, &hashes);
            Ok(hashes.into_iter().zip(there))
        });
        let missing = found.await?.filter(|(_, there)| !there);
        Ok(missing
            .map(|(hash, _)| hash)
            .filter(|hash| !self.put.contains(hash))
            .collect())
    }

    async fn put(&mut self, chunk: Chunk) -> Result<(), ChunkError> {
        if matches!(self.work, Work::Failed) {
            return Err(broken("an earlier part of it failed".to_owned()));
        }
        if self.put.insert(chunk.hash) {
            self.waiting_bytes += chunk.data.len();
            self.waiting.push(chunk);
        }
        if self.waiting_bytes >= GROUP_BYTES || self.waiting.len() >= GROUP {
            self.hand_over().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<StoredBatch, ChunkError> {
        self.hand_over().await?;
        let batch = self.idle().await?;
        blocking(move || batch.finish()).await
    }
}

/// The blocking end of a batch. Dropped, its packs are removed.
struct Batch {
    store: Arc<Store>,
    pin: Arc<Pin>,
    open: Option<UnfinishedPack>,
    sealed: Vec<SealedPack>,
    chunks: u64,
    stored_bytes: u64,
}

impl Batch {
    fn add(&mut self, chunks: Vec<Chunk>) -> Result<(), ChunkError> {
        let hashes: Vec<_> = chunks.iter().map(|chunk| chunk.hash).collect();
        let there = self.store.hold(&self.pin, &hashes);
        // What is new needs the pin when it is named by the batch's packs and
        // not yet by a manifest.
        self.pin.hold(hashes);
        self.store.require_room()?;
        for (chunk, there) in chunks.into_iter().zip(there) {
            if !there {
                chunk.decode()?;
                self.write(&chunk)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, chunk: &Chunk) -> Result<(), ChunkError> {
        let mut pack = match self.open.take() {
            Some(pack) => pack,
            None => self.store.begin_pack()?,
        };
        pack.append(chunk)
            .map_err(|error| self.store.failure("write a chunk".to_owned(), &error))?;
        self.chunks += 1;
        self.stored_bytes += chunk.data.len() as u64;
        if pack.bytes() >= self.store.pack_bytes {
            self.seal(pack)
        } else {
            self.open = Some(pack);
            Ok(())
        }
    }

    fn seal(&mut self, pack: UnfinishedPack) -> Result<(), ChunkError> {
        let sealed =
            (pack.seal()).map_err(|error| self.store.failure("end a pack".to_owned(), &error))?;
        self.sealed.push(sealed);
        Ok(())
    }

    fn finish(mut self) -> Result<StoredBatch, ChunkError> {
        if let Some(pack) = self.open.take() {
            self.seal(pack)?;
        }
        self.store.publish(self.sealed, Elsewhere::Stay)?;
        Ok(StoredBatch {
            chunks: self.chunks,
            stored_bytes: self.stored_bytes,
            pin: ChunkPin::new(self.pin),
        })
    }
}
