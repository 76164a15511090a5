//! Snapshots of workspaces: taken, restored, forked, deleted.
//!
//! ```text
//! take     read volumes live -> pause -> read what changed, commit -> resume -> manifest
//! restore  fill new volumes beside the old -> stop -> swap the record -> start -> remove the old
//! fork     fill volumes -> add the record -> start
//! delete   manifest -> image; chunks are left to pruning; see [`of_sessions`]
//! prune    images and chunks that nothing names
//! export, import: see [`archive`]
//! ```
//!
//! Each operation is journaled before it acts (see
//! [`crate::domain::snapshot::journal`]). One that fails is
//! settled at once by the same effects that the next start settles one with
//! that a kill cut off, so there is one way to undo and to finish.
//!
//! Volumes are made as [`copies`] says: mostly overlays that cost what changed.
//!
//! The lock of the workspace is held throughout: nobody starts, stops or
//! deletes it meanwhile. A snapshot that is read is not deleted.

pub mod archive;
mod baked;
mod clean;
mod copies;
mod delete;
mod diff;
mod flatten;
mod fork;
mod helper;
#[cfg(feature = "test-util")]
mod hold;
mod label;
mod listing;
mod of_sessions;
mod prune;
mod restore;
mod root;
mod salvage;
mod scan;
mod settle;
mod take;
mod upkeep;
mod volumes;

#[cfg(test)]
mod take_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::RwLock;
use uuid::Uuid;

use self::{archive::ArchiveError, volumes::Captured};
pub use self::{
    diff::{Change, Diff, DiffRequest, DiffTo, RootDiff, Side, What},
    fork::{Fork, ForkFrom},
    prune::{Prune, PruneReport},
    restore::{Before, Restore, Restored, RunningSessions},
};
use super::{
    redaction::Redactions,
    workspaces::{Workspaces, WorkspacesError},
};
use crate::{
    domain::{
        ids::{OperationId, SessionId, SnapshotId, WorkspaceId, WorkspaceName},
        redaction::Redactor,
        snapshot::{
            CapturedVolume, Snapshot,
            copies::VolumeRef,
            journal::{Generation, ImageRef, Operation, Progress},
            layers::{ENGINE_LAYERS_MAX, LAYERS_MAX},
        },
    },
    ports::{
        agent::AgentError,
        chunks::{ChunkError, ChunkPort},
        image_archive::ImageLoadError,
        links::LinkError,
        runtime::RuntimeError,
        snapshot_runtime::SnapshotRuntimePort,
        store::StoreError,
    },
};

