//! A generator of directory trees with everything in them that a tree can have,
//! and a count of what was in them. Also used by the end-to-end tests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use compyd_proto::agent::{TreeEntry, TreeEntryKind};
use proptest::prelude::*;

/// Bytes of a path that an operation makes: the calls of this file take a
/// whole path, and a renamed directory may hold one as long.
const LONGEST_PATH: usize = 1800;

/// What is done to a tree, one after the other. Numbers pick among what is
/// there, so that every list of operations can be done to every tree.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Make {
        parent: usize,
        name: Vec<u8>,
        kind: Kind,
        looks: Looks,
    },
    Remove(usize),
    Rewrite(usize, Vec<u8>),
    Look(usize, Looks),
    Rename {
        which: usize,
        parent: usize,
        name: Vec<u8>,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File(Vec<u8>),
    /// Data at these offsets in blocks of 64 KiB, and a length beyond.
    Sparse {
        blocks: Vec<u64>,
        beyond: u64,
    },
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    /// Another name of what the number picks.
    HardLink(usize),
}

/// What something is to look like.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    mode: u32,
    owner: (u32, u32),
    mtime: (u32, u32),
    xattr: Option<(String, Vec<u8>)>,
    acl: Option<u8>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let plain = "[a-d]{1,2}".prop_map(String::into_bytes);
    let byte = any::<u8>().prop_filter("a name", |byte| !matches!(byte, 0 | b'/'));
    let wild = prop::collection::vec(byte, 1..12)
        .prop_filter("a name", |name| name != b"." && name != b"..");
    let long = (101..=255_usize).prop_map(|length| vec![b'n'; length]);
    prop_oneof![5 => plain, 2 => wild, 2 => long]
}

fn looks() -> impl Strategy<Value = Looks> {
    let mode = prop_oneof![
        3 => 0..0o1000_u32,
        1 => (0..0o1000_u32).prop_map(|mode| mode | 0o4000),
        1 => 0..0o10000_u32,
    ];
    let xattr = prop::option::of((
        "user\\.[a-z]{1,8}",
        prop::collection::vec(any::<u8>(), 0..200),
    ));
    (
        mode,
        (0..3000_u32, 0..3000_u32),
        (any::<u32>(), 0..1_000_000_000_u32),
        xattr,
        prop::option::weighted(0.3, 0..8_u8),
    )
        .prop_map(|(mode, owner, mtime, xattr, acl)| Looks {
            mode,
            owner,
            mtime,
            xattr,
            acl,
        })
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (any::<u8>(), 60_000..400_000_usize).prop_map(|(byte, length)| vec![byte; length]),
        1 => (any::<u64>(), 60_000..400_000_usize).prop_map(|(seed, length)| {
            let mut noise = vec![0; length];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
            noise
        }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    let target = prop::collection::vec(1..=255_u8, 1..100);
    prop_oneof![
        4 => content().prop_map(Kind::File),
        2 => (prop::collection::vec(0..16_u64, 0..3), 1..100_000_u64)
            .prop_map(|(blocks, beyond)| Kind::Sparse { blocks, beyond }),
        5 => Just(Kind::Directory),
        2 => target.prop_map(Kind::Symlink),
        2 => Just(Kind::Fifo),
        3 => any::<usize>().prop_map(Kind::HardLink),
    ]
}

/// Makes something somewhere.
pub(crate) fn make() -> impl Strategy<Value = Operation> {
    (any::<usize>(), name(), kind(), looks()).prop_map(|(parent, name, kind, looks)| {
        Operation::Make {
            parent,
            name,
            kind,
            looks,
        }
    })
}

/// Changes something that is there, or makes something.
pub(crate) fn change() -> impl Strategy<Value = Operation> {
    let any = any::<usize>;
    let rewrite =
        (any(), content()).prop_map(|(which, content)| Operation::Rewrite(which, content));
    let look = (any(), looks()).prop_map(|(which, looks)| Operation::Look(which, looks));
    let rename = (any(), any(), name()).prop_map(|(which, parent, name)| Operation::Rename {
        which,
        parent,
        name,
    });
    prop_oneof![
        3 => make(),
        2 => any().prop_map(Operation::Remove),
        2 => rewrite,
        2 => look,
        1 => rename,
    ]
}

/// The paths below a root, itself first, in an order that is always the same.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut paths = vec![root.to_owned()];
    let mut next = 0;
    while next < paths.len() {
        let path = paths[next].clone();
        next += 1;
        if path.symlink_metadata().unwrap().is_dir() {
            let children = std::fs::read_dir(&path).unwrap();
            let mut children: Vec<_> = children.map(|child| child.unwrap().path()).collect();
            children.sort();
            paths.extend(children);
        }
    }
    paths
}

