//! Watching workspaces: as they are, and then each change.
//!
//! Nobody tells of everything that can change one: the engine may stop a
//! container by itself. So a watcher looks at all of them when something tells
//! (a record, an event, a lost link) and a moment after the last look anyway,
//! and sends what is different. A slow reader is behind by one look, however
//! much happens.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::{broadcast, watch};

use super::{WorkspaceView, Workspaces};
use crate::domain::ids::WorkspaceId;

/// Between two looks when nothing tells.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks when much happens.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a watcher receives.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A workspace is new, or differs from what was sent last.
    Changed(Box<WorkspaceView>),
    /// A workspace is gone.
    Removed(WorkspaceId),
    /// Every workspace there is has been sent once.
    AllSent,
}

impl Workspaces {
    /// Every workspace as it is, by name, and then each change, for ever.
    ///
    /// Cancel safety: dropped anywhere, nothing is lost.
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, Change> {
        let watcher = Watcher {
            signs: self.signs(),
            workspaces: self.clone(),
            known: BTreeMap::new(),
            ready: VecDeque::new(),
            looked: false,
        };
        futures_util::stream::unfold(watcher, |mut watcher| async {
            let change = watcher.next().await;
            Some((change, watcher))
        })
        .boxed()
    }

    /// What tells that something may have changed, from now on.
    pub(in crate::service) fn signs(&self) -> Signs {
        Signs {
            records: self.inner.index.changes(),
            events: self.inner.events.last(),
            lost: self.inner.links.lost(),
        }
    }
}

/// What tells that something may have changed.
pub(in crate::service) struct Signs {
    records: watch::Receiver<u64>,
    events: watch::Receiver<u64>,
    lost: broadcast::Receiver<WorkspaceId>,
}

impl Signs {
    /// Before a look: what comes from now on is a sign for the next one.
    pub(in crate::service) fn clear(&mut self) {
        self.records.mark_unchanged();
        self.events.mark_unchanged();
    }

    /// Waits for a sign, at most for `longest`.
    pub(in crate::service) async fn within(&mut self, longest: Duration) {
        // The time-out is the other way that this ends.
        let _ = tokio::time::timeout(longest, self.any()).await;
    }

    async fn any(&mut self) {
        tokio::select! {
            // Their senders live as long as the service.
            _ = self.records.changed() => {}
            _ = self.events.changed() => {}
            _ = self.lost.recv() => {}
        }
    }
}

struct Watcher {
    workspaces: Workspaces,
    signs: Signs,
    /// What was sent last.
    known: BTreeMap<WorkspaceId, WorkspaceView>,
    ready: VecDeque<Change>,
    looked: bool,
}

impl Watcher {
    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return change;
            }
            if self.looked {
                self.signs.within(LOOK_EVERY).await;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        self.signs.clear();
        let views = self.workspaces.list().await;
        let is_there = |id: &WorkspaceId| views.iter().any(|view| view.workspace.id == *id);
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|id| !is_there(id))
            .cloned()
            .collect();
        for id in gone {
            self.known.remove(&id);
            self.ready.push_back(Change::Removed(id));
        }
        for view in views {
            let id = view.workspace.id.clone();
            if self.known.get(&id) != Some(&view) {
                self.known.insert(id, view.clone());
                self.ready.push_back(Change::Changed(Box::new(view)));
            }
        }
        if !self.looked {
            self.looked = true;
            self.ready.push_back(Change::AllSent);
        }
    }
}
