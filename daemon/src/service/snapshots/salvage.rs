//! A workspace whose container is gone: what it lost is brought back from its
//! snapshots, and its record says what was.
//!
//! The root file system comes from the newest snapshot that it was at and whose
//! image is there. Volumes that are there are left alone; one that is gone is
//! filled from the newest snapshot that can be read. The record names the
//! volumes that are being filled before they are, so that a half-filled one is
//! filled again after a kill.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Snapshots, SnapshotsError, listing, volumes};
use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        snapshot::{CapturedVolume, Snapshot, journal::ImageRef},
        upkeep::{Notice, Refill, Upkeep},
        workspace::Workspace,
    },
    ports::{
        chunks::ChunkError,
        snapshot_runtime::{NewVolume, VolumeAccess, helper_container},
    },
    service::workspaces::{Salvage, WorkspacesError},
};

/// How long snapshots may be in the way that are being deleted.
const DELETES_TIMEOUT: Duration = Duration::from_secs(60);

#[async_trait]
impl Salvage for Snapshots {
    async fn salvage(&self, workspace: &Workspace) -> Result<Arc<Workspace>, WorkspacesError> {
        self.bring_back(workspace)
            .await
            .map_err(|error| match error {
                SnapshotsError::Workspaces(error) => error,
                other => WorkspacesError::Salvage(other.to_string()),
            })
    }
}

impl Snapshots {
    async fn bring_back(&self, workspace: &Workspace) -> Result<Arc<Workspace>, SnapshotsError> {
        // Until then a restore that was cut off may be what is missing.
        self.ready()?;
        let (id, workspaces) = (&workspace.id, &self.inner.workspaces);
        let reading = timeout(DELETES_TIMEOUT, self.inner.deleting.read()).await;
        let _read = reading.map_err(|_| SnapshotsError::Deleting)?;
        let sources = self.sources(workspace).await?;
        let mut record = workspace.clone();
        let root = self.choose_root(&mut record, &sources).await?;
        let there = (workspaces.runtime())
            .captured_volumes(id, workspace.generation)
            .await?;
        let mut lost = workspace.upkeep.refilling.clone();
        lost.extend(
            CapturedVolume::ALL
                .into_iter()
                .filter(|v| !there.contains(v)),
        );
        let mut volumes = BTreeMap::new();
        if !lost.is_empty() {
            record.upkeep.refilling = lost.clone();
            workspaces.save(record.clone()).await?;
            volumes = self.refill(&record, lost, &sources).await?;
        }
        let notice = Notice::Rebuilt { root, volumes };
        tracing::warn!(workspace_id = %id, name = %record.definition.name, %notice,
            "a workspace is repaired");
        record.upkeep = Upkeep {
            notice: Some(notice),
            restores: record.upkeep.restores,
            ..Upkeep::default()
        };
        Ok(workspaces.save(record).await?)
    }

    /// Snapshots that can give something back: the one that the workspace was
    /// last at, then its others, newest first.
    async fn sources(&self, workspace: &Workspace) -> Result<Vec<Snapshot>, SnapshotsError> {
        let mut sources = self.list(&workspace.id).await?;
        sources.reverse();
        let Some(last) = &workspace.snapshot else {
            return Ok(sources);
        };
        sources.retain(|snapshot| snapshot.id != *last);
        // Of another workspace, after a fork or a restore of a foreign one.
        if let Some(last) = self.inner.workspaces.store().snapshot(last).await? {
            sources.insert(0, last);
        }
        Ok(sources)
    }

    /// Makes a record name the image that its container is to be made from.
    async fn choose_root(
        &self,
        record: &mut Workspace,
        sources: &[Snapshot],
    ) -> Result<Option<SnapshotId>, SnapshotsError> {
        for snapshot in sources {
            if self.image_is_there(snapshot).await? {
                record.base = Some(ImageRef::of(&snapshot.id));
                return Ok(Some(snapshot.id.clone()));
            }
        }
        // The image outlives the snapshot of a workspace that is made from it.
        if let Some(base) = &record.base
            && self
                .inner
                .workspaces
                .runtime()
                .image(&base.0)
                .await?
                .is_none()
        {
            record.base = None;
        }
        Ok(None)
    }

    /// Whether a snapshot can be restored as far as the engine is concerned. An
    /// image that lost its name only is given it again.
    pub(super) async fn image_is_there(&self, snapshot: &Snapshot) -> Result<bool, SnapshotsError> {
        let tag = ImageRef::of(&snapshot.id);
        if self
            .inner
            .workspaces
            .runtime()
            .image(&tag.0)
            .await?
            .is_some()
        {
            return Ok(true);
        }
        let found = self.inner.runtime.tag(&snapshot.image.id, &tag).await?;
        if found {
            tracing::info!(snapshot_id = %snapshot.id, image = %snapshot.image.id,
                "the image of a snapshot had lost its name and has it again");
        }
        Ok(found)
    }

    /// Fills volumes of a workspace that nobody uses.
    async fn refill(
        &self,
        record: &Workspace,
        mut lost: BTreeSet<CapturedVolume>,
        sources: &[Snapshot],
    ) -> Result<BTreeMap<CapturedVolume, Refill>, SnapshotsError> {
        let mut refilled = BTreeMap::new();
        for snapshot in sources {
            let has = |volume: &&CapturedVolume| snapshot.volumes.contains_key(*volume);
            let these: Vec<CapturedVolume> = lost.iter().filter(has).copied().collect();
            if these.is_empty() {
                continue;
            }
            match self.refill_from(record, snapshot, &these).await {
                Ok(()) => {
                    for volume in these {
                        lost.remove(&volume);
                        refilled.insert(volume, Refill::From(snapshot.id.clone()));
                    }
                }
                Err(
                    error @ (SnapshotsError::Damaged(_)
                    | SnapshotsError::Chunks(
                        ChunkError::Damaged { .. } | ChunkError::Missing(_),
                    )),
                ) => {
                    tracing::error!(workspace_id = %record.id, snapshot_id = %snapshot.id, %error,
                        "a lost volume cannot be filled from a snapshot; trying an older one");
                    refilled.extend(these.into_iter().map(|volume| (volume, Refill::Damaged)));
                }
                Err(error) => return Err(error),
            }
        }
        for volume in lost {
            refilled.entry(volume).or_insert(Refill::New);
        }
        Ok(refilled)
    }

    async fn refill_from(
        &self,
        record: &Workspace,
        snapshot: &Snapshot,
        these: &[CapturedVolume],
    ) -> Result<(), SnapshotsError> {
        let (workspaces, chunks) = (&self.inner.workspaces, &*self.inner.chunks);
        let (mut trees_of, mut new) = (Vec::new(), Vec::new());
        for volume in these {
            let tree = &snapshot.volumes[volume];
            new.push(NewVolume {
                volume: *volume,
                lower: None,
                root: listing::root(tree, chunks).await?,
            });
            trees_of.push((*volume, listing::read(tree, chunks).await?));
        }
        let plan = workspaces.plan(record, PathBuf::new());
        self.inner.runtime.create_volumes(&plan, &new).await?;
        let helper = WorkspaceId::from_uuid(Uuid::now_v7());
        let filled = async {
            let trees = self
                .open_helper(&helper, record, VolumeAccess::Write, None)
                .await?;
            for (volume, entries) in &trees_of {
                volumes::fill(&*trees, *volume, entries, chunks).await?;
            }
            Ok(())
        };
        let filled = filled.await;
        let removed = self.remove_container(&helper_container(&helper)).await;
        filled.and(removed)
    }
}
