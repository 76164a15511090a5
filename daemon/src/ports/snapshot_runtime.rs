//! What snapshots need of a container engine beyond what workspaces do.

use std::{collections::BTreeMap, path::PathBuf};

use async_trait::async_trait;

use super::{
    runtime::{ContainerId, ContainerPlan, RuntimeError},
    trees::TreeEntry,
};
use crate::domain::{
    ids::{SnapshotId, WorkspaceId},
    snapshot::{
        CapturedVolume,
        copies::VolumeRef,
        hash::TreeHash,
        journal::{ContainerRef, Generation, ImageRef},
        layers::ImageLayers,
    },
};

/// Pauses, images of root file systems, and the containers that read and fill
/// volumes.
#[async_trait]
pub trait SnapshotRuntimePort: Send + Sync {
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

    /// Where the engine keeps what a container changed of its image's files;
    /// `None` when it does not keep it in a directory.
    async fn root_changes(&self, id: &ContainerId) -> Result<Option<RootChanges>, RuntimeError>;

    /// Gives the image of a snapshot to another one as well, tagged
    /// [`ImageRef::of`] it. Nothing is copied, and each tag can be removed
    /// without the other. Fails with [`RuntimeError::ImageMissing`].
    async fn share(
        &self,
        image: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError>;

    /// As [`commit`](Self::commit), with the settings of this image; the tag
    /// is taken from whatever has it.
    async fn commit_like(
        &self,
        id: &ContainerId,
        like: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError>;

    /// The layers of an image that was committed, and what it was begun with:
    /// that is recorded in it, or else it is `made_from` if that is below it.
    async fn layers(&self, image: &str, made_from: &str) -> Result<ImageLayers, RuntimeError>;

    /// Makes a container, not started, whose agent sees the files of an image
    /// and no volumes.
    async fn create_image_helper(
        &self,
        plan: &ImageHelperPlan,
    ) -> Result<ContainerId, RuntimeError>;

    /// Tags an image that the engine has under another name; says whether it
    /// has it.
    async fn tag(&self, image: &str, tag: &ImageRef) -> Result<bool, RuntimeError>;

    /// Images that [`commit`](Self::commit) made for this daemon, by their
    /// tags; one that has lost its name by the engine's id.
    async fn committed(&self) -> Result<Vec<ImageRef>, RuntimeError>;

    /// Removes a tag, and the image when that was its last and no other builds
    /// on it. One that is gone, or that a container is made from, is left.
    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError>;

    /// Makes captured volumes of a generation that nothing uses, in place of
    /// what may be there of them. They can be named in a container from then
    /// on, and mounted once [`make_roots`](Self::make_roots) has been done.
    async fn create_volumes(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError>;

    /// Makes the roots of volumes that were just created what they are to be.
    /// Takes a container that never starts.
    async fn make_roots(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError>;

    /// Makes an empty volume for a copy of a tree.
    async fn create_copy(&self, tree: &TreeHash) -> Result<VolumeRef, RuntimeError>;

    /// Every volume that [`create_copy`](Self::create_copy) made for this
    /// daemon.
    async fn copies(&self) -> Result<Vec<CopyVolume>, RuntimeError>;

    /// Removes the volume of a copy that nothing lies over; an absent one is
    /// accepted.
    async fn remove_copy(&self, volume: &VolumeRef) -> Result<(), RuntimeError>;

    /// Makes a container, not started, whose agent reaches captured volumes of
    /// a workspace's generation, or copies.
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

/// A captured volume to make.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVolume {
    /// Which.
    pub volume: CapturedVolume,
    /// What it lies over; `None` makes a plain one.
    pub lower: Option<VolumeRef>,
    /// Its root: mode, owner, times and extended attributes.
    pub root: TreeEntry,
}

/// A volume that was made for a copy of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyVolume {
    /// It.
    pub volume: VolumeRef,
    /// Whether a volume lies over it.
    pub in_use: bool,
}

/// Where a container's changes are, on the engine's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootChanges {
    /// What it changed, and marks for what it removed.
    pub directory: PathBuf,
    /// Where the container's whole root file system is shown by a program that
    /// keeps writes back; `None` when there is none.
    pub shown_at: Option<PathBuf>,
}

/// Where a helper sees what a container changed.
pub const ROOT_CHANGES_DIRECTORY: &str = "/root-changes";
/// Where it sees the container's whole root file system.
pub const ROOT_SHOWN_DIRECTORY: &str = "/root-shown";

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
    /// What a container changed of its image's files, to be read too.
    pub root: Option<RootChanges>,
}

/// What a helper is made from that sees the files of an image. It has no network
/// and runs nothing but the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageHelperPlan {
    /// Its own id: the link is made under it, and no workspace has it.
    pub id: WorkspaceId,
    /// The image.
    pub image: String,
    /// Directory on the host that holds its link's socket.
    pub link_dir: PathBuf,
    /// What it may do with the files.
    pub access: FileAccess,
}

/// What a helper may do with the files of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Read them.
    Read,
    /// Change them, for a commit.
    Write,
}

/// Which volumes a helper reaches, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeAccess {
    /// It reads all captured volumes.
    Read,
    /// It writes into all captured volumes.
    Write,
    /// It fills copies, each seen where the volume would be.
    Copies(BTreeMap<CapturedVolume, VolumeRef>),
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
