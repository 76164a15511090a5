//! Restore: steps that remove, make and fill what is below a root.
//!
//! A file is made anew, never changed in place, so that other names of the old
//! one keep what they had. Owners come before modes (a change of owner clears
//! setuid), both before attributes (it also clears capabilities; a mode changes
//! an ACL's mask), and times last. What directories are to be is done at the
//! very end, the deepest first: filling one changes its times, and a default
//! ACL would be inherited by what is made in it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use compyd_proto::agent::restore_step::Step;
use compyd_proto::agent::{
    ChunkContent, KeyedFile, RestoreHeader, RestoreMode, RestoreStep, RestoreSummary, TreeEntry,
    TreeEntryKind, Xattr,
};
use compyd_proto::tree::{is_within, walk_order};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use zstd::bulk::Decompressor;

use super::entry::check_entry;
use super::file::NewFile;
use super::node::{Node, descriptor_path};
use super::place::{Place, check_path, split};
use super::{failed, open_root, shown, stamp_now_ns, xattrs};
use crate::errors::{AgentError, Reason};

/// A restore under way.
pub(crate) struct Restore {
    place: Place,
    /// What directories are to be in the end, by path.
    directories: HashMap<Bytes, Directory>,
    /// The file whose content comes next.
    file: Option<(TreeEntry, NewFile)>,
    /// The last entry's path.
    last: Option<Bytes>,
    /// The files that were made.
    files: Vec<Bytes>,
    unpacker: Decompressor<'static>,
    summary: RestoreSummary,
}

/// What a directory is to be in the end.
enum Directory {
    /// As the entry says.
    Entry(TreeEntry),
    /// As it was before it was written into.
    Times(Timespec),
}

impl Restore {
    /// Opens the directory, and empties it if it is to be replaced whole.
    pub(crate) fn begin(header: &RestoreHeader) -> Result<Self, AgentError> {
        let mut restore = Self {
            place: Place::new(open_root(&header.directory)?)?,
            directories: HashMap::new(),
            file: None,
            last: None,
            files: Vec::new(),
            unpacker: Decompressor::new()
                .map_err(|error| failed("make a decompressor for", &header.directory, error))?,
            summary: RestoreSummary::default(),
        };
        match header.mode() {
            RestoreMode::Whole => restore.summary.removed = restore.place.empty()?,
            RestoreMode::Delta => {}
            RestoreMode::Unspecified => {
                return Err(out_of_order("the header names no mode"));
            }
        }
        Ok(restore)
    }

    /// Does one step. What is kept of it is copied: its bytes are parts of a
    /// message that would be kept whole.
    pub(crate) fn step(&mut self, step: RestoreStep) -> Result<(), AgentError> {
        match step.step {
            Some(Step::Remove(path)) => self.remove(&path),
            Some(Step::Entry(entry)) => self.entry(entry),
            Some(Step::Content(content)) => self.content(&content),
            None => Err(out_of_order("a step is empty")),
        }
    }

    /// Finishes the directories, waits until everything is on disk, and looks
    /// at what was made.
    pub(crate) fn finish(mut self) -> Result<(Vec<KeyedFile>, RestoreSummary), AgentError> {
        self.check_complete()?;
        let mut directories: Vec<_> = self.directories.into_iter().collect();
        directories.sort_unstable_by(|(one, _), (other, _)| walk_order(other, one));
        for (path, directory) in directories {
            let open = self.place.directory(&path)?;
            match directory {
                Directory::Entry(entry) => apply(&open, &entry),
                Directory::Times(mtime) => set_mtime(&descriptor_path(&open), mtime),
            }
            .map_err(|errno| failed("finish the directory", &path, errno.into()))?;
        }
        let written_ns = stamp_now_ns();
        let root = self.place.root();
        rustix::fs::syncfs(&root)
            .map_err(|errno| failed("wait for the disk of", b"", errno.into()))?;
        self.summary.keys_as_of_ns = tick_after(written_ns);
        let mut files = Vec::with_capacity(self.files.len());
        for path in self.files {
            let (parent, name) = split(&path);
            let node = Node::at(self.place.directory(parent)?, name)
                .map_err(|errno| failed("look at", &path, errno.into()))?;
            files.push(KeyedFile {
                path,
                key: Some(node.key()),
            });
        }
        Ok((files, self.summary))
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), AgentError> {
        if self.last.is_some() {
            return Err(out_of_order("a removal comes after an entry"));
        }
        check_path(path)?;
        if path.is_empty() {
            return Err(AgentError::new(
                Reason::PathInvalid,
                "the root itself cannot be removed; restore the directory whole instead",
            ));
        }
        let (parent, _) = split(path);
        match self.written_into(parent) {
            Err(error) if error.reason() == Reason::NotFound => return Ok(()),
            other => other?,
        };
        self.summary.removed += u64::from(self.place.remove(path)?);
        self.directories
            .retain(|directory, _| !is_within(directory, path));
        Ok(())
    }

