//! Who uses which workspace, and when it was used last.
//!
//! A use either touches a workspace (a question to its agent) or holds it as
//! long as it takes (a reader, a copy, a forwarded port). Whoever is about to
//! stop one that is idle closes it here first: a use that comes later sees that
//! and waits for its start, one that came before keeps it up. So nothing that
//! was begun is cut by a stop for idleness.
//!
//! The times are kept in the store by [`flush`](super::Workspaces::flush_uses),
//! now and then and not at each use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    domain::{idle::is_due, ids::WorkspaceId},
    ports::clock::ClockPort,
};

/// The uses of all workspaces; a cheap handle.
#[derive(Clone)]
pub(super) struct Activity {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn ClockPort>,
    /// Held for a look-up only.
    uses: Mutex<HashMap<WorkspaceId, Uses>>,
}

#[derive(Debug, Default)]
struct Uses {
    /// Milliseconds since the Unix epoch.
    last_ms: i64,
    /// The same as the store has it; 0 for never.
    stored_ms: i64,
    /// Uses under way.
    held: u32,
    /// It is being stopped for idleness.
    closing: bool,
}

/// Whether a use found its workspace open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// It is not stopped before this use and the idle time have passed.
    Open,
    /// It is being stopped: it is to be started anew.
    Closing,
}

/// A use that lasts; ends when dropped.
#[must_use]
pub struct UseGuard {
    activity: Activity,
    workspace: WorkspaceId,
}

impl Activity {
    pub(super) fn new(clock: Arc<dyn ClockPort>, stored: Vec<(WorkspaceId, i64)>) -> Self {
        let uses = stored.into_iter().map(|(id, at_ms)| {
            let uses = Uses {
                last_ms: at_ms,
                stored_ms: at_ms,
                ..Uses::default()
            };
            (id, uses)
        });
        Self {
            inner: Arc::new(Inner {
                clock,
                uses: Mutex::new(uses.collect()),
            }),
        }
    }

    /// A workspace is used now.
    pub(super) fn touch(&self, workspace: &WorkspaceId) -> Door {
        let now_ms = self.inner.clock.now_ms();
        let mut uses = self.uses();
        let uses = uses.entry(workspace.clone()).or_default();
        uses.last_ms = now_ms;
        if uses.closing {
            Door::Closing
        } else {
            Door::Open
        }
    }

    /// A workspace is used until the guard is dropped.
    pub(super) fn hold(&self, workspace: &WorkspaceId) -> UseGuard {
        let mut uses = self.uses();
        uses.entry(workspace.clone()).or_default().held += 1;
        UseGuard {
            activity: self.clone(),
            workspace: workspace.clone(),
        }
    }

    /// When a workspace was used last; one that is not known is used now, as
    /// one that an older daemon left.
    pub(super) fn last_ms(&self, workspace: &WorkspaceId) -> i64 {
        let now_ms = self.inner.clock.now_ms();
        let mut uses = self.uses();
        let uses = uses.entry(workspace.clone()).or_default();
        if uses.held > 0 || uses.last_ms == 0 {
            uses.last_ms = now_ms;
        }
        uses.last_ms
    }

    /// Closes a workspace if nobody has used it for this long.
    pub(super) fn close_idle(&self, workspace: &WorkspaceId, after: Duration) -> bool {
        let last_ms = self.last_ms(workspace);
        let now_ms = self.inner.clock.now_ms();
        let mut uses = self.uses();
        let uses = uses.entry(workspace.clone()).or_default();
        // Again under the lock: a use may have come in between.
        let unused = uses.held == 0 && uses.last_ms == last_ms;
        uses.closing = unused && is_due(last_ms, after, now_ms);
        uses.closing
    }

    /// The stop that closed a workspace is over, done or not.
    pub(super) fn open(&self, workspace: &WorkspaceId) {
        if let Some(uses) = self.uses().get_mut(workspace) {
            uses.closing = false;
        }
    }

    pub(super) fn forget(&self, workspace: &WorkspaceId) {
        self.uses().remove(workspace);
    }

    /// Times that the store does not have yet.
    pub(super) fn unstored(&self) -> Vec<(WorkspaceId, i64)> {
        let now_ms = self.inner.clock.now_ms();
        let mut uses = self.uses();
        let unstored = uses.iter_mut().filter_map(|(id, uses)| {
            if uses.held > 0 {
                uses.last_ms = now_ms;
            }
            (uses.last_ms != uses.stored_ms).then(|| (id.clone(), uses.last_ms))
        });
        unstored.collect()
    }

    /// The store has these times now.
    pub(super) fn stored(&self, times: &[(WorkspaceId, i64)]) {
        let mut uses = self.uses();
        for (id, at_ms) in times {
            if let Some(uses) = uses.get_mut(id) {
                uses.stored_ms = *at_ms;
            }
        }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Uses>> {
        self.inner
            .uses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        let now_ms = self.activity.inner.clock.now_ms();
        if let Some(uses) = self.activity.uses().get_mut(&self.workspace) {
            uses.held = uses.held.saturating_sub(1);
            uses.last_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::memory::ManualClock;

    const AFTER: Duration = Duration::from_secs(10);

    fn bench() -> (Arc<ManualClock>, Activity, WorkspaceId) {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let activity = Activity::new(clock.clone(), Vec::new());
        let workspace = WorkspaceId::from_uuid(uuid::Uuid::from_u128(1));
        (clock, activity, workspace)
    }

    #[test]
    fn a_use_that_comes_first_keeps_it_open_and_one_that_comes_later_sees_it_closing() {
        let (clock, activity, id) = bench();
        activity.touch(&id);
        clock.advance(AFTER / 2);
        assert_eq!(activity.touch(&id), Door::Open);
        clock.advance(AFTER / 2);
        assert!(!activity.close_idle(&id, AFTER), "it was used in between");
        clock.advance(AFTER / 2);
        assert!(activity.close_idle(&id, AFTER));
        assert_eq!(activity.touch(&id), Door::Closing);
        activity.open(&id);
        assert_eq!(activity.touch(&id), Door::Open);
    }

    #[test]
    fn a_use_that_lasts_keeps_it_open_and_counts_from_its_end() {
        let (clock, activity, id) = bench();
        let guard = activity.hold(&id);
        clock.advance(AFTER * 5);
        assert!(!activity.close_idle(&id, AFTER));
        drop(guard);
        assert!(!activity.close_idle(&id, AFTER));
        clock.advance(AFTER);
        assert!(activity.close_idle(&id, AFTER));
    }

    #[test]
    fn times_are_stored_once_and_come_back_after_a_restart() {
        let (clock, activity, id) = bench();
        activity.touch(&id);
        let times = activity.unstored();
        assert_eq!(times, [(id.clone(), 1_000_000)]);
        activity.stored(&times);
        assert_eq!(activity.unstored(), []);

        let reborn = Activity::new(clock.clone(), times);
        clock.advance(AFTER);
        assert!(reborn.close_idle(&id, AFTER));
        // One that no daemon wrote down begins now.
        let other = WorkspaceId::from_uuid(uuid::Uuid::from_u128(2));
        assert!(!reborn.close_idle(&other, AFTER));
    }
}
