//! Bringing a workspace back to a snapshot.

use std::sync::Arc;

use uuid::Uuid;

use super::{Snapshots, SnapshotsError, copies::Purpose};
use crate::{
    domain::{
        ids::{OperationId, SessionId, SnapshotId, WorkspaceId},
        snapshot::{
            Snapshot, SnapshotReason,
            journal::{Generation, ImageRef, Operation, Progress, RestoreStep},
        },
        upkeep::Upkeep,
        workspace::{Desired, Workspace},
        workspace_event::Happening,
    },
    ports::snapshot_runtime::helper_container,
    service::workspaces::WorkspaceView,
};

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Any snapshot, also one of another workspace.
    pub snapshot: SnapshotId,
    /// What becomes of what is there now.
    pub before: Before,
    /// What becomes of sessions that run in it.
    pub sessions: RunningSessions,
}

/// What becomes of what a restore replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// It is kept as a snapshot with this id, chosen by the caller: with the same
    /// id again, after a kill, what is kept is not kept twice, and what is
    /// restored not restored again.
    Snapshot(SnapshotId),
    /// It is gone. The id is chosen by the caller too: with the same one again,
    /// after a kill, what is restored is not restored again.
    Discard(OperationId),
}

/// What becomes of sessions that run in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunningSessions {
    /// They are in the way.
    Refuse,
    /// They are cancelled.
    Cancel,
    /// This one wants it, and stands still; others are in the way.
    Own(SessionId),
}

/// A workspace that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The workspace.
    pub view: WorkspaceView,
    /// What it was before.
    pub backup: Option<SnapshotId>,
}

/// What a restore finds that was cut off by a kill, after its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The workspace is as the backup has it.
    NotRestored,
    /// It was restored, and may have changed since.
    Restored,
    /// It may be either, and is kept once more.
    Unclear,
}

/// Judges by the snapshot that the workspace is at now. A kill may have come
/// before its record named the backup.
fn found(backup: &Snapshot, restored: &SnapshotId, now: Option<&SnapshotId>) -> Found {
    if now == Some(&backup.id) {
        Found::NotRestored
    } else if now != backup.parent.as_ref() {
        Found::Restored
    } else if now == Some(restored) {
        Found::Unclear
    } else {
        Found::NotRestored
    }
}

/// A record with what a restore changes of one; all else is as it is now.
pub(super) fn restored_over(now: &Workspace, restored: &Workspace) -> Workspace {
    let mut record = now.clone();
    record.generation = restored.generation;
    record.base.clone_from(&restored.base);
    record.snapshot.clone_from(&restored.snapshot);
    record.upkeep.clone_from(&restored.upkeep);
    record.repositories.clone_from(&restored.repositories);
    (record.definition.image).clone_from(&restored.definition.image);
    (record.definition.user).clone_from(&restored.definition.user);
    record
}

/// The parts of the operation that stay the same.
struct Restoring {
    snapshot: SnapshotId,
    helper: WorkspaceId,
    new: Generation,
}

