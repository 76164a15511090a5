//! Links in memory: the agent of a workspace is one of this machine's, and it
//! answers while the workspace's container runs in a [`MemoryRuntime`].

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::broadcast, time::Instant};

use super::MemoryRuntime;
use crate::{
    adapters::local_agent::LocalAgent,
    domain::ids::WorkspaceId,
    ports::{
        agent::AgentPort,
        links::{LinkError, LinksPort},
        runtime::ContainerStatus,
        tunnel::TunnelPort,
    },
};

/// How often a container is looked at while its agent is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Links in memory. Cheap to clone.
#[derive(Clone)]
pub struct MemoryLinks {
    runtime: Arc<MemoryRuntime>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Held for one operation, never over an await.
    state: Mutex<State>,
    lost: broadcast::Sender<WorkspaceId>,
}

#[derive(Default)]
struct State {
    /// What is in the workspaces; it outlives their containers.
    agents: HashMap<WorkspaceId, Arc<LocalAgent>>,
    /// Workspaces whose agent may dial.
    listening: HashSet<WorkspaceId>,
    /// Whether no agent dials.
    silent: bool,
}

impl MemoryLinks {
    /// Links to the agents in the containers of an engine.
    #[must_use]
    pub fn new(runtime: Arc<MemoryRuntime>) -> Self {
        let (lost, _) = broadcast::channel(16);
        let state = Mutex::default();
        let shared = Arc::new(Shared { state, lost });
        Self { runtime, shared }
    }

    /// The agent of a workspace, whether or not its container runs.
    ///
    /// # Errors
    /// No temporary directory can be made for it.
    pub fn local_agent(&self, id: &WorkspaceId) -> std::io::Result<Arc<LocalAgent>> {
        let mut state = self.lock();
        if let Some(agent) = state.agents.get(id) {
            return Ok(agent.clone());
        }
        let agent = Arc::new(LocalAgent::new()?);
        state.agents.insert(id.clone(), agent.clone());
        Ok(agent)
    }

    /// From now on no agent dials, or each does again.
    pub fn silence(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// Says that the link of a workspace was lost, as the end of its container
    /// does.
    pub fn lose(&self, id: &WorkspaceId) {
        // Nobody may be listening.
        let _ = self.shared.lost.send(id.clone());
    }

    /// Drops every link and listener, as the end of a daemon does.
    pub fn drop_all(&self) {
        self.lock().listening.clear();
    }

    /// How many are told of lost links.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.lost.receiver_count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LinksPort for MemoryLinks {
    async fn prepare(&self, workspace: &WorkspaceId) -> Result<PathBuf, LinkError> {
        self.ensure(workspace).await?;
        Ok(PathBuf::from("/nonexistent").join(workspace.as_str()))
    }

    async fn ensure(&self, workspace: &WorkspaceId) -> Result<(), LinkError> {
        self.lock().listening.insert(workspace.clone());
        let made = self.local_agent(workspace);
        made.map(drop).map_err(|error| LinkError::Listen {
            dir: "/nonexistent".to_owned(),
            message: error.to_string(),
        })
    }

    async fn connected(
        &self,
        workspace: &WorkspaceId,
        timeout: Duration,
    ) -> Result<Arc<dyn AgentPort>, LinkError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(agent) = self.current(workspace) {
                return Ok(agent);
            }
            if Instant::now() >= deadline {
                return Err(LinkError::Timeout {
                    seconds: timeout.as_secs(),
                    hint: String::new(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn current(&self, workspace: &WorkspaceId) -> Option<Arc<dyn AgentPort>> {
        if self.runtime.status(workspace) != Some(ContainerStatus::Running) {
            return None;
        }
        let state = self.lock();
        if state.silent || !state.listening.contains(workspace) {
            return None;
        }
        let agent: Arc<dyn AgentPort> = state.agents.get(workspace)?.clone();
        Some(agent)
    }

    fn tunnel(&self, _workspace: &WorkspaceId) -> Option<Arc<dyn TunnelPort>> {
        None
    }

    async fn close(&self, workspace: &WorkspaceId) {
        self.lock().listening.remove(workspace);
    }

    async fn remove(&self, workspace: &WorkspaceId) -> Result<(), LinkError> {
        let mut state = self.lock();
        state.listening.remove(workspace);
        state.agents.remove(workspace);
        Ok(())
    }

    async fn unattended(&self) -> Result<Vec<WorkspaceId>, LinkError> {
        let state = self.lock();
        let attended = |id: &&WorkspaceId| state.listening.contains(*id);
        Ok((state.agents.keys().filter(|id| !attended(id)))
            .cloned()
            .collect())
    }

    fn lost(&self) -> broadcast::Receiver<WorkspaceId> {
        self.shared.lost.subscribe()
    }
}
