//! What the daemon and the agent must both know about trees: the order of
//! entries, the hash of a tree, and what turns one tree into another.

use std::cmp::Ordering;
use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;

use crate::agent::{TreeEntry, TreeEntryKind};

/// Largest chunk of a file's content, in bytes.
pub const MAX_CHUNK_BYTES: usize = crate::link::MAX_CHUNK_BYTES;
/// Bytes in the name of a chunk.
pub const HASH_BYTES: usize = blake3::OUT_LEN;

/// Walk order: a directory before what is in it, names in byte order.
///
/// Paths are compared name by name, so `a/b` comes before `a-b` although `/`
/// is the greater byte.
#[must_use]
pub fn walk_order(one: &[u8], other: &[u8]) -> Ordering {
    names(one).cmp(names(other))
}

/// The names of a path; none for the root.
pub fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

/// Whether `path` is `directory` or below it.
#[must_use]
pub fn is_within(path: &[u8], directory: &[u8]) -> bool {
    match path.strip_prefix(directory) {
        Some(rest) => directory.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}

/// The hash of a tree: blake3 over its entries in walk order, each as its
/// protobuf encoding after its length.
///
/// The encoding is the same everywhere: fields go in order of number, fields
/// that are empty are left out, and there are no maps.
#[derive(Debug, Clone, Default)]
pub struct TreeHasher {
    hasher: blake3::Hasher,
    encoded: Vec<u8>,
}

impl TreeHasher {
    /// Adds the next entry.
    pub fn add(&mut self, entry: &TreeEntry) {
        self.encoded.clear();
        entry
            .encode_length_delimited(&mut self.encoded)
            .expect("a vector grows as needed");
        self.hasher.update(&self.encoded);
    }

    /// The hash of what was added so far.
    #[must_use]
    pub fn finish(&self) -> [u8; HASH_BYTES] {
        *self.hasher.finalize().as_bytes()
    }
}

/// The hash of a whole tree.
#[must_use]
pub fn tree_hash<'a>(entries: impl IntoIterator<Item = &'a TreeEntry>) -> [u8; HASH_BYTES] {
    let mut hasher = TreeHasher::default();
    for entry in entries {
        hasher.add(entry);
    }
    hasher.finish()
}

/// The steps of a `RESTORE_MODE_DELTA` that turn one tree into another.
#[derive(Debug, PartialEq)]
pub struct Delta<'a> {
    /// Paths to remove, in walk order; none is below another.
    pub removes: Vec<Bytes>,
    /// Entries to put in place, in walk order.
    pub entries: Vec<&'a TreeEntry>,
}

/// What turns `from` into `to`, both in walk order.
///
/// An entry is put in place when it is new or differs, and when its hard link
/// leads to one that is: replacing a file leaves its other names behind.
#[must_use]
pub fn delta<'a>(from: &[TreeEntry], to: &'a [TreeEntry]) -> Delta<'a> {
    let mut delta = Delta {
        removes: Vec::new(),
        entries: Vec::new(),
    };
    let mut replaced: HashSet<&[u8]> = HashSet::new();
    let mut from = from.iter().peekable();
    for new in to {
        while let Some(old) = from.next_if(|old| walk_order(&old.path, &new.path) == Ordering::Less)
        {
            delta.remove(&old.path);
        }
        let old = from.next_if(|old| old.path == new.path);
        if old.is_some_and(|old| is_directory(old) != is_directory(new)) {
            delta.remove(&new.path);
        }
        // What is no link has an empty one, as the root has an empty path.
        let leads_to_new = !new.hard_link.is_empty() && replaced.contains(&new.hard_link[..]);
        if old != Some(new) || leads_to_new {
            replaced.insert(&new.path);
            delta.entries.push(new);
        }
    }
    for old in from {
        delta.remove(&old.path);
    }
    delta
}

impl Delta<'_> {
    /// Removes a path, unless that is done with a directory above it.
    fn remove(&mut self, path: &Bytes) {
        if !self.removes.last().is_some_and(|top| is_within(path, top)) {
            self.removes.push(path.clone());
        }
    }
}

