//! Trees of files out of a directory and into one: the content of volumes, for
//! snapshots, restores and forks.
//!
//! ```text
//! capture   walk ──> queue (bytes bounded, in order) ──> sender ──> link
//!             └────> chunk workers: hash, compress ─────────^
//! restore   link ──> steps ──> place: descriptors of the directories below the root
//! ```
//!
//! Everything here runs as root and on blocking threads. A directory is only
//! ever reached through descriptors of the directories above it, opened
//! without following links and on the root's mount, so that no link that is in
//! the tree, or swapped in meanwhile, leads out of it.
//!
//! Attributes are read and written through `/proc/self/fd`: the kernel has no
//! calls that take a descriptor of a directory and a name for them.

mod capture;
mod chunks;
mod content;
mod entry;
mod file;
mod fingerprint;
mod node;
mod place;
mod queue;
mod restore;
mod walk;
mod xattrs;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub(crate) use capture::{CaptureOptions, Remembered, capture};
pub(crate) use fingerprint::fingerprint;
pub(crate) use restore::Restore;
use rustix::fs::{CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
pub(crate) use walk::Content;

use crate::errors::{AgentError, Reason};

/// The clock that files are stamped with, in nanoseconds since the Unix epoch.
/// It moves once in a kernel's tick.
fn stamp_now_ns() -> i64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    node::nanoseconds(now.tv_sec, now.tv_nsec)
}

/// Whether a file system is written out before it is looked at. What a process
/// writes through a mapping shows in the times of a file only once for each time
/// that the page is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOut {
    First,
    No,
}

impl WriteOut {
    fn carry_out(self, root: &OwnedFd, directory: &[u8]) -> Result<(), AgentError> {
        match self {
            Self::First => rustix::fs::syncfs(root)
                .map_err(|errno| failed("write out", directory, errno.into())),
            Self::No => Ok(()),
        }
    }
}

/// Opens the root that a request names.
fn open_root(directory: &[u8]) -> Result<OwnedFd, AgentError> {
    if !directory.starts_with(b"/") || directory.contains(&0) {
        return Err(AgentError::new(
            Reason::PathInvalid,
            format!(
                "the directory {} cannot be a tree's root; name an absolute path without NUL",
                shown(directory)
            ),
        ));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, directory, flags, Mode::empty())
        .map_err(|errno| failed("open", directory, errno.into()))
}

/// The names in an open directory, in no order.
fn names_in(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

/// What an I/O error on a path of a tree means to the caller.
fn failed(doing: &str, path: &[u8], error: io::Error) -> AgentError {
    let path = if path.is_empty() { b"." } else { path };
    if error.kind() == io::ErrorKind::PermissionDenied {
        return AgentError::new(
            Reason::Permission,
            format!(
                "could not {doing} {}: {error}; trees need an agent that is root, with the capabilities to own, read and make any file",
                shown(path)
            ),
        );
    }
    AgentError::io(doing, Path::new(OsStr::from_bytes(path)), &error)
}

/// A path for a person.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
