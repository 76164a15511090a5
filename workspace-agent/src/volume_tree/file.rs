//! A file that is being written, chunk by chunk.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use compyd_proto::agent::{ChunkContent, ChunkEncoding, Extent, TreeEntry};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zstd::bulk::Decompressor;

use super::{failed, shown};
use crate::errors::{AgentError, Reason};

pub(super) struct NewFile {
    file: File,
    /// The extent whose content comes next, past any holes.
    extent: usize,
    /// Where it begins.
    offset: u64,
}

impl NewFile {
    pub(super) fn create(directory: &OwnedFd, name: &[u8]) -> Result<Self, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            file: file.into(),
            extent: 0,
            offset: 0,
        })
    }

    /// Whether no more content is to come; holes are passed over.
    pub(super) fn is_complete(&mut self, entry: &TreeEntry) -> bool {
        while let Some(hole) = entry.extents.get(self.extent)
            && hole.hash.is_empty()
        {
            self.advance(hole);
        }
        self.extent == entry.extents.len()
    }

    /// Writes the content of the next chunk, if that is what it is. Returns its
    /// length.
    pub(super) fn write(
        &mut self,
        entry: &TreeEntry,
        content: &ChunkContent,
        unpacker: &mut Decompressor<'_>,
    ) -> Result<u64, AgentError> {
        let chunk = &entry.extents[self.extent];
        let data = unpacked(content, chunk.length, unpacker).filter(|data| {
            data.len() as u64 == chunk.length && blake3::hash(data).as_bytes()[..] == chunk.hash
        });
        let Some(data) = data else {
            return Err(AgentError::new(
                Reason::ChunkDamaged,
                format!(
                    "the content of {} at byte {} is not the chunk that its entry names; check the store it came from",
                    shown(&entry.path),
                    self.offset
                ),
            ));
        };
        self.file
            .write_all_at(&data, self.offset)
            .map_err(|error| failed("write", &entry.path, error))?;
        self.advance(chunk);
        Ok(chunk.length)
    }

    fn advance(&mut self, extent: &Extent) {
        self.extent += 1;
        self.offset += extent.length;
    }

    /// Gives the file its length, a hole at its end included.
    pub(super) fn close(self, entry: &TreeEntry) -> Result<File, Errno> {
        if entry
            .extents
            .last()
            .is_some_and(|last| last.hash.is_empty())
        {
            rustix::fs::ftruncate(&self.file, entry.size_bytes)?;
        }
        Ok(self.file)
    }
}

/// The bytes of a chunk; nothing when they cannot be had.
fn unpacked(content: &ChunkContent, length: u64, unpacker: &mut Decompressor<'_>) -> Option<Bytes> {
    match content.encoding() {
        ChunkEncoding::Raw => Some(content.data.clone()),
        ChunkEncoding::Zstd => {
            // A chunk is at most 1 MiB, as its entry was checked.
            let capacity = usize::try_from(length).ok()?;
            unpacker
                .decompress(&content.data, capacity)
                .ok()
                .map(Bytes::from)
        }
        ChunkEncoding::Unspecified => None,
    }
}
