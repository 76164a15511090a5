//! What an entry may look like that is to be restored.

use compyd_proto::agent::{TreeEntry, TreeEntryKind};
use compyd_proto::tree::{HASH_BYTES, MAX_CHUNK_BYTES, walk_order};

use super::place::check_path;
use super::{shown, xattrs};
use crate::errors::{AgentError, Reason};

/// Refuses an entry that cannot come from a capture.
pub(super) fn check_entry(entry: &TreeEntry) -> Result<(), AgentError> {
    check_path(&entry.path)?;
    check_path(&entry.hard_link)?;
    match flaw(entry) {
        None => Ok(()),
        Some(flaw) => Err(AgentError::new(
            Reason::SpecInvalid,
            format!(
                "the entry {:?} {flaw}; send it as it was captured",
                shown(&entry.path)
            ),
        )),
    }
}

fn flaw(entry: &TreeEntry) -> Option<&'static str> {
    let kind = entry.kind();
    if kind == TreeEntryKind::Unspecified {
        return Some("is of no kind that is known");
    }
    if entry.path.is_empty() && kind != TreeEntryKind::Directory {
        return Some("is the root, and no directory");
    }
    if !entry.hard_link.is_empty() {
        if kind == TreeEntryKind::Directory {
            return Some("is a directory, and a hard link");
        }
        return walk_order(&entry.hard_link, &entry.path)
            .is_ge()
            .then_some("is a hard link to what comes after it");
    }
    if entry.mode > 0o7777 {
        return Some("has a mode of more than twelve bits");
    }
    if entry.mtime_ns > 999_999_999 {
        return Some("has more nanoseconds than a second");
    }
    if entry.link_target.is_empty() != (kind != TreeEntryKind::Symlink) {
        return Some("has a link's target where none belongs, or lacks it");
    }
    if entry.link_target.contains(&0) || entry.xattrs.iter().any(|xattr| xattr.name.contains(&0)) {
        return Some("holds a NUL byte");
    }
    if !entry
        .xattrs
        .iter()
        .all(|xattr| xattrs::belongs_to_content(&xattr.name))
    {
        return Some("has an attribute that belongs to the host");
    }
    if kind != TreeEntryKind::File && (entry.size_bytes > 0 || !entry.extents.is_empty()) {
        return Some("has content, and is no file");
    }
    if !extents_fit(entry) {
        return Some("has extents that do not fit its size or cannot be chunks");
    }
    None
}

fn extents_fit(entry: &TreeEntry) -> bool {
    let mut size = 0_u64;
    for extent in &entry.extents {
        let longest = match extent.hash.len() {
            0 => u64::MAX,
            HASH_BYTES => MAX_CHUNK_BYTES as u64,
            _ => return false,
        };
        if extent.length == 0 || extent.length > longest {
            return false;
        }
        match size.checked_add(extent.length) {
            Some(sum) => size = sum,
            None => return false,
        }
    }
    // Offsets of files are signed.
    size == entry.size_bytes && i64::try_from(size).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use compyd_proto::agent::{Extent, Xattr};

    fn file(extents: &[(u64, usize)], size_bytes: u64) -> TreeEntry {
        TreeEntry {
            path: Bytes::from_static(b"f"),
            kind: TreeEntryKind::File.into(),
            size_bytes,
            extents: extents
                .iter()
                .map(|(length, hash_bytes)| Extent {
                    length: *length,
                    hash: vec![0; *hash_bytes].into(),
                })
                .collect(),
            ..TreeEntry::default()
        }
    }

    #[test]
    fn content_is_holes_and_chunks_that_make_up_the_size() {
        for sound in [
            file(&[], 0),
            file(&[(1, 32)], 1),
            file(&[(1 << 20, 32), (1 << 40, 0)], (1 << 40) + (1 << 20)),
        ] {
            assert_eq!(flaw(&sound), None, "{sound:?}");
        }
        for unsound in [
            file(&[], 1),
            file(&[(1, 32)], 2),
            file(&[(0, 32)], 0),
            file(&[(0, 0)], 0),
            file(&[(1, 31)], 1),
            file(&[((1 << 20) + 1, 32)], (1 << 20) + 1),
            file(&[(u64::MAX, 0), (1, 0)], 0),
            file(&[(u64::MAX, 0)], u64::MAX),
        ] {
            assert!(flaw(&unsound).is_some(), "{unsound:?}");
        }
    }

    #[test]
    fn an_entry_that_no_capture_makes_is_refused() {
        let sound = file(&[], 0);
        let with = |change: fn(&mut TreeEntry)| {
            let mut entry = sound.clone();
            change(&mut entry);
            check_entry(&entry).unwrap_err().reason()
        };
        let unsound: [fn(&mut TreeEntry); 9] = [
            |entry| entry.kind = 0,
            |entry| entry.kind = 99,
            |entry| entry.path = Bytes::new(),
            |entry| entry.mode = 0o10000,
            |entry| entry.mtime_ns = 1_000_000_000,
            |entry| entry.link_target = Bytes::from_static(b"x"),
            |entry| entry.hard_link = Bytes::from_static(b"g"),
            |entry| entry.kind = TreeEntryKind::Symlink.into(),
            |entry| {
                entry.xattrs = vec![Xattr {
                    name: Bytes::from_static(b"trusted.overlay.opaque"),
                    value: Bytes::from_static(b"y"),
                }];
            },
        ];
        for change in unsound {
            assert_eq!(with(change), Reason::SpecInvalid);
        }
        for path in ["../x", "/x", "a/../b"] {
            let entry = TreeEntry {
                path: Bytes::from_static(path.as_bytes()),
                ..sound.clone()
            };
            assert_eq!(
                check_entry(&entry).unwrap_err().reason(),
                Reason::PathInvalid
            );
        }
        assert_eq!(
            with(|entry| entry.hard_link = Bytes::from_static(b"../x")),
            Reason::PathInvalid
        );
    }
}
