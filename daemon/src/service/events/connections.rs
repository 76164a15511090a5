//! Decisions on connections, grouped: a program that tries the same host a
//! thousand times makes one event a moment and not a thousand.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Events, NewEvent};
use crate::{
    domain::{
        egress::EgressDecision,
        ids::{WorkspaceId, WorkspaceName},
        workspace_event::{EgressSeen, Happening},
    },
    service::egress::EgressRules,
};

/// How long decisions are gathered: what a kill may lose of them.
const GATHER: Duration = Duration::from_millis(500);
/// Different decisions that are gathered at most.
const GATHERED: usize = 512;

/// Records decisions until `stop`. Those that came too fast are counted by the
/// numbers they carry, and the count is recorded.
///
/// Cancel safety: dropped, it loses what was gathered.
pub async fn record_connections(
    events: Events,
    mut decisions: broadcast::Receiver<EgressDecision>,
    rules: Arc<dyn EgressRules>,
    stop: CancellationToken,
) {
    let mut gathered = Gathered {
        rules,
        last: HashMap::new(),
        new: Vec::new(),
    };
    // When what is gathered is recorded; only of meaning while there is some.
    let mut due = Instant::now();
    loop {
        let is_idle = gathered.new.is_empty();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(due), if !is_idle => gathered.record(&events).await,
            decision = decisions.recv() => match decision {
                Ok(decision) => {
                    gathered.take(&decision);
                    if is_idle {
                        due = Instant::now() + GATHER;
                    }
                }
                // The next decision's number tells how many were missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
        }
        if gathered.new.len() >= GATHERED {
            gathered.record(&events).await;
        }
    }
    while let Ok(decision) = decisions.try_recv() {
        gathered.take(&decision);
    }
    gathered.record(&events).await;
}

struct Gathered {
    rules: Arc<dyn EgressRules>,
    /// Number of the last decision of each workspace.
    last: HashMap<WorkspaceId, u64>,
    new: Vec<NewEvent>,
}

impl Gathered {
    fn take(&mut self, decision: &EgressDecision) {
        let id = &decision.workspace;
        let last = self.last.insert(id.clone(), decision.number);
        // One that is deleted meanwhile has no name any more.
        let named = self.rules.rules(id);
        let Some(name) = named.and_then(|(_, name)| name.parse::<WorkspaceName>().ok()) else {
            self.last.remove(id);
            return;
        };
        let missed = decision.number.saturating_sub(last.unwrap_or(0) + 1);
        if missed > 0 {
            let what = Happening::EgressMissed { count: missed };
            self.add(decision, name.clone(), what);
        }
        let seen = EgressSeen::of(decision, name.as_str());
        match self.like(id, &seen) {
            Some(known) => known.count += 1,
            None => self.add(decision, name, Happening::Egress(seen)),
        }
    }

    /// What was gathered already and was decided in the same way.
    fn like(&mut self, workspace: &WorkspaceId, seen: &EgressSeen) -> Option<&mut EgressSeen> {
        let new = self.new.iter_mut();
        new.filter(|new| new.workspace == *workspace)
            .find_map(|new| match &mut new.what {
                Happening::Egress(known) if known.is_like(seen) => Some(known),
                _ => None,
            })
    }

    fn add(&mut self, decision: &EgressDecision, name: WorkspaceName, what: Happening) {
        self.new.push(NewEvent {
            at_ms: decision.at_ms,
            workspace: decision.workspace.clone(),
            name,
            what,
        });
    }

    async fn record(&mut self, events: &Events) {
        events.record_all(std::mem::take(&mut self.new)).await;
    }
}