/// Why a request about snapshots was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotsError {
    /// There is no snapshot with this id.
    #[error("there is no snapshot {0}")]
    Unknown(SnapshotId),
    /// The root file system is nowhere to be had.
    #[error("workspace {0} has no container to take a snapshot of")]
    NoContainer(WorkspaceName),
    /// The image of a snapshot was removed by somebody else.
    #[error("the engine has no image of snapshot {0} any more")]
    ImageGone(SnapshotId),
    /// What an earlier daemon left has not been put in order: the engine did
    /// not answer since.
    #[error("operations that were cut off are not settled yet, as the engine does not answer")]
    Unsettled,
    /// The engine puts no layer on the image of the workspace any more.
    #[error(
        "the image of workspace {name} has {ENGINE_LAYERS_MAX} layers, and the engine makes no more"
    )]
    TooManyLayers {
        /// The workspace.
        name: WorkspaceName,
    },
    /// The workspace may not stand still any longer.
    #[error("reading what changed and committing the root file system took over {seconds} s")]
    PausedTooLong {
        /// How long it may take.
        seconds: u64,
    },
    /// Something that a snapshot would keep holds a credential, or cannot be
    /// looked through.
    #[error("the snapshot was not taken: {0}")]
    Credential(String),
    /// An operation came past the step up to which it can be undone, and what is
    /// left of it cannot be done now. It is tried until it is.
    #[error("what was asked for is nearly done, and is finished as soon as it can be: {0}")]
    FinishedLater(Box<SnapshotsError>),
    /// A session that has not ended proves in it, or can be rolled back to it.
    #[error("session {session} needs snapshot {snapshot} until it has ended")]
    Needed {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The session.
        session: SessionId,
    },
    /// Nobody waits for the answer any more.
    #[error("nobody waits for the answer any more")]
    Abandoned,
    /// Snapshots are being deleted for too long.
    #[error("snapshots are being deleted; try again when that is done")]
    Deleting,
    /// The agent that reads or fills volumes broke its contract.
    #[error("the helper's agent broke its contract: {0}")]
    Agent(&'static str),
    /// A stored snapshot is not what it was.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// What a snapshot names cannot be told, so nothing can be pruned.
    #[error("snapshot {snapshot} cannot be read, so what it needs is not known: {cause}")]
    Unreadable {
        /// Which.
        snapshot: SnapshotId,
        /// What is wrong with it.
        cause: Box<SnapshotsError>,
    },
    /// An archive that is not taken in.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The image in an archive cannot be kept.
    #[error(transparent)]
    ImageLoad(ImageLoadError),
    /// The store of chunks.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The workspace, its engine, its link or its record.
    #[error(transparent)]
    Workspaces(#[from] WorkspacesError),
}

macro_rules! through_workspaces {
    ($($error:ty),*) => {$(
        impl From<$error> for SnapshotsError {
            fn from(error: $error) -> Self {
                Self::Workspaces(error.into())
            }
        }
    )*};
}
through_workspaces!(RuntimeError, StoreError, LinkError, AgentError);

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    workspaces: Workspaces,
    runtime: Arc<dyn SnapshotRuntimePort>,
    chunks: Arc<dyn ChunkPort>,
    /// Whether what an earlier daemon left has been settled.
    settled: AtomicBool,
    /// Operations of this process that ended and could not be settled yet.
    /// Held for an exchange, never over an await.
    unsettled: Mutex<HashSet<OperationId>>,
    /// Shared by those who read a snapshot, held alone by who deletes one.
    /// Taken after the lock of a workspace.
    deleting: RwLock<()>,
    /// What the volumes of a few workspaces held last, so that the next
    /// snapshot reads what changed. Held for an exchange, never over an await.
    remembered: Mutex<HashMap<WorkspaceId, Remembered>>,
    /// What no snapshot may keep.
    redactions: OnceLock<Redactions>,
    options: SnapshotsOptions,
    /// Held while a copy of a tree is made, chosen to lie over, or removed.
    copies: tokio::sync::Mutex<()>,
    /// What a few copies hold, as a capture would know it. Held for an
    /// exchange, never over an await.
    copies_known: Mutex<HashMap<VolumeRef, Captured>>,
}

/// What an operator decides about snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotsOptions {
    /// Whether volumes may lie over copies of trees, where the engine can.
    pub overlays: bool,
    /// What copies of trees that nothing lies over may take on disk, in bytes,
    /// together with those that something lies over.
    pub copies_max_bytes: u64,
    /// Layers that snapshots may put on an image before they are made one.
    pub layers_max: u32,
    /// The file in which a test names the step to hold operations at.
    #[cfg(feature = "test-util")]
    pub hold_file: Option<std::path::PathBuf>,
}

impl Default for SnapshotsOptions {
    fn default() -> Self {
        Self {
            overlays: true,
            copies_max_bytes: 20 << 30,
            layers_max: LAYERS_MAX,
            #[cfg(feature = "test-util")]
            hold_file: None,
        }
    }
}

/// What the volumes of a workspace held.
struct Remembered {
    generation: Generation,
    /// What was looked for in them, and in the root file system.
    redactor: Arc<Redactor>,
    volumes: BTreeMap<CapturedVolume, Captured>,
}

impl Snapshots {
    /// From now on no snapshot keeps what these are for. Set once.
    pub fn set_redactions(&self, redactions: Redactions) {
        let _ = self.inner.redactions.set(redactions);
    }

    fn redactor(&self) -> Arc<Redactor> {
        let redactions = self.inner.redactions.get_or_init(Redactions::default);
        redactions.current()
    }

