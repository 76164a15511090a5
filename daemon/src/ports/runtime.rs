//! The container engine, in the words of workspaces.

use std::{collections::BTreeSet, path::PathBuf};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::domain::{
    ids::WorkspaceId,
    setup::StartStamp,
    snapshot::{
        CapturedVolume,
        journal::{Generation, ImageRef},
    },
    workspace::{NetworkMode, WorkspaceDefinition},
};

/// Where [`ContainerPlan::extra_ca_file`] is seen inside the container.
pub const EXTRA_CA_FILE: &str = "/run/compy/extra-ca.pem";

/// A container engine.
#[async_trait]
pub trait RuntimePort: Send + Sync {
    /// What the engine is.
    async fn engine(&self) -> Result<EngineInfo, RuntimeError>;

    /// Whether volumes can be overlays over others; tried once, with containers
    /// of this image, and known from then on.
    async fn overlay_volumes(&self, image: &str) -> Result<OverlayVolumes, RuntimeError>;

    /// What the engine knows of an image; `None` when it does not have it.
    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError>;

    /// Paths that an image declares as volumes and at which a container of it
    /// would have no volume of ours, sorted; `user` is the account of its
    /// commands, `None` the image's. The engine puts a nameless volume at each,
    /// which no snapshot holds and which goes with the container. Fails with
    /// [`RuntimeError::ImageMissing`].
    async fn foreign_volumes(
        &self,
        image: &str,
        user: Option<&str>,
    ) -> Result<Vec<String>, RuntimeError>;

    /// Makes the volumes and the container of a workspace's generation, not
    /// started. The one of the same generation, where there is one, is returned
    /// as it is.
    async fn create(&self, plan: &ContainerPlan) -> Result<ContainerId, RuntimeError>;

    /// Starts a container; a running one is left as it is.
    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Freezes every process of a container; [`start`](Self::start) lets them go
    /// on. One that is frozen is left as it is.
    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Ends every process: TERM, then KILL after the grace in seconds. A
    /// stopped container is left as it is.
    async fn stop(&self, id: &ContainerId, grace_seconds: u32) -> Result<(), RuntimeError>;

    /// What a container uses now; `None` when it has no processes. A frozen one
    /// uses its memory.
    async fn usage(&self, id: &ContainerId) -> Result<Option<ContainerUsage>, RuntimeError>;

    /// Bytes of a container's root file system beyond its image. The engine
    /// walks through them, or compares the whole image, which takes many seconds.
    async fn root_bytes(&self, id: &ContainerId) -> Result<u64, RuntimeError>;

    /// Removes a container, running or not; an absent one is accepted.
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Removes the volumes of a workspace, of every generation; absent ones are
    /// accepted.
    async fn remove_volumes(&self, workspace: &WorkspaceId) -> Result<(), RuntimeError>;

    /// Which of the volumes that snapshots capture a workspace's generation has.
    async fn captured_volumes(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<BTreeSet<CapturedVolume>, RuntimeError>;

    /// The container of a workspace as the engine sees it, of the newest
    /// generation that has one. Finds a helper by its own id.
    async fn find(&self, workspace: &WorkspaceId) -> Result<Option<ContainerState>, RuntimeError>;

    /// Every workspace's container that carries this daemon's labels, of the
    /// newest generation each. Helpers are none. One question to the engine,
    /// however many there are.
    async fn list(&self) -> Result<Vec<ContainerSummary>, RuntimeError>;

    /// What happens to workspaces' containers and volumes from now on: a reason
    /// to look, never a fact to act on, as some may be missed. Ends when the
    /// engine goes away.
    async fn changes(&self) -> Result<BoxStream<'static, RuntimeChange>, RuntimeError>;
}

/// Something that happened to what a workspace is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeChange {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a container or a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The container runs.
    Started,
    /// Its PID 1 ended.
    Ended,
    /// A process in it was ended for want of memory.
    OutOfMemory,
    /// It was frozen.
    Paused,
    /// It goes on.
    Resumed,
    /// The container is gone.
    ContainerRemoved,
    /// A volume is gone.
    VolumeRemoved,
}

