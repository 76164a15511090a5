//! Room for appends, made some way ahead.
//!
//! A write into room that is there changes no size and no extent of its file,
//! so its `fdatasync` needs no commit of the file system's own journal. That
//! makes it several times as fast as growing the file, and it holds up nobody
//! else's sync.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// How far ahead a file is filled with zeros.
pub(super) const FILL_BYTES: u64 = 4 << 20;

/// How far a file that is appended to is filled with zeros. Its owner knows
/// where what it has appended ends, and takes zeros behind that for nothing.
#[derive(Debug)]
pub(super) struct Filled {
    to: u64,
}

impl Filled {
    /// Of a file that ends there.
    pub(super) fn to(end: u64) -> Self {
        Self { to: end }
    }

    /// Makes room for a write that will end at `end`, with more behind it. Where
    /// that fails, the write itself tells.
    pub(super) fn reach(&mut self, file: &File, end: u64) {
        if end <= self.to {
            return;
        }
        let zeros = vec![0; FILL_BYTES as usize];
        if file.write_all_at(&zeros, end).is_ok() {
            self.to = end + FILL_BYTES;
        }
    }

    /// Takes everything behind `end` off the file, durably.
    pub(super) fn cut(&mut self, file: &File, end: u64) -> io::Result<()> {
        file.set_len(end)?;
        file.sync_all()?;
        self.to = end;
        Ok(())
    }
}