impl Snapshots {
    /// Brings a workspace back to a snapshot: new volumes and a new container
    /// beside the old ones, which are removed once the new ones work. It runs
    /// afterwards if it was to run before.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`], [`SnapshotsError::ImageGone`],
    /// [`SnapshotsError::NoContainer`] when a backup is wanted,
    /// [`WorkspacesError::Busy`](crate::service::workspaces::WorkspacesError);
    /// an engine, a disk or a store that does not do its part: the workspace is
    /// as it was then. [`SnapshotsError::FinishedLater`] where not even that can
    /// be written down: it is restored once it can be.
    pub async fn restore(&self, what: Restore) -> Result<Restored, SnapshotsError> {
        self.ready()?;
        let workspaces = &self.inner.workspaces;
        let of = &what.workspace;
        // Before anything is cancelled for it.
        if let Some(restored) = self.restored_before(&what).await? {
            return Ok(restored);
        }
        match &what.sessions {
            RunningSessions::Refuse => workspaces.without_sessions(of, false).await?,
            RunningSessions::Cancel => workspaces.without_sessions(of, true).await?,
            RunningSessions::Own(session) => workspaces.without_others(of, session).await?,
        }
        let _held = workspaces.hold(&what.workspace).await;
        self.settle_before(&what.workspace).await?;
        if let Some(restored) = self.restored_before(&what).await? {
            return Ok(restored);
        }
        let _read = self.inner.deleting.read().await;
        let manifest = self.usable(&what.snapshot).await?;
        // The container that is left would take them with it.
        let image = ImageRef::of(&manifest.id);
        let user = manifest.definition.user.as_deref();
        workspaces.without_foreign_volumes(&image.0, user).await?;
        let backup = match &what.before {
            Before::Snapshot(backup) => {
                let mut backup = backup.clone();
                if let Some(kept) = workspaces.store().snapshot(&backup).await? {
                    let now = &workspaces.living(&what.workspace)?.snapshot;
                    match found(&kept, &what.snapshot, now.as_ref()) {
                        Found::NotRestored => {}
                        Found::Unclear => backup = SnapshotId::from_uuid(Uuid::now_v7()),
                        Found::Restored => {
                            return Ok(Restored {
                                view: workspaces.get(&what.workspace).await?,
                                backup: Some(kept.id),
                            });
                        }
                    }
                }
                let reason = SnapshotReason::BeforeRestore {
                    restored: what.snapshot.clone(),
                };
                let taken = self
                    .take_once(backup, &what.workspace, None, reason)
                    .await?;
                Some(taken.id)
            }
            Before::Discard(_) => None,
        };
        let workspace = workspaces.living(&what.workspace)?;
        let view = (self.restore_held(workspace, &manifest, what.before)).await?;
        Ok(Restored { view, backup })
    }

