//! The disk limit, which no engine holds everywhere: so the daemon looks, and
//! acts.
//!
//! | use of the limit | what is done |
//! |---|---|
//! | from 90 % | said, as an event and in the state |
//! | above 100 % | new commands and copies are refused, but those that say that they run over the limit |
//! | above 110 % | running commands are ended as well |
//!
//! The agent counts the volumes, the engine the root file system beyond the
//! image. Both walk, so the time that a look takes decides when the next one
//! is. The engine's can take milliseconds or, where it compares the whole image,
//! many seconds (22 s were measured for an image of 300 MB on a busy machine):
//! it is done apart, one workspace at a time. Between two looks a command can write what the disk takes: the limit is
//! soft. Sessions are not refused, as they could not clean up then; their
//! commands are ended like others.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{WorkspaceView, Workspaces, WorkspacesError};
use crate::{
    domain::{
        disk::{DiskLevel, DiskUse, level},
        exec::SignalTarget,
        ids::{ExecId, WorkspaceId},
        workspace::{Desired, Workspace},
        workspace_event::Happening,
    },
    ports::agent::AgentPort,
};

/// Between two looks at a workspace, at least and at most.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks at a root file system, at least and at most.
const LOOK_AT_ROOT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// A look may take one part in so many of the time.
const SHARE: u32 = 20;
/// Between two rounds over all workspaces.
const ROUND: Duration = Duration::from_millis(500);
/// What is known this lately is good enough for who asks.
const FRESH: Duration = Duration::from_secs(10);
/// For a command that is ended to end by itself.
const GRACE_MS: u32 = 3_000;
/// Commands that run over the limit and are remembered.
const MOST_EXEMPT: usize = 1_024;

/// Whether a request runs although its workspace is over its disk limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    /// It cleans up.
    Allowed,
    /// It is refused.
    Refused,
}

/// What is known of the disks of workspaces.
#[derive(Debug, Default)]
pub(super) struct Disks {
    /// Held for a look-up only.
    known: Mutex<HashMap<WorkspaceId, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    used: Option<DiskUse>,
    measured: Option<Instant>,
    /// What the last look took.
    took: Duration,
    root: Option<Root>,
    level: DiskLevel,
    /// Commands that run over the limit.
    exempt: HashSet<ExecId>,
}

/// What a root file system was found to use.
#[derive(Debug, Clone, Copy)]
struct Root {
    bytes: u64,
    measured: Instant,
    took: Duration,
}

impl Disks {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn level(&self, id: &WorkspaceId) -> DiskLevel {
        self.lock()
            .get(id)
            .map_or(DiskLevel::Ok, |known| known.level)
    }

    fn used(&self, id: &WorkspaceId) -> Option<DiskUse> {
        self.lock().get(id).and_then(|known| known.used)
    }

    pub(super) fn forget(&self, id: &WorkspaceId) {
        self.lock().remove(id);
    }

    /// What people are told of a workspace near or above its limit.
    pub(super) fn reason(&self, workspace: &Workspace) -> Option<String> {
        let known = self.lock();
        let known = known.get(&workspace.id)?;
        let (used, limit) = (known.used?.bytes(), workspace.definition.limits.disk_bytes);
        match known.level {
            DiskLevel::Ok => None,
            DiskLevel::High => Some(format!(
                "its files use {used} of the {limit} bytes of its disk limit"
            )),
            DiskLevel::Over | DiskLevel::FarOver => Some(format!(
                "its files use {used} bytes, above its disk limit of {limit}: new commands are refused but with --over-limit"
            )),
        }
    }
}

impl Workspaces {
    /// Looks at the disks of workspaces that have a limit, until `stop`.
    ///
    /// Cancel safety: a look that is cut off is made again.
    pub async fn watch_disks(&self, stop: CancellationToken) {
        let both = async { tokio::join!(self.watch_volumes(), self.watch_roots()) };
        stop.run_until_cancelled(both).await;
    }

    /// Looks at each workspace that is due. One whose look takes long keeps no
    /// other waiting.
    async fn watch_volumes(&self) {
        let mut looks = FuturesUnordered::new();
        let mut looked_at = HashSet::new();
        loop {
            for workspace in self.inner.index.all() {
                if workspace.definition.limits.disk_bytes == 0 {
                    self.no_limit(&workspace).await;
                } else if workspace.desired == Desired::Running
                    && self.is_due(&workspace.id)
                    && looked_at.insert(workspace.id.clone())
                {
                    looks.push(self.look_in_turn(workspace.id.clone()));
                }
            }
            let round = tokio::time::sleep(ROUND);
            tokio::pin!(round);
            loop {
                tokio::select! {
                    () = &mut round => break,
                    Some(done) = looks.next() => looked_at.remove(&done),
                };
            }
        }
    }

