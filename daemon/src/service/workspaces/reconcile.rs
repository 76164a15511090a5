//! Desire and engine compared, and every difference settled here.
//!
//! | desired | container | settled by |
//! |---|---|---|
//! | running | running, paused | waiting for its agent; a pause is left alone |
//! | running | created, ended | starting it |
//! | running | none, broken | nothing: it is made again at the next start, and says so |
//! | stopped | running | stopping it |
//! | paused | running | pausing it |
//! | paused | created, ended | stopping it for good: what was frozen has ended |
//! | deleted | any or none | removing what is left |
//! | no record | any | adopting it in the state it is in; its repositories are found once its agent answers |

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Up, Workspaces, WorkspacesError};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{WorkspaceId, WorkspaceName},
        setup::WorkspaceSetup,
        workspace::{Desired, Purpose, Workspace},
        workspace_event::{Happening, StartCause},
    },
    ports::{
        runtime::{ContainerState, ContainerStatus},
        store::StoreError,
    },
};

/// Workspaces looked at together; the runtime has a bound of its own on starts.
const AT_ONCE: usize = 8;
/// While the engine does not answer.
const ENGINE_RETRY: Duration = Duration::from_secs(1);
/// A workspace that was revived this lately and died again is left to the next
/// periodic look.
const REVIVE_AGAIN_AFTER: Duration = Duration::from_secs(10);

