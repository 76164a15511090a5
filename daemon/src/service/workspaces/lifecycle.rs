//! Create, start, stop, delete, look; and the one way a workspace comes up.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    CreateWorkspace, Need, Up, Workspaces, WorkspacesError,
    activity::Door,
    view::{Link, WorkspaceView},
};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{SessionId, WorkspaceId},
        setup::WorkspaceSetup,
        snapshot::journal::Generation,
        upkeep::Upkeep,
        workspace::{Desired, Limits, Purpose, Workspace, WorkspaceDefinition},
        workspace_event::{Happening, StartCause, StopCause},
    },
    ports::{
        agent::AgentPort,
        runtime::{ContainerId, ContainerPlan, ContainerStatus, RuntimeError},
        store::StoreError,
    },
};

/// While waiting for an agent: how often to look whether its container lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a container was doing that is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Found {
    /// It had processes.
    Up,
    /// It had none, or there was no container.
    Down,
}

/// What it took to make the agent of a workspace answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Took {
    /// It answered already.
    Nothing,
    /// Its container was started.
    Start,
    /// Its container was frozen and goes on.
    Unpause,
}

impl Workspaces {
    /// Makes a workspace and starts it. What fails leaves nothing behind; the
    /// same id again finds what was made, or goes on with it.
    ///
    /// # Errors
    /// A name that is taken, an image that is missing, a limit out of range, an
    /// engine that does not answer, an agent that does not come up.
    pub async fn create(&self, request: CreateWorkspace) -> Result<WorkspaceView, WorkspacesError> {
        let egress = self.egress_or_default(request.egress, request.network)?;
        let image = request
            .image
            .unwrap_or_else(|| self.inner.options.default_image.clone());
        let definition = WorkspaceDefinition {
            name: request.name,
            image,
            limits: self.with_defaults(request.limits),
            network: request.network,
            user: request.user,
            purpose: Purpose::Project,
        };
        let workspace = self
            .create_from(request.id, definition, egress, request.idle_stop)
            .await?;
        self.view(workspace).await
    }

    fn with_defaults(&self, given: Limits) -> Limits {
        let defaults = &self.inner.options.default_limits;
        let or = |given, default| if given == 0 { default } else { given };
        Limits {
            cpu_millis: or(given.cpu_millis, defaults.cpu_millis),
            memory_bytes: if given.memory_bytes == 0 {
                defaults.memory_bytes
            } else {
                given.memory_bytes
            },
            pids: or(given.pids, defaults.pids),
            disk_bytes: if given.disk_bytes == 0 {
                defaults.disk_bytes
            } else {
                given.disk_bytes
            },
        }
    }

    pub(super) async fn create_from(
        &self,
        id: WorkspaceId,
        definition: WorkspaceDefinition,
        egress: Policy,
        idle_stop: IdleStop,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        if self.inner.index.get(&id).is_some() {
            tracing::info!(workspace_id = %id, "going on with a workspace that was begun");
            self.ensure_running(&id, StartCause::Request).await?;
            return self.record(&id);
        }
        definition.limits.validate()?;
        let name = definition.name.clone();
        if self.inner.index.resolve(name.as_str()).is_some() {
            return Err(WorkspacesError::NameTaken(name));
        }
        if self.inner.runtime.image(&definition.image).await?.is_none() {
            return Err(RuntimeError::ImageMissing(definition.image).into());
        }
        match definition.purpose {
            Purpose::Project => {
                self.without_foreign_volumes(&definition.image, definition.user.as_deref())
                    .await?;
            }
            // Nothing of it is kept.
            Purpose::Checks => {}
        }
        let workspace = Workspace {
            id,
            definition,
            desired: Desired::Running,
            repositories: Vec::new(),
            created_at_ms: self.inner.clock.now_ms(),
            egress,
            generation: Generation::FIRST,
            base: None,
            snapshot: None,
            idle_stop,
            stop_cause: None,
            setup: WorkspaceSetup {
                pristine: true,
                ..WorkspaceSetup::default()
            },
            upkeep: Upkeep::of_new(),
        };
        let lock = self.lock_of(&workspace.id);
        let _held = lock.lock().await;
        match self.inner.store.add_workspace(&workspace).await {
            Err(StoreError::NameTaken(name)) => return Err(WorkspacesError::NameTaken(name)),
            other => other?,
        }
        let workspace = self.inner.index.put(workspace);
        self.inner.activity.touch(&workspace.id);
        tracing::info!(workspace_id = %workspace.id, %name, "creating workspace");
        // There is nothing in it yet to find or to maintain.
        match self.link_up(&workspace).await {
            Ok(_) => {
                self.note_up(&workspace.id, Up::Yes);
                tracing::info!(workspace_id = %workspace.id, %name, "workspace runs");
                self.inner
                    .events
                    .record(&workspace, Happening::Created)
                    .await;
                Ok(workspace)
            }
            Err(error) => {
                // Nobody has seen it yet: take it back whole.
                if let Err(undo) = self.take_down(&workspace).await {
                    tracing::warn!(workspace_id = %workspace.id, error = %undo,
                        "a workspace that did not start is removed later");
                }
                Err(error)
            }
        }
    }

