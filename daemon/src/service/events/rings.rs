//! Which events are kept: bounded for each workspace, so that a busy one takes
//! nothing from the others, and for connections apart from the rest.

use std::collections::{HashMap, VecDeque};

use super::NewEvent;
use crate::domain::{
    ids::WorkspaceId,
    workspace_event::{Happening, Ring, WorkspaceEvent},
};

/// Events of one kind that are kept of a workspace.
pub(super) const KEPT: usize = 1_000;
/// Workspaces that are gone and whose events are still kept.
pub(super) const GONE_KEPT: usize = 100;

/// What is on disk, by number.
#[derive(Debug, Default)]
pub(super) struct Rings {
    last: u64,
    workspaces: HashMap<WorkspaceId, Kept>,
    /// Workspaces that are gone, the one that went first in front.
    gone: VecDeque<WorkspaceId>,
    /// Numbers that the next write takes off the disk.
    forgotten: Vec<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    network: VecDeque<u64>,
    life_cycle: VecDeque<u64>,
}

impl Rings {
    /// Number of the newest event.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Takes up an event that is on disk; in the order of their numbers.
    pub(super) fn restore(&mut self, event: &WorkspaceEvent) {
        self.last = event.sequence;
        self.keep(&event.workspace, event.sequence, &event.what);
    }

    /// After restoring: every workspace that is not `living` is gone.
    pub(super) fn keep_only(&mut self, living: impl Fn(&WorkspaceId) -> bool) {
        let mut gone: Vec<_> = self
            .workspaces
            .iter()
            .filter(|(id, _)| !living(id))
            .map(|(id, kept)| (kept.last, id.clone()))
            .collect();
        gone.sort_unstable();
        self.gone = gone.into_iter().map(|(_, id)| id).collect();
        self.bound_gone();
    }

    /// Gives an event its number.
    pub(super) fn number(&mut self, new: NewEvent) -> WorkspaceEvent {
        self.last += 1;
        let previous = self.workspaces.get(&new.workspace).map_or(0, |w| w.last);
        self.keep(&new.workspace, self.last, &new.what);
        if new.what == Happening::Deleted {
            self.gone.push_back(new.workspace.clone());
            self.bound_gone();
        }
        WorkspaceEvent {
            sequence: self.last,
            previous,
            at_ms: new.at_ms,
            workspace: new.workspace,
            name: new.name,
            what: new.what,
        }
    }

    /// What the next write is to take off the disk.
    pub(super) fn take_forgotten(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten)
    }

    /// A write has failed: the next one is to do it.
    pub(super) fn forget_later(&mut self, mut forgotten: Vec<u64>) {
        self.forgotten.append(&mut forgotten);
    }

    fn keep(&mut self, workspace: &WorkspaceId, sequence: u64, what: &Happening) {
        let kept = self.workspaces.entry(workspace.clone()).or_default();
        kept.last = sequence;
        let ring = match what.ring() {
            Ring::Network => &mut kept.network,
            Ring::LifeCycle => &mut kept.life_cycle,
        };
        ring.push_back(sequence);
        if ring.len() > KEPT {
            self.forgotten.extend(ring.pop_front());
        }
    }

    fn bound_gone(&mut self) {
        while self.gone.len() > GONE_KEPT
            && let Some(id) = self.gone.pop_front()
        {
            let kept = self.workspaces.remove(&id).unwrap_or_default();
            self.forgotten.extend(kept.network);
            self.forgotten.extend(kept.life_cycle);
        }
    }
}
