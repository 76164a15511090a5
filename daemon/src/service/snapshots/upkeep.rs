//! What snapshots leave for later, done while the daemon runs.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Snapshots;
use crate::ports::chunks::PruneMode;

/// How often what could not be done is tried again.
const TRY_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// How often helpers of earlier daemons are looked for again after the start: the
/// engine may still have been at the making of one.
const SWEEPS_AT_START: u32 = 4;

impl Snapshots {
    /// Until `stop`: settles operations that failed and could not be settled
    /// then, deletes snapshots of sessions that have ended, and removes images and
    /// copies of trees when the last workspace made from them is gone.
    /// To be run once [`settle`](Self::settle) has been done.
    ///
    /// Cancel safety: what is cut off is done at the next start.
    pub async fn run_upkeep(&self, stop: CancellationToken) {
        let mut again = tokio::time::interval(TRY_AGAIN_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweeps = SWEEPS_AT_START;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.workspaces.one_is_gone() => {}
                _ = again.tick() => if sweeps > 0 {
                    sweeps -= 1;
                    self.sweep_helpers_logged().await;
                }
            }
            stop.run_until_cancelled(self.keep_up()).await;
        }
    }

    async fn sweep_helpers_logged(&self) {
        if let Err(error) = self.inner.runtime.sweep_helpers().await {
            tracing::debug!(%error, "helpers of earlier daemons cannot be removed");
        }
    }

    /// One round. A failure is logged, and done in the next one.
    pub(super) async fn keep_up(&self) {
        if let Err(error) = self.settle_again().await {
            tracing::warn!(%error, "an operation that failed cannot be settled");
        }
        if let Err(error) = self.let_go_of_ended_sessions().await {
            tracing::debug!(%error, "snapshots of sessions that have ended cannot be deleted");
        }
        if let Err(error) = self.remove_unused_images().await {
            tracing::debug!(%error, "images that nothing needs cannot be removed");
        }
        if let Err(error) = self.tidy_copies(PruneMode::Remove).await {
            tracing::debug!(%error, "copies that nothing needs cannot be removed");
        }
    }
}
