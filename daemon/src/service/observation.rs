//! What operators watch that can be read at any time: it is read when somebody
//! asks, and what does not answer in time is left out.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{doctor, sessions::Sessions, workspaces::Workspaces};
use crate::{
    domain::{
        session::event::Condition,
        workspace::{Desired, Observed},
    },
    metrics::Readings,
    ports::agent::AgentPort,
};

/// How long the engine, and each agent, may take; whoever asks does not wait
/// for ever.
const PATIENCE: Duration = Duration::from_secs(3);
/// Agents that are asked together.
const AT_ONCE: usize = 16;

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Observation {
    workspaces: Workspaces,
    sessions: Sessions,
    about: Watched,
}

/// What is fixed while the daemon runs.
#[derive(Clone)]
pub struct Watched {
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Free bytes below which nothing more is written.
    pub low_water_bytes: u64,
    /// Free bytes of the disk with a directory.
    pub free_bytes: fn(&std::path::Path) -> io::Result<u64>,
}

impl Observation {
    /// Reads these.
    #[must_use]
    pub fn new(workspaces: Workspaces, sessions: Sessions, about: Watched) -> Self {
        Self {
            workspaces,
            sessions,
            about,
        }
    }

    /// Reads everything. Takes a few seconds at most, whatever hangs.
    pub async fn read(&self) -> Readings {
        let (views, (agents, commands), sessions) = tokio::join!(
            timeout(PATIENCE, self.workspaces.list()),
            self.agents(),
            timeout(PATIENCE, self.sessions.list()),
        );
        let workspaces = views.ok().map(|views| {
            let states = views.iter().map(|view| {
                let desired = desired(view.workspace.desired);
                (desired, observed(view.observed))
            });
            states.collect()
        });
        let sessions = sessions.ok().and_then(Result::ok).map(|sessions| {
            let states = sessions.iter().map(|one| condition(one.state.condition));
            states.collect()
        });
        let snapshots = self.workspaces.store().snapshots(None).await;
        Readings {
            started_at_ms: self.about.started_at_ms,
            resident_bytes: doctor::resident_bytes(),
            workspaces,
            agents,
            commands,
            snapshots: snapshots.ok().map(|all| all.len() as u64),
            sessions,
            disk_free_bytes: (self.about.free_bytes)(&self.about.data_dir).ok(),
            disk_low_water_bytes: self.about.low_water_bytes,
        }
    }

    /// How many agents are linked, and how many commands run there.
    async fn agents(&self) -> (u64, u64) {
        let ids = self.workspaces.generations().into_keys();
        let agents: Vec<_> = ids.filter_map(|id| self.workspaces.linked(&id)).collect();
        let linked = agents.len() as u64;
        let asked: Vec<_> = agents.into_iter().map(commands_in).collect();
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        let deadline = Instant::now() + PATIENCE;
        let mut commands = 0;
        while let Ok(Some(running)) = timeout_at(deadline, answers.next()).await {
            commands += running;
        }
        (linked, commands)
    }
}

/// How many commands run; none where the agent does not say.
async fn commands_in(agent: Arc<dyn AgentPort>) -> u64 {
    let running = agent.list(true).await;
    running.map_or(0, |running| running.len() as u64)
}

fn desired(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
        Desired::Paused => "paused",
        Desired::Deleted => "deleted",
    }
}

fn observed(observed: Observed) -> &'static str {
    match observed {
        Observed::Starting => "starting",
        Observed::Running => "running",
        Observed::Stopped => "stopped",
        Observed::Paused => "paused",
        Observed::Deleting => "deleting",
        Observed::Missing => "missing",
    }
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Running => "running",
        Condition::Paused => "paused",
        Condition::Waiting => "waiting",
        Condition::Interrupted => "interrupted",
        Condition::Failed => "failed",
        Condition::Verified => "verified",
        Condition::Cancelled => "cancelled",
    }
}
