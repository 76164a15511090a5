//! What workspaces may reach: kept with their records, changed here.

use super::{WorkspaceView, Workspaces, WorkspacesError};
use crate::{
    domain::{
        egress::Policy,
        ids::WorkspaceId,
        workspace::{Desired, NetworkMode, Workspace},
    },
    ports::tunnel::BoxedBytes,
    service::egress::EgressRules,
};

impl Workspaces {
    /// Sets what a workspace may reach; `None` means the default. Connections
    /// that are open are the egress service's to cut. It waits for nothing that
    /// is done to the workspace meanwhile, such as a snapshot.
    ///
    /// # Errors
    /// [`WorkspacesError::EgressOnBridge`], a workspace that is being deleted,
    /// what the store fails with.
    pub async fn set_egress(
        &self,
        id: &WorkspaceId,
        policy: Option<Policy>,
    ) -> Result<WorkspaceView, WorkspacesError> {
        let lock = self.record_lock_of(id);
        let held = lock.lock().await;
        let workspace = self.record(id)?;
        if workspace.desired == Desired::Deleted {
            let name = workspace.definition.name.clone();
            return Err(WorkspacesError::Deleting(name));
        }
        let egress = self.egress_or_default(policy, workspace.definition.network)?;
        if workspace.egress == egress {
            return self.view(workspace).await;
        }
        tracing::info!(workspace_id = %id, egress = ?egress.kind(), hosts = egress.hosts().len(),
            "egress of a workspace changes");
        let workspace = Workspace {
            egress,
            ..Workspace::clone(&workspace)
        };
        let workspace = self.write(workspace).await?;
        drop(held);
        self.view(workspace).await
    }

    /// On the bridge rules would be an empty promise: nothing asks them.
    pub(super) fn egress_or_default(
        &self,
        policy: Option<Policy>,
        network: NetworkMode,
    ) -> Result<Policy, WorkspacesError> {
        match (policy, network) {
            (Some(Policy::None) | None, NetworkMode::Bridge) => Ok(Policy::None),
            (Some(_), NetworkMode::Bridge) => Err(WorkspacesError::EgressOnBridge),
            (Some(policy), NetworkMode::None) => Ok(policy),
            (None, NetworkMode::None) => Ok(self.inner.options.default_egress.clone()),
        }
    }

    /// Connects to a port on the loopback of a workspace, which is started
    /// first where needed.
    ///
    /// # Errors
    /// As for [`agent`](Self::agent); an agent that is too old; a port on which
    /// nothing listens.
    pub async fn dial(&self, id: &WorkspaceId, port: u16) -> Result<BoxedBytes, WorkspacesError> {
        self.agent(id).await?;
        let Some(tunnel) = self.inner.links.tunnel(id) else {
            let name = self.record(id)?.definition.name.clone();
            return Err(WorkspacesError::NoTunnel(name));
        };
        Ok(tunnel.dial(port).await?)
    }
}

impl EgressRules for Workspaces {
    fn rules(&self, workspace: &WorkspaceId) -> Option<(Policy, String)> {
        let record = self.inner.index.get(workspace)?;
        Some((record.egress.clone(), record.definition.name.to_string()))
    }
}
