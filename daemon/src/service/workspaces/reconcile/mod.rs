//! Desire and engine compared, again and again, and every difference settled.
//!
//! ```text
//! engine's changes --.
//! lost links --------+--> due: one workspace, or all --> settle, a few at once
//! the clock ---------'                                     '--> failed: due again
//! ```
//!
//! What wakes the reconciler is only a reason to look: what it then does follows
//! from what it sees (see [`settle`]), so a wake that is missed or comes
//! twice costs nothing but time. Everything is looked at after each gap in the
//! engine's changes, which is also how the engine's return is noticed.

mod adopt;
pub(super) mod settle;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::settle::Settled;
use super::{Up, Workspaces, WorkspacesError};
use crate::{
    domain::{
        ids::WorkspaceId,
        workspace::{Desired, Workspace},
        workspace_event::Happening,
    },
    metrics,
    ports::runtime::{ChangeKind, ContainerStatus, RuntimeError},
};

/// Workspaces looked at together; the runtime has a bound of its own on starts.
const AT_ONCE: usize = 8;
/// While the engine does not answer: the first pause and the longest.
const ENGINE_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Changes that were heard for so long make the next pause a short one again.
const HEARD_WELL: Duration = Duration::from_secs(10);
/// A workspace that cannot be settled: the first pause and the longest.
const SETTLE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Wakes that may wait; who hears the engine waits when there are more.
const WAKES_WAITING: usize = 256;

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
enum Wake {
    Everything,
    One(WorkspaceId),
}

/// A piece of work that has ended.
enum Done {
    /// With those that may not be as they should be.
    Looked(Result<Vec<WorkspaceId>, WorkspacesError>),
    Settled(WorkspaceId, Result<Settled, WorkspacesError>),
}

/// What is to be looked at, and when.
#[derive(Default)]
struct Agenda {
    /// As soon as there is room.
    due: BTreeSet<WorkspaceId>,
    /// Being settled now. Woken again meanwhile, it is due again.
    busy: HashSet<WorkspaceId>,
    /// Not before this time.
    later: HashMap<WorkspaceId, Instant>,
    /// How often in a row each could not be settled.
    failures: HashMap<WorkspaceId, u32>,
}

impl Agenda {
    /// The next one that is due and not busy.
    fn take(&mut self) -> Option<WorkspaceId> {
        let next = self.due.iter().find(|id| !self.busy.contains(*id))?.clone();
        self.due.remove(&next);
        self.later.remove(&next);
        self.busy.insert(next.clone());
        Some(next)
    }

    /// Makes due what has waited long enough; says when the next one has.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        let ripe = self.later.extract_if(|_, at| *at <= now).map(|(id, _)| id);
        self.due.extend(ripe);
        self.later.values().min().copied()
    }

    /// Puts a workspace off after a failure, longer each time.
    fn put_off(&mut self, id: WorkspaceId, now: Instant) {
        let failures = self.failures.entry(id.clone()).or_default();
        let pause = doubled(SETTLE_RETRY, *failures);
        *failures += 1;
        self.later.insert(id, now + pause);
    }
}

