//! The content of snapshots: chunks named by the hash of their bytes.
//!
//! A snapshot writes one batch. It says which chunks it relies on, puts the
//! ones that are missing, and finishes; then all of them are durable and the
//! manifest that names them can be stored. Whatever no manifest names is
//! garbage, which pruning takes away:
//!
//! ```text
//! writer   missing, put ... finish ---> manifest stored ---> pin dropped
//!          '--------------- its chunks are pinned -------------------'
//! pruning       begin ---> manifests read: what is live ---> run
//!               '---- no pin that was there lapses any more ----'
//! ```
//!
//! So a chunk is never taken from under a batch: either its pin is seen, or
//! the manifest was stored before the manifests were read. Pins do not outlive
//! the process; operations that a crash cut off are settled before anything is
//! pruned.

use std::{any::Any, collections::HashSet, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::domain::snapshot::hash::ChunkHash;

/// Most raw bytes in a chunk.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// How hard data that the daemon makes itself is compressed.
const ZSTD_LEVEL: i32 = 1;

/// A chunk as it travels and as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Of the raw bytes.
    pub hash: ChunkHash,
    /// How many raw bytes there are, at most [`CHUNK_BYTES_MAX`].
    pub raw_bytes: u32,
    /// What `data` is.
    pub encoding: ChunkEncoding,
    /// The raw bytes, or what they were compressed to; at most
    /// [`CHUNK_BYTES_MAX`].
    pub data: Bytes,
}

/// How a chunk's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEncoding {
    /// As they are.
    Raw,
    /// As one zstd frame.
    Zstd,
}

impl Chunk {
    /// A chunk of some bytes, at most [`CHUNK_BYTES_MAX`]; compressed where
    /// that makes it smaller.
    ///
    /// # Errors
    /// [`ChunkError::Wrong`]: there are more bytes.
    pub fn of(raw: Bytes) -> Result<Self, ChunkError> {
        let hash = ChunkHash::of(&raw);
        if raw.len() > CHUNK_BYTES_MAX {
            return Err(wrong(hash, "it has more than 1 MiB"));
        }
        let raw_bytes = raw.len() as u32;
        let compressed = zstd::bulk::compress(&raw, ZSTD_LEVEL)
            .ok()
            .filter(|compressed| compressed.len() < raw.len());
        let (encoding, data) = match compressed {
            Some(compressed) => (ChunkEncoding::Zstd, compressed.into()),
            None => (ChunkEncoding::Raw, raw),
        };
        Ok(Self {
            hash,
            raw_bytes,
            encoding,
            data,
        })
    }

    /// The raw bytes, which have the chunk's hash. Never takes more memory
    /// than `raw_bytes`.
    ///
    /// # Errors
    /// [`ChunkError::Wrong`]: the data are not what they should be.
    pub fn decode(&self) -> Result<Bytes, ChunkError> {
        let raw_bytes = self.raw_bytes_in_range()?;
        let raw = match self.encoding {
            ChunkEncoding::Raw => self.data.clone(),
            ChunkEncoding::Zstd => zstd::bulk::decompress(&self.data, raw_bytes)
                .map_err(|_| wrong(self.hash, "it cannot be decompressed"))?
                .into(),
        };
        self.compare(&raw)?;
        Ok(raw)
    }

    fn raw_bytes_in_range(&self) -> Result<usize, ChunkError> {
        let raw_bytes = self.raw_bytes as usize;
        if raw_bytes > CHUNK_BYTES_MAX || self.data.len() > CHUNK_BYTES_MAX {
            return Err(wrong(self.hash, "it has more than 1 MiB"));
        }
        Ok(raw_bytes)
    }

    /// Whether these are the chunk's bytes.
    fn compare(&self, raw: &[u8]) -> Result<(), ChunkError> {
        if raw.len() != self.raw_bytes as usize {
            return Err(wrong(self.hash, "its length is another"));
        }
        if ChunkHash::of(raw) != self.hash {
            return Err(wrong(self.hash, "its bytes have another hash"));
        }
        Ok(())
    }
}

/// Checks many chunks, one after the other, with what it made for the first.
pub struct ChunkCheck {
    unpacker: zstd::bulk::Decompressor<'static>,
    /// The raw bytes of the last chunk.
    raw: Vec<u8>,
}

