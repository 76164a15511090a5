//! A batch: chunks verified and written on tokio's blocking threads, a group
//! of them while the next one comes in, and packs that are full made durable
//! beside them.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::Arc,
};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{
    Elsewhere, Store, blocking,
    pack::{SealedPack, UnfinishedPack},
    pins::Pin,
};
use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{Chunk, ChunkCheck, ChunkError, ChunkPin, ChunkWriter, StoredBatch},
};

/// Chunks handed over together have about this many bytes,
const GROUP_BYTES: usize = 4 << 20;
/// or are this many.
const GROUP: usize = 1024;
/// Full packs that are made durable at once, while chunks go on into the next.
const SEALED_AT_ONCE: usize = 2;

/// The async end of a batch.
pub(super) struct FileChunkWriter {
    store: Arc<Store>,
    pin: Arc<Pin>,
    /// All that was put, so that nothing is written twice.
    put: HashSet<ChunkHash>,
    waiting: Vec<Chunk>,
    waiting_bytes: usize,
    work: Work,
    /// Full packs that wait to be made durable.
    full: VecDeque<UnfinishedPack>,
    /// Those that are being made durable, the oldest first.
    sealing: VecDeque<JoinHandle<Result<SealedPack, ChunkError>>>,
    /// Durable ones, which get their names together.
    sealed: Vec<SealedPack>,
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
            check: None,
            open: None,
            full: Vec::new(),
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
            full: VecDeque::new(),
            sealing: VecDeque::new(),
            sealed: Vec::new(),
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

    /// Gives what waits to the batch, and takes its full packs.
    async fn hand_over(&mut self) -> Result<(), ChunkError> {
        let mut batch = self.idle().await?;
        self.full.extend(batch.full.drain(..));
        let chunks = mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.work = Work::Busy(tokio::task::spawn_blocking(move || {
            batch.add(chunks).map(|()| batch)
        }));
        self.seal_down_to(SEALED_AT_ONCE).await
    }

    /// Waits for the batch and for all its packs to be durable.
    async fn seal(&mut self) -> Result<Batch, ChunkError> {
        let mut batch = self.idle().await?;
        self.full.extend(batch.full.drain(..));
        self.full.extend(batch.open.take());
        self.seal_down_to(0).await?;
        Ok(batch)
    }

    /// Has full packs made durable until so many are left that are not, and hears
    /// what became of the others.
    ///
    /// Cancel safety: no pack is lost, the next call goes on.
    async fn seal_down_to(&mut self, left: usize) -> Result<(), ChunkError> {
        loop {
            self.begin_to_seal();
            let unsealed = self.full.len() + self.sealing.len();
            let Some(oldest) = self.sealing.front_mut() else {
                return Ok(());
            };
            if unsealed <= left && !oldest.is_finished() {
                return Ok(());
            }
            let sealed = oldest.await;
            self.sealing.pop_front();
            self.sealed
                .push(sealed.map_err(|error| broken(error.to_string()))??);
        }
    }

    fn begin_to_seal(&mut self) {
        while self.sealing.len() < SEALED_AT_ONCE
            && let Some(pack) = self.full.pop_front()
        {
            let store = self.store.clone();
            let sealing = tokio::task::spawn_blocking(move || {
                let sealed = pack.seal();
                sealed.map_err(|error| store.failure("end a pack".to_owned(), &error))
            });
            self.sealing.push_back(sealing);
        }
    }

    /// Waits for all that is under way after something failed, and gives its space
    /// back.
    async fn give_up(&mut self) {
        if let Work::Busy(handle) = mem::replace(&mut self.work, Work::Failed) {
            drop(handle.await);
        }
        for sealing in self.sealing.drain(..) {
            drop(sealing.await);
        }
        self.full.clear();
        self.sealed.clear();
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
            let handed = self.hand_over().await;
            if handed.is_err() {
                self.give_up().await;
            }
            return handed;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<StoredBatch, ChunkError> {
        let sealed = match self.hand_over().await {
            Ok(()) => self.seal().await,
            Err(error) => Err(error),
        };
        match sealed {
            Ok(batch) => {
                let packs = mem::take(&mut self.sealed);
                blocking(move || batch.publish(packs)).await
            }
            Err(error) => {
                self.give_up().await;
                Err(error)
            }
        }
    }
}

/// The blocking end of a batch. Dropped, its packs are removed.
struct Batch {
    store: Arc<Store>,
    pin: Arc<Pin>,
    /// Made for the first chunk that is written.
    check: Option<ChunkCheck>,
    open: Option<UnfinishedPack>,
    /// Packs that nothing more goes into; whoever hands over chunks takes them.
    full: Vec<UnfinishedPack>,
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
                self.check(&chunk)?;
                self.write(&chunk)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, chunk: &Chunk) -> Result<(), ChunkError> {
        let check = match &mut self.check {
            Some(check) => check,
            None => self.check.insert(ChunkCheck::new()?),
        };
        check.check(chunk)
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
            self.full.push(pack);
        } else {
            self.open = Some(pack);
        }
        Ok(())
    }

    /// Gives the packs of the batch their names. All of them are durable.
    fn publish(self, packs: Vec<SealedPack>) -> Result<StoredBatch, ChunkError> {
        self.store.publish(packs, Elsewhere::Stay)?;
        Ok(StoredBatch {
            chunks: self.chunks,
            stored_bytes: self.stored_bytes,
            pin: ChunkPin::new(self.pin),
        })
    }
}
