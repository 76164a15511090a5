//! Copies of trees on disk, for overlays to lie over.
//!
//! A copy is a plain volume that holds exactly one tree and is never written
//! again. Any number of overlay volumes lie over it, each with what its
//! workspace changed. Copies are a cache: whatever is in one is in the store of
//! chunks as well, so one that nobody lies over may go at any time.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{VolumeTree, hash::TreeHash};

/// What a file takes on disk beside its content, about: its inode, its name,
/// and the rest of its last block.
const ENTRY_BYTES: u64 = 4096;

/// Copies that are kept though nothing lies over them: every restore looks
/// through all of them, and so does the engine.
const UNUSED_MAX: usize = 64;

/// A volume by the engine's name for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeRef(pub String);

/// A copy that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeCopy {
    /// The volume that holds it.
    pub volume: VolumeRef,
    /// What it holds. The chunks of its listing may be pruned: it then serves
    /// its own tree only.
    pub tree: VolumeTree,
    /// When something was last made over it, in milliseconds since the Unix
    /// epoch.
    pub used_at_ms: i64,
}

impl TreeCopy {
    /// What it takes on disk, about.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(self.tree.entries, self.tree.bytes)
    }
}

/// What so many entries with so many bytes of content take on disk, about.
#[must_use]
pub fn disk_bytes(entries: u64, bytes: u64) -> u64 {
    bytes.saturating_add(entries.saturating_mul(ENTRY_BYTES))
}

/// The copies that are to go: what no snapshot names, and then the longest
/// unused until the others take no more than `max_bytes` and are few. One that
/// an overlay lies over stays.
#[must_use]
pub fn to_evict(
    copies: &[TreeCopy],
    in_use: &HashSet<VolumeRef>,
    named: &HashSet<TreeHash>,
    max_bytes: u64,
) -> Vec<VolumeRef> {
    let mut total: u64 = copies.iter().map(TreeCopy::disk_bytes).sum();
    let mut unused: Vec<&TreeCopy> = (copies.iter())
        .filter(|copy| !in_use.contains(&copy.volume))
        .collect();
    unused.sort_by_key(|copy| (named.contains(&copy.tree.hash), copy.used_at_ms));
    let mut evicted = Vec::new();
    let too_many = unused.len().saturating_sub(UNUSED_MAX);
    for copy in unused {
        let fits = total <= max_bytes && evicted.len() >= too_many;
        if named.contains(&copy.tree.hash) && fits {
            break;
        }
        total -= copy.disk_bytes();
        evicted.push(copy.volume.clone());
    }
    evicted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(name: &str, used_at_ms: i64) -> TreeCopy {
        TreeCopy {
            volume: VolumeRef(name.to_owned()),
            tree: VolumeTree {
                hash: TreeHash::of(name.as_bytes()),
                listing: Vec::new(),
                entries: 1,
                bytes: 1_000_000 - ENTRY_BYTES,
            },
            used_at_ms,
        }
    }

    fn evicted(in_use: &[&str], named: &[&str], max_bytes: u64) -> Vec<String> {
        let copies = [copy("a", 3), copy("b", 1), copy("c", 2), copy("d", 4)];
        let in_use = in_use.iter().map(|name| VolumeRef((*name).to_owned()));
        let named = named.iter().map(|name| TreeHash::of(name.as_bytes()));
        let evicted = to_evict(&copies, &in_use.collect(), &named.collect(), max_bytes);
        evicted.into_iter().map(|volume| volume.0).collect()
    }

    #[test]
    fn the_longest_unused_go_until_the_others_fit() {
        let all = ["a", "b", "c", "d"];
        assert_eq!(evicted(&[], &all, 4_000_000), [] as [&str; 0]);
        assert_eq!(evicted(&[], &all, 3_999_999), ["b"]);
        assert_eq!(evicted(&[], &all, 2_000_000), ["b", "c"]);
        assert_eq!(evicted(&[], &all, 0), ["b", "c", "a", "d"]);
    }

    #[test]
    fn what_something_lies_over_stays_and_counts() {
        let all = ["a", "b", "c", "d"];
        assert_eq!(evicted(&["b", "c"], &all, 2_500_000), ["a", "d"]);
        assert_eq!(evicted(&all, &[], 0), [] as [&str; 0]);
    }

    #[test]
    fn of_many_the_longest_unused_go_whatever_there_is_room_for() {
        let names: Vec<String> = (0..UNUSED_MAX + 3).map(|n| n.to_string()).collect();
        let copies: Vec<TreeCopy> = (names.iter().zip(0..)).map(|(n, at)| copy(n, at)).collect();
        let named = copies.iter().map(|copy| copy.tree.hash).collect();
        let in_use = HashSet::from([VolumeRef("1".to_owned())]);
        let evicted = to_evict(&copies, &in_use, &named, u64::MAX);
        assert_eq!(evicted, ["0", "2"].map(|name| VolumeRef(name.to_owned())));
    }

    #[test]
    fn what_no_snapshot_names_goes_whatever_there_is_room_for() {
        assert_eq!(evicted(&[], &["a", "b"], u64::MAX), ["c", "d"]);
        assert_eq!(evicted(&["c"], &["a", "b"], 2_000_000), ["d", "b"]);
    }
}
