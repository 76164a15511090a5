//! Which snapshots are let go when old ones are removed by rule.

use std::collections::HashMap;

use super::Snapshot;
use crate::domain::ids::{SnapshotId, WorkspaceId};

/// The rules. Without any, everything is kept; with several, only what each of
/// them lets go is let go. What a person named with a label is always kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Lets go of this workspace's only; `None` for every workspace's.
    pub workspace: Option<WorkspaceId>,
    /// Lets all go but so many newest of each workspace, those with a label
    /// counted.
    pub keep_last: Option<u32>,
    /// Lets those go that were taken longer ago than so many milliseconds.
    pub older_than_ms: Option<i64>,
}

impl Retention {
    /// What is let go of these, which may be in any order; oldest first.
    #[must_use]
    pub fn expired(&self, snapshots: &[Snapshot], now_ms: i64) -> Vec<SnapshotId> {
        if self.keep_last.is_none() && self.older_than_ms.is_none() {
            return Vec::new();
        }
        let mut by_age: Vec<&Snapshot> = snapshots.iter().collect();
        // Not by id: an imported snapshot may have a newer one than its time.
        by_age.sort_by_key(|snapshot| (snapshot.created_at_ms, snapshot.id.clone()));
        let mut newer: HashMap<&WorkspaceId, u32> = HashMap::new();
        let mut expired = Vec::new();
        for snapshot in by_age.into_iter().rev() {
            let newer = newer.entry(&snapshot.workspace).or_default();
            let beyond = self.keep_last.is_none_or(|keep| *newer >= keep);
            *newer = newer.saturating_add(1);
            let age_ms = now_ms.saturating_sub(snapshot.created_at_ms);
            let old = self.older_than_ms.is_none_or(|limit| age_ms > limit);
            let meant = (self.workspace.as_ref()).is_none_or(|only| *only == snapshot.workspace);
            if beyond && old && meant && snapshot.label.is_none() {
                expired.push(snapshot.id.clone());
            }
        }
        expired.reverse();
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::contract::store::{snapshot, workspace};

    /// Numbers of the snapshots that the rules let go at 100: 1 to 5 of one
    /// workspace, 6 and 7 of another, taken at ten times their number; 2 has a
    /// label.
    fn gone(retention: &Retention) -> Vec<u128> {
        let snapshots: Vec<Snapshot> = (1..=7)
            .map(|number| Snapshot {
                created_at_ms: number as i64 * 10,
                label: (number == 2).then(|| "kept".parse().unwrap()),
                ..snapshot(number, if number < 6 { 1 } else { 2 })
            })
            .collect();
        let number_of = |id| (1..=7).find(|n| snapshot(*n, 1).id == id).unwrap();
        let mut reversed = snapshots.clone();
        reversed.reverse();
        let expired = retention.expired(&snapshots, 100);
        assert_eq!(retention.expired(&reversed, 100), expired);
        expired.into_iter().map(number_of).collect()
    }

    #[test]
    fn only_what_every_rule_lets_go_goes() {
        let rules = |keep_last, older_than_ms, workspace_number: Option<u128>| Retention {
            keep_last,
            older_than_ms,
            workspace: workspace_number.map(|number| workspace(number, "w").id),
        };
        for (retention, expected) in [
            (Retention::default(), vec![]),
            (rules(None, None, Some(1)), vec![]),
            (rules(Some(0), None, None), vec![1, 3, 4, 5, 6, 7]),
            (rules(Some(1), None, None), vec![1, 3, 4, 6]),
            (rules(Some(2), None, None), vec![1, 3]),
            (rules(Some(9), None, None), vec![]),
            (rules(None, Some(50), None), vec![1, 3, 4]),
            (rules(None, Some(100), None), vec![]),
            (rules(Some(2), Some(70), None), vec![1]),
            (rules(Some(1), None, Some(2)), vec![6]),
            (rules(None, Some(0), Some(2)), vec![6, 7]),
        ] {
            assert_eq!(gone(&retention), expected, "{retention:?}");
        }
    }
}
