//! Taking a snapshot.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    Remembered, Snapshots, SnapshotsError, listing,
    root::{HeldRoot, LastImage, Reader, Standing},
    volumes::{self, Captured},
};
use crate::{
    domain::{
        ids::{SnapshotId, SnapshotLabel, WorkspaceId},
        redaction::Redactor,
        snapshot::{
            CapturedState, CapturedVolume, ImageOrigin, LEFT_OUT_NAMED, MANIFEST_FORMAT, Snapshot,
            SnapshotImage, SnapshotReason, SnapshotSizes, VolumeTree,
            journal::{ContainerRef, ImageRef, Operation, Progress, SnapshotStep},
        },
        workspace::Workspace,
        workspace_event::Happening,
    },
    metrics,
    ports::{
        chunks::{ChunkPin, ChunkWriter, StoredBatch},
        runtime::{ContainerState, ContainerStatus},
        snapshot_runtime::{CommittedImage, helper_container},
        trees::WriteOut,
    },
};

/// Workspaces whose volumes are remembered: some tens of megabytes each for a
/// hundred thousand files.
const REMEMBERED_WORKSPACES: usize = 8;

/// How long processes may stand still. An engine commits some 200 MB a second,
/// so this is for more than 20 GB that changed.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// The order in which volumes are read first. Each begins with writing out its
/// file system, which is mostly the same one and the daemon's too: so the volume
/// that most of a snapshot is made of comes last, and nobody waits for its chunks.
pub(super) const READ_FIRST: [CapturedVolume; 3] = [
    CapturedVolume::Home,
    CapturedVolume::Browser,
    CapturedVolume::Work,
];

/// Files with credentials that an error names.
const FILES_NAMED: usize = 5;

/// A snapshot being taken.
pub(super) struct Taking<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) container: ContainerState,
    state: CapturedState,
    pub(super) snapshot: SnapshotId,
    pub(super) helper: WorkspaceId,
    /// The snapshot that the workspace was at before, unless it is gone.
    pub(super) last: Option<Snapshot>,
    label: Option<SnapshotLabel>,
    pub(super) reason: SnapshotReason,
}

/// What a manifest names, all of it durable.
struct Durable {
    image: CommittedImage,
    /// Files with a credential that were left out of the image.
    left_out: BTreeMap<String, String>,
    volumes: BTreeMap<CapturedVolume, VolumeTree>,
    stored: StoredBatch,
}

impl Snapshots {
    /// Takes a snapshot of a workspace, whatever it is doing. Processes stand
    /// still while what changed during the first look is read and the root
    /// file system is committed.
    ///
    /// # Errors
    /// [`SnapshotsError::NoContainer`]; an engine, a disk or a store that does
    /// not do its part. Nothing of the snapshot is left then, and the workspace
    /// goes on.
    pub async fn take(
        &self,
        id: &WorkspaceId,
        label: Option<SnapshotLabel>,
        reason: SnapshotReason,
    ) -> Result<Snapshot, SnapshotsError> {
        let snapshot = SnapshotId::from_uuid(Uuid::now_v7());
        self.take_as(snapshot, id, label, reason).await
    }

