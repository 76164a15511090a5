//! Records and logs, in the words of the domain.
//!
//! What a call acknowledged is on disk. A full disk fails writes with
//! [`StoreError::DiskFull`] until there is space again; nothing acknowledged is
//! lost and no restart is needed.

use std::collections::HashSet;

use async_trait::async_trait;

use crate::domain::{
    access::Token,
    artifact::Artifact,
    credential::{CredentialsChange, PastCredential, SealedCredential},
    forge::PullRequest,
    ids::{
        ArtifactId, OperationId, RequestId, SessionId, SnapshotId, TokenName, WorkspaceId,
        WorkspaceName,
    },
    setup::SetupKey,
    snapshot::{
        Snapshot,
        copies::{TreeCopy, VolumeRef},
        journal::Operation,
    },
    workspace::Workspace,
    workspace_event::WorkspaceEvent,
};

/// A raw event of a session's log: the session engine knows its inside.
pub type EventBytes = Vec<u8>;

/// Records and logs.
#[async_trait]
pub trait StorePort: Send + Sync {
    /// Adds a workspace. Fails with [`StoreError::NameTaken`].
    async fn add_workspace(&self, workspace: &Workspace) -> Result<(), StoreError>;

    /// Replaces a workspace's record. Fails with [`StoreError::Missing`].
    async fn update_workspace(&self, workspace: &Workspace) -> Result<(), StoreError>;

    /// Forgets a workspace and frees its name; an unknown one is accepted.
    async fn remove_workspace(&self, id: &WorkspaceId) -> Result<(), StoreError>;

    /// A workspace by id.
    async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, StoreError>;

    /// A workspace by name.
    async fn workspace_named(&self, name: &WorkspaceName) -> Result<Option<Workspace>, StoreError>;

    /// Every workspace, by name.
    async fn workspaces(&self) -> Result<Vec<Workspace>, StoreError>;

    /// Appends events to a session's log: all or none, durable when it
    /// returns. `next` is the sequence number of the first one, 1 for a new
    /// log. Fails with [`StoreError::WrongSequence`] when the log does not end
    /// right before it.
    async fn append(
        &self,
        session: &SessionId,
        next: u64,
        events: Vec<EventBytes>,
    ) -> Result<(), StoreError>;