    /// Refuses an image that keeps files where no snapshot would have them;
    /// `user` is the account of its commands, `None` the image's.
    pub(in crate::service) async fn without_foreign_volumes(
        &self,
        image: &str,
        user: Option<&str>,
    ) -> Result<(), WorkspacesError> {
        let paths = self.inner.runtime.foreign_volumes(image, user).await?;
        if paths.is_empty() {
            return Ok(());
        }
        let image = image.to_owned();
        Err(WorkspacesError::ImageVolumes { image, paths })
    }

    /// Starts a workspace; one that runs is left as it is.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub async fn start(&self, id: &WorkspaceId) -> Result<WorkspaceView, WorkspacesError> {
        self.ensure_running(id, StartCause::Request).await?;
        self.get(id).await
    }

    /// Stops a workspace; one that is stopped is left as it is.
    ///
    /// # Errors
    /// An engine that does not answer. It is stopped as soon as it does.
    pub async fn stop(&self, id: &WorkspaceId) -> Result<WorkspaceView, WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let workspace = self.desire_stopped(id, StopCause::Request).await?;
        if self.settle_stopped(&workspace).await? == Found::Up {
            let what = Happening::Stopped {
                cause: StopCause::Request,
            };
            self.inner.events.record(&workspace, what).await;
        }
        self.view(workspace).await
    }

    /// Ends a workspace's container; the caller holds its lock.
    pub(in crate::service) async fn settle_stopped(
        &self,
        workspace: &Workspace,
    ) -> Result<Found, WorkspacesError> {
        let id = &workspace.id;
        let mut found = Found::Down;
        if let Some(container) = self.inner.runtime.find(id).await? {
            match container.status {
                ContainerStatus::Running
                | ContainerStatus::Paused
                | ContainerStatus::Restarting => {
                    let grace = self.inner.options.stop_grace.as_secs();
                    let grace = u32::try_from(grace).unwrap_or(u32::MAX);
                    tracing::info!(workspace_id = %id, container_id = %container.id.0, "stopping");
                    found = Found::Up;
                    self.inner.runtime.stop(&container.id, grace).await?;
                    tracing::info!(workspace_id = %id, "workspace stopped");
                }
                ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Broken => {}
            }
        }
        self.inner.links.close(id).await;
        Ok(found)
    }

    /// Deletes a workspace with its container and volumes. One that another call,
    /// or the reconciler, deletes first is deleted.
    ///
    /// # Errors
    /// [`WorkspacesError::Busy`] while sessions run in it, unless `force`d; an
    /// engine that does not answer: it is deleted as soon as it does.
    pub async fn delete(&self, id: &WorkspaceId, force: bool) -> Result<(), WorkspacesError> {
        self.without_sessions(id, force).await?;
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let workspace = match self.desire_delete(id).await {
            Err(WorkspacesError::Unknown(_)) => return Ok(()),
            desired => desired?,
        };
        self.take_down(&workspace).await
    }

    /// Refuses while sessions run in a workspace, or cancels them.
    pub(in crate::service) async fn without_sessions(
        &self,
        id: &WorkspaceId,
        force: bool,
    ) -> Result<(), WorkspacesError> {
        let workspace = self.record(id)?;
        if let Some(users) = self.inner.users.get() {
            if force {
                users.cancel_sessions_in(id).await;
            }
            let sessions = users.sessions_in(id).await.len();
            if sessions > 0 {
                let name = workspace.definition.name.clone();
                return Err(WorkspacesError::Busy { name, sessions });
            }
        }
        Ok(())
    }

    /// Refuses while other sessions than this one run in a workspace.
    pub(in crate::service) async fn without_others(
        &self,
        id: &WorkspaceId,
        session: &SessionId,
    ) -> Result<(), WorkspacesError> {
        let workspace = self.record(id)?;
        let Some(users) = self.inner.users.get() else {
            return Ok(());
        };
        let mut others = users.sessions_in(id).await;
        others.retain(|other| other != session);
        match others.len() {
            0 => Ok(()),
            sessions => {
                let name = workspace.definition.name.clone();
                Err(WorkspacesError::Busy { name, sessions })
            }
        }
    }

    /// Whether a session still needs what was kept for it.
    pub(in crate::service) async fn need_of(&self, session: &SessionId) -> Need {
        match self.inner.users.get() {
            Some(users) => users.need_of(session).await,
            None => Need::Unknown,
        }
    }

    async fn desire_delete(&self, id: &WorkspaceId) -> Result<Arc<Workspace>, WorkspacesError> {
        let mut workspace = Workspace::clone(&*self.record(id)?);
        workspace.desired = Desired::Deleted;
        self.save(workspace).await
    }

    /// Removes everything of a workspace; the caller holds its lock. What a
    /// failure leaves the reconciler removes.
    pub(in crate::service) async fn take_down(
        &self,
        workspace: &Workspace,
    ) -> Result<(), WorkspacesError> {
        let id = &workspace.id;
        if workspace.desired != Desired::Deleted {
            self.desire_delete(id).await?;
        }
        if let Some(container) = self.inner.runtime.find(id).await? {
            self.inner.runtime.remove(&container.id).await?;
        }
        self.inner.runtime.remove_volumes(id).await?;
        self.inner.links.remove(id).await?;
        if let Some(credentials) = self.inner.credentials.get() {
            credentials.forget(id).await?;
        }
        self.inner.store.remove_workspace(id).await?;
        self.inner.index.remove(id);
        self.inner.activity.forget(id);
        self.inner.disks.forget(id);
        self.forget_lock(id);
        self.inner.gone.notify_one();
        tracing::info!(workspace_id = %id, name = %workspace.definition.name, "workspace deleted");
        self.inner
            .events
            .record(workspace, Happening::Deleted)
            .await;
        Ok(())
    }

    pub(super) fn forget_lock(&self, id: &WorkspaceId) {
        let poisoned = std::sync::PoisonError::into_inner;
        self.inner.locks.lock().unwrap_or_else(poisoned).remove(id);
        self.note_up(id, Up::No);
        let poisoned = std::sync::PoisonError::into_inner;
        self.inner
            .revived
            .lock()
            .unwrap_or_else(poisoned)
            .remove(id);
    }

    /// One workspace as it is seen.
    ///
    /// # Errors
    /// [`WorkspacesError::Unknown`].
    pub async fn get(&self, id: &WorkspaceId) -> Result<WorkspaceView, WorkspacesError> {
        let workspace = self.record(id)?;
        self.view(workspace).await
    }

    pub(super) async fn view(
        &self,
        workspace: Arc<Workspace>,
    ) -> Result<WorkspaceView, WorkspacesError> {
        let link = self.link(&workspace.id);
        let mut view = match self.inner.runtime.find(&workspace.id).await {
            Ok(found) => WorkspaceView::new(workspace, found.map(Into::into), link),
            Err(error) => WorkspaceView::blind(workspace, &error),
        };
        self.add_disk_reason(&mut view);
        Ok(view)
    }

    fn link(&self, id: &WorkspaceId) -> Link {
        match self.inner.links.current(id) {
            Some(_) => Link::Up,
            None => Link::Down,
        }
    }

    /// Every workspace as it is seen, by name. Answers without the engine too.
    pub async fn list(&self) -> Vec<WorkspaceView> {
        let workspaces = self.inner.index.all();
        match self.inner.runtime.list().await {
            Ok(mut containers) => workspaces
                .into_iter()
                .map(|workspace| {
                    let own = containers
                        .iter()
                        .position(|container| container.workspace == workspace.id)
                        .map(|at| containers.swap_remove(at));
                    let link = self.link(&workspace.id);
                    let mut view = WorkspaceView::new(workspace, own, link);
                    self.add_disk_reason(&mut view);
                    view
                })
                .collect(),
            Err(error) => workspaces
                .into_iter()
                .map(|workspace| WorkspaceView::blind(workspace, &error))
                .collect(),
        }
    }

    /// The agent of a workspace, which is started first where needed.
    ///
    /// Cancel safety: a start under way goes on without the caller.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn agent(&self, id: &WorkspaceId) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        self.mark_used(id).await?;
        self.agent_quietly(id).await
    }

    /// As [`agent`](Self::agent), for the daemon's own part of a setup.
    pub(super) async fn agent_quietly(
        &self,
        id: &WorkspaceId,
    ) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        let workspace = self.record(id)?;
        if workspace.desired == Desired::Running
            && self.inner.activity.touch(id) == Door::Open
            && self.is_up(id)
            && let Some(agent) = self.inner.links.current(id)
        {
            return Ok(agent);
        }
        self.ensure_running(id, StartCause::Use).await
    }

    /// Starts a workspace in a task of its own, so that it is never left
    /// halfway by a caller who goes away.
    async fn ensure_running(
        &self,
        id: &WorkspaceId,
        cause: StartCause,
    ) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        let service = self.clone();
        let id = id.clone();
        let work = self.inner.tasks.spawn(async move {
            let lock = service.lock_of(&id);
            let _held = lock.lock().await;
            if cause == StartCause::Use {
                service.refuse_paused(&id).await?;
            }
            let workspace = service.desire(&id, Desired::Running).await?;
            service.inner.activity.touch(&id);
            service.bring_up_for(&workspace, cause).await
        });
        work.await
            .map_err(|error| WorkspacesError::Dropped(error.to_string()))?
    }

    /// Writes down what a workspace should be doing, unless it is being
    /// deleted; the caller holds its lock.
    pub(super) async fn desire(
        &self,
        id: &WorkspaceId,
        desired: Desired,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let workspace = self.record(id)?;
        if workspace.desired == Desired::Deleted {
            let name = workspace.definition.name.clone();
            return Err(WorkspacesError::Deleting(name));
        }
        if workspace.desired == desired {
            return Ok(workspace);
        }
        let mut workspace = Workspace::clone(&workspace);
        workspace.desired = desired;
        self.save(workspace).await
    }

    /// As [`desire`](Self::desire), with the reason that people are shown. The
    /// reason of one that is stopped already stays.
    pub(super) async fn desire_stopped(
        &self,
        id: &WorkspaceId,
        cause: StopCause,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let workspace = self.living(id)?;
        if workspace.desired == Desired::Stopped {
            return Ok(workspace);
        }
        let mut workspace = Workspace::clone(&workspace);
        workspace.desired = Desired::Stopped;
        workspace.stop_cause = Some(cause);
        workspace.upkeep.notice = None;
        self.save(workspace).await
    }

    /// The same as [`bring_up`](Self::bring_up), and records what it took.
    pub(super) async fn bring_up_for(
        &self,
        workspace: &Workspace,
        cause: StartCause,
    ) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        let (agent, took) = self.bring_up(workspace).await?;
        self.record_start(workspace, took, cause).await;
        Ok(agent)
    }

    /// Whatever state its container is in, makes a workspace's agent answer,
    /// clears away what was cut off, finds what is in it, does its maintenance
    /// and lets others in; the caller holds its lock.
    pub(in crate::service) async fn bring_up(
        &self,
        workspace: &Workspace,
    ) -> Result<(Arc<dyn AgentPort>, Took), WorkspacesError> {
        let id = &workspace.id;
        let (agent, took) = self.link_up(workspace).await?;
        self.clear_left_over_imports(id, &*agent).await;
        self.find_first_repositories(id, &*agent).await;
        self.maintain(id, &*agent).await;
        self.note_up(id, Up::Yes);
        Ok((agent, took))
    }

    /// Whatever state its container is in, makes a workspace's agent answer.
    async fn link_up(
        &self,
        workspace: &Workspace,
    ) -> Result<(Arc<dyn AgentPort>, Took), WorkspacesError> {
        let id = &workspace.id;
        self.note_up(id, Up::No);
        let (runtime, links) = (&self.inner.runtime, &self.inner.links);
        let container = match runtime.find(id).await? {
            Some(container) => match container.status {
                ContainerStatus::Running => {
                    links.ensure(id).await?;
                    match links.connected(id, self.inner.options.agent_timeout).await {
                        Ok(agent) => return Ok((agent, Took::Nothing)),
                        Err(error) => {
                            tracing::warn!(workspace_id = %id, %error, "restarting a workspace");
                            runtime.stop(&container.id, 1).await?;
                        }
                    }
                    Some(container.id)
                }
                ContainerStatus::Paused => {
                    links.ensure(id).await?;
                    runtime.start(&container.id).await?;
                    let agent = self.wait_for_agent(workspace, &container.id).await?;
                    return Ok((agent, Took::Unpause));
                }
                ContainerStatus::Restarting => {
                    runtime.stop(&container.id, 1).await?;
                    Some(container.id)
                }
                ContainerStatus::Created | ContainerStatus::Exited => Some(container.id),
                ContainerStatus::Broken => {
                    runtime.remove(&container.id).await?;
                    None
                }
            },
            None => None,
        };
        let link_dir = links.prepare(id).await?;
        let container = match container {
            Some(container) => container,
            None => self.make_again(workspace, link_dir).await?,
        };
        runtime.start(&container).await?;
        let agent = self.wait_for_agent(workspace, &container).await?;
        Ok((agent, Took::Start))
    }

    /// What the container of a workspace is made from.
    pub(in crate::service) fn plan(
        &self,
        workspace: &Workspace,
        link_dir: PathBuf,
    ) -> ContainerPlan {
        ContainerPlan {
            workspace: workspace.id.clone(),
            definition: workspace.definition.clone(),
            generation: workspace.generation,
            base: workspace.base.clone(),
            link_dir,
            extra_ca_file: self.inner.options.extra_ca_file.clone(),
        }
    }

    /// Waits until the agent answers, as long as its container lives.
    async fn wait_for_agent(
        &self,
        workspace: &Workspace,
        container: &ContainerId,
    ) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        let id = &workspace.id;
        let deadline = Instant::now() + self.inner.options.agent_timeout;
        loop {
            let error = match self.inner.links.connected(id, LOOK_EVERY).await {
                Ok(agent) => return Ok(agent),
                Err(error) => error,
            };
            let state = self.inner.runtime.find(id).await?;
            let name = workspace.definition.name.clone();
            let container = container.0.clone();
            if !state.is_some_and(|state| state.status == ContainerStatus::Running) {
                return Err(WorkspacesError::ContainerEnded { name, container });
            }
            if Instant::now() >= deadline {
                return Err(WorkspacesError::AgentSilent {
                    name,
                    container,
                    source: error,
                });
            }
        }
    }
}
