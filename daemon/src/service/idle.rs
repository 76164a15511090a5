//! Stops workspaces that nobody uses.
//!
//! The time since the last use is kept in the store and so goes on over
//! restarts. It is written now and then, not at each use: a kill makes it seem
//! longer ago by an eighth of the idle time at most.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    egress::Egress,
    workspaces::{Idling, Workspaces},
};
use crate::{
    domain::{idle::is_due, ids::WorkspaceId},
    ports::clock::ClockPort,
};

/// Between two looks, at least and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(125), Duration::from_secs(30));
/// Looks in an idle time.
const LOOKS: u32 = 8;
/// For the agent of a workspace to link, as after a start of the daemon: until then
/// nobody knows what runs in it.
const UNLINKED: Duration = Duration::from_secs(300);

/// Looks after idle workspaces until `stop`.
///
/// Cancel safety: a stop under way is finished by the reconciler.
pub async fn stop_idle_workspaces(
    workspaces: Workspaces,
    egress: Egress,
    clock: std::sync::Arc<dyn ClockPort>,
    stop: CancellationToken,
) {
    let looking = async {
        let mut signs = workspaces.signs();
        let mut unlinked = HashMap::new();
        loop {
            signs.clear();
            let idling = workspaces.idling();
            for workspace in &idling {
                let now_ms = clock.now_ms();
                look(&workspaces, &egress, workspace, now_ms, &mut unlinked).await;
            }
            unlinked.retain(|id, _| idling.iter().any(|workspace| workspace.id == *id));
            if let Err(error) = workspaces.flush_uses().await {
                tracing::warn!(%error, "when workspaces were used is not written down");
            }
            let shortest = idling.iter().map(|workspace| workspace.after).min();
            let pause = shortest.map_or(LOOK.1, |after| (after / LOOKS).clamp(LOOK.0, LOOK.1));
            // One that was just made, or changed, may have less time.
            signs.within(pause).await;
        }
    };
    stop.run_until_cancelled(looking).await;
    if let Err(error) = workspaces.flush_uses().await {
        tracing::warn!(%error, "when workspaces were used is not written down");
    }
}

/// Stops a workspace if it is due; `unlinked` are those that nobody knows about, and
/// since when.
async fn look(
    workspaces: &Workspaces,
    egress: &Egress,
    idling: &Idling,
    now_ms: i64,
    unlinked: &mut HashMap<WorkspaceId, Instant>,
) {
    let id = &idling.id;
    if !is_due(idling.last_use_ms, idling.after, now_ms) {
        return;
    }
    let is_working = match egress.totals(id).open {
        0 => workspaces.is_working(id).await,
        _ => Some(true),
    };
    match is_working {
        Some(true) => return workspaces.touch(id),
        Some(false) => {
            unlinked.remove(id);
        }
        None => {
            let since = unlinked.entry(id.clone()).or_insert_with(Instant::now);
            if since.elapsed() < UNLINKED {
                return;
            }
        }
    }
    if let Err(error) = workspaces.stop_idle(id, idling.after).await {
        tracing::warn!(workspace_id = %id, %error, "an idle workspace cannot be stopped");
    }
}