    fn entry(&mut self, entry: TreeEntry) -> Result<(), AgentError> {
        self.check_complete()?;
        check_entry(&entry)?;
        if let Some(last) = &self.last
            && walk_order(last, &entry.path) != Ordering::Less
        {
            return Err(out_of_order(&format!(
                "{} comes after {}, against the walk's order",
                shown(&entry.path),
                shown(last)
            )));
        }
        self.last = Some(Bytes::copy_from_slice(&entry.path));
        self.summary.entries += 1;
        if entry.path.is_empty() {
            self.directory(&entry);
            return Ok(());
        }
        let path = entry.path.clone();
        let (parent, name) = split(&path);
        let parent = self.written_into(parent)?;
        if !entry.hard_link.is_empty() {
            return self.hard_link(&parent, name, &entry);
        }
        let io = |errno: Errno| failed("make", &path, errno.into());
        match entry.kind() {
            TreeEntryKind::Directory => {
                self.make_directory(&parent, name, &path)?;
                self.directory(&entry);
                return Ok(());
            }
            TreeEntryKind::File => {
                let file = match NewFile::create(&parent, name) {
                    Err(Errno::EXIST) => {
                        make_way(&parent, name, &path)?;
                        NewFile::create(&parent, name)
                    }
                    created => created,
                };
                let file = file.map_err(io)?;
                self.file = Some((entry, file));
                return self.close_when_complete();
            }
            TreeEntryKind::Symlink => {
                make_way(&parent, name, &path)?;
                rustix::fs::symlinkat(&entry.link_target[..], &parent, name).map_err(io)?;
            }
            TreeEntryKind::Fifo => make_node(&parent, name, &entry, FileType::Fifo)?,
            TreeEntryKind::CharacterDevice => {
                make_node(&parent, name, &entry, FileType::CharacterDevice)?;
            }
            TreeEntryKind::BlockDevice => {
                make_node(&parent, name, &entry, FileType::BlockDevice)?;
            }
            TreeEntryKind::Unspecified => return Err(out_of_order("an entry has no kind")),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(io)?;
        apply(&made, &entry).map_err(io)
    }

    fn content(&mut self, content: &ChunkContent) -> Result<(), AgentError> {
        let Some((entry, file)) = &mut self.file else {
            return Err(out_of_order("content comes that no entry has asked for"));
        };
        self.summary.content_bytes += file.write(entry, content, &mut self.unpacker)?;
        self.close_when_complete()
    }

    /// Makes the file what its entry says once all its content is there.
    fn close_when_complete(&mut self) -> Result<(), AgentError> {
        let Some((entry, file)) = self.file.take_if(|(entry, file)| file.is_complete(entry)) else {
            return Ok(());
        };
        let io = |errno: Errno| failed("finish", &entry.path, errno.into());
        let file = file.close(&entry).map_err(io)?;
        apply(&file, &entry).map_err(io)?;
        self.files.push(Bytes::copy_from_slice(&entry.path));
        Ok(())
    }

    fn check_complete(&self) -> Result<(), AgentError> {
        match &self.file {
            None => Ok(()),
            Some((entry, _)) => Err(out_of_order(&format!(
                "the content of {} is not complete",
                shown(&entry.path)
            ))),
        }
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &TreeEntry,
    ) -> Result<(), AgentError> {
        let (first_parent, first_name) = split(&entry.hard_link);
        let first_parent = self.place.directory(first_parent)?;
        let first = Node::at(&first_parent, first_name)
            .map_err(|errno| failed("link to", &entry.hard_link, errno.into()))?;
        if first.kind() != Some(entry.kind()) {
            return Err(out_of_order(&format!(
                "{} is a hard link to {}, which is of another kind",
                shown(&entry.path),
                shown(&entry.hard_link)
            )));
        }
        make_way(parent, name, &entry.path)?;
        rustix::fs::linkat(&first_parent, first_name, parent, name, AtFlags::empty())
            .map_err(|errno| failed("link", &entry.path, errno.into()))
    }

    fn make_directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), AgentError> {
        let make = || rustix::fs::mkdirat(parent, name, Mode::RWXU);
        let made = match make() {
            Err(Errno::EXIST) => match Node::at(parent, name) {
                Ok(node) if node.is_directory() => Ok(()),
                _ => {
                    make_way(parent, name, path)?;
                    make()
                }
            },
            made => made,
        };
        made.map_err(|errno| failed("make the directory", path, errno.into()))
    }

