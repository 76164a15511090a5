//! The container of a workspace: made the first time, and made again when it
//! is gone. Volumes that are there are kept as they are.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

use super::{Workspaces, WorkspacesError};
use crate::{
    domain::{workspace::Workspace, workspace_event::Happening},
    ports::runtime::{ContainerId, ContainerStatus},
};

/// Who brings back what a workspace has lost; set by the owner of snapshots.
#[async_trait]
pub trait Salvage: Send + Sync {
    /// Makes ready what the container of a workspace is made again from, and
    /// says so in its record, which is returned. The container is gone, and the
    /// caller holds the workspace's lock.
    async fn salvage(&self, workspace: &Workspace) -> Result<Arc<Workspace>, WorkspacesError>;
}

impl Workspaces {
    /// Names the owner of snapshots, once; until then what is lost is made anew.
    pub fn set_salvage(&self, salvage: Arc<dyn Salvage>) {
        if self.inner.salvage.set(salvage).is_err() {
            tracing::warn!("the owner of snapshots was named twice");
        }
    }

    /// Makes the container of a workspace again where there is none that could
    /// be started; the caller holds its lock.
    pub(super) async fn ensure_container(
        &self,
        workspace: &Workspace,
    ) -> Result<(), WorkspacesError> {
        let (id, runtime) = (&workspace.id, &self.inner.runtime);
        match runtime.find(id).await? {
            Some(found) if found.status == ContainerStatus::Broken => {
                runtime.remove(&found.id).await?;
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let link_dir = self.inner.links.prepare(id).await?;
        self.make_again(workspace, link_dir).await?;
        self.inner.links.close(id).await;
        Ok(())
    }

    /// The same for a caller who has seen that there is none.
    pub(super) async fn make_again(
        &self,
        workspace: &Workspace,
        link_dir: PathBuf,
    ) -> Result<ContainerId, WorkspacesError> {
        let id = &workspace.id;
        let workspace = match self.inner.salvage.get() {
            Some(salvage) if !workspace.upkeep.new => salvage.salvage(workspace).await?,
            Some(_) | None => Arc::new(workspace.clone()),
        };
        let plan = self.plan(&workspace, link_dir);
        let container = self.inner.runtime.create(&plan).await?;
        if workspace.upkeep.new {
            self.is_made(&workspace).await?;
        } else {
            tracing::warn!(workspace_id = %id, image = plan.image(),
                "the container of a workspace was gone and is made again");
            let what = match &workspace.upkeep.notice {
                Some(notice) => notice.to_string(),
                None => format!(
                    "its container was gone and was made again from {}",
                    plan.image()
                ),
            };
            let what = Happening::Repaired { what };
            self.inner.events.record(&workspace, what).await;
        }
        Ok(container)
    }

    /// From now on there is something to lose.
    async fn is_made(&self, workspace: &Workspace) -> Result<(), WorkspacesError> {
        let mut made = workspace.clone();
        made.upkeep.new = false;
        self.save(made).await.map(drop)
    }
}
