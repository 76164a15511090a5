//! Content by hash: artifacts and tool output.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// Longest piece of a blob that [`BlobPort::stream`] gives.
pub const PIECE_BYTES: usize = 1024 * 1024;

/// blake3 of a blob, 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobHash(String);

impl BlobHash {
    /// The hash of some content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(blake3::hash(content).to_hex().to_string())
    }

    /// Parses 64 hex digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 64 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A store of immutable blobs. What was acknowledged is on disk.
#[async_trait]
pub trait BlobPort: Send + Sync {
    /// Stores a blob; one that is there already is left as it is.
    async fn put(&self, content: Bytes) -> Result<BlobHash, BlobError>;

    /// Begins a blob of unknown size, written piece by piece.
    async fn begin(&self) -> Result<Box<dyn BlobWriter>, BlobError>;

    /// A blob's size in bytes; `None` when it is not there.
    async fn size(&self, hash: &BlobHash) -> Result<Option<u64>, BlobError>;

    /// A range of a blob, at most `length` bytes from `offset`. Fails with
    /// [`BlobError::Missing`].
    async fn read(&self, hash: &BlobHash, offset: u64, length: usize) -> Result<Bytes, BlobError>;

    /// Every blob.
    async fn list(&self) -> Result<Vec<StoredBlob>, BlobError>;

    /// Removes a blob that nobody has put since `before_ms`, in milliseconds
    /// since the Unix epoch; says whether it is gone. An absent one is.
    async fn remove(&self, hash: &BlobHash, before_ms: i64) -> Result<bool, BlobError>;

    /// The whole blob in pieces of at most 1 MiB.
    fn stream(&self, hash: &BlobHash) -> BoxStream<'static, Result<Bytes, BlobError>>;
}

/// A blob that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its hash.
    pub hash: BlobHash,
    /// Bytes.
    pub size_bytes: u64,
    /// When somebody put it last, in milliseconds since the Unix epoch.
    pub put_at_ms: i64,
}

/// A blob being written. Dropped without `finish`, it leaves nothing behind.
#[async_trait]
pub trait BlobWriter: Send + Sync {
    /// Adds bytes at the end.
    async fn write(&mut self, data: Bytes) -> Result<(), BlobError>;

    /// Makes the blob durable and names it; returns its hash and size.
    async fn finish(self: Box<Self>) -> Result<(BlobHash, u64), BlobError>;
}

/// Why a blob could not be stored or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("no blob {}", .0.as_str())]
    Missing(BlobHash),
    /// The disk is full.
    #[error("the disk with {0} is full; free some space, work goes on by itself")]
    DiskFull(String),
    /// Anything else, with what was tried.
    #[error("blob store: {action}: {message}")]
    Io {
        /// What was tried.
        action: String,
        /// The cause.
        message: String,
    },
}