    /// The same under an id that the caller chose: one that is there by now is
    /// returned, and not taken again.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub async fn take_as(
        &self,
        snapshot: SnapshotId,
        id: &WorkspaceId,
        label: Option<SnapshotLabel>,
        reason: SnapshotReason,
    ) -> Result<Snapshot, SnapshotsError> {
        self.ready()?;
        let _held = self.inner.workspaces.hold(id).await;
        self.take_once(snapshot, id, label, reason).await
    }

    /// The same for a caller who holds the workspace's lock.
    pub(super) async fn take_once(
        &self,
        snapshot: SnapshotId,
        id: &WorkspaceId,
        label: Option<SnapshotLabel>,
        reason: SnapshotReason,
    ) -> Result<Snapshot, SnapshotsError> {
        let store = self.inner.workspaces.store();
        // One that was nearly done comes to its end first, its record included.
        for operation in store.operations().await? {
            if operation.workspace == *id && operation.progress.takes(&snapshot) {
                self.settle_now(&operation).await?;
            }
        }
        match store.snapshot(&snapshot).await? {
            Some(taken) => Ok(taken),
            None => self.take_held(snapshot, id, label, reason).await,
        }
    }

    async fn take_held(
        &self,
        snapshot: SnapshotId,
        id: &WorkspaceId,
        label: Option<SnapshotLabel>,
        reason: SnapshotReason,
    ) -> Result<Snapshot, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let workspace = workspaces.living(id)?;
        let name = &workspace.definition.name;
        let no_container = || SnapshotsError::NoContainer(name.clone());
        let container = workspaces.runtime().find(id).await?;
        let container = container.ok_or_else(no_container)?;
        let state = match container.status {
            ContainerStatus::Running => CapturedState::Running,
            ContainerStatus::Paused => CapturedState::Paused,
            ContainerStatus::Created | ContainerStatus::Exited => CapturedState::Stopped,
            ContainerStatus::Restarting | ContainerStatus::Broken => return Err(no_container()),
        };
        let last = match &workspace.snapshot {
            Some(last) => workspaces.store().snapshot(last).await?,
            None => None,
        };
        let taking = Taking {
            workspace: &workspace,
            last,
            container,
            state,
            snapshot,
            helper: WorkspaceId::from_uuid(Uuid::now_v7()),
            label,
            reason,
        };
        tracing::info!(workspace_id = %id, snapshot_id = %taking.snapshot, ?state,
            "taking a snapshot");
        let mut operation = self.begin(id, taking.progress(SnapshotStep::Begun)).await?;
        let begun = Instant::now();
        let prepared = self.prepare(&taking, &mut operation).await;
        let pause_ms = prepared.as_ref().map(|(manifest, _)| manifest.pause_ms);
        metrics::snapshot_ended(pause_ms, begun.elapsed());
        match prepared {
            // The pin holds until the manifest is stored.
            Ok((manifest, _pin)) => {
                self.finish(&operation).await?;
                let what = Happening::SnapshotTaken {
                    snapshot: manifest.id.clone(),
                    pause_ms: manifest.pause_ms,
                    new_bytes: manifest.sizes.new_bytes,
                    left_out: manifest
                        .left_out
                        .keys()
                        .take(FILES_NAMED)
                        .cloned()
                        .collect(),
                };
                workspaces.events().record(&workspace, what).await;
                tracing::info!(workspace_id = %id, snapshot_id = %manifest.id,
                    pause_ms = manifest.pause_ms, new_bytes = manifest.sizes.new_bytes,
                    "snapshot taken");
                Ok(manifest)
            }
            Err(error) => {
                let message = error.to_string();
                let what = Happening::SnapshotFailed { message };
                let settled = self.settle_failed(&operation, error.clone()).await;
                workspaces.events().record(&workspace, what).await;
                settled.and(Err(error))
            }
        }
    }

    /// Everything up to the step from which on the snapshot is finished.
    async fn prepare(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
    ) -> Result<(Snapshot, ChunkPin), SnapshotsError> {
        let created_at_ms = self.inner.workspaces.now_ms();
        let of = taking.workspace;
        let mut reader = self.open_reader(taking).await?;
        let mut writer = self.inner.chunks.writer().await?;
        let mut seen = BTreeMap::new();
        let mut remembered = match self.recall(of, &reader.trees.redactor()) {
            Some(volumes) => {
                reader.last_image = LastImage::Clean;
                volumes
            }
            None => BTreeMap::new(),
        };
        for volume in READ_FIRST {
            let before = remembered.remove(&volume).unwrap_or_default();
            let before = before.only_stored(&mut *writer).await?;
            let write_out = WriteOut::First;
            let now =
                volumes::capture(&reader.trees, volume, &before, write_out, &mut *writer).await?;
            seen.insert(volume, now);
        }
        let (root, seen, pause_ms) = match taking.state {
            CapturedState::Running => {
                self.read_paused(taking, operation, &reader, seen, &mut *writer)
                    .await?
            }
            CapturedState::Paused | CapturedState::Stopped => {
                let root = self.hold_root(taking, &reader, Standing::Still).await?;
                (root, seen, 0)
            }
        };
        let mut left_out = reader.trees.found();
        left_out.extend(root.left_out.clone());
        self.check_left_out(taking, &left_out)?;
        let redactor = reader.trees.redactor();
        let made = self.make_durable(taking, operation, &root, &seen, (writer, redactor.clone()));
        let made = match left_out.is_empty() {
            // Nobody asks the helper for anything any more.
            true => self.without_reader(taking, made).await?,
            false => made.await?,
        };
        left_out.extend(made.left_out);
        self.remember(of, seen, redactor);
        let manifest = Snapshot {
            format: MANIFEST_FORMAT,
            id: taking.snapshot.clone(),
            workspace: of.id.clone(),
            label: taking.label.clone(),
            parent: of.snapshot.clone(),
            reason: taking.reason.clone(),
            created_at_ms,
            workspace_state: taking.state,
            definition: of.definition.clone(),
            repositories: of.repositories.clone(),
            sizes: SnapshotSizes {
                bytes: made.image.size_bytes
                    + made.volumes.values().map(|tree| tree.bytes).sum::<u64>(),
                new_bytes: made.stored.stored_bytes + made.image.new_bytes,
            },
            image: SnapshotImage {
                id: made.image.id,
                origin: root.origin,
                archived_id: None,
            },
            volumes: made.volumes,
            pause_ms,
            root: root.look,
            left_out: left_out.into_iter().take(LEFT_OUT_NAMED).collect(),
        };
        let storing = SnapshotStep::Storing {
            manifest: Box::new(manifest.clone()),
        };
        self.advance(operation, taking.progress(storing)).await?;
        Ok((manifest, made.stored.pin))
    }

    /// Everything that a manifest names, made durable.
    async fn make_durable(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        root: &HeldRoot,
        seen: &BTreeMap<CapturedVolume, Captured>,
        (writer, redactor): (Box<dyn ChunkWriter>, Arc<Redactor>),
    ) -> Result<Durable, SnapshotsError> {
        // The engine is asked about layers while packs are written out.
        let (image, stored) = tokio::join!(
            self.final_image(taking, operation, root, redactor),
            store_trees(seen, writer)
        );
        let ((image, left_out), (volumes, stored)) = (image?, stored?);
        Ok(Durable {
            image,
            left_out,
            volumes,
            stored,
        })
    }

    /// The image that a snapshot names, and the files that were left out of it.
    async fn final_image(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        root: &HeldRoot,
        redactor: Arc<Redactor>,
    ) -> Result<(CommittedImage, BTreeMap<String, String>), SnapshotsError> {
        let image = root.image.clone();
        match (root.origin, root.left_out.is_empty()) {
            (ImageOrigin::Shared, _) => Ok((image, BTreeMap::new())),
            (ImageOrigin::Committed, true) => {
                let image = self.flatten_if_due(taking, operation, image).await?;
                Ok((image, BTreeMap::new()))
            }
            (ImageOrigin::Committed, false) => {
                (self.without_credentials(taking, operation, root, redactor)).await
            }
        }
    }

    /// Removes the helper while something is done that does not need it. One that
    /// cannot be removed is left to who ends the operation.
    async fn without_reader<T>(&self, taking: &Taking<'_>, work: impl Future<Output = T>) -> T {
        let removed = async {
            let helper = helper_container(&taking.helper);
            if let Err(error) = self.remove_container(&helper).await {
                tracing::debug!(helper = %helper.0, %error, "a helper is removed later");
            }
        };
        tokio::join!(work, removed).0
    }

    /// Freezes the workspace for what changed in its volumes and for its root
    /// file system.
    async fn read_paused(
        &self,
        taking: &Taking<'_>,
        operation: &mut Operation,
        reader: &Reader,
        seen: BTreeMap<CapturedVolume, Captured>,
        writer: &mut dyn ChunkWriter,
    ) -> Result<(HeldRoot, BTreeMap<CapturedVolume, Captured>, u64), SnapshotsError> {
        // What it reads now and writes out it finds done when it counts.
        let looked = self.look_at_root(taking, reader, WriteOut::First).await;
        let standing = Standing::Frozen {
            written_out_ns: looked.map(|looked| looked.begun_ns),
        };
        let container = ContainerRef(taking.container.id.0.clone());
        let pausing = SnapshotStep::Pausing {
            container: container.clone(),
        };
        self.advance(operation, taking.progress(pausing)).await?;
        let begun = Instant::now();
        let runtime = self.inner.workspaces.runtime();
        runtime.pause(&taking.container.id).await?;
        let changes = async {
            let mut now = BTreeMap::new();
            for (volume, before) in &seen {
                let (trees, write_out) = (&reader.trees, WriteOut::No);
                let captured = volumes::capture(trees, *volume, before, write_out, writer).await?;
                now.insert(*volume, captured);
            }
            Ok::<_, SnapshotsError>(now)
        };
        // Both to their ends: a commit that is dropped goes on in the engine,
        // and what it makes is found among the images that nothing needs.
        let both = async { tokio::join!(self.hold_root(taking, reader, standing), changes) };
        let (root, changes) =
            timeout(PAUSE_MAX, both)
                .await
                .map_err(|_| SnapshotsError::PausedTooLong {
                    seconds: PAUSE_MAX.as_secs(),
                })?;
        self.inner.runtime.unpause(&container).await?;
        let pause_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.advance(operation, taking.progress(SnapshotStep::Resumed))
            .await?;
        Ok((root?, changes?, pause_ms))
    }

    /// What is remembered of the volumes that a workspace has now, if they and its
    /// root file system were looked through for the same credentials.
    fn recall(
        &self,
        workspace: &Workspace,
        redactor: &Arc<Redactor>,
    ) -> Option<BTreeMap<CapturedVolume, Captured>> {
        let mut remembered = (self.inner.remembered.lock()).unwrap_or_else(PoisonError::into_inner);
        match remembered.remove(&workspace.id) {
            // With other credentials every file is looked through again.
            Some(found)
                if found.generation == workspace.generation
                    && Arc::ptr_eq(&found.redactor, redactor) =>
            {
                Some(found.volumes)
            }
            Some(_) | None => None,
        }
    }

    /// Files with credentials are not in what was captured: a person who asked for
    /// the snapshot is told, and gets none.
    pub(super) fn check_left_out(
        &self,
        taking: &Taking<'_>,
        found: &BTreeMap<String, String>,
    ) -> Result<(), SnapshotsError> {
        if found.is_empty() {
            return Ok(());
        }
        let named = found
            .iter()
            .map(|(path, marker)| format!("{path} {marker}"));
        let named = named.take(FILES_NAMED).collect::<Vec<_>>().join(", ");
        let message = format!("{} files hold a credential: {named}", found.len());
        match taking.reason {
            SnapshotReason::Manual => Err(SnapshotsError::Credential(message)),
            SnapshotReason::BeforeRestore { .. }
            | SnapshotReason::Stage { .. }
            | SnapshotReason::Setup => {
                tracing::warn!(workspace_id = %taking.workspace.id, snapshot_id = %taking.snapshot,
                    "left out of the snapshot: {message}");
                Ok(())
            }
        }
    }

    pub(super) fn remember(
        &self,
        workspace: &Workspace,
        volumes: BTreeMap<CapturedVolume, Captured>,
        redactor: Arc<Redactor>,
    ) {
        let mut remembered = (self.inner.remembered.lock()).unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_WORKSPACES
            && let Some(other) = remembered.keys().next().cloned()
        {
            remembered.remove(&other);
        }
        let generation = workspace.generation;
        remembered.insert(
            workspace.id.clone(),
            Remembered {
                generation,
                redactor,
                volumes,
            },
        );
    }
}

/// Stores the listings of volumes, and makes the batch durable.
async fn store_trees(
    seen: &BTreeMap<CapturedVolume, Captured>,
    mut writer: Box<dyn ChunkWriter>,
) -> Result<(BTreeMap<CapturedVolume, VolumeTree>, StoredBatch), SnapshotsError> {
    let mut volumes = BTreeMap::new();
    for (volume, captured) in seen {
        let tree = listing::write(&captured.entries, &mut *writer).await?;
        volumes.insert(*volume, tree);
    }
    Ok((volumes, writer.finish().await?))
}

impl Taking<'_> {
    pub(super) fn progress(&self, step: SnapshotStep) -> Progress {
        Progress::Snapshot {
            snapshot: self.snapshot.clone(),
            helper: helper_container(&self.helper),
            image: ImageRef::of(&self.snapshot),
            step,
        }
    }
}
