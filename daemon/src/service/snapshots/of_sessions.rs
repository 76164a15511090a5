//! Snapshots that sessions take at their stages: kept while their session can
//! still prove in them or be rolled back to them, and then let go.
//!
//! One whose session has ended stays for as long as its workspace was last at it:
//! the next snapshot costs what differs from it, and a container or a volume that
//! is lost comes back from it. One with a label is a person's.

use super::{Snapshots, SnapshotsError};
use crate::{
    domain::{
        ids::SessionId,
        snapshot::{Snapshot, SnapshotReason},
    },
    service::workspaces::Need,
};

impl Snapshots {
    /// The session that needs a snapshot, where one does.
    pub(super) async fn needed_by(&self, snapshot: &Snapshot) -> Option<SessionId> {
        let session = session_of(snapshot)?;
        match self.inner.workspaces.need_of(session).await {
            Need::Needed => Some(session.clone()),
            Need::Over | Need::Unknown => None,
        }
    }

    /// Deletes the snapshots of sessions that have ended.
    ///
    /// # Errors
    /// A store or an engine that does not do its part; the next call goes on.
    pub(super) async fn let_go_of_ended_sessions(&self) -> Result<(), SnapshotsError> {
        let workspaces = &self.inner.workspaces;
        let stored = workspaces.store().snapshots(None).await?;
        let last = workspaces.last_snapshots();
        for snapshot in stored {
            let Some(session) = session_of(&snapshot) else {
                continue;
            };
            if snapshot.label.is_some() || last.contains(&snapshot.id) {
                continue;
            }
            match workspaces.need_of(session).await {
                Need::Over => {}
                // Of another daemon's session, when it was imported.
                Need::Needed | Need::Unknown => continue,
            }
            match self
                .delete_because(&snapshot.id, "its session has ended")
                .await
            {
                // Somebody else was quicker.
                Ok(()) | Err(SnapshotsError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn session_of(snapshot: &Snapshot) -> Option<&SessionId> {
    match &snapshot.reason {
        SnapshotReason::Stage { session, .. } => Some(session),
        SnapshotReason::Manual | SnapshotReason::BeforeRestore { .. } | SnapshotReason::Setup => {
            None
        }
    }
}
