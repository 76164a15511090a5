//! The file tools of a workspace, in the daemon's words. Paths are absolute or
//! relative to `/workspace`.

use serde::{Deserialize, Serialize};

/// Lines wanted from a text file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadRange {
    /// First line wanted, from 1; `None` means the first.
    pub first_line: Option<u32>,
    /// Lines at most; `None` means the agent's default of 2,000.
    pub line_count: Option<u32>,
    /// Bytes at most; `None` means the agent's default of 256 KiB.
    pub max_bytes: Option<u32>,
}

/// Lines of a text file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileText {
    /// The lines with their ends.
    pub content: String,
    /// Number of the first line returned, from 1; 0 for an empty file.
    pub first_line: u32,
    /// Lines returned.
    pub line_count: u32,
    /// Lines of the whole file.
    pub total_lines: u32,
    /// Bytes of the whole file.
    pub total_bytes: u64,
    /// blake3 of the whole file in hex.
    pub hash: String,
    /// Whether lines follow the ones returned.
    pub truncated: bool,
}

/// A whole-file write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWrite {
    /// The file; missing parent directories are made.
    pub path: String,
    /// New content, at most 16 MiB.
    pub content: Vec<u8>,
    /// blake3 in hex that the present file must have.
    pub expected_hash: Option<String>,
    /// Whether an existing file is refused.
    pub create_only: bool,
}

/// What one file is to become, as a part of a change of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUpdate {
    /// The file; missing parent directories are made.
    pub path: String,
    /// blake3 in hex that the present file must have; `None`: there must be
    /// none.
    pub expected_hash: Option<String>,
    /// Its new content; `None`: it is removed.
    pub to: Option<Vec<u8>>,
    /// Permission bits for a new file; `None` means 0644.
    pub mode: Option<u32>,
}

/// What a mutating file tool did, kept by the agent under its step id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The file, absolute, links resolved.
    pub path: String,
    /// blake3 in hex before; `None` when there was no file.
    pub hash_before: Option<String>,
    /// blake3 in hex after; `None` when the file was removed.
    pub hash_after: Option<String>,
    /// Bytes after.
    pub size_bytes: u64,
    /// Whether the step was known and nothing was done now.
    pub replayed: bool,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The name in a listing, the absolute path elsewhere; bytes that are not
    /// UTF-8 are replaced.
    pub path: String,
    /// Kind.
    pub kind: FileKind,
    /// Bytes.
    pub size_bytes: u64,
    /// Permission bits, 0 to 07777.
    pub mode: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Where a symbolic link points.
    pub link_target: Option<String>,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A fifo, socket or device.
    Other,
}

/// A bounded list and whether it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Whether entries were left out.
    pub truncated: bool,
}

/// A search for files by glob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GlobQuery {
    /// A glob such as `**/*.py`.
    pub pattern: String,
    /// Where to look; `None` means `/workspace`.
    pub path: Option<String>,
    /// Matches at most.
    pub max_matches: Option<u32>,
    /// Whether ignored and hidden files count.
    pub include_ignored: bool,
}

/// A search for lines by regular expression.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrepQuery {
    /// A regular expression in the syntax of Rust's regex crate.
    pub pattern: String,
    /// A file or directory; `None` means `/workspace`.
    pub path: Option<String>,
    /// Only files that match one of these; empty means all.
    pub globs: Vec<String>,
    /// Whether upper and lower case are the same.
    pub ignore_case: bool,
    /// Lines of context before and after, 0 to 20 each.
    pub context: (u32, u32),
    /// Matching lines at most.
    pub max_matches: Option<u32>,
    /// Whether ignored and hidden files count.
    pub include_ignored: bool,
}

/// A line found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrepLine {
    /// The file, absolute.
    pub path: String,
    /// From 1.
    pub line: u32,
    /// Without its end.
    pub text: String,
    /// Whether it matched, or is context.
    pub matched: bool,
}
