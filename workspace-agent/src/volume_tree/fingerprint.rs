//! The fingerprint of a tree: whether anything in it changed, without reading
//! any content.
//!
//! It is made of what the kernel says of each object, the inode number and the
//! time of the last change of anything among it, which nobody can choose. So
//! it is only compared with one of the same directory on the same machine.

use std::os::fd::OwnedFd;

use compyd_proto::agent::{FingerprintRequest, FingerprintResponse};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::node::Node;
use super::restore::tick_after;
use super::{WriteOut, failed, names_in, open_root, stamp_now_ns};
use crate::errors::AgentError;

/// Takes the fingerprint of a directory and all that is below it, on its mount.
pub(crate) fn fingerprint(request: &FingerprintRequest) -> Result<FingerprintResponse, AgentError> {
    let begun_ns = stamp_now_ns();
    let root = open_root(&request.directory)?;
    let shown = match &request.shown_at[..] {
        b"" => None,
        directory => {
            let shown = open_root(directory)?;
            WriteOut::First.carry_out(&shown, directory)?;
            Some(shown)
        }
    };
    let write_out = match request.write_out {
        true => WriteOut::First,
        false => WriteOut::No,
    };
    write_out.carry_out(&root, &request.directory)?;
    let walk_begun_ns = stamp_now_ns();
    let mut prints = Prints::default();
    prints.walk(root, shown)?;
    tick_after(walk_begun_ns);
    Ok(FingerprintResponse {
        hash: prints.hasher.finalize().as_bytes().to_vec().into(),
        entries: prints.entries,
        begun_ns,
        changed_ns: prints.changed_ns,
    })
}

#[derive(Default)]
struct Prints {
    hasher: blake3::Hasher,
    entries: u64,
    changed_ns: i64,
}

/// A directory that the walk is in.
struct Level {
    directory: OwnedFd,
    /// The same directory as it is shown elsewhere.
    shown: Option<OwnedFd>,
    /// Names still to be looked at, the next one last.
    names: Vec<Vec<u8>>,
    /// How much of the walk's path is this directory's.
    path_bytes: usize,
}

impl Level {
    fn enter(directory: OwnedFd, shown: Option<OwnedFd>, path: &[u8]) -> Result<Self, AgentError> {
        let mut names = names_in(&directory).map_err(|errno| failed("read", path, errno.into()))?;
        names.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Self {
            directory,
            shown,
            names,
            path_bytes: path.len(),
        })
    }
}

impl Prints {
    fn walk(&mut self, root: OwnedFd, shown: Option<OwnedFd>) -> Result<(), AgentError> {
        let mut path = Vec::new();
        let node = Node::of(&root).map_err(|errno| failed("look at", b"", errno.into()))?;
        let mount = node.mount();
        self.add(&path, &node);
        let mut levels = vec![Level::enter(root, shown, &path)?];
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
            let Some(node) = unless_gone(Node::at(&level.directory, &name), &path)? else {
                continue;
            };
            self.add(&path, &node);
            if node.is_directory() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let child = open(&level.directory, &name, flags, &path)?;
                if let Some(child) = child.filter(|_| node.is_on(mount)) {
                    let flags = OFlags::PATH | OFlags::DIRECTORY;
                    let shown = match &level.shown {
                        Some(shown) => open(shown, &name, flags, &path)?,
                        None => None,
                    };
                    levels.push(Level::enter(child, shown, &path)?);
                }
            } else if node.is_file() {
                // What is held back is in the size and the later of the times;
                // once it is written out the file itself says no less, so that
                // it makes no difference whether it is shown at all.
                let shown = match &level.shown {
                    Some(shown) => unless_gone(Node::at(shown, &name), &path)?,
                    None => None,
                };
                let own = node.key();
                let shown = shown.map_or(own, |shown| shown.key());
                let mtime_ns = own.mtime_ns.max(shown.mtime_ns);
                self.changed_ns = self.changed_ns.max(shown.ctime_ns);
                self.hasher.update(&shown.size_bytes.to_le_bytes());
                self.hasher.update(&mtime_ns.to_le_bytes());
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], node: &Node) {
        self.entries += 1;
        // Whoever sets another time is seen in this one.
        self.changed_ns = self.changed_ns.max(node.key().ctime_ns);
        self.hasher.update(&(path.len() as u64).to_le_bytes());
        self.hasher.update(path);
        self.hasher.update(&node.print());
    }
}

