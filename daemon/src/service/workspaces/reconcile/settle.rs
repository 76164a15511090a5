//! What is done about one workspace that is not as it should be.
//!
//! | desired | container | settled by |
//! |---|---|---|
//! | running | running, paused | waiting for its agent; a pause is left alone |
//! | running | created, ended | starting it |
//! | stopped | running | stopping it |
//! | paused | running | pausing it |
//! | paused | any but running, paused | stopping it for good: what was frozen has ended |
//! | running, stopped | none, broken | making it again, see [`rebuild`](super::super::rebuild) |
//! | deleted | any or none | removing what is left |
//! | no record | any | adopting it, see [`adopt`](super::adopt) |

use std::time::Duration;

use tokio::time::Instant;

use super::{Workspaces, WorkspacesError, doubled};
use crate::{
    domain::{
        ids::WorkspaceId,
        workspace::{Desired, Workspace},
        workspace_event::{Happening, StartCause},
    },
    ports::runtime::ContainerStatus,
};

/// A workspace that keeps dying is started again after a pause, longer each
/// time: the first and the longest.
const REVIVE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// One that has lived this long since is not one that keeps dying.
const LIVED_WELL: Duration = Duration::from_secs(60);

/// How a look at a workspace ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// There is nothing left to do.
    AsDesired,
    /// It is to be looked at again after this time.
    NotYet(Duration),
}

/// When the reconciler last started a workspace by itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::service::workspaces) struct Revival {
    at: Instant,
    /// How often before that, one soon after the other.
    before: u32,
}

impl Workspaces {
    pub(super) async fn settle(&self, id: &WorkspaceId) -> Result<Settled, WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        // Read under the lock: whoever held it may have changed the desire.
        let Some(workspace) = self.inner.index.get(id) else {
            return Ok(Settled::AsDesired);
        };
        match workspace.desired {
            Desired::Deleted => {
                self.take_down(&workspace).await?;
                Ok(Settled::AsDesired)
            }
            Desired::Stopped => {
                self.settle_stopped(&workspace).await?;
                self.ensure_container(&workspace).await?;
                Ok(Settled::AsDesired)
            }
            Desired::Paused => {
                self.settle_paused(&workspace).await?;
                Ok(Settled::AsDesired)
            }
            Desired::Running => self.settle_running(&workspace).await,
        }
    }

    async fn settle_running(&self, workspace: &Workspace) -> Result<Settled, WorkspacesError> {
        let id = &workspace.id;
        let status = (self.inner.runtime.find(id).await?).map(|container| container.status);
        match status {
            Some(ContainerStatus::Paused) => {
                self.inner.links.ensure(id).await?;
                return Ok(Settled::AsDesired);
            }
            Some(ContainerStatus::Running)
                if self.is_up(id) && self.inner.links.current(id).is_some() =>
            {
                return Ok(Settled::AsDesired);
            }
            Some(ContainerStatus::Running) => {}
            Some(
                ContainerStatus::Created
                | ContainerStatus::Exited
                | ContainerStatus::Restarting
                | ContainerStatus::Broken,
            )
            | None => {
                if let Some(pause) = self.pause_before_revival(id) {
                    return Ok(Settled::NotYet(pause));
                }
                tracing::info!(workspace_id = %id, ?status,
                    "starting a workspace that should run");
                if status == Some(ContainerStatus::Exited) {
                    let died = Happening::Died { exit_code: None };
                    self.inner.events.record(workspace, died).await;
                }
            }
        }
        self.bring_up_for(workspace, StartCause::ShouldRun).await?;
        Ok(Settled::AsDesired)
    }

    /// `None` says to go ahead, and is remembered.
    fn pause_before_revival(&self, id: &WorkspaceId) -> Option<Duration> {
        let poisoned = std::sync::PoisonError::into_inner;
        let mut revived = self.inner.revived.lock().unwrap_or_else(poisoned);
        let now = Instant::now();
        let before = match revived.get(id) {
            Some(last) if now.duration_since(last.at) < LIVED_WELL => {
                let due = last.at + doubled(REVIVE_PAUSE, last.before);
                if due > now {
                    return Some(due - now);
                }
                last.before + 1
            }
            Some(_) | None => 0,
        };
        revived.insert(id.clone(), Revival { at: now, before });
        None
    }
}