    /// A service that refuses everything until [`settle`](Self::settle) has
    /// been done once.
    #[must_use]
    pub fn new(
        workspaces: Workspaces,
        runtime: Arc<dyn SnapshotRuntimePort>,
        chunks: Arc<dyn ChunkPort>,
        options: SnapshotsOptions,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                workspaces,
                runtime,
                chunks,
                settled: AtomicBool::new(false),
                unsettled: Mutex::default(),
                deleting: RwLock::new(()),
                remembered: Mutex::default(),
                redactions: OnceLock::new(),
                options,
                copies: tokio::sync::Mutex::default(),
                copies_known: Mutex::default(),
            }),
        }
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`]; what the store fails with.
    pub async fn get(&self, id: &SnapshotId) -> Result<Snapshot, SnapshotsError> {
        let found = self.inner.workspaces.store().snapshot(id).await?;
        found.ok_or_else(|| SnapshotsError::Unknown(id.clone()))
    }

    /// The snapshots of a workspace, oldest first.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn list(&self, of: &WorkspaceId) -> Result<Vec<Snapshot>, SnapshotsError> {
        Ok(self.inner.workspaces.store().snapshots(Some(of)).await?)
    }

    /// Which of these cannot be restored, as the engine has lost their image;
    /// none where it does not answer.
    pub async fn without_image(&self, snapshots: &[Snapshot]) -> HashSet<SnapshotId> {
        let looked = self.look_for_images(snapshots).await;
        looked.unwrap_or_else(|error| {
            tracing::debug!(%error, "images of snapshots cannot be looked for");
            HashSet::new()
        })
    }

    async fn look_for_images(
        &self,
        snapshots: &[Snapshot],
    ) -> Result<HashSet<SnapshotId>, RuntimeError> {
        let named: HashSet<ImageRef> = self.inner.runtime.committed().await?.into_iter().collect();
        let mut missing = HashSet::new();
        for snapshot in snapshots {
            // One that has lost its name is given it again when it is wanted.
            if !named.contains(&ImageRef::of(&snapshot.id))
                && (self.inner.workspaces.runtime())
                    .image(&snapshot.image.id)
                    .await?
                    .is_none()
            {
                missing.insert(snapshot.id.clone());
            }
        }
        Ok(missing)
    }

    fn ready(&self) -> Result<(), SnapshotsError> {
        match self.inner.settled.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(SnapshotsError::Unsettled),
        }
    }

    /// A snapshot to restore or to fork, whose image is there.
    async fn usable(&self, id: &SnapshotId) -> Result<Snapshot, SnapshotsError> {
        let manifest = self.get(id).await?;
        match self.image_is_there(&manifest).await? {
            true => Ok(manifest),
            false => Err(SnapshotsError::ImageGone(id.clone())),
        }
    }

    /// Journals the beginning of an operation.
    async fn begin(
        &self,
        workspace: &WorkspaceId,
        progress: Progress,
    ) -> Result<Operation, SnapshotsError> {
        let id = OperationId::from_uuid(Uuid::now_v7());
        self.begin_as(id, workspace, progress).await
    }

    /// The same under an id that the caller chose.
    async fn begin_as(
        &self,
        id: OperationId,
        workspace: &WorkspaceId,
        progress: Progress,
    ) -> Result<Operation, SnapshotsError> {
        let operation = Operation {
            id,
            workspace: workspace.clone(),
            begun_at_ms: self.inner.workspaces.now_ms(),
            progress,
        };
        self.journal(&operation).await?;
        Ok(operation)
    }

    /// Journals how far an operation has come; where that fails it has not.
    async fn advance(
        &self,
        operation: &mut Operation,
        progress: Progress,
    ) -> Result<(), SnapshotsError> {
        let advanced = Operation {
            progress,
            ..operation.clone()
        };
        self.journal(&advanced).await?;
        *operation = advanced;
        Ok(())
    }

    async fn journal(&self, operation: &Operation) -> Result<(), SnapshotsError> {
        self.inner
            .workspaces
            .store()
            .put_operation(operation)
            .await?;
        let point = operation.progress.point();
        tracing::debug!(operation_id = %operation.id, step = %point, "operation journaled");
        #[cfg(feature = "test-util")]
        hold::at(self.inner.options.hold_file.as_deref(), point).await;
        Ok(())
    }
}
