//! What becomes of operations that were cut off, by a kill or by a failure.

use std::{
    cmp::Ordering,
    collections::HashSet,
    sync::{MutexGuard, PoisonError, atomic},
};

use futures_util::future::join_all;

use super::{Snapshots, SnapshotsError, restore::restored_over};
use crate::{
    domain::{
        ids::{OperationId, SnapshotId, WorkspaceId},
        snapshot::journal::{
            Effect, Generation, ImageRef, Operation, Progress, SnapshotStep, Verdict, settle,
        },
        workspace::Workspace,
    },
    ports::{chunks::PruneMode, runtime::RuntimeError, store::StoreError},
    service::workspaces::WorkspacesError,
};

impl Snapshots {
    /// Settles what earlier daemons left behind; to be done before anything
    /// else looks at workspaces or prunes chunks. Until it has been done once,
    /// every operation is refused.
    ///
    /// What cannot be done for one object alone is logged and left for
    /// [`run_upkeep`](Self::run_upkeep): it must not keep the daemon from its work.
    ///
    /// # Errors
    /// The engine or the store does not answer: it is to be tried again.
    pub async fn settle(&self) -> Result<(), SnapshotsError> {
        let store = self.inner.workspaces.store();
        let mut operations = store.operations().await?;
        self.let_go_on(&mut operations).await?;
        let swept = self.inner.runtime.sweep_helpers().await;
        self.is_done("helpers", swept.map_err(Into::into)).await?;
        for operation in operations {
            let _held = self.inner.workspaces.hold(&operation.workspace).await;
            tracing::info!(operation_id = %operation.id, workspace_id = %operation.workspace,
                verdict = ?settle(&operation).verdict, "settling an operation that was cut off");
            let settled = self.settle_now(&operation).await;
            // One that cannot be settled must not keep the others.
            self.is_done(operation.id.as_str(), settled).await?;
        }
        let images = self.remove_unused_images().await;
        self.is_done("images that nothing needs", images.map(drop))
            .await?;
        let copies = self.tidy_copies(PruneMode::Remove).await;
        self.is_done("copies of trees", copies.map(drop)).await?;
        self.inner.settled.store(true, atomic::Ordering::Release);
        Ok(())
    }

    /// Lets the workspaces go on that a kill left frozen, before anything that
    /// may take long. From then on what pauses one is somebody else.
    async fn let_go_on(&self, operations: &mut [Operation]) -> Result<(), SnapshotsError> {
        let each = (operations.iter_mut()).map(|operation| self.let_one_go_on(operation));
        for outcome in join_all(each).await {
            self.is_done("frozen workspaces", outcome).await?;
        }
        Ok(())
    }

    async fn let_one_go_on(&self, operation: &mut Operation) -> Result<(), SnapshotsError> {
        let Progress::Snapshot { step, .. } = &mut operation.progress else {
            return Ok(());
        };
        let SnapshotStep::Pausing { container } = step else {
            return Ok(());
        };
        self.inner.runtime.unpause(container).await?;
        *step = SnapshotStep::Resumed;
        let store = self.inner.workspaces.store();
        Ok(store.put_operation(operation).await?)
    }

