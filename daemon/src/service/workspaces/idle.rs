//! What can be changed of a workspace that is there, and stopping one that
//! nobody uses.

use std::time::Duration;

use super::{Workspaces, WorkspacesError, activity::UseGuard, view::WorkspaceView};
use crate::{
    domain::{
        idle::IdleStop,
        ids::WorkspaceId,
        workspace::{Desired, Workspace},
        workspace_event::{Happening, StopCause},
    },
    ports::store::StoreError,
};

/// What to change of a workspace; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpdateWorkspace {
    /// When it is stopped because nobody uses it.
    pub idle_stop: Option<IdleStop>,
    /// What its files may use; 0 is no limit.
    pub disk_bytes: Option<u64>,
}

/// A workspace that is to be stopped when nobody uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::service) struct Idling {
    pub(in crate::service) id: WorkspaceId,
    /// After this time.
    pub(in crate::service) after: Duration,
    /// Used last, in milliseconds since the Unix epoch.
    pub(in crate::service) last_use_ms: i64,
}

impl Workspaces {
    /// Changes a workspace; holds at once.
    ///
    /// # Errors
    /// A limit out of its range, a workspace that is being deleted, what the
    /// store fails with.
    pub async fn update(
        &self,
        id: &WorkspaceId,
        update: UpdateWorkspace,
    ) -> Result<WorkspaceView, WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let mut workspace = Workspace::clone(&*self.living(id)?);
        if let Some(idle_stop) = update.idle_stop {
            workspace.idle_stop = idle_stop;
            // Who changes it is there: the time begins now.
            self.inner.activity.touch(id);
        }
        if let Some(disk_bytes) = update.disk_bytes {
            workspace.definition.limits.disk_bytes = disk_bytes;
            workspace.definition.limits.validate()?;
        }
        tracing::info!(workspace_id = %id, ?update, "a workspace changes");
        let workspace = self.save(workspace).await?;
        self.view(workspace).await
    }

    /// A workspace is in use until the guard is dropped.
    pub fn use_of(&self, id: &WorkspaceId) -> UseGuard {
        self.inner.activity.hold(id)
    }

    /// A workspace is used now.
    pub(in crate::service) fn touch(&self, id: &WorkspaceId) {
        self.inner.activity.touch(id);
    }

    /// When a workspace was used last, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn last_use_ms(&self, id: &WorkspaceId) -> i64 {
        self.inner.activity.last_ms(id)
    }

    /// The workspaces that run and are to be stopped when nobody uses them.
    pub(in crate::service) fn idling(&self) -> Vec<Idling> {
        let workspaces = self.inner.index.all().into_iter();
        let running = workspaces.filter(|workspace| workspace.desired == Desired::Running);
        running
            .filter_map(|workspace| {
                Some(Idling {
                    after: workspace.idle_stop.after(self.inner.options.idle_stop)?,
                    last_use_ms: self.inner.activity.last_ms(&workspace.id),
                    id: workspace.id.clone(),
                })
            })
            .collect()
    }

    /// Whether a command runs in a workspace or a session works in it; `None` while
    /// its agent is not linked and nobody can say.
    pub(in crate::service) async fn is_working(&self, id: &WorkspaceId) -> Option<bool> {
        if let Some(users) = self.inner.users.get()
            && !users.sessions_in(id).await.is_empty()
        {
            return Some(true);
        }
        match self.inner.links.current(id)?.list(true).await {
            Ok(running) => Some(!running.is_empty()),
            // It is asked again: nothing is stopped on a guess.
            Err(_) => Some(true),
        }
    }

    /// Stops a workspace that nobody has used for this long; returns whether it
    /// did. One that somebody holds, or uses meanwhile, is left alone.
    ///
    /// # Errors
    /// The engine or the store does not do its part.
    pub(in crate::service) async fn stop_idle(
        &self,
        id: &WorkspaceId,
        after: Duration,
    ) -> Result<bool, WorkspacesError> {
        let lock = self.lock_of(id);
        // Whoever changes it, or takes a snapshot of it, uses it.
        let Ok(_held) = lock.try_lock() else {
            self.inner.activity.touch(id);
            return Ok(false);
        };
        if self.record(id)?.desired != Desired::Running
            || !self.inner.activity.close_idle(id, after)
        {
            return Ok(false);
        }
        let stopped = self.stop_because(id, after).await;
        self.inner.activity.open(id);
        stopped.map(|()| true)
    }

    async fn stop_because(&self, id: &WorkspaceId, after: Duration) -> Result<(), WorkspacesError> {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let cause = StopCause::Idle { after_ms };
        let workspace = self.desire_stopped(id, cause).await?;
        tracing::info!(workspace_id = %id, ?after, "nobody uses a workspace");
        self.settle_stopped(&workspace).await?;
        let what = Happening::Stopped { cause };
        self.inner.events.record(&workspace, what).await;
        Ok(())
    }

    /// Writes down when workspaces were used, where that has changed.
    ///
    /// # Errors
    /// What the store fails with; the next call tries again.
    pub(in crate::service) async fn flush_uses(&self) -> Result<(), StoreError> {
        let times = self.inner.activity.unstored();
        if times.is_empty() {
            return Ok(());
        }
        self.inner.store.put_last_uses(&times).await?;
        self.inner.activity.stored(&times);
        Ok(())
    }
}
