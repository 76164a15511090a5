//! What the volumes of the workspace use on disk.
//!
//! Volumes are the directories that are mounted from a disk, writable, below
//! the root; the root itself, the kernel's own file systems and what is only
//! in memory are none. Each is walked without leaving it, and an inode with
//! many names counts once.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::errors::{AgentError, Reason};

/// File systems that live on a disk or on another machine's.
const ON_DISK: [&str; 10] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "f2fs", "nfs", "nfs4",
];

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// As `du` counts: blocks and not lengths.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) entries: u64,
}

/// Counts every volume. Blocks on the disk.
pub(crate) fn count_volumes() -> Result<Count, AgentError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| {
        AgentError::new(Reason::Io, format!("the mounts cannot be read: {error}"))
    })?;
    Ok(count(&volumes(&mounts)))
}

/// Mount points of volumes in a mountinfo, see proc(5).
fn volumes(mountinfo: &str) -> Vec<PathBuf> {
    let volume = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(4);
        let (point, options) = (mount.next()?, mount.next()?);
        let is_writable = options.split(',').any(|option| option == "rw");
        let on_disk = ON_DISK.contains(&source.split(' ').next()?);
        (point != "/" && is_writable && on_disk).then(|| PathBuf::from(unescape(point)))
    };
    let mut volumes: Vec<_> = mountinfo.lines().filter_map(volume).collect();
    // The engine mounts single files as well: /etc/hosts and the like.
    volumes.retain(|point| point.is_dir());
    volumes
}

/// Spaces, tabs, line ends and backslashes are written in octal.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Counts what is below each directory and on the same file system.
fn count(roots: &[PathBuf]) -> Count {
    let mut total = Count::default();
    let mut linked = HashSet::new();
    for root in roots {
        let Ok(there) = fs::symlink_metadata(root) else {
            continue;
        };
        let device = there.dev();
        add(&there, &mut linked, &mut total);
        let mut open = vec![root.clone()];
        while let Some(directory) = open.pop() {
            // What goes away during the walk is not counted.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(there) = entry.metadata() else {
                    continue;
                };
                let path = entry.path();
                // Two volumes may be of one device: a mount point below
                // another one is walked as its own root.
                if there.dev() != device || (there.is_dir() && is_root(&path, roots)) {
                    continue;
                }
                add(&there, &mut linked, &mut total);
                if there.is_dir() {
                    open.push(path);
                }
            }
        }
    }
    total
}

fn is_root(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| root == path)
}

fn add(there: &fs::Metadata, linked: &mut HashSet<(u64, u64)>, total: &mut Count) {
    const BLOCK: u64 = 512;
    let many_names = !there.is_dir() && there.nlink() > 1;
    if many_names && !linked.insert((there.dev(), there.ino())) {
        return;
    }
    total.bytes += there.blocks() * BLOCK;
    total.entries += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_writable_directories_on_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("with space");
        fs::create_dir(&odd).unwrap();
        let file = dir.path().join("hosts");
        fs::write(&file, "").unwrap();
        let at = |path: &Path, options: &str, kind: &str| {
            let point = path.display().to_string().replace(' ', "\\040");
            format!("1 2 8:1 / {point} {options} master:1 - {kind} /dev/sda1 rw\n")
        };
        let mounts = [
            at(Path::new("/"), "rw,relatime", "overlay"),
            at(Path::new("/proc"), "rw,nosuid", "proc"),
            at(dir.path(), "ro,relatime", "ext4"),
            at(&odd, "rw,relatime", "ext4"),
            at(&odd, "rw,relatime", "tmpfs"),
            at(&file, "rw,relatime", "ext4"),
        ];
        assert_eq!(volumes(&mounts.concat()), [odd]);
    }

    #[test]
    fn blocks_are_counted_and_hard_links_once() {
        let dir = tempfile::tempdir().unwrap();
        let empty = count(&[dir.path().to_owned()]);
        assert_eq!(empty.entries, 1);
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("file");
        fs::write(&file, vec![7; 1 << 20]).unwrap();
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let counted = count(&[dir.path().to_owned()]);
        assert_eq!(counted.entries, 4);
        let more = counted.bytes - empty.bytes;
        assert!(((1 << 20)..(2 << 20)).contains(&more), "{more}");
        // A volume inside another one is counted once.
        let both = count(&[dir.path().to_owned(), inner]);
        assert_eq!(both, counted);
    }
}
