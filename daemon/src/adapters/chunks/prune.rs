//! Pruning: packs without a live chunk are removed, and what is live in packs
//! with much garbage moves into new ones.
//!
//! What is garbage is forgotten first, in the same moment as it is found to be
//! garbage: from then on a batch that asks for it hears that it is missing and
//! writes it again. Only then are files touched. Each new pack is durable
//! before those it replaces are removed.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::{
    Elsewhere, Pack, Place, State, Store, blocking,
    pack::{PackState, overhead_bytes},
    pins::Frozen,
};
use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{ChunkError, PruneMode, PruneOptions, Pruned, Pruning},
};

/// A pruning that has begun.
pub(super) struct FilePruning {
    store: Arc<Store>,
    pins: Frozen,
    _turn: OwnedMutexGuard<()>,
}

impl FilePruning {
    pub(super) fn begin(store: Arc<Store>, turn: OwnedMutexGuard<()>) -> Self {
        let pins = store.pins.freeze();
        Self {
            store,
            pins,
            _turn: turn,
        }
    }

    fn run_blocking(
        self,
        live: &HashSet<ChunkHash>,
        options: PruneOptions,
    ) -> Result<Pruned, ChunkError> {
        let (plan, kept) = {
            let mut state = self.store.lock();
            let held = self.pins.held();
            let keep = |hash: &ChunkHash| live.contains(hash) || held.contains(hash);
            let plan = Plan::new(&state, keep, options.waste_percent, self.store.pack_bytes);
            let kept = match options.mode {
                PruneMode::Measure => return Ok(plan.pruned),
                PruneMode::Remove => plan.forget(&mut state, keep),
            };
            (plan, kept)
        };
        for (group, kept) in plan.groups.into_iter().zip(kept) {
            self.store.replace(group.packs, kept)?;
        }
        Ok(plan.pruned)
    }
}

#[async_trait]
impl Pruning for FilePruning {
    async fn run(
        self: Box<Self>,
        live: HashSet<ChunkHash>,
        options: PruneOptions,
    ) -> Result<Pruned, ChunkError> {
        blocking(move || self.run_blocking(&live, options)).await
    }
}

/// A chunk that stays, and where it is.
type Kept = (ChunkHash, Place);

/// What stays of some packs, and how many chunks do not.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    kept: u64,
    /// Of the records that stay.
    kept_bytes: u64,
    garbage: u64,
}

impl Tally {
    /// Of a pack with nothing else.
    fn file_bytes(&self) -> u64 {
        overhead_bytes(self.kept) + self.kept_bytes
    }

    fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.kept_bytes += other.kept_bytes;
        self.garbage += other.garbage;
    }
}

/// Packs that are replaced by one, or by none when nothing stays of them.
#[derive(Debug, Default)]
struct Group {
    packs: Vec<u32>,
    tally: Tally,
}

impl Group {
    fn add(&mut self, pack: u32, tally: Tally) {
        self.packs.push(pack);
        self.tally.add(tally);
    }
}

/// What is to be done.
struct Plan {
    /// The first one is what nothing stays of: it makes room for the others.
    groups: Vec<Group>,
    pruned: Pruned,
}

