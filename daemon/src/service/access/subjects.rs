//! Of which workspace something is that a request names.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    domain::ids::{SessionId, WorkspaceId},
    ports::store::StorePort,
    service::{sessions::Sessions, workspaces::Workspaces},
};

/// Something that a request names, as its caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A workspace, by name or id.
    Workspace(String),
    /// A session, by id.
    Session(String),
    /// A snapshot, by id.
    Snapshot(String),
    /// An artifact, by id.
    Artifact(String),
    /// What a session waits for: the session's id, `:`, and a number.
    Approval(String),
}

/// Tells workspaces by what is in them.
#[async_trait]
pub trait Subjects: Send + Sync {
    /// The workspace that something belongs to; `None` when there is no such
    /// thing, or nobody can tell.
    async fn workspace_of(&self, subject: &Subject) -> Option<WorkspaceId>;
}

/// What the daemon knows.
pub struct KnownSubjects {
    workspaces: Workspaces,
    sessions: Sessions,
    store: Arc<dyn StorePort>,
}

impl KnownSubjects {
    /// Asks these.
    #[must_use]
    pub fn new(workspaces: Workspaces, sessions: Sessions, store: Arc<dyn StorePort>) -> Self {
        Self {
            workspaces,
            sessions,
            store,
        }
    }

    async fn of_session(&self, id: &SessionId) -> Option<WorkspaceId> {
        let session = self.sessions.get(id).await.ok()?;
        Some(session.state.created.workspace.clone())
    }
}

#[async_trait]
impl Subjects for KnownSubjects {
    async fn workspace_of(&self, subject: &Subject) -> Option<WorkspaceId> {
        match subject {
            Subject::Workspace(text) => Some(self.workspaces.resolve(text).ok()?.id.clone()),
            Subject::Session(text) => self.of_session(&text.parse().ok()?).await,
            Subject::Snapshot(text) => {
                let snapshot = self.store.snapshot(&text.parse().ok()?).await;
                Some(snapshot.ok()??.workspace)
            }
            Subject::Artifact(text) => {
                let artifact = self.store.artifact(&text.parse().ok()?).await;
                self.of_session(&artifact.ok()??.session).await
            }
            Subject::Approval(text) => {
                let (session, _) = text.split_once(':')?;
                self.of_session(&session.parse().ok()?).await
            }
        }
    }
}
