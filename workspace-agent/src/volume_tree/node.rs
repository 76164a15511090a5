//! One object of a file system as `statx` shows it.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use bytes::Bytes;
use compyd_proto::agent::{FileKey, TreeEntry, TreeEntryKind};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, Timespec};
use rustix::io::Errno;

/// What was found under a name.
pub(super) struct Node(Statx);

/// What tells a mount from another. Volumes often share a device, so the
/// number of the mount decides where the kernel names it (5.8 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountId {
    device: (u32, u32),
    number: Option<u64>,
}

impl Node {
    /// What `name` in a directory is; a link is not followed.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        Self::stat(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// What a descriptor is open on.
    pub(super) fn of(descriptor: impl AsFd) -> Result<Self, Errno> {
        Self::stat(descriptor.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    fn stat(at: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Self, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        rustix::fs::statx(at, name, flags, wanted).map(Self)
    }

    /// Nothing for a socket, and for what the kernel does not name.
    pub(super) fn kind(&self) -> Option<TreeEntryKind> {
        match FileType::from_raw_mode(self.0.stx_mode.into()) {
            FileType::RegularFile => Some(TreeEntryKind::File),
            FileType::Directory => Some(TreeEntryKind::Directory),
            FileType::Symlink => Some(TreeEntryKind::Symlink),
            FileType::Fifo => Some(TreeEntryKind::Fifo),
            FileType::CharacterDevice => Some(TreeEntryKind::CharacterDevice),
            FileType::BlockDevice => Some(TreeEntryKind::BlockDevice),
            FileType::Socket | FileType::Unknown => None,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == Some(TreeEntryKind::Directory)
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind() == Some(TreeEntryKind::File)
    }

    /// All that tells whether it is still what it was.
    pub(super) fn print(&self) -> [u8; 64] {
        let (stat, key) = (&self.0, self.key());
        let numbers = [
            u64::from(stat.stx_mode),
            u64::from(stat.stx_uid) << 32 | u64::from(stat.stx_gid),
            u64::from(stat.stx_rdev_major) << 32 | u64::from(stat.stx_rdev_minor),
            u64::from(stat.stx_nlink),
            key.inode,
            key.size_bytes,
            key.mtime_ns.cast_unsigned(),
            key.ctime_ns.cast_unsigned(),
        ];
        let mut print = [0; 64];
        for (at, number) in print.chunks_exact_mut(8).zip(numbers) {
            at.copy_from_slice(&number.to_le_bytes());
        }
        print
    }

    pub(super) fn size(&self) -> u64 {
        self.0.stx_size
    }

    pub(super) fn mtime(&self) -> Timespec {
        Timespec {
            tv_sec: self.0.stx_mtime.tv_sec,
            tv_nsec: self.0.stx_mtime.tv_nsec.into(),
        }
    }

    pub(super) fn mount(&self) -> MountId {
        MountId {
            device: (self.0.stx_dev_major, self.0.stx_dev_minor),
            number: StatxFlags::from_bits_retain(self.0.stx_mask)
                .contains(StatxFlags::MNT_ID)
                .then_some(self.0.stx_mnt_id),
        }
    }

    /// Whether it is on the mount of the root. Where mounts have no number,
    /// only a directory's device says so: an overlay shows its files with
    /// the devices of its layers.
    pub(super) fn is_on(&self, root: MountId) -> bool {
        match (self.mount().number, root.number) {
            (Some(number), Some(root)) => number == root,
            (None, _) | (_, None) => !self.is_directory() || self.mount().device == root.device,
        }
    }

    /// What all names of a file share, for a file that has several.
    pub(super) fn shared_identity(&self) -> Option<(u32, u32, u64)> {
        (self.0.stx_nlink > 1 && !self.is_directory()).then_some((
            self.0.stx_dev_major,
            self.0.stx_dev_minor,
            self.0.stx_ino,
        ))
    }

    pub(super) fn key(&self) -> FileKey {
        let (mtime, ctime) = (&self.0.stx_mtime, &self.0.stx_ctime);
        FileKey {
            size_bytes: self.0.stx_size,
            mtime_ns: nanoseconds(mtime.tv_sec, mtime.tv_nsec.into()),
            ctime_ns: nanoseconds(ctime.tv_sec, ctime.tv_nsec.into()),
            inode: self.0.stx_ino,
        }
    }

    /// The entry, as far as this look at it says.
    pub(super) fn entry(&self, path: Bytes, kind: TreeEntryKind) -> TreeEntry {
        let is_file = kind == TreeEntryKind::File;
        let is_device = matches!(
            kind,
            TreeEntryKind::CharacterDevice | TreeEntryKind::BlockDevice
        );
        TreeEntry {
            path,
            kind: kind.into(),
            mode: u32::from(self.0.stx_mode) & 0o7777,
            uid: self.0.stx_uid,
            gid: self.0.stx_gid,
            mtime_s: self.0.stx_mtime.tv_sec,
            mtime_ns: self.0.stx_mtime.tv_nsec,
            size_bytes: if is_file { self.0.stx_size } else { 0 },
            device_major: if is_device { self.0.stx_rdev_major } else { 0 },
            device_minor: if is_device { self.0.stx_rdev_minor } else { 0 },
            ..TreeEntry::default()
        }
    }
}

/// A time as one number. What does not fit, some 292 years from the epoch, is
/// as far away as fits.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The path under which the kernel shows an open descriptor. It leads to the
/// object itself, also when that is a symbolic link.
pub(super) fn descriptor_path(descriptor: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()).into_bytes()
}

/// The path of a name in an open directory. It ends at the name: calls that do
/// not follow links take the object itself.
pub(super) fn name_path(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let mut path = descriptor_path(directory);
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}
