//! What a workspace uses: read from the engine, the tunnel, and the daemon's
//! own books. Reading is no use of it and starts nothing.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::BoxStream};

use super::{
    egress::{Egress, EgressTotals},
    workspaces::{WorkspaceView, Workspaces, WorkspacesError},
};
use crate::{
    domain::{disk::DiskUse, ids::WorkspaceId},
    ports::runtime::{ContainerUsage, RuntimeError},
};

/// Between the two readings that a first share of the CPU takes.
const FIRST: Duration = Duration::from_millis(250);

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Stats {
    workspaces: Workspaces,
    egress: Egress,
}

/// What a workspace used at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The workspace and what it was doing.
    pub view: WorkspaceView,
    /// What its container used; `None` when it had no processes.
    pub usage: Option<ContainerUsage>,
    /// CPU since the reading before, in thousandths of a CPU.
    pub cpu_millis: u64,
    /// What its files used, where that is known.
    pub disk: Option<DiskUse>,
    /// What went through its tunnel since the daemon started.
    pub egress: EgressTotals,
    /// Commands that ran; `None` when its agent did not say.
    pub running_commands: Option<usize>,
    /// When it was used last, in milliseconds since the Unix epoch.
    pub last_use_ms: i64,
}

impl Stats {
    /// Readings of these workspaces.
    #[must_use]
    pub fn new(workspaces: Workspaces, egress: Egress) -> Self {
        Self { workspaces, egress }
    }

    /// Reads at once and then again and again, until the workspace is gone,
    /// which is the last item.
    ///
    /// Cancel safety: dropped anywhere, nothing is lost.
    #[must_use]
    pub fn watch(
        &self,
        id: &WorkspaceId,
        interval: Duration,
    ) -> BoxStream<'static, Result<Reading, WorkspacesError>> {
        let watcher = Watcher {
            stats: self.clone(),
            id: id.clone(),
            interval,
            before: None,
            sent: false,
        };
        futures_util::stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            let reading = watcher.next().await;
            let going_on = reading.is_ok().then_some(watcher);
            Some((reading, going_on))
        })
        .boxed()
    }
}

struct Watcher {
    stats: Stats,
    id: WorkspaceId,
    interval: Duration,
    /// CPU time and when it was read, to tell the share since.
    before: Option<(u64, tokio::time::Instant)>,
    sent: bool,
}

impl Watcher {
    async fn next(&mut self) -> Result<Reading, WorkspacesError> {
        if self.sent {
            tokio::time::sleep(self.interval).await;
        } else {
            // A share of the CPU is one between two readings.
            let view = self.stats.workspaces.get(&self.id).await?;
            let usage = self.usage(&view).await?;
            self.cpu_since_before(usage);
            if usage.is_some() {
                tokio::time::sleep(FIRST.min(self.interval)).await;
            }
        }
        self.sent = true;
        let workspaces = &self.stats.workspaces;
        let view = workspaces.get(&self.id).await?;
        let usage = self.usage(&view).await?;
        let running_commands = match workspaces.linked(&self.id) {
            Some(agent) if usage.is_some() && view.observed.answers() => {
                agent.list(true).await.ok().map(|running| running.len())
            }
            _ => None,
        };
        let workspaces = self.stats.workspaces.clone();
        Ok(Reading {
            at_ms: workspaces.now_ms(),
            cpu_millis: self.cpu_since_before(usage),
            usage,
            disk: workspaces.disk_use(&self.id).await,
            egress: self.stats.egress.totals(&self.id),
            running_commands,
            last_use_ms: workspaces.last_use_ms(&self.id),
            view,
        })
    }

    async fn usage(&self, view: &WorkspaceView) -> Result<Option<ContainerUsage>, WorkspacesError> {
        let Some(container) = &view.container else {
            return Ok(None);
        };
        match self.stats.workspaces.runtime().usage(container).await {
            // Removed since it was looked at.
            Err(RuntimeError::ContainerMissing(_)) => Ok(None),
            read => Ok(read?),
        }
    }

    /// Thousandths of a CPU since the reading before.
    fn cpu_since_before(&mut self, usage: Option<ContainerUsage>) -> u64 {
        let now = tokio::time::Instant::now();
        let Some(usage) = usage else {
            self.before = None;
            return 0;
        };
        let before = self.before.replace((usage.cpu_ns, now));
        let Some((cpu_ns, at)) = before else {
            return 0;
        };
        let elapsed_ns = (now - at).as_nanos().max(1);
        // A container that was started anew begins at zero.
        let used_ns = u128::from(usage.cpu_ns.saturating_sub(cpu_ns));
        u64::try_from(used_ns * 1_000 / elapsed_ns).unwrap_or(u64::MAX)
    }
}
