//! Who relies on which chunks, and what a pruning must therefore leave.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::snapshot::hash::ChunkHash;

/// Every pin there is.
#[derive(Debug, Default)]
pub(in crate::adapters) struct Pins {
    /// Locked last, after whatever says which chunks there are.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: HashMap<u64, HashSet<ChunkHash>>,
    /// `Some` while a pruning is under way: pins that were dropped meanwhile,
    /// which it may not have seen a manifest for.
    lapsed: Option<Vec<u64>>,
}

impl Pins {
    /// A new pin, of nothing yet.
    pub(in crate::adapters) fn pin(self: &Arc<Self>) -> Pin {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.held.insert(id, HashSet::new());
        let pins = self.clone();
        Pin { pins, id }
    }

    /// From now on, until the answer is dropped, no pin lapses. One at a time.
    pub(in crate::adapters) fn freeze(self: &Arc<Self>) -> Frozen {
        self.lock().lapsed = Some(Vec::new());
        Frozen { pins: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps chunks from being pruned until it is dropped.
#[derive(Debug)]
pub(in crate::adapters) struct Pin {
    pins: Arc<Pins>,
    id: u64,
}

impl Pin {
    /// Keeps these too. Whether they are there is looked up under a lock that
    /// pruning needs, held until this returns.
    pub(in crate::adapters) fn hold(&self, hashes: impl IntoIterator<Item = ChunkHash>) {
        let mut state = self.pins.lock();
        let held = state.held.entry(self.id).or_default();
        held.extend(hashes);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        match &mut state.lapsed {
            Some(lapsed) => lapsed.push(self.id),
            None => drop(state.held.remove(&self.id)),
        }
    }
}

/// Pins that do not lapse.
#[derive(Debug)]
pub(in crate::adapters) struct Frozen {
    pins: Arc<Pins>,
}

impl Frozen {
    /// Whether anybody relies on each chunk, for as long as the caller holds
    /// the lock under which new pins are made.
    pub(in crate::adapters) fn held(&self) -> HashSet<ChunkHash> {
        let state = self.pins.lock();
        state.held.values().flatten().copied().collect()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        for id in state.lapsed.take().unwrap_or_default() {
            state.held.remove(&id);
        }
    }
}
