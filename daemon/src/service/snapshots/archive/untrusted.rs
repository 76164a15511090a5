//! A listing that somebody else made: whether it is one that a capture could
//! have made, so that putting it in place touches nothing but the volume.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet, hash_map},
};

use bytes::Bytes;
use compyd_proto::{
    agent::TreeEntryKind,
    tree::{is_within, walk_order},
};
use prost::Message as _;

use super::super::listing;
use crate::{
    domain::snapshot::{
        VolumeTree,
        hash::{ChunkHash, TreeHash},
    },
    ports::{chunks::CHUNK_BYTES_MAX, trees::TreeEntry},
};

/// Longest name in a directory, in bytes; no file system has longer ones.
const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
const TARGET_BYTES_MAX: usize = 4095;
/// Longest extended attribute, in bytes.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Attributes that belong to content; see `TreeEntry`.
fn is_content(name: &[u8]) -> bool {
    const EXACT: [&[u8]; 3] = [
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"security.capability",
    ];
    EXACT.contains(&name) || (name.starts_with(b"user.") && name.len() > b"user.".len())
}

/// Checks a listing, and adds the chunks of its files and their lengths to
/// those that are needed, in the order of their first use.
///
/// # Errors
/// What is wrong, and with which path.
pub(super) fn check(encoded: Bytes, tree: &VolumeTree, needed: &mut Needed) -> Result<(), String> {
    if TreeHash::of(&encoded) != tree.hash {
        return Err("its listing has another hash than the manifest says".to_owned());
    }
    let mut rest = encoded;
    let mut checked = Checked::default();
    while !rest.is_empty() {
        let before = rest.clone();
        let entry = TreeEntry::decode_length_delimited(&mut rest)
            .map_err(|_| "its listing cannot be read".to_owned())?;
        let at = |why: &str| format!("{why}: {:?}", String::from_utf8_lossy(&entry.path));
        let taken = before.slice(..before.len() - rest.len());
        if entry.encode_length_delimited_to_vec() != taken {
            return Err(at("an entry is not in the form that is hashed"));
        }
        checked.add(&entry).map_err(at)?;
        for (hash, length) in listing::content(&entry) {
            needed.add(hash, length).map_err(at)?;
            checked.bytes += length;
        }
    }
    if checked.entries == 0 {
        return Err("its listing is empty".to_owned());
    }
    if (checked.entries, checked.bytes) != (tree.entries, tree.bytes) {
        return Err(
            "it holds another number of entries or bytes than the manifest says".to_owned(),
        );
    }
    Ok(())
}

/// Chunks of files that have to come, and how long each is.
#[derive(Debug, Default)]
pub(super) struct Needed {
    lengths: HashMap<ChunkHash, u64>,
}

impl Needed {
    fn add(&mut self, hash: ChunkHash, length: u64) -> Result<(), &'static str> {
        match self.lengths.entry(hash) {
            hash_map::Entry::Vacant(vacant) => drop(vacant.insert(length)),
            hash_map::Entry::Occupied(known) if *known.get() == length => {}
            hash_map::Entry::Occupied(_) => return Err("a chunk has two lengths"),
        }
        Ok(())
    }

    /// Takes one off; its length, or nothing when it is not needed.
    pub(super) fn take(&mut self, hash: &ChunkHash) -> Option<u64> {
        self.lengths.remove(hash)
    }

    /// One that did not come.
    pub(super) fn missing(&self) -> Option<&ChunkHash> {
        self.lengths.keys().next()
    }
}

/// What was checked so far.
#[derive(Debug, Default)]
struct Checked {
    entries: u64,
    bytes: u64,
    last: Bytes,
    /// The directories that the last entry is in, and itself when it is one.
    open: Vec<Bytes>,
    /// What a hard link may name.
    files: HashSet<Bytes>,
}