    /// The workspace, if this very restore has brought it back.
    async fn restored_before(&self, what: &Restore) -> Result<Option<Restored>, SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let Before::Discard(id) = &what.before else {
            return Ok(None);
        };
        if !(workspaces.living(&what.workspace)?.upkeep.restores).contains(id) {
            return Ok(None);
        }
        Ok(Some(Restored {
            view: workspaces.get(&what.workspace).await?,
            backup: None,
        }))
    }

    async fn restore_held(
        &self,
        old: Arc<Workspace>,
        manifest: &Snapshot,
        before: Before,
    ) -> Result<WorkspaceView, SnapshotsError> {
        let id = &old.id;
        let restoring = Restoring {
            snapshot: manifest.id.clone(),
            helper: WorkspaceId::from_uuid(Uuid::now_v7()),
            new: old.generation.next(),
        };
        tracing::info!(workspace_id = %id, snapshot_id = %manifest.id, "restoring a workspace");
        let begun = restoring.progress(RestoreStep::Begun);
        let (mut operation, upkeep) = match before {
            Before::Snapshot(_) => {
                let upkeep = Upkeep {
                    restores: old.upkeep.restores.clone(),
                    ..Upkeep::default()
                };
                (self.begin(id, begun).await?, upkeep)
            }
            Before::Discard(restore) => {
                let upkeep = old.upkeep.after_restore(restore.clone());
                (self.begin_as(restore, id, begun).await?, upkeep)
            }
        };
        let mut record = Workspace::clone(&old);
        record.generation = restoring.new;
        record.base = Some(ImageRef::of(&manifest.id));
        record.snapshot = Some(manifest.id.clone());
        record.upkeep = upkeep;
        record.repositories = manifest.repositories_over(&old.repositories);
        record.definition.image = manifest.definition.image.clone();
        record.definition.user = manifest.definition.user.clone();

        let done = self
            .replace(&restoring, &old, &record, manifest, &mut operation)
            .await;
        if let Err(error) = done {
            let settled = self.settle_failed(&operation, error).await;
            self.tidy_copies_logged().await;
            settled?;
            if record.desired == Desired::Running {
                self.inner.workspaces.bring_up(&record).await?;
            }
        } else {
            self.finish(&operation).await?;
        }
        if !self.is_made_from_a_snapshot_that_is_kept(&old).await? {
            self.remove_unused_images().await?;
        }
        let what = Happening::Restored {
            snapshot: manifest.id.clone(),
        };
        self.inner.workspaces.events().record(&record, what).await;
        self.tidy_copies_logged().await;
        tracing::info!(workspace_id = %id, snapshot_id = %manifest.id, "workspace restored");
        Ok(self.inner.workspaces.get(id).await?)
    }

    /// Whether no image can have become unneeded with what a workspace was. To
    /// list them takes an engine the longer the more there are.
    async fn is_made_from_a_snapshot_that_is_kept(
        &self,
        old: &Workspace,
    ) -> Result<bool, SnapshotsError> {
        match (&old.base, &old.snapshot) {
            (None, _) => Ok(true),
            (Some(base), Some(snapshot)) if *base == ImageRef::of(snapshot) => {
                let kept = self.inner.workspaces.store().snapshot(snapshot).await?;
                Ok(kept.is_some())
            }
            (Some(_), _) => Ok(false),
        }
    }

    /// Everything up to the step at which only the old container and volumes
    /// are left to remove.
    async fn replace(
        &self,
        restoring: &Restoring,
        old: &Workspace,
        record: &Workspace,
        manifest: &Snapshot,
        operation: &mut Operation,
    ) -> Result<(), SnapshotsError> {
        self.make_volumes(&restoring.helper, record, manifest, Purpose::Restore)
            .await?;
        let filled = restoring.progress(RestoreStep::Filled);
        self.advance(operation, filled.clone()).await?;
        let swapping = RestoreStep::Swapping {
            old: old.generation,
            record: Box::new(record.clone()),
        };
        self.advance(operation, restoring.progress(swapping))
            .await?;
        if let Err(error) = self.swap_and_start(record).await {
            // Back: the record first, so that whatever the journal says next
            // agrees with it.
            self.inner.workspaces.save(old.clone()).await?;
            self.advance(operation, filled).await?;
            self.settle_now(operation).await?;
            if old.desired == Desired::Running {
                self.inner.workspaces.bring_up(old).await?;
            }
            return Err(error);
        }
        let cleaning = RestoreStep::Cleaning {
            old: old.generation,
        };
        self.advance(operation, restoring.progress(cleaning)).await
    }

    async fn swap_and_start(&self, record: &Workspace) -> Result<(), SnapshotsError> {
        self.swap(record).await?;
        if record.desired == Desired::Running {
            self.inner.workspaces.bring_up(record).await?;
        }
        Ok(())
    }

    /// Makes a workspace use the container and volumes that its record names:
    /// the old container is stopped, the new one made.
    pub(super) async fn swap(&self, record: &Workspace) -> Result<(), SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        workspaces.settle_stopped(record).await?;
        workspaces.save(record.clone()).await?;
        let link_dir = workspaces.links().prepare(&record.id).await?;
        let plan = workspaces.plan(record, link_dir);
        workspaces.runtime().create(&plan).await?;
        workspaces.links().close(&record.id).await;
        Ok(())
    }
}

impl Restoring {
    fn progress(&self, step: RestoreStep) -> Progress {
        Progress::Restore {
            snapshot: self.snapshot.clone(),
            helper: helper_container(&self.helper),
            new: self.new,
            step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::contract::store::snapshot;

    #[test]
    fn what_a_restore_was_cut_off_at_is_told_by_the_snapshot_that_the_workspace_is_at() {
        let [before, restored, later] = [3, 5, 7].map(|number| snapshot(number, 1).id);
        let backup = |parent: &SnapshotId| Snapshot {
            parent: Some(parent.clone()),
            ..snapshot(6, 1)
        };
        let kept = backup(&before);
        for (now, expected) in [
            (&kept.id, Found::NotRestored),
            (&before, Found::NotRestored),
            (&restored, Found::Restored),
            (&later, Found::Restored),
        ] {
            assert_eq!(found(&kept, &restored, Some(now)), expected, "{now}");
        }
        let again = backup(&restored);
        assert_eq!(found(&again, &restored, Some(&restored)), Found::Unclear);
        assert_eq!(
            found(&again, &restored, Some(&again.id)),
            Found::NotRestored
        );
    }
}