    /// Notes what a directory is to be in the end.
    fn directory(&mut self, entry: &TreeEntry) {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let copied = TreeEntry {
            path: copy(&entry.path),
            xattrs: entry
                .xattrs
                .iter()
                .map(|xattr| Xattr {
                    name: copy(&xattr.name),
                    value: copy(&xattr.value),
                })
                .collect(),
            // A directory has nothing else that is made of bytes.
            hard_link: Bytes::new(),
            extents: Vec::new(),
            link_target: Bytes::new(),
            ..*entry
        };
        self.directories
            .insert(copied.path.clone(), Directory::Entry(copied));
    }

    /// Opens a directory to write into. Its times are kept, unless its own entry
    /// came or comes.
    fn written_into(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, AgentError> {
        let directory = self.place.directory(path)?;
        if !self.directories.contains_key(path) {
            let mtime = Node::of(&directory)
                .map_err(|errno| failed("look at", path, errno.into()))?
                .mtime();
            self.directories
                .insert(Bytes::copy_from_slice(path), Directory::Times(mtime));
        }
        Ok(directory)
    }
}

/// Removes what a new file is to replace.
fn make_way(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), AgentError> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("replace", path, errno.into())),
    }
}

fn make_node(
    parent: &OwnedFd,
    name: &[u8],
    entry: &TreeEntry,
    kind: FileType,
) -> Result<(), AgentError> {
    make_way(parent, name, &entry.path)?;
    let device = rustix::fs::makedev(entry.device_major, entry.device_minor);
    rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)
        .map_err(|errno| failed("make", &entry.path, errno.into()))
}

/// Makes an object what its entry says, content aside.
fn apply(object: impl AsFd, entry: &TreeEntry) -> Result<(), Errno> {
    let path = descriptor_path(object);
    let path = &path[..];
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chown(path, Some(uid), Some(gid))?;
    if entry.kind() != TreeEntryKind::Symlink {
        rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode))?;
        xattrs::write_exactly(path, &entry.xattrs)?;
    }
    let mtime = Timespec {
        tv_sec: entry.mtime_s,
        tv_nsec: entry.mtime_ns.into(),
    };
    set_mtime(path, mtime)
}

fn set_mtime(descriptor_path: &[u8], mtime: Timespec) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    };
    rustix::fs::utimensat(CWD, descriptor_path, &times, AtFlags::empty())
}

/// The first tick of the clock that is not this one, so that no key is too
/// young to be trusted. Most often it has long come.
pub(super) fn tick_after(tick_ns: i64) -> i64 {
    loop {
        let now_ns = stamp_now_ns();
        if now_ns != tick_ns {
            return now_ns;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn out_of_order(what: &str) -> AgentError {
    AgentError::new(
        Reason::SpecInvalid,
        format!("{what}; send the steps of a restore as tree.proto says"),
    )
}