impl ChunkCheck {
    /// One that has checked nothing yet.
    ///
    /// # Errors
    /// [`ChunkError::Io`]: there is no memory for it.
    pub fn new() -> Result<Self, ChunkError> {
        let unpacker = zstd::bulk::Decompressor::new().map_err(|error| ChunkError::Io {
            action: "make a decompressor".to_owned(),
            message: error.to_string(),
        })?;
        let raw = Vec::with_capacity(CHUNK_BYTES_MAX);
        Ok(Self { unpacker, raw })
    }

    /// What [`Chunk::decode`] says of a chunk, without its bytes.
    ///
    /// # Errors
    /// [`ChunkError::Wrong`]: the data are not what they should be.
    pub fn check(&mut self, chunk: &Chunk) -> Result<(), ChunkError> {
        chunk.raw_bytes_in_range()?;
        match chunk.encoding {
            ChunkEncoding::Raw => chunk.compare(&chunk.data),
            ChunkEncoding::Zstd => {
                self.raw.clear();
                let unpacked = (self.unpacker).decompress_to_buffer(&chunk.data[..], &mut self.raw);
                unpacked.map_err(|_| wrong(chunk.hash, "it cannot be decompressed"))?;
                chunk.compare(&self.raw)
            }
        }
    }
}

impl fmt::Debug for ChunkCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkCheck").finish_non_exhaustive()
    }
}

fn wrong(hash: ChunkHash, why: &'static str) -> ChunkError {
    ChunkError::Wrong { hash, why }
}

/// A store of chunks. What a finished batch put is on disk.
#[async_trait]
pub trait ChunkPort: Send + Sync {
    /// Begins a batch. Fails with [`ChunkError::DiskFull`].
    async fn writer(&self) -> Result<Box<dyn ChunkWriter>, ChunkError>;

    /// The raw bytes of a chunk of a finished batch, verified by their hash.
    /// Fails with [`ChunkError::Missing`] and [`ChunkError::Damaged`].
    async fn read(&self, hash: &ChunkHash) -> Result<Bytes, ChunkError>;

    /// The raw bytes of many chunks, each verified, in this order; read ahead
    /// of who takes them. What follows an error means nothing.
    fn stream(&self, hashes: Vec<ChunkHash>) -> BoxStream<'static, Result<Bytes, ChunkError>>;

    /// Begins to prune, once any other pruning has ended. What is live is
    /// found out between this and [`Pruning::run`]; dropped without it,
    /// nothing is removed.
    async fn prune(&self) -> Box<dyn Pruning>;
}

/// A batch being written. Dropped without `finish`, nothing of it is stored.
/// After an error every later call fails.
#[async_trait]
pub trait ChunkWriter: Send {
    /// Which of these are neither stored nor put into this batch, in the order
    /// asked. The others are pinned: the batch may rely on them.
    async fn missing(&mut self, hashes: Vec<ChunkHash>) -> Result<Vec<ChunkHash>, ChunkError>;

    /// Adds a chunk; one that is there already is pinned and not written
    /// again. It is stored as it comes, and verified first: an error of it may
    /// be told by a later call. Fails with [`ChunkError::Wrong`] and
    /// [`ChunkError::DiskFull`].
    async fn put(&mut self, chunk: Chunk) -> Result<(), ChunkError>;

    /// Makes every chunk of the batch durable.
    async fn finish(self: Box<Self>) -> Result<StoredBatch, ChunkError>;
}

/// A batch that is durable.
#[derive(Debug)]
pub struct StoredBatch {
    /// Chunks that were not there before.
    pub chunks: u64,
    /// Bytes that they take as stored.
    pub stored_bytes: u64,
    /// Keeps every chunk of the batch and all it relies on until the manifest
    /// is stored.
    pub pin: ChunkPin,
}

/// Keeps chunks from being pruned until it is dropped.
pub struct ChunkPin {
    _guard: Box<dyn Any + Send + Sync>,
}

impl ChunkPin {
    /// A pin that lasts as long as this.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self {
            _guard: Box::new(guard),
        }
    }
}

impl fmt::Debug for ChunkPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkPin").finish_non_exhaustive()
    }
}

