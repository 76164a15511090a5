//! What the snapshot service needs of workspaces: their locks, records and
//! ports. It holds the lock of a workspace while it changes it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::OwnedMutexGuard;

use super::{Workspaces, WorkspacesError};
use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        snapshot::journal::{Generation, ImageRef},
        workspace::{Desired, Workspace},
    },
    ports::{
        agent::AgentPort,
        links::LinksPort,
        runtime::RuntimePort,
        store::{StoreError, StorePort},
    },
};

impl Workspaces {
    pub(in crate::service) fn store(&self) -> &dyn StorePort {
        &*self.inner.store
    }

    pub(in crate::service) fn runtime(&self) -> &dyn RuntimePort {
        &*self.inner.runtime
    }

    pub(in crate::service) fn links(&self) -> &dyn LinksPort {
        &*self.inner.links
    }

    pub(in crate::service) fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// The agent of a workspace as it is linked now: asking for it is no use of
    /// the workspace and starts nothing.
    pub(in crate::service) fn linked(&self, id: &WorkspaceId) -> Option<Arc<dyn AgentPort>> {
        self.inner.links.current(id)
    }

    /// Keeps everybody else from changing a workspace.
    pub(in crate::service) async fn hold(&self, id: &WorkspaceId) -> OwnedMutexGuard<()> {
        self.lock_of(id).lock_owned().await
    }

    /// The same where nobody does: `None` when somebody changes it now.
    pub(in crate::service) fn try_hold(&self, id: &WorkspaceId) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(id).try_lock_owned().ok()
    }

    /// The generation of each workspace that there is.
    pub(in crate::service) fn generations(&self) -> HashMap<WorkspaceId, Generation> {
        let all = self.inner.index.all();
        all.iter().map(|w| (w.id.clone(), w.generation)).collect()
    }

    /// The snapshot that each workspace was last at.
    pub(in crate::service) fn last_snapshots(&self) -> HashSet<SnapshotId> {
        let all = self.inner.index.all();
        all.iter().filter_map(|w| w.snapshot.clone()).collect()
    }

    /// A workspace that is not being deleted.
    pub(in crate::service) fn living(
        &self,
        id: &WorkspaceId,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let workspace = self.record(id)?;
        match workspace.desired {
            Desired::Running | Desired::Stopped | Desired::Paused => Ok(workspace),
            Desired::Deleted => {
                let name = workspace.definition.name.clone();
                Err(WorkspacesError::Deleting(name))
            }
        }
    }

    /// Adds a workspace that was made elsewhere.
    pub(in crate::service) async fn add(&self, workspace: Workspace) -> Result<(), StoreError> {
        self.inner.store.add_workspace(&workspace).await?;
        self.inner.index.put(workspace);
        Ok(())
    }

    /// Waits until a workspace is gone, or returns at once when one went since
    /// the last time. For one waiter.
    pub(in crate::service) async fn one_is_gone(&self) {
        self.inner.gone.notified().await;
    }

    /// Whether there is a workspace with this id.
    pub(in crate::service) fn knows(&self, id: &WorkspaceId) -> bool {
        self.inner.index.get(id).is_some()
    }

    /// Whether a workspace is made from this image.
    pub(in crate::service) fn is_base(&self, image: &ImageRef) -> bool {
        let workspaces = self.inner.index.all();
        workspaces.iter().any(|w| w.base.as_ref() == Some(image))
    }
}