    /// Whether something of many was done. What was refused is logged, and tried
    /// again later.
    ///
    /// # Errors
    /// The engine does not answer at all, so that nothing else can be done either.
    pub(super) async fn is_done(
        &self,
        what: &str,
        outcome: Result<(), SnapshotsError>,
    ) -> Result<bool, SnapshotsError> {
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if self.is_engine_away(&error).await => Err(error),
            Err(error) => {
                tracing::error!(what, %error, "something that was left cannot be put in order; it is tried again");
                Ok(false)
            }
        }
    }

    /// Whether an error is the engine's silence. One that answers other questions
    /// is only stuck with what it was asked.
    async fn is_engine_away(&self, error: &SnapshotsError) -> bool {
        let SnapshotsError::Workspaces(WorkspacesError::Runtime(RuntimeError::Unavailable(_))) =
            error
        else {
            return false;
        };
        self.inner.workspaces.runtime().engine().await.is_err()
    }

    /// Does what is left of an operation and ends it. What fails is tried again
    /// by [`run_upkeep`](Self::run_upkeep).
    pub(super) async fn settle_now(&self, operation: &Operation) -> Result<(), SnapshotsError> {
        let settled = self.carry_out_all(operation).await;
        match settled {
            Ok(()) => self.unsettled().remove(&operation.id),
            Err(_) => self.unsettled().insert(operation.id.clone()),
        };
        settled
    }

    fn unsettled(&self) -> MutexGuard<'_, HashSet<OperationId>> {
        (self.inner.unsettled.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry_out_all(&self, operation: &Operation) -> Result<(), SnapshotsError> {
        for effect in settle(operation).effects {
            self.carry_out(effect).await?;
        }
        let store = self.inner.workspaces.store();
        Ok(store.remove_operation(&operation.id).await?)
    }

    /// Settles what ended in this process and could not be settled then.
    pub(super) async fn settle_again(&self) -> Result<(), SnapshotsError> {
        let unsettled = self.unsettled().clone();
        if unsettled.is_empty() {
            return Ok(());
        }
        for operation in self.inner.workspaces.store().operations().await? {
            if unsettled.contains(&operation.id) {
                let _held = self.inner.workspaces.hold(&operation.workspace).await;
                let settled = self.settle_now(&operation).await;
                if self.is_done(operation.id.as_str(), settled).await? {
                    tracing::info!(operation_id = %operation.id,
                        workspace_id = %operation.workspace, "an operation that failed is settled");
                }
            }
        }
        Ok(())
    }

    /// Settles the restores and forks of a workspace that are in the journal still,
    /// before the next one; the caller holds its lock. One may be the very one that
    /// is asked for, and what is left to undo of one has the generation of the next.
    pub(super) async fn settle_before(
        &self,
        workspace: &WorkspaceId,
    ) -> Result<(), SnapshotsError> {
        for operation in self.inner.workspaces.store().operations().await? {
            let makes = matches!(
                operation.progress,
                Progress::Restore { .. } | Progress::Fork { .. }
            );
            if makes && operation.workspace == *workspace {
                self.settle_now(&operation).await?;
            }
        }
        Ok(())
    }

    /// Does the last of an operation that can only be finished.
    pub(super) async fn finish(&self, operation: &Operation) -> Result<(), SnapshotsError> {
        let finished = self.settle_now(operation).await;
        finished.map_err(|cause| {
            tracing::warn!(operation_id = %operation.id, workspace_id = %operation.workspace, %cause,
                "an operation is not finished yet; it is tried again");
            SnapshotsError::FinishedLater(Box::new(cause))
        })
    }

    /// Settles an operation that failed: it is undone, and the error is what it
    /// failed with; or it had come too far for that, and is finished after all.
    pub(super) async fn settle_failed(
        &self,
        operation: &Operation,
        error: SnapshotsError,
    ) -> Result<(), SnapshotsError> {
        let (id, workspace) = (&operation.id, &operation.workspace);
        match settle(operation).verdict {
            Verdict::Finished => self.finish(operation).await,
            Verdict::Undone => {
                tracing::warn!(operation_id = %id, workspace_id = %workspace, %error,
                    "an operation failed and is undone");
                if let Err(error) = self.settle_now(operation).await {
                    tracing::warn!(operation_id = %id, workspace_id = %workspace, %error,
                        "an operation that failed is not undone yet; it is tried again");
                }
                Err(error)
            }
        }
    }

    async fn carry_out(&self, effect: Effect) -> Result<(), SnapshotsError> {
        let (workspaces, runtime) = (&self.inner.workspaces, &self.inner.runtime);
        match effect {
            Effect::Unpause(container) => Ok(runtime.unpause(&container).await?),
            Effect::RemoveContainer(container) => self.remove_container(&container).await,
            Effect::RemoveImage(image) => Ok(runtime.remove_image(&image).await?),
            Effect::RemoveGeneration {
                workspace,
                generation,
            } => self.remove_generation(&workspace, generation).await,
            Effect::PutSnapshot(manifest) => Ok(workspaces.store().put_snapshot(&manifest).await?),
            Effect::NameLast {
                workspace,
                parent,
                snapshot,
            } => self.name_last(&workspace, parent.as_ref(), snapshot).await,
            Effect::RemoveSnapshot(id) => Ok(workspaces.store().remove_snapshot(&id).await?),
            Effect::Swap { to, record } => self.swap_later(to, &record).await,
            Effect::AddWorkspace(record) => {
                let (id, generation) = (record.id.clone(), record.generation);
                match workspaces.add(*record).await {
                    Ok(()) => Ok(()),
                    // By itself: it is there.
                    Err(StoreError::NameTaken(_)) if workspaces.knows(&id) => Ok(()),
                    // Somebody else took the name meanwhile.
                    Err(StoreError::NameTaken(name)) => {
                        tracing::warn!(workspace_id = %id, %name, "a fork that was cut off is undone");
                        self.remove_generation(&id, generation).await
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Names the snapshot that a workspace was last at, unless it is at another
    /// by now than the one before, or is to be deleted.
    async fn name_last(
        &self,
        workspace: &WorkspaceId,
        parent: Option<&SnapshotId>,
        snapshot: SnapshotId,
    ) -> Result<(), SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let Ok(record) = workspaces.living(workspace) else {
            return Ok(());
        };
        if record.snapshot.as_ref() == parent {
            let mut record = Workspace::clone(&record);
            record.snapshot = Some(snapshot);
            workspaces.save(record).await?;
        }
        Ok(())
    }

    /// The swap of a restore that was cut off. The record may have changed
    /// since, so only what a restore changes is taken from the journal's.
    async fn swap_later(&self, to: Generation, restored: &Workspace) -> Result<(), SnapshotsError> {
        let id = &restored.id;
        let Ok(now) = self.inner.workspaces.living(id) else {
            return self.remove_generation(id, to).await;
        };
        match now.generation.cmp(&to) {
            Ordering::Less => self.swap(&restored_over(&now, restored)).await,
            // It is written down, and a snapshot may have been taken since.
            Ordering::Equal => self.swap(&now).await,
            // Another restore came after it.
            Ordering::Greater => Ok(()),
        }
    }

    /// Removes a container and its volumes, and of a workspace that is not to be
    /// its link too. What a living workspace uses is left: it was made again since
    /// this was written down.
    async fn remove_generation(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<(), SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let living = workspaces.living(workspace);
        if living.is_ok_and(|record| record.generation == generation) {
            tracing::warn!(workspace_id = %workspace, generation = generation.0,
                "what a workspace uses was to be removed and is left");
            return Ok(());
        }
        let runtime = &self.inner.runtime;
        runtime.remove_generation(workspace, generation).await?;
        if !workspaces.knows(workspace) {
            workspaces.links().remove(workspace).await?;
        }
        Ok(())
    }

    /// Removes the images that nothing needs any more: no snapshot, no workspace
    /// that is made from one, no operation under way. They are left where a
    /// kill came between two removals, and where a workspace outlived the
    /// snapshot that it was made from.
    ///
    /// One image may keep another, so it goes on while fewer are left. One that
    /// the engine does not let go is left. Returns how many are gone.
    pub(super) async fn remove_unused_images(&self) -> Result<u64, SnapshotsError> {
        let mut unused = self.unused_images().await?;
        let found = unused.len();
        let mut left = usize::MAX;
        while !unused.is_empty() && unused.len() < left {
            left = unused.len();
            for image in &unused {
                tracing::info!(image = %image.0, "removing an image that nothing needs");
                let removed = self.inner.runtime.remove_image(image).await;
                self.is_done(&image.0, removed.map_err(Into::into)).await?;
            }
            unused = self.unused_images().await?;
        }
        Ok(found.saturating_sub(unused.len()) as u64)
    }

    /// The images that nothing needs any more. One that a container was made
    /// from is needed also where no record says so: after the store was lost,
    /// the record is made from that container.
    pub(super) async fn unused_images(&self) -> Result<Vec<ImageRef>, SnapshotsError> {
        let store = self.inner.workspaces.store();
        // The images first: what is made after this is not among them.
        let images = self.inner.runtime.committed().await?;
        let containers = self.inner.workspaces.runtime().list().await?;
        let mut needed: HashSet<ImageRef> = containers.into_iter().filter_map(|c| c.base).collect();
        let mut being_made = false;
        for operation in store.operations().await? {
            match operation.progress {
                Progress::Snapshot { image, .. } | Progress::Import { image, .. } => {
                    needed.insert(image);
                    being_made = true;
                }
                Progress::Restore { .. } | Progress::Fork { .. } | Progress::Delete { .. } => {}
            }
        }
        let snapshots = store.snapshots(None).await?;
        for snapshot in snapshots {
            needed.insert(ImageRef::of(&snapshot.id));
            // It is given its name again when it is wanted.
            needed.insert(ImageRef(snapshot.image.id));
        }
        // An image gets its name after it was made.
        let nameless = |image: &ImageRef| !image.0.starts_with(ImageRef::SNAPSHOTS);
        let unused = |image: &ImageRef| {
            let kept = needed.contains(image) || self.inner.workspaces.is_base(image);
            !kept && (!being_made || !nameless(image))
        };
        Ok(images.into_iter().filter(unused).collect())
    }
}
