//! What was decided and carried for each workspace since the daemon started.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    domain::{egress::EgressOutcome, ids::WorkspaceId},
    metrics,
};

/// Connections and bytes of a workspace since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressTotals {
    /// Connections that were allowed and came about.
    pub allowed: u64,
    /// Connections that were refused, from the start or while open.
    pub denied: u64,
    /// Connections that were allowed and did not come about.
    pub failed: u64,
    /// Connections that are open or being decided on now.
    pub open: u64,
    /// Bytes to the world.
    pub sent_bytes: u64,
    /// Bytes from the world.
    pub received_bytes: u64,
}

/// The counters of one workspace.
#[derive(Debug, Default)]
pub(super) struct Counters {
    allowed: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Number of the last decision; held while it is handed on.
    last: Mutex<u64>,
}

/// The counters of all workspaces that wanted a connection.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Held for a look-up only.
    workspaces: Mutex<HashMap<WorkspaceId, Arc<Counters>>>,
}

impl Book {
    pub(super) fn of(&self, workspace: &WorkspaceId) -> Arc<Counters> {
        let poisoned = PoisonError::into_inner;
        let mut workspaces = self.workspaces.lock().unwrap_or_else(poisoned);
        workspaces.entry(workspace.clone()).or_default().clone()
    }

    /// The totals of a workspace; all zero for one that is not known.
    pub(super) fn totals(&self, workspace: &WorkspaceId) -> EgressTotals {
        let poisoned = PoisonError::into_inner;
        let workspaces = self.workspaces.lock().unwrap_or_else(poisoned);
        workspaces
            .get(workspace)
            .map_or_else(EgressTotals::default, |counters| counters.totals())
    }
}

impl Counters {
    /// Counts a decision.
    pub(super) fn decided(&self, outcome: &EgressOutcome) {
        let counter = match outcome {
            EgressOutcome::Allowed(_) => &self.allowed,
            EgressOutcome::Denied(_) => &self.denied,
            EgressOutcome::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::egress_decided(outcome);
    }

    /// Numbers decisions and hands them on in the order of their numbers.
    pub(super) fn numbered(&self, hand_on: impl FnOnce(u64)) {
        let poisoned = PoisonError::into_inner;
        let mut last = self.last.lock().unwrap_or_else(poisoned);
        *last += 1;
        hand_on(*last);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::egress_sent(bytes);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::egress_received(bytes);
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn totals(&self) -> EgressTotals {
        EgressTotals {
            allowed: self.allowed.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            sent_bytes: self.sent.load(Ordering::Relaxed),
            received_bytes: self.received.load(Ordering::Relaxed),
        }
    }
}