fn is_directory(entry: &TreeEntry) -> bool {
    entry.kind() == TreeEntryKind::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &'static str, kind: TreeEntryKind) -> TreeEntry {
        TreeEntry {
            path: Bytes::from_static(path.as_bytes()),
            kind: kind.into(),
            ..TreeEntry::default()
        }
    }

    fn directory(path: &'static str) -> TreeEntry {
        entry(path, TreeEntryKind::Directory)
    }

    fn file(path: &'static str, size_bytes: u64) -> TreeEntry {
        TreeEntry {
            size_bytes,
            ..entry(path, TreeEntryKind::File)
        }
    }

    fn link(path: &'static str, to: &'static str) -> TreeEntry {
        TreeEntry {
            hard_link: Bytes::from_static(to.as_bytes()),
            ..entry(path, TreeEntryKind::File)
        }
    }

    fn steps(from: &[TreeEntry], to: &[TreeEntry]) -> (Vec<String>, Vec<String>) {
        let delta = delta(from, to);
        let text = |path: &Bytes| String::from_utf8(path.to_vec()).unwrap();
        (
            delta.removes.iter().map(text).collect(),
            delta.entries.iter().map(|e| text(&e.path)).collect(),
        )
    }

    fn owned(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn walk_order_goes_down_before_it_goes_on() {
        let mut paths = ["a-b", "b", "a/c", "", "a/b/z", "a", "a/b", "A", "a.b"];
        paths.sort_by(|one, other| walk_order(one.as_bytes(), other.as_bytes()));
        assert_eq!(
            paths,
            ["", "A", "a", "a/b", "a/b/z", "a/c", "a-b", "a.b", "b"]
        );
    }

    #[test]
    fn a_path_is_within_itself_and_its_directories_only() {
        for (path, directory, within) in [
            ("a", "", true),
            ("a", "a", true),
            ("a/b", "a", true),
            ("ab", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(
                is_within(path.as_bytes(), directory.as_bytes()),
                within,
                "{path} in {directory}"
            );
        }
    }

    /// The encoding is stored: a change of it makes every snapshot unreadable.
    #[test]
    fn the_hash_of_a_tree_never_changes() {
        let tree = [
            directory(""),
            TreeEntry {
                mode: 0o4755,
                mtime_s: -1,
                mtime_ns: 5,
                ..file("a", 3)
            },
            link("b", "a"),
        ];
        let hash = blake3::Hash::from(tree_hash(&tree)).to_hex();
        assert_eq!(
            hash.as_str(),
            "65860e8940ca29682ed86ad77f5b4935e5940e69a54df08eaa511b03c9379a0c"
        );
        assert_ne!(tree_hash(&tree[..2]), tree_hash(&tree));
    }

    #[test]
    fn equal_trees_need_no_step() {
        let tree = [directory(""), directory("d"), file("d/f", 1)];
        assert_eq!(steps(&tree, &tree), (vec![], vec![]));
    }

    #[test]
    fn a_delta_removes_tops_and_adds_what_is_new_or_differs() {
        let from = [
            directory(""),
            directory("gone"),
            file("gone/x", 1),
            file("kept", 1),
            file("longer", 1),
            file("zz", 1),
        ];
        let to = [
            directory(""),
            file("kept", 1),
            file("longer", 2),
            directory("new"),
            file("new/y", 1),
        ];
        assert_eq!(
            steps(&from, &to),
            (owned(&["gone", "zz"]), owned(&["longer", "new", "new/y"]))
        );
        assert_eq!(
            steps(&to, &from),
            (owned(&["new"]), owned(&["gone", "gone/x", "longer", "zz"]))
        );
    }

    #[test]
    fn a_root_that_differs_leaves_what_is_below_it() {
        let from = [directory(""), directory("d"), file("d/f", 1)];
        let root = TreeEntry {
            mtime_s: 7,
            ..directory("")
        };
        let to = [root, from[1].clone(), from[2].clone()];
        assert_eq!(steps(&from, &to), (vec![], owned(&[""])));
    }

    #[test]
    fn a_directory_and_something_else_make_way_for_each_other() {
        let from = [directory(""), directory("a"), file("a/b", 1), file("c", 1)];
        let to = [directory(""), file("a", 1), directory("c")];
        assert_eq!(steps(&from, &to), (owned(&["a", "c"]), owned(&["a", "c"])));
    }

    #[test]
    fn every_name_of_a_replaced_file_is_made_again() {
        let from = [directory(""), file("a", 1), link("b", "a"), link("c", "a")];
        let to = [directory(""), file("a", 2), link("b", "a"), link("c", "a")];
        assert_eq!(steps(&from, &to), (vec![], owned(&["a", "b", "c"])));
        // A name more needs the others as they are.
        assert_eq!(steps(&from[..3], &from), (vec![], owned(&["c"])));
    }
}
