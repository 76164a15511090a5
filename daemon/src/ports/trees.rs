//! Directory trees out of a workspace's volumes and into them.
//!
//! Entries are those of the contract with the agent: the hash of a tree is made
//! of their encoding (see `compyd_proto::tree`), so types of our own would have
//! to be encoded the same for ever.

use async_trait::async_trait;
use bytes::Bytes;
pub use compyd_proto::agent::{Extent, FileKey, KeyedFile, TreeEntry, TreeEntryKind};
use futures_util::stream::BoxStream;

use super::{agent::AgentError, chunks::Chunk};
use crate::domain::snapshot::hash::Fingerprint;

/// An agent that reads and writes trees, as root, in any directory it sees.
#[async_trait]
pub trait TreesPort: Send + Sync {
    /// Reads a tree: chunks, each before the first entry that names it; entries
    /// in walk order; last, [`CaptureEvent::Ended`].
    fn capture(
        &self,
        directory: &str,
        known: KnownFiles,
        write_out: WriteOut,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>>;

    /// Looks at a tree as [`capture`](Self::capture) does and reads nothing:
    /// files come with keys and without extents.
    fn look(&self, directory: &str) -> BoxStream<'static, Result<CaptureEvent, AgentError>>;

    /// Writes into a directory, durably. The items are paths to remove, then
    /// entries in walk order, each followed by the content of its chunks.
    async fn restore(
        &self,
        directory: &str,
        extent: RestoreExtent,
        items: BoxStream<'static, RestoreItem>,
    ) -> Result<RestoredTree, AgentError>;

    /// Looks at everything in a directory. Where another file system shows the
    /// same files and holds back what is written, `shown_at` is where: it is made
    /// to write that out first, and what it says of files counts.
    async fn fingerprint(
        &self,
        directory: &str,
        shown_at: Option<&str>,
        write_out: WriteOut,
    ) -> Result<TreeFingerprint, AgentError>;
}

/// Whether the file system of a tree is written out before it is looked at, which
/// takes as long as the disk does. What a process writes through a mapping shows
/// in the times of a file once for each time that the page is written out, and
/// not again before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOut {
    /// What is remembered of this look may be trusted later.
    First,
    /// What is remembered is only trusted as of an earlier look that did.
    No,
}

/// What tells whether a tree has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeFingerprint {
    /// Compared with another of the same directory.
    pub fingerprint: Fingerprint,
    /// What is in it, and the directory itself.
    pub entries: u64,
    /// When the look began, before anything was written out, by the clock that
    /// files are stamped with; in nanoseconds since the Unix epoch.
    pub begun_ns: i64,
    /// The latest time of anything in it, by the same clock.
    pub changed_ns: i64,
}

/// How much of a directory a restore replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreExtent {
    /// All of it: the directory is emptied first.
    Whole,
    /// What the items name.
    Delta,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredTree {
    /// Entries put in place.
    pub entries: u64,
    /// The files among them, as a capture of the directory would know them.
    pub files: KnownFiles,
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
    /// Whether it is a directory on which something else is mounted. What it
    /// looks like is the mount's.
    pub mount: bool,
}

/// What a tree is made of again.
#[derive(Debug, Clone, PartialEq)]
pub enum RestoreItem {
    /// A path to remove with everything below it; comes before any entry.
    Remove(Bytes),
    /// The next entry.
    Entry(Box<TreeEntry>),
    /// Content of the last entry's next chunk, at most 1 MiB.
    Content(Bytes),
}
