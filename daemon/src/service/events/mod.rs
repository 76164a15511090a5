//! What happened to workspaces: recorded durably, bounded, read back and
//! followed.
//!
//! ```text
//! services ---record---> store (numbered, old ones forgotten) ---> readers
//!                          `--- "there are more" ---------------->
//! ```
//!
//! Readers always read the store, by sequence number; a record only tells them
//! that there is more. So a slow reader misses nothing but what was forgotten
//! meanwhile, and is told of that: each event names the one before it.

mod connections;
mod read;
mod rings;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, watch};

use self::rings::Rings;
pub use self::{
    connections::record_connections,
    read::{EventItem, EventQuery, Following},
};
use crate::{
    domain::{
        ids::{WorkspaceId, WorkspaceName},
        workspace::Workspace,
        workspace_event::{Happening, WorkspaceEvent},
    },
    ports::{
        clock::ClockPort,
        store::{StoreError, StorePort},
    },
    service::{audit::Audit, redaction::Redactions},
};

/// Events that are read at once.
const PAGE: usize = 256;

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn StorePort>,
    clock: Arc<dyn ClockPort>,
    redactions: Redactions,
    /// Held over the write, so that events come to the disk in the order of
    /// their numbers and no reader passes one by.
    rings: Mutex<Rings>,
    /// Number of the last event that is on disk.
    last: watch::Sender<u64>,
    /// Where snapshots are recorded too, once that is named.
    audit: OnceLock<Audit>,
}

/// An event that has no number yet.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: WorkspaceName,
    /// What happened.
    pub what: Happening,
}

impl Events {
    /// Goes on after what the store has; what is recorded holds no credential.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn open(
        store: Arc<dyn StorePort>,
        clock: Arc<dyn ClockPort>,
        redactions: Redactions,
    ) -> Result<Self, StoreError> {
        let mut rings = Rings::default();
        loop {
            let page = store.workspace_events(rings.last(), PAGE).await?;
            if page.is_empty() {
                break;
            }
            page.iter().for_each(|event| rings.restore(event));
        }
        let living = store.workspaces().await?;
        rings.keep_only(|id| living.iter().any(|workspace| workspace.id == *id));
        let (last, _) = watch::channel(rings.last());
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                clock,
                redactions,
                rings: Mutex::new(rings),
                last,
                audit: OnceLock::new(),
            }),
        })
    }

    /// Names the audit log, once; until then nothing is recorded there.
    pub fn set_audit(&self, audit: Audit) {
        if self.inner.audit.set(audit).is_err() {
            tracing::warn!("the audit log of events was named twice");
        }
    }

    /// The audit log, once it was named.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.inner.audit.get()
    }

    /// Records what happened to a workspace just now; it is on disk when this
    /// returns. A store that does not take it is logged, and readers are told
    /// of the gap: what happened has happened, recorded or not.
    pub async fn record(&self, workspace: &Workspace, what: Happening) {
        if let Some(audit) = self.inner.audit.get() {
            audit.happened(&workspace.id, &what);
        }
        let event = NewEvent {
            at_ms: self.inner.clock.now_ms(),
            workspace: workspace.id.clone(),
            name: workspace.definition.name.clone(),
            what,
        };
        self.record_all(vec![event]).await;
    }

    /// The same for several, in this order, all or none.
    pub async fn record_all(&self, new: Vec<NewEvent>) {
        if new.is_empty() {
            return;
        }
        let inner = &self.inner;
        let mut rings = inner.rings.lock().await;
        let redactor = inner.redactions.current();
        let clean = new.into_iter().map(|new| NewEvent {
            what: new.what.redacted(&redactor),
            ..new
        });
        let new: Vec<WorkspaceEvent> = clean.map(|new| rings.number(new)).collect();
        let forgotten = rings.take_forgotten();
        match inner.store.put_workspace_events(&new, &forgotten).await {
            Ok(()) => {
                let last = rings.last();
                inner.last.send_replace(last);
            }
            Err(error) => {
                rings.forget_later(forgotten);
                let kinds: Vec<_> = new.iter().map(|event| event.what.kind()).collect();
                tracing::warn!(events = %kinds.join(","), %error, "events are not recorded");
            }
        }
    }

    /// Number of the last event, as it grows: a sign that something happened.
    #[must_use]
    pub fn last(&self) -> watch::Receiver<u64> {
        self.inner.last.subscribe()
    }
}
