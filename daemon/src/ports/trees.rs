//! Directory trees out of a workspace's volumes and into them.
//!
//! Entries are those of the contract with the agent: the hash of a tree is made
//! of their encoding (see `compyd_proto::tree`), so types of our own would have
//! to be encoded the same for ever.

use async_trait::async_trait;
use bytes::Bytes;
pub use compyd_proto::agent::{Extent, FileKey, KeyedFile, TreeEntry};
use futures_util::stream::BoxStream;

use super::{agent::AgentError, chunks::Chunk};

/// An agent that reads and writes trees, as root, in any directory it sees.
#[async_trait]
pub trait TreesPort: Send + Sync {
    /// Reads a tree: chunks, each before the first entry that names it; entries
    /// in walk order; last, [`CaptureEvent::Ended`].
    fn capture(
        &self,
        directory: &str,
        known: KnownFiles,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>>;

    /// Makes a directory hold a tree and nothing else, durably. The items are
    /// entries in walk order, each followed by the content of its chunks.
    /// Returns the number of entries put in place.
    async fn restore(
        &self,
        directory: &str,
        items: BoxStream<'static, RestoreItem>,
    ) -> Result<u64, AgentError>;
}

/// Files of the same directory whose content is known from an earlier capture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KnownFiles {
    /// Their keys.
    pub files: Vec<KeyedFile>,
    /// What came with the keys, in nanoseconds since the Unix epoch.
    pub as_of_ns: i64,
}

/// What a capture tells.
#[derive(Debug, Clone, PartialEq)]
pub enum CaptureEvent {
    /// Content that entries still to come are made of.
    Chunk(Chunk),
    /// The next entry.
    Entry(Box<CapturedEntry>),
    /// Everything was told; goes back with the keys of these entries.
    Ended {
        /// In nanoseconds since the Unix epoch.
        as_of_ns: i64,
    },
}

/// What is at one path.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedEntry {
    /// It; without extents when `same` is set.
    pub entry: TreeEntry,
    /// Whether it is a known file that was not read.
    pub same: bool,
    /// The key to remember; `None` for what has to be read again.
    pub key: Option<FileKey>,
}

/// What a tree is made of again.
#[derive(Debug, Clone, PartialEq)]
pub enum RestoreItem {
    /// The next entry.
    Entry(Box<TreeEntry>),
    /// Content of the last entry's next chunk, at most 1 MiB.
    Content(Bytes),
}
