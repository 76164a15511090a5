//! What snapshots need of a container engine beyond what workspaces do.

use std::path::PathBuf;

use async_trait::async_trait;

use super::runtime::{ContainerId, ContainerPlan, RuntimeError};
use crate::domain::{
    ids::{SnapshotId, WorkspaceId},
    snapshot::{
        CapturedVolume,
        journal::{ContainerRef, Generation, ImageRef},
    },
};

/// Pauses, images of root file systems, and the containers that read and fill
/// volumes.
#[async_trait]
pub trait SnapshotRuntimePort: Send + Sync {
    /// Freezes every process of a running container.
    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Lets a container go on; one that is not paused, or gone, is left as it
    /// is.
    async fn unpause(&self, container: &ContainerRef) -> Result<(), RuntimeError>;

    /// Makes an image of a container's root file system, tagged
    /// [`ImageRef::of`] the snapshot. It has the settings of the image that the
    /// container was made from, and none of the container's. Does not pause.
    async fn commit(
        &self,
        id: &ContainerId,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError>;

    /// Images that [`commit`](Self::commit) made for this daemon.
    async fn committed(&self) -> Result<Vec<ImageRef>, RuntimeError>;

    /// Removes a tag, and the image when that was its last and no other builds
    /// on it. One that is gone, or that a container is made from, is left.
    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError>;

    /// Makes a container, not started, whose agent reaches the captured volumes
    /// of a workspace's generation. Volumes that are to be written are made
    /// where they are missing.
    async fn create_helper(&self, plan: &HelperPlan) -> Result<ContainerId, RuntimeError>;

    /// Removes the helpers that earlier processes of this daemon left behind.
    async fn sweep_helpers(&self) -> Result<(), RuntimeError>;

    /// Removes the container and the volumes of one generation of a workspace;
    /// absent ones are accepted.
    async fn remove_generation(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<(), RuntimeError>;
}

/// An image of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedImage {
    /// Content id.
    pub id: String,
    /// Bytes with all its layers.
    pub size_bytes: u64,
    /// Bytes of it that the image of the container does not have.
    pub new_bytes: u64,
}

/// What a helper is made from. It has no network and runs nothing but the
/// agent.
#[derive(Debug, Clone, PartialEq)]
pub struct HelperPlan {
    /// Its own id: the link is made under it, and no workspace has it.
    pub id: WorkspaceId,
    /// Whose volumes it reaches.
    pub of: ContainerPlan,
    /// Image whose file system it starts from; nothing of it runs.
    pub image: String,
    /// Directory on the host that holds its link's socket.
    pub link_dir: PathBuf,
    /// What it may do.
    pub access: VolumeAccess,
}

/// What a helper may do with the volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeAccess {
    /// Read them.
    Read,
    /// Fill them.
    Write,
}

impl HelperPlan {
    /// The name of the container.
    #[must_use]
    pub fn container(&self) -> ContainerRef {
        helper_container(&self.id)
    }
}

/// The name of a helper's container.
#[must_use]
pub fn helper_container(id: &WorkspaceId) -> ContainerRef {
    ContainerRef(format!("compy-{id}"))
}

/// The id in the name of a helper's container.
#[must_use]
pub fn helper_id(container: &ContainerRef) -> Option<WorkspaceId> {
    container.0.strip_prefix("compy-")?.parse().ok()
}

/// Where a helper sees a volume.
#[must_use]
pub fn volume_directory(volume: CapturedVolume) -> &'static str {
    match volume {
        CapturedVolume::Work => "/volumes/work",
        CapturedVolume::Home => "/volumes/home",
        CapturedVolume::Browser => "/volumes/browser",
    }
}
