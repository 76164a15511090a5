//! Blobs in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};

use crate::ports::blobs::{BlobError, BlobHash, BlobPort, BlobWriter, PIECE_BYTES, StoredBlob};

/// A store of blobs in memory. Its disk is full when
/// [`fill_disk`](Self::fill_disk) says so.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    /// Shared with the writers under way.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    disk_full: bool,
    blobs: HashMap<BlobHash, Bytes>,
    put_at_ms: HashMap<BlobHash, i64>,
    /// The time that what is put is given.
    now_ms: i64,
}

impl State {
    fn put(&mut self, hash: &BlobHash, content: Bytes) {
        self.put_at_ms.insert(hash.clone(), self.now_ms);
        self.blobs.entry(hash.clone()).or_insert(content);
    }
}

impl MemoryBlobs {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every write fails with [`BlobError::DiskFull`].
    pub fn fill_disk(&self) {
        lock(&self.state).disk_full = true;
    }

    /// Writes succeed again.
    pub fn free_disk(&self) {
        lock(&self.state).disk_full = false;
    }

    /// What is put from now on is put at this time.
    pub fn set_now_ms(&self, now_ms: i64) {
        lock(&self.state).now_ms = now_ms;
    }

    /// How many blobs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.state).blobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn writable(state: &Mutex<State>) -> Result<MutexGuard<'_, State>, BlobError> {
    let state = lock(state);
    if state.disk_full {
        return Err(BlobError::DiskFull("memory".to_owned()));
    }
    Ok(state)
}

#[async_trait]
impl BlobPort for MemoryBlobs {
    async fn put(&self, content: Bytes) -> Result<BlobHash, BlobError> {
        let hash = BlobHash::of(&content);
        writable(&self.state)?.put(&hash, content);
        Ok(hash)
    }

    async fn begin(&self) -> Result<Box<dyn BlobWriter>, BlobError> {
        drop(writable(&self.state)?);
        Ok(Box::new(MemoryWriter {
            state: self.state.clone(),
            content: BytesMut::new(),
        }))
    }

    async fn size(&self, hash: &BlobHash) -> Result<Option<u64>, BlobError> {
        let state = lock(&self.state);
        Ok(state.blobs.get(hash).map(|content| content.len() as u64))
    }

    async fn read(&self, hash: &BlobHash, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let state = lock(&self.state);
        let content = state
            .blobs
            .get(hash)
            .ok_or_else(|| BlobError::Missing(hash.clone()))?;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let end = start.saturating_add(length).min(content.len());
        Ok(content.slice(start..end))
    }

    async fn list(&self) -> Result<Vec<StoredBlob>, BlobError> {
        let state = lock(&self.state);
        let blobs = state.blobs.iter().map(|(hash, content)| StoredBlob {
            hash: hash.clone(),
            size_bytes: content.len() as u64,
            put_at_ms: state.put_at_ms[hash],
        });
        Ok(blobs.collect())
    }

    async fn remove(&self, hash: &BlobHash, before_ms: i64) -> Result<bool, BlobError> {
        let mut state = lock(&self.state);
        let young = (state.put_at_ms.get(hash)).is_some_and(|put| *put >= before_ms);
        if !young {
            state.blobs.remove(hash);
            state.put_at_ms.remove(hash);
        }
        Ok(!young)
    }

    fn stream(&self, hash: &BlobHash) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let Some(mut rest) = lock(&self.state).blobs.get(hash).cloned() else {
            let missing = BlobError::Missing(hash.clone());
            return stream::once(async move { Err(missing) }).boxed();
        };
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(Ok(rest.split_to(rest.len().min(PIECE_BYTES))));
        }
        stream::iter(pieces).boxed()
    }
}

struct MemoryWriter {
    state: Arc<Mutex<State>>,
    content: BytesMut,
}

#[async_trait]
impl BlobWriter for MemoryWriter {
    async fn write(&mut self, data: Bytes) -> Result<(), BlobError> {
        drop(writable(&self.state)?);
        self.content.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(BlobHash, u64), BlobError> {
        let content = self.content.freeze();
        let hash = BlobHash::of(&content);
        let size = content.len() as u64;
        writable(&self.state)?.put(&hash, content);
        Ok((hash, size))
    }
}
