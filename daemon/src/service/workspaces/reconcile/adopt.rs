//! Containers of ours that no record explains: the store was lost, or a kill
//! came between the two.

use super::{Workspaces, WorkspacesError};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{WorkspaceId, WorkspaceName},
        setup::WorkspaceSetup,
        upkeep::{Notice, Upkeep},
        workspace::{Desired, Purpose, Workspace},
        workspace_event::Happening,
    },
    ports::{runtime::ContainerStatus, store::StoreError},
};

impl Workspaces {
    /// Makes a record for a workspace's container, in the state that it is in.
    pub(in crate::service::workspaces) async fn adopt(
        &self,
        id: &WorkspaceId,
    ) -> Result<(), WorkspacesError> {
        // Whoever holds the lock makes it, and adds its record; what was made
        // or undone since the containers were listed has been settled.
        let lock = self.lock_of(id);
        let Ok(_held) = lock.try_lock() else {
            return Ok(());
        };
        if self.inner.index.get(id).is_some() {
            return Ok(());
        }
        let operations = self.inner.store.operations().await?;
        if operations
            .iter()
            .any(|operation| operation.workspace == *id)
        {
            // Whoever settles that decides what becomes of it.
            return Ok(());
        }
        let Some(container) = self.inner.runtime.find(id).await? else {
            self.forget_lock(id);
            return Ok(());
        };
        let Some(mut definition) = container.definition else {
            tracing::warn!(workspace_id = %id, container_id = %container.id.0,
                "a container of ours has no definition and is left alone");
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
            definition.name = other_name(&definition.name, id);
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
            upkeep: Upkeep {
                notice: Some(Notice::Adopted),
                ..Upkeep::default()
            },
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