    /// Events of a session from a sequence number on, at most `limit`, in
    /// order; empty for an unknown session.
    async fn events(
        &self,
        session: &SessionId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventBytes>, StoreError>;

    /// Every session with at least one event, newest id first.
    async fn sessions(&self) -> Result<Vec<SessionId>, StoreError>;

    /// Adds an artifact's record; the same id again replaces it.
    async fn put_artifact(&self, artifact: &Artifact) -> Result<(), StoreError>;

    /// An artifact's record.
    async fn artifact(&self, id: &ArtifactId) -> Result<Option<Artifact>, StoreError>;

    /// A session's artifacts in the order of their ids.
    async fn artifacts(&self, session: &SessionId) -> Result<Vec<Artifact>, StoreError>;

    /// The content hash of every artifact.
    async fn artifact_hashes(&self) -> Result<HashSet<String>, StoreError>;

    /// Adds or replaces a pull request of the local forge.
    async fn put_pull_request(
        &self,
        repository: &str,
        pull_request: &PullRequest,
    ) -> Result<(), StoreError>;

    /// Pull requests of a repository of the local forge, by number.
    async fn pull_requests(&self, repository: &str) -> Result<Vec<PullRequest>, StoreError>;

    /// Adds a snapshot's manifest; the same id again replaces it. What it
    /// names is durable by then.
    async fn put_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError>;

    /// A snapshot's manifest. Fails with [`StoreError::NewerFormat`] for one
    /// that a newer daemon wrote.
    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError>;

    /// The snapshots of a workspace, or all of them, in the order of their
    /// ids.
    async fn snapshots(&self, of: Option<&WorkspaceId>) -> Result<Vec<Snapshot>, StoreError>;

    /// Forgets a snapshot, and that a setup is baked into it; an unknown one is
    /// accepted.
    async fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError>;

    /// Remembers that the result of a setup is in a snapshot; the same key again
    /// replaces it.
    async fn put_baked_setup(
        &self,
        key: &SetupKey,
        snapshot: &SnapshotId,
    ) -> Result<(), StoreError>;

    /// The snapshot that the result of a setup is in.
    async fn baked_setup(&self, key: &SetupKey) -> Result<Option<SnapshotId>, StoreError>;

    /// Journals an operation at its step; the same id again replaces it.
    async fn put_operation(&self, operation: &Operation) -> Result<(), StoreError>;

    /// Every operation that has not ended, in the order of their ids.
    async fn operations(&self) -> Result<Vec<Operation>, StoreError>;

    /// Forgets an operation that has ended; an unknown one is accepted.
    async fn remove_operation(&self, id: &OperationId) -> Result<(), StoreError>;

    /// Adds events of workspaces and forgets those with these sequence numbers,
    /// all or nothing. An unknown number is accepted.
    async fn put_workspace_events(
        &self,
        new: &[WorkspaceEvent],
        forgotten: &[u64],
    ) -> Result<(), StoreError>;

    /// Events of all workspaces after a sequence number, at most `limit`, in
    /// order.
    async fn workspace_events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<WorkspaceEvent>, StoreError>;

    /// Registers a copy of a tree that is whole; the same volume again replaces
    /// its record.
    async fn put_tree_copy(&self, copy: &TreeCopy) -> Result<(), StoreError>;

    /// Every copy of a tree, by volume.
    async fn tree_copies(&self) -> Result<Vec<TreeCopy>, StoreError>;

    /// Forgets a copy; an unknown one is accepted.
    async fn remove_tree_copy(&self, volume: &VolumeRef) -> Result<(), StoreError>;

    /// Remembers when workspaces were used last, in milliseconds since the Unix
    /// epoch; forgotten with the workspace.
    async fn put_last_uses(&self, uses: &[(WorkspaceId, i64)]) -> Result<(), StoreError>;

    /// When workspaces were used last, in the order of their ids.
    async fn last_uses(&self) -> Result<Vec<(WorkspaceId, i64)>, StoreError>;

    /// Changes credentials and what is kept of past ones, all or nothing.
    async fn change_credentials(&self, change: CredentialsChange) -> Result<(), StoreError>;

    /// Every credential, in the order of their keys.
    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError>;

    /// Every past value, in the order of their ids.
    async fn past_credentials(&self) -> Result<Vec<PastCredential>, StoreError>;

    /// Adds or replaces tokens, all or none.
    async fn put_tokens(&self, tokens: &[Token]) -> Result<(), StoreError>;

    /// Every token, by name.
    async fn tokens(&self) -> Result<Vec<Token>, StoreError>;

    /// Forgets a token; an unknown one is accepted.
    async fn remove_token(&self, name: &TokenName) -> Result<(), StoreError>;

    /// What is known of a request.
    async fn request(&self, id: &RequestId) -> Result<Option<RequestRecord>, StoreError>;

    /// Remembers the outcome of a request.
    async fn put_request(&self, id: &RequestId, record: &RequestRecord) -> Result<(), StoreError>;

    /// What is remembered of every request, without the answers.
    async fn requests(&self) -> Result<Vec<RequestEntry>, StoreError>;

    /// Forgets requests; one that was remembered anew since, or that is not
    /// known, is left.
    async fn forget_requests(&self, entries: &[RequestEntry]) -> Result<(), StoreError>;
}

/// What is remembered of a mutating request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// blake3 of the method and the parameters, in hex.
    pub fingerprint: String,
    /// How far it came.
    pub outcome: RequestOutcome,
    /// When it was remembered, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// A request that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEntry {
    /// Its id.
    pub id: RequestId,
    /// When it was remembered, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Bytes of its record.
    pub bytes: u64,
    /// Whether its work has ended, or was cut off and may be gone on with.
    pub progress: RequestProgress,
}

/// Whether the work of a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestProgress {
    /// It runs, or a retry goes on with it.
    Begun,
    /// It has an answer, or has failed.
    Ended,
}

impl RequestOutcome {
    /// Whether the work has ended.
    #[must_use]
    pub fn progress(&self) -> RequestProgress {
        match self {
            Self::Begun { .. } => RequestProgress::Begun,
            Self::Failed | Self::Answered(_) => RequestProgress::Ended,
        }
    }
}

/// How far a mutating request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Its work has begun. Found by a retry, it says that the daemon ended
    /// meanwhile.
    Begun {
        /// Id that it makes what it makes under.
        id: uuid::Uuid,
        /// What the request was about at that time, in the words of its method;
        /// may be empty.
        about: String,
    },
    /// Its work failed and left nothing behind.
    Failed,
    /// The encoded answer.
    Answered(Vec<u8>),
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another workspace has the name.
    #[error("a workspace named {0} exists")]
    NameTaken(WorkspaceName),
    /// There is no such record.
    #[error("the store has no {0}")]
    Missing(String),
    /// Somebody else appended, or the caller is wrong about the log.
    #[error("the log of {session} continues at {expected}, not at {given}")]
    WrongSequence {
        /// The log.
        session: SessionId,
        /// The next sequence number.
        expected: u64,
        /// The one given.
        given: u64,
    },
    /// The disk is full; work can go on once there is space.
    #[error("the disk with {0} is full; free some space, work goes on by itself")]
    DiskFull(String),
    /// The data are from a newer daemon.
    #[error(
        "the data in {dir} have format {found}; this daemon knows up to {known}: use a newer daemon"
    )]
    NewerFormat {
        /// The data directory.
        dir: String,
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// A record cannot be read, or the files are damaged.
    #[error("the store is damaged: {0}; restore the data directory from a copy")]
    Damaged(String),
    /// Anything else.
    #[error("the store failed to {action}: {message}")]
    Failed {
        /// What was asked.
        action: &'static str,
        /// The cause.
        message: String,
    },
}