/// The first of two pauses, doubled so many times, and the longest at most.
pub(super) fn doubled((first, longest): (Duration, Duration), times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

impl Workspaces {
    /// Keeps desire and engine together until `shutdown`.
    ///
    /// Cancel safety: an act under way is finished by the next run.
    pub async fn run_reconciler(&self, shutdown: CancellationToken) {
        let (wake, mut wakes) = mpsc::channel(WAKES_WAITING);
        let mut lost = self.inner.links.lost();
        // Both end with this: dropping the set aborts what is in it.
        let mut hearing = JoinSet::new();
        let service = self.clone();
        hearing.spawn(async move { service.hear_engine(wake).await });
        let mut work: JoinSet<Done> = JoinSet::new();
        let mut agenda = Agenda::default();
        let (mut look_now, mut looking) = (true, false);
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            if (look_now || now >= next_look) && !looking {
                (look_now, looking) = (false, true);
                next_look = now + self.inner.options.reconcile_every;
                let service = self.clone();
                work.spawn(async move {
                    let looked = service.look().await;
                    metrics::reconciler_looked(&looked, service.now_ms());
                    Done::Looked(looked)
                });
            }
            let ripe = agenda.ripen(now);
            while agenda.busy.len() < AT_ONCE
                && let Some(id) = agenda.take()
            {
                let service = self.clone();
                work.spawn(async move {
                    let settled = service.settle(&id).await;
                    metrics::reconciler_settled(&settled);
                    Done::Settled(id, settled)
                });
            }
            let alarm = ripe.map_or(next_look, |ripe| ripe.min(next_look));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(alarm) => {}
                woken = wakes.recv() => match woken {
                    Some(Wake::Everything) => look_now = true,
                    Some(Wake::One(id)) => { agenda.due.insert(id); }
                    None => return,
                },
                id = lost.recv() => match id {
                    Ok(id) => {
                        self.note_up(&id, Up::No);
                        agenda.due.insert(id);
                    }
                    Err(RecvError::Lagged(_)) => look_now = true,
                    Err(RecvError::Closed) => return,
                },
                Some(done) = work.join_next() => match done {
                    Ok(Done::Looked(looked)) => {
                        looking = false;
                        match looked {
                            Ok(doubtful) => agenda.due.extend(doubtful),
                            Err(error) => {
                                tracing::warn!(%error, "workspaces cannot be looked at");
                            }
                        }
                    }
                    Ok(Done::Settled(id, settled)) => settle_next(id, settled, &mut agenda),
                    // A panic: whoever it was about is looked at again.
                    Err(error) => {
                        tracing::error!(%error, "a part of the reconciler failed; please report it");
                        agenda.busy.clear();
                        looking = false;
                        next_look = Instant::now() + SETTLE_RETRY.1;
                    }
                },
            }
        }
    }

    /// Hears what happens in the engine, and says to look at everything
    /// whenever something may have been missed.
    async fn hear_engine(&self, wake: mpsc::Sender<Wake>) {
        let mut failures = 0;
        loop {
            match self.inner.runtime.changes().await {
                Ok(mut changes) => {
                    let begun = Instant::now();
                    if wake.send(Wake::Everything).await.is_err() {
                        return;
                    }
                    while let Some(change) = changes.next().await {
                        let id = change.workspace;
                        let Some(workspace) = self.inner.index.get(&id) else {
                            continue;
                        };
                        if change.kind == ChangeKind::OutOfMemory {
                            tracing::warn!(workspace_id = %id,
                                "a process was ended for want of memory");
                            let what = Happening::OutOfMemory;
                            self.inner.events.record(&workspace, what).await;
                        }
                        tracing::debug!(workspace_id = %id, change = ?change.kind, "engine");
                        if wake.send(Wake::One(id)).await.is_err() {
                            return;
                        }
                    }
                    if begun.elapsed() >= HEARD_WELL {
                        failures = 0;
                    }
                    tracing::info!("the engine is not heard any more; trying again");
                }
                Err(error) => tracing::debug!(%error, "the engine is not heard"),
            }
            tokio::time::sleep(doubled(ENGINE_RETRY, failures)).await;
            failures += 1;
        }
    }

    /// Compares everything once and settles what differs.
    ///
    /// # Errors
    /// The engine or the store does not answer. What a single workspace fails
    /// with is logged, and tried again at the next look.
    pub async fn reconcile(&self) -> Result<(), WorkspacesError> {
        let doubtful = self.look().await?;
        futures_util::stream::iter(doubtful)
            .for_each_concurrent(AT_ONCE, |id| async move {
                if let Err(error) = self.settle(&id).await {
                    not_settled(&id, &error);
                }
            })
            .await;
        Ok(())
    }

    /// Adopts the containers that nobody knows, and returns the workspaces that
    /// do not plainly stand as they should. However many there are, this is one
    /// question to the engine.
    pub(super) async fn look(&self) -> Result<Vec<WorkspaceId>, WorkspacesError> {
        let mut listed = HashMap::new();
        for container in self.inner.runtime.list().await? {
            if self.inner.index.get(&container.workspace).is_none() {
                self.adopt(&container.workspace).await?;
            }
            listed.insert(container.workspace, container.status);
        }
        let all = self.inner.index.all().into_iter();
        Ok(all
            .filter(|workspace| !self.stands(workspace, listed.get(&workspace.id).copied()))
            .map(|workspace| workspace.id.clone())
            .collect())
    }

    /// Whether a workspace, its container and its link are what they should be.
    fn stands(&self, workspace: &Workspace, status: Option<ContainerStatus>) -> bool {
        let id = &workspace.id;
        let linked = self.inner.links.current(id).is_some();
        match (workspace.desired, status) {
            (Desired::Running, Some(ContainerStatus::Running)) => linked && self.is_up(id),
            (Desired::Stopped, Some(ContainerStatus::Created | ContainerStatus::Exited)) => !linked,
            _ => false,
        }
    }
}

/// What comes after a workspace was looked at.
fn settle_next(id: WorkspaceId, settled: Result<Settled, WorkspacesError>, agenda: &mut Agenda) {
    agenda.busy.remove(&id);
    match settled {
        Ok(Settled::AsDesired) => {
            agenda.failures.remove(&id);
        }
        Ok(Settled::NotYet(pause)) => {
            agenda.later.insert(id, Instant::now() + pause);
        }
        Err(error) => {
            not_settled(&id, &error);
            // Its return is heard, and everything looked at then.
            if !matches!(
                error,
                WorkspacesError::Runtime(RuntimeError::Unavailable(_))
            ) {
                agenda.put_off(id, Instant::now());
            }
        }
    }
}

fn not_settled(id: &WorkspaceId, error: &WorkspacesError) {
    if let WorkspacesError::Runtime(RuntimeError::Unavailable(_)) = error {
        tracing::debug!(workspace_id = %id, %error, "workspace cannot be looked at");
    } else {
        tracing::warn!(workspace_id = %id, %error, "workspace is not as it should be");
    }
}

#[cfg(test)]
mod tests;