/// The engine's id of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerId(pub String);

/// What an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Version of the engine: "20.10.24".
    pub version: String,
    /// Newest API version it speaks: "1.41".
    pub api_version: String,
    /// Where it keeps its data.
    pub root_dir: PathBuf,
    /// Its storage driver.
    pub storage_driver: String,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// Whether volumes can be overlays over others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayVolumes {
    /// They do what a volume does.
    Work,
    /// They do not; says what went wrong.
    Fail(String),
}

/// What the engine knows of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Content id.
    pub id: String,
    /// Bytes with all its layers.
    pub size_bytes: u64,
    /// The account its commands run as; empty means root.
    pub user: String,
}

/// What a workspace's container is made from. Hardening is not here: it is the
/// adapter's, the same for every container, and cannot be asked away.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its definition; carried in labels, to adopt it after the store is lost.
    pub definition: WorkspaceDefinition,
    /// Which of its containers and volumes; carried in labels too.
    pub generation: Generation,
    /// Image of a snapshot to make it from; `None` means the definition's.
    /// Carried in labels too.
    pub base: Option<ImageRef>,
    /// Directory on the host that holds the link's socket, mounted read-only.
    pub link_dir: PathBuf,
    /// A CA bundle on the host that the container shall trust, mounted
    /// read-only.
    pub extra_ca_file: Option<PathBuf>,
}

impl ContainerPlan {
    /// The image that the container is made from.
    #[must_use]
    pub fn image(&self) -> &str {
        match &self.base {
            Some(base) => &base.0,
            None => &self.definition.image,
        }
    }
}

/// A container of ours as the engine sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    /// The engine's id.
    pub id: ContainerId,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// The definition in its labels; `None` when it cannot be read.
    pub definition: Option<WorkspaceDefinition>,
    /// Which of the workspace's containers it is.
    pub generation: Generation,
    /// The image of a snapshot that it was made from.
    pub base: Option<ImageRef>,
    /// What it is doing.
    pub status: ContainerStatus,
    /// Process id of its PID 1 on the host; 0 when it does not run.
    pub pid: u32,
    /// Names the start that its processes are of; a pause does not change it.
    pub start: StartStamp,
}

/// A container of ours as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// The engine's id.
    pub id: ContainerId,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// Which of the workspace's containers it is.
    pub generation: Generation,
    /// The image of a snapshot that it was made from.
    pub base: Option<ImageRef>,
    /// What it is doing.
    pub status: ContainerStatus,
}

impl From<ContainerState> for ContainerSummary {
    fn from(state: ContainerState) -> Self {
        Self {
            id: state.id,
            workspace: state.workspace,
            generation: state.generation,
            base: state.base,
            status: state.status,
        }
    }
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerUsage {
    /// CPU time since it was started, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, without the cache of files that can be dropped.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Being started again by the engine.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed, or its removal failed.
    Broken,
}

/// Why the engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The engine cannot be reached.
    #[error("the container engine cannot be reached: {0}; is it running? `compyctl doctor` looks")]
    Unavailable(String),
    /// The image is not there.
    #[error("the engine has no image `{0}`; `make images` builds the default one")]
    ImageMissing(String),
    /// There is no such container.
    #[error("the engine has no container {0}")]
    ContainerMissing(String),
    /// A network mode the engine lacks.
    #[error("the engine cannot give a container the network {0:?}")]
    NetworkUnavailable(NetworkMode),
    /// Where the engine keeps its data there is no room.
    #[error("the container engine's disk is full, so it could not {action} {subject}: {message}")]
    DiskFull {
        /// What was asked: "start".
        action: &'static str,
        /// Of what.
        subject: String,
        /// The engine's words.
        message: String,
    },
    /// The engine refused.
    #[error("the container engine refused to {action} {subject}: {message}")]
    Refused {
        /// What was asked: "start".
        action: &'static str,
        /// Of what.
        subject: String,
        /// The engine's words.
        message: String,
    },
}
