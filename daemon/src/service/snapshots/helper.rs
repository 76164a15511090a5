//! The container that reads or fills the volumes of a workspace.

use std::{sync::Arc, time::Duration};

use super::{Snapshots, SnapshotsError};
use crate::{
    domain::{ids::WorkspaceId, snapshot::journal::ContainerRef, workspace::Workspace},
    ports::{
        runtime::ContainerId,
        snapshot_runtime::{HelperPlan, RootChanges, VolumeAccess, helper_id},
        trees::TreesPort,
    },
};

/// How long a helper may take until its agent answers.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);

impl Snapshots {
    /// Starts a helper under an id that is in the journal already.
    pub(super) async fn open_helper(
        &self,
        id: &WorkspaceId,
        of: &Workspace,
        access: VolumeAccess,
        root: Option<RootChanges>,
    ) -> Result<Arc<dyn TreesPort>, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let link_dir = workspaces.links().prepare(id).await?;
        let plan = HelperPlan {
            id: id.clone(),
            of: workspaces.plan(of, link_dir.clone()),
            image: of.image().to_owned(),
            link_dir,
            access,
            root,
        };
        let container = self.inner.runtime.create_helper(&plan).await?;
        self.start_helper(id, &container).await
    }

    /// Starts a helper that was made, and waits for its agent.
    pub(super) async fn start_helper(
        &self,
        id: &WorkspaceId,
        container: &ContainerId,
    ) -> Result<Arc<dyn TreesPort>, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        workspaces.runtime().start(container).await?;
        let agent = workspaces.links().connected(id, HELPER_TIMEOUT).await?;
        let trees = agent.trees();
        trees.ok_or(SnapshotsError::Agent("it does not serve trees"))
    }

    /// Removes a container; of a helper also what it dialled.
    pub(super) async fn remove_container(
        &self,
        container: &ContainerRef,
    ) -> Result<(), SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let id = ContainerId(container.0.clone());
        workspaces.runtime().remove(&id).await?;
        if let Some(id) = helper_id(container) {
            workspaces.links().remove(&id).await?;
        }
        Ok(())
    }
}