impl Plan {
    fn new(
        state: &State,
        keep: impl Fn(&ChunkHash) -> bool,
        waste_percent: u8,
        pack_bytes: u64,
    ) -> Self {
        let mut tallies: HashMap<u32, Tally> = HashMap::new();
        for (hash, place) in &state.chunks {
            let tally = tallies.entry(place.pack).or_default();
            if keep(hash) {
                tally.kept += 1;
                tally.kept_bytes += u64::from(place.length);
            } else {
                tally.garbage += 1;
            }
        }
        let mut nothing_kept = Group::default();
        let mut rewritten: Vec<Group> = Vec::new();
        let mut removed_bytes = 0;
        for (number, pack) in &state.packs {
            let tally = tallies.get(number).copied().unwrap_or_default();
            if !is_wasteful(pack, &tally, waste_percent) {
                continue;
            }
            removed_bytes += pack.bytes;
            if tally.kept == 0 {
                nothing_kept.add(*number, tally);
                continue;
            }
            match rewritten.last_mut() {
                Some(group) if group.tally.kept_bytes + tally.kept_bytes <= pack_bytes => {
                    group.add(*number, tally);
                }
                Some(_) | None => {
                    let mut group = Group::default();
                    group.add(*number, tally);
                    rewritten.push(group);
                }
            }
        }
        let written: u64 = rewritten.iter().map(|group| group.tally.file_bytes()).sum();
        let groups: Vec<_> = [nothing_kept].into_iter().chain(rewritten).collect();
        let pruned = Pruned {
            chunks: groups.iter().map(|group| group.tally.garbage).sum(),
            freed_bytes: removed_bytes.saturating_sub(written),
        };
        Self { groups, pruned }
    }

    /// Makes the garbage in the groups' packs unknown; returns what stays of
    /// each group.
    fn forget(&self, state: &mut State, keep: impl Fn(&ChunkHash) -> bool) -> Vec<Vec<Kept>> {
        let mut group_of = HashMap::new();
        for (number, group) in self.groups.iter().enumerate() {
            group_of.extend(group.packs.iter().map(|pack| (*pack, number)));
        }
        let mut kept = vec![Vec::new(); self.groups.len()];
        state.chunks.retain(|hash, place| {
            let Some(group) = group_of.get(&place.pack) else {
                return true;
            };
            let stays = keep(hash);
            if stays {
                kept[*group].push((*hash, *place));
            }
            stays
        });
        kept
    }
}

/// Whether a pack is to go. One without its index does: to read it through at
/// every start costs more.
fn is_wasteful(pack: &Pack, tally: &Tally, waste_percent: u8) -> bool {
    if tally.kept == 0 || pack.state == PackState::Salvaged {
        return true;
    }
    let waste = pack.bytes.saturating_sub(tally.file_bytes());
    waste * 100 > pack.bytes * u64::from(waste_percent)
}

impl Store {
    /// Moves what stays of some packs into a new one and removes them.
    fn replace(&self, packs: Vec<u32>, mut kept: Vec<Kept>) -> Result<(), ChunkError> {
        if kept.is_empty() {
            return self.remove_packs(packs);
        }
        // As they lie on the disk.
        kept.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        let mut new = self.begin_pack()?;
        let mut damaged = HashSet::new();
        for of_pack in kept.chunk_by(|(_, a), (_, b)| a.pack == b.pack) {
            let number = of_pack[0].1.pack;
            let file = self.open_pack(number)?;
            for (hash, place) in of_pack {
                match self.read_record(&file, *hash, *place)? {
                    Some(chunk) => new
                        .append(&chunk)
                        .map_err(|error| self.failure("rewrite a chunk".to_owned(), &error))?,
                    None => drop(damaged.insert(number)),
                }
            }
        }
        let new = (new.seal()).map_err(|error| self.failure("end a pack".to_owned(), &error))?;
        self.publish(vec![new], Elsewhere::Move)?;
        for number in &damaged {
            let path = self.path(*number);
            tracing::warn!(pack = %path.display(), "a pack has a damaged chunk that is in use; it is kept");
        }
        self.remove_packs(packs.into_iter().filter(|pack| !damaged.contains(pack)))
    }

    /// Removes packs that no chunk is in. One that comes back after a crash is
    /// garbage again.
    fn remove_packs(&self, numbers: impl IntoIterator<Item = u32>) -> Result<(), ChunkError> {
        for number in numbers {
            let path = self.path(number);
            fs::remove_file(&path)
                .map_err(|error| self.failure(format!("remove {}", path.display()), &error))?;
            self.lock().packs.remove(&number);
        }
        Ok(())
    }
}