fn pick(
    root: &Path,
    number: usize,
    wanted: impl Fn(&std::fs::Metadata) -> bool,
) -> Option<PathBuf> {
    let mut found = paths(root);
    found.retain(|path| wanted(&path.symlink_metadata().unwrap()));
    (!found.is_empty()).then(|| found[number % found.len()].clone())
}

/// Does one operation; one that cannot be done, such as for a name that is
/// taken, is no operation.
pub(crate) fn perform(root: &Path, operation: &Operation) {
    match operation {
        Operation::Make {
            parent,
            name,
            kind,
            looks,
        } => {
            let parent = pick(root, *parent, |meta| meta.is_dir()).unwrap();
            let path = parent.join(OsStr::from_bytes(name));
            let fits = path.as_os_str().len() < LONGEST_PATH;
            if fits && path.symlink_metadata().is_err() && make_kind(root, &path, kind) {
                look(&path, looks);
            }
        }
        Operation::Remove(which) => match pick(root, *which, |_| true) {
            Some(path) if path == root => {}
            Some(path) if path.symlink_metadata().unwrap().is_dir() => {
                std::fs::remove_dir_all(path).unwrap();
            }
            Some(path) => std::fs::remove_file(path).unwrap(),
            None => {}
        },
        Operation::Rewrite(which, content) => {
            if let Some(path) = pick(root, *which, |meta| meta.is_file()) {
                std::fs::write(path, content).unwrap();
            }
        }
        Operation::Look(which, looks) => look(&pick(root, *which, |_| true).unwrap(), looks),
        Operation::Rename {
            which,
            parent,
            name,
        } => {
            let from = pick(root, *which, |_| true).unwrap();
            let parent = pick(root, *parent, |meta| meta.is_dir()).unwrap();
            let to = parent.join(OsStr::from_bytes(name));
            let fits = to.as_os_str().len() < LONGEST_PATH;
            let free = to.symlink_metadata().is_err();
            if fits && free && from != root && !to.starts_with(&from) {
                std::fs::rename(from, to).unwrap();
            }
        }
    }
}

fn make_kind(root: &Path, path: &Path, kind: &Kind) -> bool {
    match kind {
        Kind::File(content) => std::fs::write(path, content).unwrap(),
        Kind::Sparse { blocks, beyond } => {
            let file = File::create(path).unwrap();
            for block in blocks {
                file.write_all_at(&[7; 65536], block * 131_072).unwrap();
            }
            file.set_len(16 * 131_072 + beyond).unwrap();
        }
        Kind::Directory => std::fs::create_dir(path).unwrap(),
        Kind::Symlink(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
        Kind::Fifo => {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        Kind::HardLink(which) => {
            let Some(first) = pick(root, *which, |meta| !meta.is_dir()) else {
                return false;
            };
            std::fs::hard_link(first, path).unwrap();
        }
    }
    true
}

fn look(path: &Path, looks: &Looks) {
    let Looks {
        mode,
        owner: (uid, gid),
        mtime: (seconds, nanoseconds),
        xattr,
        acl,
    } = looks;
    let kind = path.symlink_metadata().unwrap().file_type();
    if kind.is_symlink() {
        lchown(path, Some(*uid), Some(*gid)).unwrap();
    } else {
        chown(path, Some(*uid), Some(*gid)).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(*mode)).unwrap();
        let set = |name: &str, value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path, name, value, flags).unwrap();
        };
        if let (Some((name, value)), true) = (xattr, kind.is_file() || kind.is_dir()) {
            set(name, value);
        }
        if let Some(permissions) = acl {
            set("system.posix_acl_access", &access_list(*permissions));
            if kind.is_dir() {
                set("system.posix_acl_default", &access_list(7 - *permissions));
            }
        }
    }
    let mtime = UNIX_EPOCH + Duration::new((*seconds).into(), *nanoseconds);
    if kind.is_file() || kind.is_dir() {
        let times = FileTimes::new().set_modified(mtime);
        File::open(path).unwrap().set_times(times).unwrap();
    } else {
        use nix::sys::stat::{UtimensatFlags, utimensat};
        use nix::sys::time::TimeSpec;
        let time = TimeSpec::new((*seconds).into(), (*nanoseconds).into());
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags).unwrap();
    }
}

