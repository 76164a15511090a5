//! The walk over a tree that is captured.
//!
//! It looks at everything in walk order, reads the files whose content is not
//! known, and hands both on in that order. What vanishes under its eyes is left
//! out.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use compyd_proto::agent::{CaptureSummary, CapturedEntry, TreeEntry, TreeEntryKind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::capture::{Outlet, Remembered, Stop};
use super::content::{self, Piece};
use super::node::{MountId, Node, name_path};
use super::{failed, shown, xattrs};
use crate::errors::{AgentError, Reason};

/// Times a path is looked at, or a file read, before what was seen last counts.
const LOOKS: u32 = 4;
/// Extents that one file may have: what fits into a message.
const MAX_EXTENTS: usize = 400_000;

pub(super) struct Walk<'a> {
    outlet: Outlet<'a>,
    remembered: &'a Remembered,
    content: Content,
    mount: MountId,
    /// The path that was sent for each file with several names.
    first_names: HashMap<(u32, u32, u64), Bytes>,
    /// Filled in but for what the sender knows.
    summary: CaptureSummary,
}

/// Whether files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Read,
    /// Entries have neither extents nor hashes.
    LeaveOut,
}

/// What became of a name.
enum Visit {
    Sent,
    LeftOut,
    /// Sent, and a directory to go into.
    Enter(OwnedFd),
    /// Something else took its place meanwhile.
    Replaced,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        outlet: Outlet<'a>,
        remembered: &'a Remembered,
        content: Content,
        root: &Node,
    ) -> Self {
        Self {
            outlet,
            remembered,
            content,
            mount: root.mount(),
            first_names: HashMap::new(),
            summary: CaptureSummary::default(),
        }
    }

    /// Walks everything below the root, and the root itself. Returns the part
    /// of the summary that it knows.
    pub(super) fn run(mut self, root: OwnedFd) -> Result<CaptureSummary, Stop> {
        self.send_directory(&root, b"")?;
        let mut path = Vec::new();
        let mut levels = vec![Level::enter(root, &path)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            path.truncate(level.path_bytes);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if let Some(directory) = self.visit(&level.directory, &name, &path)? {
                levels.push(Level::enter(directory, &path)?);
            }
        }
        self.outlet.flush()?;
        Ok(self.summary)
    }

    /// Deals with one name; returns the directory to go into, if it is one.
    fn visit(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<OwnedFd>, Stop> {
        for _ in 0..LOOKS {
            match self.look(directory, name, path)? {
                Visit::Sent | Visit::LeftOut => return Ok(None),
                Visit::Enter(child) => return Ok(Some(child)),
                Visit::Replaced => {}
            }
        }
        Err(Stop::Failed(AgentError::new(
            Reason::Io,
            format!(
                "{} became something else each of the {LOOKS} times it was looked at; end what keeps replacing it and try again",
                shown(path)
            ),
        )))
    }

    fn look(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Visit, Stop> {
        let Some(node) = unless_gone(Node::at(directory, name), path)? else {
            return Ok(Visit::LeftOut);
        };
        let Some(kind) = node.kind() else {
            self.summary.sockets_skipped += 1;
            return Ok(Visit::LeftOut);
        };
        if kind == TreeEntryKind::Directory {
            return self.directory(directory, name, path);
        }
        if !node.is_on(self.mount) {
            self.summary.mounts_skipped += 1;
            return Ok(Visit::LeftOut);
        }
        let entry = node.entry(Bytes::copy_from_slice(path), kind);
        let shared = node.shared_identity();
        if let Some(first) = shared.and_then(|shared| self.first_names.get(&shared)) {
            let link = TreeEntry {
                path: entry.path,
                kind: entry.kind,
                hard_link: first.clone(),
                ..TreeEntry::default()
            };
            self.send_plain(link)?;
            return Ok(Visit::Sent);
        }
        let path = entry.path.clone();
        let visit = match kind {
            TreeEntryKind::File => self.file(directory, name, &node, entry)?,
            _ => self.special(directory, name, entry)?,
        };
        if let (Visit::Sent, Some(shared)) = (&visit, shared) {
            self.first_names.insert(shared, path);
        }
        Ok(visit)
    }

    fn directory(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Visit, Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(child) = open(parent, name, flags, path)? else {
            return Ok(Visit::Replaced);
        };
        // What was opened may be another one than what was looked at.
        let node = self.send_directory(&child, path)?;
        if node.is_on(self.mount) {
            return Ok(Visit::Enter(child));
        }
        self.summary.mounts_skipped += 1;
        Ok(Visit::Sent)
    }

    fn send_directory(&mut self, open: &OwnedFd, path: &[u8]) -> Result<Node, Stop> {
        let node = Node::of(open).map_err(|errno| unreadable(path, errno))?;
        let mut entry = node.entry(Bytes::copy_from_slice(path), TreeEntryKind::Directory);
        entry.xattrs = xattrs::read(open).map_err(|errno| unreadable(path, errno))?;
        self.send(CapturedEntry {
            entry: Some(entry),
            mount: !node.is_on(self.mount),
            ..CapturedEntry::default()
        })?;
        Ok(node)
    }

    /// A symbolic link, a fifo or a device.
    fn special(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        mut entry: TreeEntry,
    ) -> Result<Visit, Stop> {
        if entry.kind() == TreeEntryKind::Symlink {
            match rustix::fs::readlinkat(directory, name, Vec::new()) {
                Ok(target) => entry.link_target = target.into_bytes().into(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(Visit::Replaced),
                Err(errno) => return Err(unreadable(&entry.path, errno)),
            }
        }
        let xattrs = xattrs::read_at(&name_path(directory, name));
        let Some(xattrs) = unless_gone(xattrs, &entry.path)? else {
            return Ok(Visit::Replaced);
        };
        entry.xattrs = xattrs;
        self.send_plain(entry)?;
        Ok(Visit::Sent)
    }

    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        node: &Node,
        mut entry: TreeEntry,
    ) -> Result<Visit, Stop> {
        let key = node.key();
        if self.remembered.knows(&entry.path, &key) {
            let xattrs = xattrs::read_at(&name_path(directory, name));
            let Some(xattrs) = unless_gone(xattrs, &entry.path)? else {
                return Ok(Visit::Replaced);
            };
            entry.xattrs = xattrs;
            self.send(CapturedEntry {
                entry: Some(entry),
                same: true,
                key: Some(key),
                ..CapturedEntry::default()
            })?;
            return Ok(Visit::Sent);
        }
        if self.content == Content::LeaveOut {
            let xattrs = xattrs::read_at(&name_path(directory, name));
            let Some(xattrs) = unless_gone(xattrs, &entry.path)? else {
                return Ok(Visit::Replaced);
            };
            entry.xattrs = xattrs;
            self.send(CapturedEntry {
                entry: Some(entry),
                key: Some(key),
                ..CapturedEntry::default()
            })?;
            return Ok(Visit::Sent);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Some(file) = open(directory, name, flags, &entry.path)? else {
            return Ok(Visit::Replaced);
        };
        self.read(&File::from(file), entry.path)
    }

    /// Reads a file until it holds still for as long as that takes.
    fn read(&mut self, file: &File, path: Bytes) -> Result<Visit, Stop> {
        let failed = |errno| unreadable(&path, errno);
        for look in 1..=LOOKS {
            let before = Node::of(file).map_err(failed)?;
            if before.kind() != Some(TreeEntryKind::File) {
                return Ok(Visit::Replaced);
            }
            let size_bytes = self.content(file, before.size(), &path)?;
            let xattrs = xattrs::read(file).map_err(failed)?;
            let key = before.key();
            let torn = Node::of(file).map_err(failed)?.key() != key;
            if torn && look < LOOKS {
                self.outlet.again()?;
                continue;
            }
            let entry = TreeEntry {
                // A torn file may have become shorter than it was.
                size_bytes,
                xattrs,
                ..before.entry(path, TreeEntryKind::File)
            };
            self.send(CapturedEntry {
                entry: Some(entry),
                key: (!torn).then_some(key),
                torn,
                ..CapturedEntry::default()
            })?;
            break;
        }
        Ok(Visit::Sent)
    }

    /// Hands on the content of a file and returns its length.
    fn content(&mut self, file: &File, size: u64, path: &[u8]) -> Result<u64, Stop> {
        let mut length = 0;
        let mut extents = 0;
        content::read(file, size, |piece| {
            length += match &piece {
                Piece::Data(data) => data.len() as u64,
                Piece::Hole(length) => *length,
            };
            extents += 1;
            if extents > MAX_EXTENTS {
                return Err(Stop::Failed(AgentError::new(
                    Reason::FileTooLarge,
                    format!(
                        "{} has more than {MAX_EXTENTS} extents, which a tree cannot hold; move it out of the directory",
                        shown(path)
                    ),
                )));
            }
            self.outlet.piece(piece)
        })
        .map_err(|stop| match stop {
            Stop::Io(error) => Stop::Failed(failed("read", path, error)),
            Stop::Failed(_) | Stop::Closed => stop,
        })?;
        Ok(length)
    }

    /// Sends an entry without content.
    fn send_plain(&mut self, entry: TreeEntry) -> Result<(), Stop> {
        self.send(CapturedEntry {
            entry: Some(entry),
            ..CapturedEntry::default()
        })
    }

    fn send(&mut self, captured: CapturedEntry) -> Result<(), Stop> {
        self.summary.entries += 1;
        self.summary.same_files += u64::from(captured.same);
        self.summary.torn_files += u64::from(captured.torn);
        self.summary.file_bytes += captured.entry.as_ref().map_or(0, |entry| entry.size_bytes);
        self.outlet.entry(captured)
    }
}

/// A directory that the walk is in.
struct Level {
    directory: OwnedFd,
    /// Names still to be looked at, the next one last.
    names: Vec<Vec<u8>>,
    /// How much of the walk's path is this directory's.
    path_bytes: usize,
}

impl Level {
    fn enter(directory: OwnedFd, path: &[u8]) -> Result<Self, Stop> {
        let mut names = super::names_in(&directory).map_err(|errno| unreadable(path, errno))?;
        names.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Self {
            directory,
            names,
            path_bytes: path.len(),
        })
    }
}

/// Opens a name; nothing when something else has taken its place, or nothing.
///
/// Reading is not to be seen in the times of access; only the owner and root
/// may ask for that.
fn open(
    directory: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    path: &[u8],
) -> Result<Option<OwnedFd>, Stop> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        opened => opened,
    };
    match opened {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE) => Ok(None),
        Err(errno) => Err(unreadable(path, errno)),
    }
}

fn unless_gone<T>(result: Result<T, Errno>, path: &[u8]) -> Result<Option<T>, Stop> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(unreadable(path, errno)),
    }
}

fn unreadable(path: &[u8], errno: Errno) -> Stop {
    Stop::Failed(failed("read", path, errno.into()))
}