/// A pruning that has begun: from here on every chunk that was pinned stays.
#[async_trait]
pub trait Pruning: Send {
    /// Removes what is neither live nor pinned. A crash at any point loses
    /// nothing that is. Fails with [`ChunkError::DiskFull`] when there is no
    /// room to rewrite anything; what could be removed whole is gone by then.
    async fn run(
        self: Box<Self>,
        live: HashSet<ChunkHash>,
        options: PruneOptions,
    ) -> Result<Pruned, ChunkError>;
}

/// How to prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneOptions {
    /// Whether to do it.
    pub mode: PruneMode,
    /// Garbage that a file may keep, in percent of its bytes, 0 to 100: a file
    /// with more is rewritten. 0 gives back everything and moves the most.
    pub waste_percent: u8,
}

/// Whether to prune or to see what that would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneMode {
    /// Nothing is changed.
    Measure,
    /// Garbage is removed.
    Remove,
}

/// What pruning gave, or would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Chunks that are gone.
    pub chunks: u64,
    /// Bytes of disk that are free again.
    pub freed_bytes: u64,
}

/// Why a chunk could not be stored or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// There is no such chunk.
    #[error("no chunk {0}")]
    Missing(ChunkHash),
    /// Somebody gave other bytes than the hash says.
    #[error("what came as chunk {hash} is not it: {why}")]
    Wrong {
        /// What it should have been.
        hash: ChunkHash,
        /// What is wrong.
        why: &'static str,
    },
    /// The bytes on disk are not what was stored.
    #[error("chunk {hash} in {pack} is damaged; restore that file from a copy")]
    Damaged {
        /// Which.
        hash: ChunkHash,
        /// The file it is in.
        pack: String,
    },
    /// A file is from a newer daemon.
    #[error("{pack} has a format that this daemon does not know: use a newer daemon")]
    NewerFormat {
        /// The file.
        pack: String,
    },
    /// The disk is full.
    #[error("the disk with {0} is full; free some space, work goes on by itself")]
    DiskFull(String),
    /// Anything else, with what was tried.
    #[error("chunk store: {action}: {message}")]
    Io {
        /// What was tried.
        action: String,
        /// The cause.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_compressed_where_that_is_smaller_and_decodes_to_itself() {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(4_096)
            .collect();
        let mut check = ChunkCheck::new().unwrap();
        for (raw, encoding) in [
            (Bytes::new(), ChunkEncoding::Raw),
            (Bytes::from(noise), ChunkEncoding::Raw),
            (Bytes::from(vec![7; CHUNK_BYTES_MAX]), ChunkEncoding::Zstd),
        ] {
            let chunk = Chunk::of(raw.clone()).unwrap();
            assert_eq!(chunk.encoding, encoding);
            assert_eq!(chunk.decode(), Ok(raw));
            assert_eq!(check.check(&chunk), Ok(()));
        }
        let large = Bytes::from(vec![7; CHUNK_BYTES_MAX + 1]);
        assert!(matches!(Chunk::of(large), Err(ChunkError::Wrong { .. })));
    }

    #[test]
    fn a_chunk_that_is_not_what_it_says_is_not_decoded() {
        let sound = Chunk::of(Bytes::from(vec![7; 10_000])).unwrap();
        assert_eq!(sound.encoding, ChunkEncoding::Zstd);
        let noise = Bytes::from_static(b"no frame");
        let mut check = ChunkCheck::new().unwrap();
        for broken in [
            Chunk {
                hash: ChunkHash::of(b"other"),
                ..sound.clone()
            },
            Chunk {
                raw_bytes: 9_999,
                ..sound.clone()
            },
            Chunk {
                raw_bytes: 10_001,
                ..sound.clone()
            },
            Chunk {
                raw_bytes: u32::MAX,
                ..sound.clone()
            },
            Chunk {
                encoding: ChunkEncoding::Raw,
                ..sound.clone()
            },
            Chunk {
                data: noise,
                ..sound.clone()
            },
            Chunk {
                data: sound.data.slice(1..),
                ..sound.clone()
            },
        ] {
            let error = broken.decode().unwrap_err();
            assert!(matches!(error, ChunkError::Wrong { .. }), "{error}");
            let error = check.check(&broken).unwrap_err();
            assert!(matches!(error, ChunkError::Wrong { .. }), "{error}");
        }
        assert_eq!(check.check(&sound), Ok(()), "after what was wrong");
    }
}