/// An ACL in the kernel's format: the owner, user 4242, group, mask, others.
fn access_list(permissions: u8) -> Vec<u8> {
    let none = u32::MAX;
    let mut list = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 7, none),
        (2, permissions, 4242),
        (4, 5, none),
        (16, 7, none),
        (32, 1, none),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(u16::from(permissions).to_le_bytes());
        list.extend(u32::to_le_bytes(id));
    }
    list
}

/// How many entries, or trees, have each feature.
#[derive(Default)]
pub(crate) struct Seen {
    entries: usize,
    features: BTreeMap<&'static str, usize>,
}

impl Seen {
    /// Adds the entries of a tree.
    pub(crate) fn count(&mut self, tree: &[TreeEntry]) {
        let linked = |entry: &TreeEntry| {
            !entry.hard_link.is_empty()
                || tree
                    .iter()
                    .any(|other| other.hard_link == entry.path && !entry.path.is_empty())
        };
        for (index, entry) in tree.iter().enumerate() {
            self.entries += 1;
            let kind = entry.kind();
            let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap();
            let next = tree.get(index + 1);
            let is_empty =
                next.is_none_or(|next| !next.path.starts_with(&[&entry.path[..], b"/"].concat()));
            let has = |wanted: &[u8]| {
                entry
                    .xattrs
                    .iter()
                    .any(|xattr| xattr.name.starts_with(wanted))
            };
            for (feature, there) in [
                ("mode bits", ![0o644, 0o755, 0o777].contains(&entry.mode)),
                ("setuid", entry.mode & 0o4000 != 0),
                ("uid", entry.uid != 0),
                ("gid", entry.gid != 0),
                ("ns-mtime", entry.mtime_ns != 0),
                ("user xattrs", has(b"user.")),
                ("ACLs", has(b"system.posix_acl_")),
                ("hard-link groups", linked(entry)),
                (
                    "sparse holes",
                    entry.extents.iter().any(|extent| extent.hash.is_empty()),
                ),
                ("symlinks", kind == TreeEntryKind::Symlink),
                ("fifos", kind == TreeEntryKind::Fifo),
                ("names over 100 bytes", name.len() > 100),
                ("names not UTF-8", std::str::from_utf8(name).is_err()),
                (
                    "empty directories",
                    kind == TreeEntryKind::Directory && is_empty && !name.is_empty(),
                ),
            ] {
                *self.features.entry(feature).or_default() += usize::from(there);
            }
        }
    }

    /// Each feature is in at least 5 % of the entries.
    ///
    /// # Panics
    /// When one is rarer.
    pub(crate) fn check(&self) {
        for (feature, count) in &self.features {
            let share = 100.0 * *count as f64 / self.entries as f64;
            eprintln!("{feature}: {share:.1} % of {} entries", self.entries);
            assert!(
                share >= 5.0,
                "{feature} occur in {share:.1} % of the entries only"
            );
        }
        assert_eq!(self.features.len(), 14);
    }
}
