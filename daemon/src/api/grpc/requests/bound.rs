//! Which requests are forgotten: the old ones, and where there are too many of
//! them the oldest that have ended.

use std::collections::HashSet;

use crate::{
    domain::ids::RequestId,
    ports::store::{RequestEntry, RequestProgress},
};

/// What the memory of requests may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    /// Requests.
    pub(super) count: usize,
    /// Bytes of their records, answers included.
    pub(super) bytes: u64,
}

/// Entries to forget.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Forgotten {
    /// All of them.
    pub(super) entries: Vec<RequestEntry>,
    /// How many of them are not old, and go for want of room.
    pub(super) early: usize,
}

/// What is to be forgotten: what was remembered before `before_ms`, and then the
/// oldest until the rest is within the bound. What runs stays, and so does what
/// was begun and has not ended, until it is old: a retry goes on with it.
pub(super) fn to_forget(
    mut entries: Vec<RequestEntry>,
    running: &HashSet<RequestId>,
    before_ms: i64,
    bound: Bound,
) -> Forgotten {
    entries.sort_by_key(|entry| entry.at_ms);
    let mut count = entries.len();
    let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut forgotten = Forgotten::default();
    for entry in entries {
        if running.contains(&entry.id) {
            continue;
        }
        let old = entry.at_ms < before_ms;
        let too_many = count > bound.count || bytes > bound.bytes;
        if old || (too_many && entry.progress == RequestProgress::Ended) {
            count -= 1;
            bytes -= entry.bytes;
            forgotten.early += usize::from(!old);
            forgotten.entries.push(entry);
        }
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, at_ms: i64, progress: RequestProgress) -> RequestEntry {
        RequestEntry {
            id: id.parse().unwrap(),
            at_ms,
            bytes: 10,
            progress,
        }
    }

    #[test]
    fn the_old_go_and_then_the_oldest_that_have_ended_until_there_is_room() {
        use RequestProgress::{Begun, Ended};
        let entries = || {
            vec![
                entry("e", 50, Ended),
                entry("a", 1, Ended),
                entry("b", 2, Begun),
                entry("c", 30, Begun),
                entry("d", 40, Ended),
                entry("f", 60, Ended),
            ]
        };
        let running = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect();
        let forgotten = |ids: &[&str], count, bytes| {
            let bound = Bound { count, bytes };
            let forgotten = to_forget(entries(), &running(ids), 10, bound);
            let ids = forgotten.entries.into_iter().map(|e| e.id.to_string());
            (ids.collect::<Vec<_>>().concat(), forgotten.early)
        };
        assert_eq!(forgotten(&[], 6, 60), ("ab".to_owned(), 0));
        assert_eq!(forgotten(&["a", "b"], 6, 60), (String::new(), 0));
        assert_eq!(forgotten(&[], 3, 60), ("abd".to_owned(), 1));
        assert_eq!(forgotten(&[], 6, 20), ("abde".to_owned(), 2));
        assert_eq!(forgotten(&["d"], 3, 60), ("abe".to_owned(), 1));
        assert_eq!(forgotten(&[], 0, 0), ("abdef".to_owned(), 3), "c has begun");
    }
}