impl Checked {
    fn add(&mut self, entry: &TreeEntry) -> Result<(), &'static str> {
        self.entries += 1;
        let path = &entry.path;
        if self.entries == 1 {
            if !path.is_empty() || entry.kind() != TreeEntryKind::Directory {
                return Err("the first entry is not the root");
            }
        } else {
            self.place(path)?;
        }
        if entry.kind() == TreeEntryKind::Unspecified {
            return Err("it is of no known kind");
        }
        if entry.hard_link.is_empty() {
            looks(entry)?;
        } else {
            if !self.files.contains(&entry.hard_link) {
                return Err("a hard link leads to nothing that came before it in the volume");
            }
            let alone = TreeEntry {
                path: path.clone(),
                kind: entry.kind,
                hard_link: entry.hard_link.clone(),
                ..TreeEntry::default()
            };
            if alone != *entry {
                return Err("a hard link has properties of its own");
            }
        }
        match entry.kind() {
            TreeEntryKind::Directory if !entry.hard_link.is_empty() => {
                return Err("a directory is a hard link");
            }
            TreeEntryKind::Directory => self.open.push(path.clone()),
            TreeEntryKind::Unspecified
            | TreeEntryKind::File
            | TreeEntryKind::Symlink
            | TreeEntryKind::Fifo
            | TreeEntryKind::CharacterDevice
            | TreeEntryKind::BlockDevice => {
                if entry.hard_link.is_empty() {
                    self.files.insert(path.clone());
                }
            }
        }
        self.last = path.clone();
        Ok(())
    }

    /// Whether a path is a place in the volume, after the last one, in a
    /// directory that came before it.
    fn place(&mut self, path: &Bytes) -> Result<(), &'static str> {
        if path.starts_with(b"/") {
            return Err("a path is absolute");
        }
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" => return Err("a path has an empty name"),
                b"." | b".." => return Err("a path leads out of the volume"),
                name if name.len() > NAME_BYTES_MAX => return Err("a name is too long"),
                name if name.contains(&0) => return Err("a name has a zero byte"),
                _ => {}
            }
        }
        if walk_order(&self.last, path) != Ordering::Less {
            return Err("a path is there twice, or out of order");
        }
        while self.open.last().is_some_and(|open| !is_within(path, open)) {
            self.open.pop();
        }
        let parent = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => &path[..slash],
            None => b"",
        };
        match self.open.last() {
            Some(open) if open == parent => Ok(()),
            Some(_) | None => Err("what it is in is no directory of the volume"),
        }
    }
}

/// Whether the properties are those of what it is.
fn looks(entry: &TreeEntry) -> Result<(), &'static str> {
    if entry.mode > 0o7777 || entry.mtime_ns > 999_999_999 {
        return Err("its mode or its time is none");
    }
    for xattr in &entry.xattrs {
        if !is_content(&xattr.name) || xattr.name.len() > NAME_BYTES_MAX {
            return Err("it has an extended attribute that is not content");
        }
        if xattr.value.len() > XATTR_BYTES_MAX || xattr.name.contains(&0) {
            return Err("it has an extended attribute that is too long");
        }
    }
    let kind = entry.kind();
    if kind != TreeEntryKind::File && (entry.size_bytes > 0 || !entry.extents.is_empty()) {
        return Err("it has content and is no file");
    }
    let mut size: u64 = 0;
    for extent in &entry.extents {
        let longest = match extent.hash.len() {
            0 => u64::MAX,
            32 => CHUNK_BYTES_MAX as u64,
            _ => return Err("the hash of a chunk is none"),
        };
        if extent.length == 0 || extent.length > longest {
            return Err("a part of it has an impossible length");
        }
        size = (size.checked_add(extent.length)).ok_or("it is impossibly large")?;
    }
    if size != entry.size_bytes {
        return Err("its parts do not add up to its size");
    }
    let target = &entry.link_target;
    let is_link = kind == TreeEntryKind::Symlink;
    if is_link == target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
        return Err("it has a link's target and should not, or lacks one");
    }
    let is_device = matches!(
        kind,
        TreeEntryKind::CharacterDevice | TreeEntryKind::BlockDevice
    );
    if !is_device && (entry.device_major, entry.device_minor) != (0, 0) {
        return Err("it has device numbers and is no device");
    }
    Ok(())
}
