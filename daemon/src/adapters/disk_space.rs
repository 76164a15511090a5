//! What a full disk looks like, and how to notice it before it is full.

use std::{fs::File, io, path::Path};

use nix::{errno::Errno, sys::statvfs::statvfs};

/// Bytes that this process may still write to the file system with `path`.
///
/// # Errors
/// Whatever `statvfs` fails with: the path does not exist.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Like [`free_bytes`], for a directory that may still have to be made.
///
/// # Errors
/// Whatever `statvfs` fails with.
pub fn free_bytes_once_made(dir: &Path) -> io::Result<u64> {
    let there = dir.ancestors().find(|dir| dir.exists());
    free_bytes(there.unwrap_or(dir))
}

/// Whether an error says that there is no space or no quota left.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) || matches!(code, Some(Errno::ENOSPC | Errno::EDQUOT))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
