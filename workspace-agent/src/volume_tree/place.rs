//! Where a restore writes: descriptors of the directories below a root.
//!
//! A path is taken apart into names, and every directory on the way is opened
//! from the one above it: not through a link, and not onto another mount. The
//! descriptors of the last path are kept, because the next one is most often
//! beside it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use compyd_proto::tree::names;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::node::{MountId, Node};
use super::{failed, names_in, shown};
use crate::errors::{AgentError, Reason};

/// A root and the directories that are open below it.
pub(super) struct Place {
    root: Arc<OwnedFd>,
    mount: MountId,
    /// From the root's child on, each in the one before.
    open: Vec<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Place {
    pub(super) fn new(root: OwnedFd) -> Result<Self, AgentError> {
        let node = Node::of(&root).map_err(|errno| failed("look at", b"", errno.into()))?;
        Ok(Self {
            root: Arc::new(root),
            mount: node.mount(),
            open: Vec::new(),
        })
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    /// The directory at a checked path.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, AgentError> {
        let mut depth = 0;
        for name in names(path) {
            if self.open.get(depth).is_none_or(|(open, _)| open != name) {
                self.open.truncate(depth);
                let parent = self.open.last().map_or(&self.root, |(_, open)| open);
                let directory = self.enter(parent, name, path)?;
                self.open.push((name.to_vec(), Arc::new(directory)));
            }
            depth += 1;
        }
        let open = depth.checked_sub(1).map(|last| &self.open[last].1);
        Ok(Arc::clone(open.unwrap_or(&self.root)))
    }

    /// Removes what is at a checked path, with everything below it. Returns
    /// whether there was anything.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<bool, AgentError> {
        let (parent, name) = split(path);
        let parent = match self.directory(parent) {
            Ok(parent) => parent,
            Err(error) if error.reason() == Reason::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // What is removed may be open.
        self.open.clear();
        self.remove_all(vec![Removal {
            directory: parent,
            names: vec![name.to_vec()],
        }])
        .map(|removed| removed > 0)
        .map_err(|errno| self.not_removed(path, errno))
    }

    /// Removes everything in the root. Returns how many of its names.
    pub(super) fn empty(&mut self) -> Result<u64, AgentError> {
        let names = names_in(&self.root).map_err(|errno| failed("list", b"", errno.into()))?;
        let removal = Removal {
            directory: self.root(),
            names,
        };
        self.remove_all(vec![removal])
            .map_err(|errno| self.not_removed(b"", errno))
    }

    /// Removes names, and first what is in them. Returns how many of the names
    /// in the first directory were there.
    fn remove_all(&self, mut removals: Vec<Removal>) -> Result<u64, Errno> {
        let mut removed = 0;
        while let Some(removal) = removals.last_mut() {
            let Some(name) = removal.names.last() else {
                removals.pop();
                continue;
            };
            let directory = &removal.directory;
            let gone = match rustix::fs::unlinkat(directory, &name[..], AtFlags::empty()) {
                Ok(()) => true,
                Err(Errno::NOENT) => {
                    removal.names.pop();
                    continue;
                }
                Err(Errno::ISDIR) => {
                    match rustix::fs::unlinkat(directory, &name[..], AtFlags::REMOVEDIR) {
                        Ok(()) => true,
                        Err(Errno::NOTEMPTY | Errno::EXIST) => false,
                        Err(errno) => return Err(errno),
                    }
                }
                Err(errno) => return Err(errno),
            };
            if gone {
                removal.names.pop();
                removed += u64::from(removals.len() == 1);
                continue;
            }
            let child = self.enter_here(directory, name)?;
            let names = names_in(&child)?;
            removals.push(Removal {
                directory: Arc::new(child),
                names,
            });
        }
        Ok(removed)
    }

    fn enter(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, AgentError> {
        self.enter_here(parent, name).map_err(|errno| match errno {
            // What O_NOFOLLOW says of a link, with O_DIRECTORY or without.
            Errno::LOOP | Errno::NOTDIR => AgentError::new(
                Reason::NotADirectory,
                format!(
                    "could not open {}: {} in it is not a directory; remove it first",
                    shown(path),
                    shown(name)
                ),
            ),
            Errno::XDEV => self.other_mount(path),
            errno => failed("open", path, errno.into()),
        })
    }

    /// Opens a directory that is on the root's mount; XDEV for one that is not.
    fn enter_here(&self, parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if Node::of(&directory)?.is_on(self.mount) {
            Ok(directory)
        } else {
            Err(Errno::XDEV)
        }
    }

    fn not_removed(&self, path: &[u8], errno: Errno) -> AgentError {
        match errno {
            Errno::XDEV | Errno::BUSY => self.other_mount(path),
            errno => failed("remove what is in", path, errno.into()),
        }
    }

    fn other_mount(&self, path: &[u8]) -> AgentError {
        AgentError::new(
            Reason::PathInvalid,
            format!(
                "{} is, or has in it, another mount, which a restore must not touch; restore into a directory without mounts in it",
                shown(if path.is_empty() { b"." } else { path })
            ),
        )
    }
}

/// Names to remove from a directory.
struct Removal {
    directory: Arc<OwnedFd>,
    names: Vec<Vec<u8>>,
}

/// The directory and the name of a path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Refuses a path that is anything but names with a slash between them. The
/// root itself, the empty path, is for the caller to decide about.
pub(super) fn check_path(path: &[u8]) -> Result<(), AgentError> {
    let why = if path.contains(&0) {
        "holds a NUL byte"
    } else if path.starts_with(b"/") {
        "is absolute"
    } else if path.is_empty() {
        return Ok(());
    } else if path.split(|byte| *byte == b'/').any(<[u8]>::is_empty) {
        "has an empty name in it"
    } else if names(path).any(|name| matches!(name, b"." | b"..")) {
        "goes through . or .."
    } else {
        return Ok(());
    };
    Err(AgentError::new(
        Reason::PathInvalid,
        format!(
            "the path {:?} {why}; name it from the tree's root",
            shown(path)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_with_slashes_between_them_make_a_path() {
        for path in ["", "a", "a/b", "...", ".a/b.", "a\u{e9}", "\n"] {
            assert!(check_path(path.as_bytes()).is_ok(), "{path:?}");
        }
        for path in [
            "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/./b", "a/../b", "a\0", "\0",
        ] {
            let refused = check_path(path.as_bytes()).unwrap_err();
            assert_eq!(refused.reason(), Reason::PathInvalid, "{path:?}");
        }
        assert!(check_path(b"\xff/\xfe").is_ok());
    }

    #[test]
    fn a_path_has_a_directory_and_a_name() {
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
    }
}
