//! StatFile and ListDirectory.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use compyd_proto::agent::{FileInfo, FileKind, ListDirectoryResponse, StatFileResponse};

use super::text;
use crate::errors::{AgentError, Reason};

const DEFAULT_ENTRIES: u32 = 1000;
const MAX_ENTRIES: u32 = 10_000;

/// What is at a path, the link itself and not what it points to.
pub(super) fn stat(path: &Path, with_hash: bool) -> Result<StatFileResponse, AgentError> {
    let meta =
        std::fs::symlink_metadata(path).map_err(|error| AgentError::io("look at", path, &error))?;
    let hash = if with_hash && meta.is_file() {
        std::fs::File::open(path)
            .and_then(|mut file| text::hash_file(&mut file))
            .map_err(|error| AgentError::io("read", path, &error))?
    } else {
        String::new()
    };
    Ok(StatFileResponse {
        info: Some(describe(path, path, &meta)),
        hash,
    })
}

/// The entries of a directory, sorted by name.
pub(super) fn list(path: &Path, max_entries: u32) -> Result<ListDirectoryResponse, AgentError> {
    let failed = |error: std::io::Error| AgentError::io("list", path, &error);
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_dir() {
        return Err(AgentError::new(
            Reason::NotADirectory,
            format!("{} is not a directory; read it instead", path.display()),
        ));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort();
    let limit = match max_entries {
        0 => DEFAULT_ENTRIES,
        wanted => wanted.min(MAX_ENTRIES),
    } as usize;
    let truncated = names.len() > limit;
    let entries = names
        .iter()
        .take(limit)
        .filter_map(|name| {
            let full = path.join(name);
            // One that went away in the meantime is not an entry any more.
            let meta = std::fs::symlink_metadata(&full).ok()?;
            Some(describe(Path::new(name), &full, &meta))
        })
        .collect();
    Ok(ListDirectoryResponse { entries, truncated })
}

/// An entry under the name that the caller sees.
pub(super) fn describe(shown: &Path, full: &Path, meta: &Metadata) -> FileInfo {
    let kind = if meta.is_file() {
        FileKind::File
    } else if meta.is_dir() {
        FileKind::Directory
    } else if meta.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    };
    let link_target = if meta.is_symlink() {
        std::fs::read_link(full)
            .map(|target| target.to_string_lossy().into_owned())
            .unwrap_or_default()
    } else {
        String::new()
    };
    FileInfo {
        path: shown.to_string_lossy().into_owned(),
        raw_path: bytes::Bytes::copy_from_slice(shown.as_os_str().as_bytes()),
        kind: kind.into(),
        size_bytes: meta.len(),
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: meta
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(meta.mtime_nsec()),
        link_target,
    }
}