    async fn look_in_turn(&self, id: WorkspaceId) -> WorkspaceId {
        self.look_at_disk(id.clone()).await;
        id
    }

    async fn watch_roots(&self) {
        loop {
            for workspace in self.inner.index.all() {
                let is_limited = workspace.definition.limits.disk_bytes > 0;
                if is_limited
                    && workspace.desired == Desired::Running
                    && self.root_is_due(&workspace.id)
                {
                    self.look_at_root(&workspace.id).await;
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    fn root_is_due(&self, id: &WorkspaceId) -> bool {
        let root = self.inner.disks.lock().get(id).and_then(|known| known.root);
        root.is_none_or(|root| {
            let pause = (root.took * SHARE).clamp(LOOK_AT_ROOT.0, LOOK_AT_ROOT.1);
            root.measured.elapsed() >= pause
        })
    }

    /// Counts the root file system of a workspace; the next look at its disk
    /// takes it into account. What cannot be counted is as it was.
    async fn look_at_root(&self, id: &WorkspaceId) {
        let begun = Instant::now();
        let counted = async {
            Ok::<_, WorkspacesError>(match self.inner.runtime.find(id).await? {
                Some(container) => self.inner.runtime.root_bytes(&container.id).await?,
                None => 0,
            })
        };
        match counted.await {
            Ok(bytes) => {
                let root = Root {
                    bytes,
                    measured: Instant::now(),
                    took: begun.elapsed(),
                };
                self.inner.disks.lock().entry(id.clone()).or_default().root = Some(root);
            }
            Err(error) => {
                tracing::debug!(workspace_id = %id, %error, "the root file system is not counted");
            }
        }
    }

    /// What the files of a workspace use: counted now if that was long ago and
    /// it runs, otherwise what was known last.
    pub(in crate::service) async fn disk_use(&self, id: &WorkspaceId) -> Option<DiskUse> {
        let is_fresh = |known: &Known| known.measured.is_some_and(|at| at.elapsed() < FRESH);
        let fresh = self.inner.disks.lock().get(id).is_some_and(is_fresh);
        if !fresh {
            self.look_at_disk(id.clone()).await;
        }
        self.inner.disks.used(id)
    }

    /// Refuses what would be begun in a workspace over its disk limit. A
    /// command that is there already is not begun.
    ///
    /// # Errors
    /// [`WorkspacesError::DiskLimit`].
    pub async fn admit(
        &self,
        id: &WorkspaceId,
        exec: Option<&ExecId>,
        over_limit: OverLimit,
    ) -> Result<(), WorkspacesError> {
        if over_limit == OverLimit::Allowed {
            if let (Some(exec), Some(known)) = (exec, self.inner.disks.lock().get_mut(id))
                && known.exempt.len() < MOST_EXEMPT
            {
                known.exempt.insert(exec.clone());
            }
            return Ok(());
        }
        if self.inner.disks.level(id) < DiskLevel::Over {
            return Ok(());
        }
        if let (Some(exec), Some(agent)) = (exec, self.inner.links.current(id))
            && agent.get(exec).await?.is_some()
        {
            return Ok(());
        }
        // Somebody may have cleaned up since.
        self.look_at_disk(id.clone()).await;
        let workspace = self.record(id)?;
        let limit_bytes = workspace.definition.limits.disk_bytes;
        let used = self.inner.disks.used(id);
        if used.is_some_and(|used| used.volume_bytes <= limit_bytes && used.bytes() > limit_bytes) {
            self.look_at_root(id).await;
            self.look_at_disk(id.clone()).await;
        }
        if self.inner.disks.level(id) < DiskLevel::Over {
            return Ok(());
        }
        let used = self.inner.disks.used(id);
        Err(WorkspacesError::DiskLimit {
            name: workspace.definition.name.clone(),
            used_bytes: used.map_or(0, |used| used.bytes()),
            limit_bytes,
        })
    }

    /// Says so where a workspace is near or above its limit.
    pub(super) fn add_disk_reason(&self, view: &mut WorkspaceView) {
        let disk = self.inner.disks.reason(&view.workspace);
        let reasons: Vec<String> = view.reason.take().into_iter().chain(disk).collect();
        view.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    }

    fn is_due(&self, id: &WorkspaceId) -> bool {
        let known = self.inner.disks.lock();
        let Some(known) = known.get(id) else {
            return true;
        };
        let pause = (known.took * SHARE).clamp(LOOK.0, LOOK.1);
        known.measured.is_none_or(|at| at.elapsed() >= pause)
    }

    /// Counts, and does what the level asks for. What cannot be counted is as it
    /// was.
    async fn look_at_disk(&self, id: WorkspaceId) {
        let Some(agent) = self.inner.links.current(&id) else {
            return;
        };
        let begun = Instant::now();
        let used = match self.count(&id, &*agent).await {
            Ok(Some(used)) => used,
            // An agent of an older daemon.
            Ok(None) => return,
            Err(error) => {
                return tracing::debug!(workspace_id = %id, %error, "the disk use is not known");
            }
        };
        let Some(workspace) = self.inner.index.get(&id) else {
            return;
        };
        let limit_bytes = workspace.definition.limits.disk_bytes;
        let (before, now, exempt) = {
            let mut known = self.inner.disks.lock();
            let known = known.entry(id.clone()).or_default();
            let before = known.level;
            known.level = level(used.bytes(), limit_bytes, before);
            known.used = Some(used);
            known.measured = Some(Instant::now());
            known.took = begun.elapsed();
            if known.level < DiskLevel::Over {
                known.exempt.clear();
            }
            (before, known.level, known.exempt.clone())
        };
        let commands_ended = match now {
            DiskLevel::FarOver => end_commands(&id, &*agent, &exempt).await,
            DiskLevel::Ok | DiskLevel::High | DiskLevel::Over => 0,
        };
        self.say(&workspace, used.bytes(), (before, now), commands_ended)
            .await;
    }

    async fn count(
        &self,
        id: &WorkspaceId,
        agent: &dyn AgentPort,
    ) -> Result<Option<DiskUse>, WorkspacesError> {
        let Some(volume_bytes) = agent.volume_bytes().await? else {
            return Ok(None);
        };
        let root = self.inner.disks.lock().get(id).and_then(|known| known.root);
        Ok(Some(DiskUse {
            volume_bytes,
            root_bytes: root.map(|root| root.bytes),
            measured_at_ms: self.inner.clock.now_ms(),
        }))
    }

    async fn say(
        &self,
        workspace: &Workspace,
        used_bytes: u64,
        (before, now): (DiskLevel, DiskLevel),
        commands_ended: u32,
    ) {
        let limit_bytes = workspace.definition.limits.disk_bytes;
        let was_over = before >= DiskLevel::Over;
        let what = match now {
            DiskLevel::FarOver | DiskLevel::Over if !was_over || commands_ended > 0 => {
                Happening::DiskOver {
                    used_bytes,
                    limit_bytes,
                    commands_ended,
                }
            }
            DiskLevel::High if before == DiskLevel::Ok || was_over => Happening::DiskHigh {
                used_bytes,
                limit_bytes,
            },
            DiskLevel::Ok if before != DiskLevel::Ok => Happening::DiskOk {
                used_bytes,
                limit_bytes,
            },
            DiskLevel::FarOver | DiskLevel::Over | DiskLevel::High | DiskLevel::Ok => return,
        };
        tracing::info!(workspace_id = %workspace.id, used_bytes, limit_bytes, level = ?now,
            commands_ended, "disk use of a workspace");
        self.inner.events.record(workspace, what).await;
    }

    /// A limit that was taken away.
    async fn no_limit(&self, workspace: &Workspace) {
        let before = match self.inner.disks.lock().get_mut(&workspace.id) {
            Some(known) => std::mem::take(&mut known.level),
            None => DiskLevel::Ok,
        };
        if before != DiskLevel::Ok {
            self.say(workspace, 0, (before, DiskLevel::Ok), 0).await;
        }
    }
}

/// Ends the running commands but those that run over the limit; returns how
/// many.
async fn end_commands(id: &WorkspaceId, agent: &dyn AgentPort, exempt: &HashSet<ExecId>) -> u32 {
    let running = match agent.list(true).await {
        Ok(running) => running,
        Err(error) => {
            tracing::warn!(workspace_id = %id, %error, "commands over the disk limit are not ended");
            return 0;
        }
    };
    let mut ended = 0;
    for exec in running.iter().filter(|exec| !exempt.contains(&exec.id)) {
        let target = SignalTarget::End { grace_ms: GRACE_MS };
        match agent.signal(&exec.id, None, target).await {
            Ok(()) => ended += 1,
            Err(error) => tracing::warn!(workspace_id = %id, exec_id = %exec.id, %error,
                "a command over the disk limit is not ended"),
        }
    }
    ended
}
