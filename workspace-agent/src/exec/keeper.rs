//! Keeping one stream: as much of it as the quotas and the disk allow.
//!
//! A byte's offset in the file is its offset in the stream. What is dropped is
//! a hole in the file, which takes no space. The order of things lets nobody
//! take a hole for output: a gap is published before its bytes go, and a reader
//! looks at the gap again after it has read.
//!
//! Nothing here waits and nothing fails. Where there is no room, the output of
//! ended commands goes first, then the older part of this one's tail, and at
//! last the bytes at hand: the command never notices.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use tokio::sync::watch;

use super::extent::{Extent, UNIT_BYTES, down, up};
use super::progress::Progress;
use super::spool::{ExecFiles, Output, is_full};
use super::table::Shared;

pub(super) struct Keeper {
    shared: Arc<Shared>,
    files: ExecFiles,
    output: Output,
    progress: Arc<watch::Sender<Progress>>,
    file: Option<File>,
    extent: Extent,
    /// Up to where bytes are dropped: a disk that is full is asked again after
    /// a whole unit, so that the hole shows in the file.
    skip_until: u64,
    /// Unset when the file system makes no holes.
    makes_holes: bool,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        files: ExecFiles,
        output: Output,
        progress: Arc<watch::Sender<Progress>>,
    ) -> Self {
        Self {
            shared,
            files,
            output,
            progress,
            file: None,
            extent: Extent::default(),
            skip_until: 0,
            makes_holes: true,
        }
    }

    /// Takes what can be taken at once; returns how much that was. The rest is
    /// for [`Keeper::append`], which may have to free space.
    pub(super) fn append_at_once(&mut self, bytes: &[u8]) -> usize {
        let more = bytes.len() as u64;
        let quotas = &self.shared.quotas;
        let is_easy = self.extent.bytes >= self.skip_until
            && self.extent.kept() + more <= quotas.stream_bytes()
            && quotas.has_room_for(more);
        let mut taken = 0;
        while is_easy && taken < bytes.len() {
            match self.write(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(_) => break,
            }
        }
        taken
    }

    /// Takes all of it, and keeps what there is room for. May take a disk's
    /// time.
    pub(super) fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip_until.saturating_sub(self.extent.bytes);
            let taken = if skipped > 0 {
                let count = usize::try_from(skipped).map_or(bytes.len(), |n| n.min(bytes.len()));
                self.become_extent(self.extent.lost(count as u64));
                count
            } else {
                self.write_into_room(bytes).unwrap_or_else(|error| {
                    if !self.make_room(&error) {
                        self.skip_a_unit(&error);
                    }
                    0
                })
            };
            bytes = &bytes[taken..];
        }
    }

    fn write_into_room(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len() as u64;
        let quota = self.shared.quotas.stream_bytes();
        if let Some(trimmed) = self.extent.trimmed_for(more, quota) {
            if !self.makes_holes {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            self.become_extent(trimmed);
        }
        while !self.shared.quotas.has_room_for(more) {
            if !self.shared.drop_oldest_output() {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
        }
        self.write(bytes)
    }

    fn make_room(&mut self, error: &io::Error) -> bool {
        if !is_full(error) {
            return false;
        }
        if self.shared.drop_oldest_output() {
            return true;
        }
        match self.extent.shrunk() {
            Some(shrunk) if self.makes_holes => {
                self.become_extent(shrunk);
                true
            }
            Some(_) | None => false,
        }
    }

    fn skip_a_unit(&mut self, error: &io::Error) {
        if !self.extent.has_gap() {
            eprintln!(
                "compy-agent: output of {} is dropped: {error}",
                self.files.id()
            );
        }
        self.skip_until = up(self.extent.bytes) + UNIT_BYTES;
    }

    /// Publishes what is kept from now on, then gives back what is not.
    fn become_extent(&mut self, extent: Extent) {
        let before = std::mem::replace(&mut self.extent, extent);
        self.publish();
        self.shared
            .quotas
            .free(before.kept().saturating_sub(extent.kept()));
        // What was a hole before is one still.
        let from = if before.has_gap() && before.gap_from == extent.gap_from {
            down(before.gap_to).max(up(extent.gap_from))
        } else {
            up(extent.gap_from)
        };
        let to = down(extent.gap_to.min(before.bytes));
        if let Some(file) = self.file.as_ref().filter(|_| to > from)
            && let Err(error) = punch(file, from, to)
        {
            eprintln!(
                "compy-agent: the state volume keeps no tails of long output: {error}; \
                 it needs a file system that makes holes"
            );
            self.makes_holes = false;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.files.writer(self.output)?),
        };
        let count = loop {
            match file.write_at(bytes, self.extent.bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => break count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.extent = self.extent.grown(count);
        self.shared.quotas.add(count);
        self.publish();
        Ok(usize::try_from(count).unwrap_or(bytes.len()))
    }

    fn publish(&self) {
        let (output, extent) = (self.output, self.extent);
        self.progress
            .send_modify(|progress| *progress.extent_mut(output) = extent);
    }
}

/// Gives the space of whole units back to the file system.
fn punch(file: &File, from: u64, to: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let offset = |at: u64| libc::off_t::try_from(at).map_err(io::Error::other);
    Ok(fallocate(file, flags, offset(from)?, offset(to - from)?)?)
}