fn open(
    directory: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    path: &[u8],
) -> Result<Option<OwnedFd>, AgentError> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
    match opened {
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(None),
        opened => unless_gone(opened, path),
    }
}

fn unless_gone<T>(result: Result<T, Errno>, path: &[u8]) -> Result<Option<T>, AgentError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(failed("look at", path, errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    fn taken(directory: &Path) -> FingerprintResponse {
        fingerprint(&FingerprintRequest {
            directory: directory.as_os_str().as_bytes().to_vec().into(),
            ..FingerprintRequest::default()
        })
        .unwrap()
    }

    #[test]
    fn whatever_changes_in_a_tree_changes_its_fingerprint_and_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "one").unwrap();
        symlink("file", root.join("a/link")).unwrap();
        let mut before = taken(root);
        assert_eq!(before.entries, 5);
        fs::read(root.join("a/file")).unwrap();
        assert_eq!(taken(root).hash, before.hash);
        type Change = fn(&Path);
        let changes: [(&str, Change); 8] = [
            ("same size and time", |root| {
                let file = root.join("a/file");
                let mtime = fs::metadata(&file).unwrap().modified().unwrap();
                fs::write(&file, "two").unwrap();
                let open = fs::File::options().write(true).open(&file).unwrap();
                open.set_modified(mtime).unwrap();
            }),
            ("mode", |root| {
                fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o600))
                    .unwrap();
            }),
            ("a directory's mode", |root| {
                fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("a new file", |root| {
                fs::write(root.join("a/b/new"), "").unwrap()
            }),
            ("another name", |root| {
                fs::rename(root.join("a/b/new"), root.join("a/b/old")).unwrap();
            }),
            ("a file less", |root| {
                fs::remove_file(root.join("a/b/old")).unwrap()
            }),
            ("a link elsewhere", |root| {
                fs::remove_file(root.join("a/link")).unwrap();
                symlink("elsf", root.join("a/link")).unwrap();
            }),
            ("nothing but the root", |root| {
                fs::remove_dir_all(root.join("a")).unwrap()
            }),
        ];
        for (what, change) in changes {
            change(root);
            let after = taken(root);
            assert_ne!(after.hash, before.hash, "{what}");
            before = after;
        }
        assert_eq!(before.entries, 1);
    }

    #[test]
    fn what_changed_since_an_earlier_look_is_no_older_than_the_beginning_of_that_look() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("file"), "one").unwrap();
        // Newer kernels stamp finer than that clock moves.
        let written_ns = taken(root).changed_ns;
        while stamp_now_ns() <= written_ns {
            tick_after(stamp_now_ns());
        }
        let quiet = fingerprint(&FingerprintRequest {
            directory: root.as_os_str().as_bytes().to_vec().into(),
            write_out: true,
            ..FingerprintRequest::default()
        });
        let quiet = quiet.unwrap();
        assert!(quiet.changed_ns < quiet.begun_ns, "{quiet:?}");
        let again = taken(root);
        assert_eq!(
            (&again.hash, again.changed_ns),
            (&quiet.hash, quiet.changed_ns)
        );
        fs::write(root.join("file"), "two").unwrap();
        let busy = taken(root);
        assert!(busy.changed_ns >= again.begun_ns, "{busy:?}");
    }

    #[test]
    fn what_is_shown_elsewhere_counts_where_it_differs_and_is_in_both() {
        let (dir, shown) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let both = || {
            fingerprint(&FingerprintRequest {
                directory: dir.path().as_os_str().as_bytes().to_vec().into(),
                shown_at: shown.path().as_os_str().as_bytes().to_vec().into(),
                ..FingerprintRequest::default()
            })
            .unwrap()
        };
        for root in [dir.path(), shown.path()] {
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/file"), "one").unwrap();
            let file = fs::File::options().write(true).open(root.join("d/file"));
            file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        assert_eq!(both().hash, taken(dir.path()).hash);
        fs::write(shown.path().join("below"), "").unwrap();
        let before = both().hash;
        fs::write(shown.path().join("below"), "changed").unwrap();
        assert_eq!(both().hash, before);
        fs::write(shown.path().join("d/file"), "longer").unwrap();
        assert_ne!(both().hash, before);
    }
}
