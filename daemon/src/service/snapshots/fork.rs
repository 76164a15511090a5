//! Making a workspace from a snapshot.

use uuid::Uuid;

use super::{Snapshots, SnapshotsError, copies};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{SnapshotId, WorkspaceId, WorkspaceName},
        setup::WorkspaceSetup,
        snapshot::{
            Snapshot, SnapshotReason,
            journal::{ForkStep, Generation, ImageRef, Operation, Progress},
        },
        upkeep::Upkeep,
        workspace::{Desired, Purpose, Workspace},
        workspace_event::Happening,
    },
    ports::{snapshot_runtime::helper_container, store::StoreError},
    service::workspaces::{WorkspaceView, WorkspacesError},
};

/// What to fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The id of the new one, chosen by the caller: the same id again, after a
    /// kill, finds what was made.
    pub id: WorkspaceId,
    /// What it is made from.
    pub from: ForkFrom,
    /// The name of the new one.
    pub name: WorkspaceName,
    /// The id of a snapshot that is taken for it.
    pub new_snapshot: SnapshotId,
    /// Why the new one exists.
    pub purpose: Purpose,
    /// What the new one may reach: that is not of the files it is made from.
    pub egress: Policy,
    /// When the new one is stopped because nobody uses it.
    pub idle_stop: IdleStop,
}

/// What a workspace is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForkFrom {
    /// This workspace as it is now: a snapshot is taken for it, which stays.
    Now(WorkspaceId),
    /// A snapshot, whose workspace may be gone.
    Snapshot(SnapshotId),
}

impl Snapshots {
    /// Makes a workspace with the files of another and an identity of its own,
    /// and starts it.
    ///
    /// # Errors
    /// [`WorkspacesError::NameTaken`], [`SnapshotsError::Unknown`],
    /// [`SnapshotsError::ImageGone`], what [`take`](Self::take) fails with; an
    /// engine, a disk or a store that does not do its part. Nothing of the new
    /// workspace is left then.
    pub async fn fork(&self, what: Fork) -> Result<WorkspaceView, SnapshotsError> {
        self.ready()?;
        if self.inner.workspaces.resolve(what.id.as_str()).is_ok() {
            return Ok(self.inner.workspaces.start(&what.id).await?);
        }
        let taken = || WorkspacesError::NameTaken(what.name.clone());
        if self.inner.workspaces.resolve(what.name.as_str()).is_ok() {
            return Err(taken().into());
        }
        let snapshot = match what.from {
            ForkFrom::Snapshot(snapshot) => snapshot,
            ForkFrom::Now(workspace) => {
                let reason = SnapshotReason::Manual;
                let taken = self
                    .take_as(what.new_snapshot, &workspace, None, reason)
                    .await?;
                taken.id
            }
        };
        let _read = self.inner.deleting.read().await;
        let manifest = self.usable(&snapshot).await?;
        let mut definition = manifest.definition.clone();
        definition.name = what.name;
        definition.purpose = what.purpose;
        let record = Workspace {
            id: what.id,
            definition,
            desired: Desired::Running,
            repositories: manifest.repositories_over(&[]),
            created_at_ms: self.inner.workspaces.now_ms(),
            egress: what.egress,
            generation: Generation::FIRST,
            base: Some(ImageRef::of(&snapshot)),
            snapshot: Some(snapshot),
            idle_stop: what.idle_stop,
            stop_cause: None,
            setup: WorkspaceSetup::default(),
            upkeep: Upkeep::default(),
        };
        let _held = self.inner.workspaces.hold(&record.id).await;
        self.settle_before(&record.id).await?;
        self.fork_held(record, &manifest).await
    }

    async fn fork_held(
        &self,
        record: Workspace,
        manifest: &Snapshot,
    ) -> Result<WorkspaceView, SnapshotsError> {
        let (id, workspaces) = (&record.id, &self.inner.workspaces);
        tracing::info!(workspace_id = %id, snapshot_id = %manifest.id,
            name = %record.definition.name, "forking a workspace");
        let helper = WorkspaceId::from_uuid(Uuid::now_v7());
        let progress = |step| Progress::Fork {
            snapshot: manifest.id.clone(),
            helper: helper_container(&helper),
            step,
        };
        let mut operation = self.begin(id, progress(ForkStep::Begun)).await?;
        let added = self
            .fill_and_add(&record, manifest, &helper, &progress, &mut operation)
            .await;
        if let Err(error) = added {
            let settled = self.settle_failed(&operation, error).await;
            self.tidy_copies_logged().await;
            settled?;
        } else {
            self.finish(&operation).await?;
        }
        if let Err(error) = workspaces.bring_up(&record).await {
            workspaces.take_down(&record).await?;
            return Err(error.into());
        }
        let what = Happening::Forked {
            snapshot: manifest.id.clone(),
        };
        workspaces.events().record(&record, what).await;
        tracing::info!(workspace_id = %id, snapshot_id = %manifest.id, "workspace forked");
        Ok(workspaces.get(id).await?)
    }

    async fn fill_and_add(
        &self,
        record: &Workspace,
        manifest: &Snapshot,
        helper: &WorkspaceId,
        progress: &impl Fn(ForkStep) -> Progress,
        operation: &mut Operation,
    ) -> Result<(), SnapshotsError> {
        self.make_volumes(helper, record, manifest, copies::Purpose::Fork)
            .await?;
        let filled = progress(ForkStep::Filled);
        self.advance(operation, filled.clone()).await?;
        let adding = ForkStep::Adding {
            record: Box::new(record.clone()),
        };
        self.advance(operation, progress(adding)).await?;
        match self.inner.workspaces.add(record.clone()).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.advance(operation, filled).await?;
                Err(match error {
                    StoreError::NameTaken(name) => WorkspacesError::NameTaken(name).into(),
                    other => other.into(),
                })
            }
        }
    }
}