impl Workspaces {
    /// Keeps desire and engine together until `shutdown`.
    ///
    /// Cancel safety: an act under way is finished by the next run.
    pub async fn run_reconciler(&self, shutdown: CancellationToken) {
        let mut lost = self.inner.links.lost();
        loop {
            let pause = match shutdown.run_until_cancelled(self.reconcile()).await {
                None => return,
                Some(Ok(())) => self.inner.options.reconcile_every,
                Some(Err(error)) => {
                    tracing::warn!(%error, "workspaces cannot be looked at");
                    ENGINE_RETRY
                }
            };
            let next_look = tokio::time::sleep(pause);
            tokio::pin!(next_look);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = &mut next_look => break,
                    id = lost.recv() => match id {
                        Ok(id) => {
                            self.note_up(&id, Up::No);
                            self.settle_logged(&id).await;
                        }
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Compares everything once and settles what differs.
    ///
    /// # Errors
    /// The engine or the store does not answer. What a single workspace fails
    /// with is logged, and tried again at the next look.
    pub async fn reconcile(&self) -> Result<(), WorkspacesError> {
        let containers = self.inner.runtime.list().await?;
        for container in containers {
            if self.inner.index.get(&container.workspace).is_none() {
                self.adopt(container).await?;
            }
        }
        let workspaces = self.inner.index.all();
        futures_util::stream::iter(workspaces)
            .for_each_concurrent(AT_ONCE, |workspace| async move {
                self.settle_logged(&workspace.id).await;
            })
            .await;
        Ok(())
    }

    async fn settle_logged(&self, id: &WorkspaceId) {
        if let Err(error) = self.settle(id).await {
            tracing::warn!(workspace_id = %id, %error, "workspace is not as it should be");
        }
    }

    async fn settle(&self, id: &WorkspaceId) -> Result<(), WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        // Read under the lock: whoever held it may have changed the desire.
        let Some(workspace) = self.inner.index.get(id) else {
            return Ok(());
        };
        match workspace.desired {
            Desired::Deleted => self.take_down(&workspace).await,
            Desired::Stopped => self.settle_stopped(&workspace).await.map(drop),
            Desired::Paused => self.settle_paused(&workspace).await,
            Desired::Running => self.settle_running(&workspace).await,
        }
    }

    async fn settle_running(&self, workspace: &Workspace) -> Result<(), WorkspacesError> {
        let id = &workspace.id;
        let Some(container) = self.inner.runtime.find(id).await? else {
            self.inner.links.close(id).await;
            return Ok(());
        };
        match container.status {
            ContainerStatus::Paused => Ok(self.inner.links.ensure(id).await?),
            ContainerStatus::Broken => Ok(()),
            ContainerStatus::Running
                if self.is_up(id) && self.inner.links.current(id).is_some() =>
            {
                Ok(())
            }
            ContainerStatus::Running => self.revive(workspace).await,
            ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Restarting => {
                if !self.may_revive(id) {
                    return Ok(());
                }
                tracing::info!(workspace_id = %id, "starting a workspace that should run");
                self.revive(workspace).await
            }
        }
    }

    async fn revive(&self, workspace: &Workspace) -> Result<(), WorkspacesError> {
        let cause = StartCause::ShouldRun;
        self.bring_up_for(workspace, cause).await.map(drop)
    }

    fn may_revive(&self, id: &WorkspaceId) -> bool {
        let poisoned = std::sync::PoisonError::into_inner;
        let mut revived = self.inner.revived.lock().unwrap_or_else(poisoned);
        let now = Instant::now();
        let long_ago = revived
            .get(id)
            .is_none_or(|last| now.duration_since(*last) >= REVIVE_AGAIN_AFTER);
        if long_ago {
            revived.insert(id.clone(), now);
        }
        long_ago
    }

    /// Makes a record for a container of ours that has none: the store was
    /// lost, or a kill came between the two.
    async fn adopt(&self, container: ContainerState) -> Result<(), WorkspacesError> {
        let id = container.workspace;
        // Whoever holds the lock makes it, and adds its record; what was made
        // or undone since the containers were listed has been settled.
        let lock = self.lock_of(&id);
        let Ok(_held) = lock.try_lock() else {
            return Ok(());
        };
        if self.inner.index.get(&id).is_some() || self.inner.runtime.find(&id).await?.is_none() {
            return Ok(());
        }
        let Some(mut definition) = container.definition else {
            tracing::warn!(workspace_id = %id, container_id = %container.id.0,
                "a container of ours has no definition; remove it by hand if it is not needed");
            return Ok(());
        };
        let desired = match container.status {
            // The session that it was made for is lost as well.
            _ if definition.purpose == Purpose::Checks => Desired::Deleted,
            ContainerStatus::Running | ContainerStatus::Restarting => Desired::Running,
            ContainerStatus::Paused => Desired::Paused,
            ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Broken => {
                Desired::Stopped
            }
        };
        if self.inner.index.resolve(definition.name.as_str()).is_some() {
            definition.name = other_name(&definition.name, &id);
        }
        let name = definition.name.clone();
        let workspace = Workspace {
            id: id.clone(),
            definition,
            desired,
            repositories: Vec::new(),
            created_at_ms: self.inner.clock.now_ms(),
            egress: Policy::None,
            generation: container.generation,
            base: container.base,
            snapshot: None,
            idle_stop: IdleStop::default(),
            stop_cause: None,
            setup: WorkspaceSetup::default(),
        };
        match self.inner.store.add_workspace(&workspace).await {
            Ok(()) => {
                let workspace = self.inner.index.put(workspace);
                self.inner
                    .events
                    .record(&workspace, Happening::Adopted)
                    .await;
                tracing::info!(workspace_id = %id, %name, ?desired,
                    "workspace adopted by its labels; it reaches nothing until its egress is set again");
                Ok(())
            }
            Err(error @ StoreError::NameTaken(_)) => {
                tracing::warn!(workspace_id = %id, %error, "a container cannot be adopted");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A name that nobody else has: the old one and a part of the id.
fn other_name(name: &WorkspaceName, id: &WorkspaceId) -> WorkspaceName {
    const SUFFIX: usize = 12;
    let id = id.as_str();
    let suffix = &id[id.len() - SUFFIX..];
    let kept = name.as_str().len().min(63 - SUFFIX - 1);
    format!("{}-{suffix}", &name.as_str()[..kept])
        .parse()
        .unwrap_or_else(|_| name.clone())
}
