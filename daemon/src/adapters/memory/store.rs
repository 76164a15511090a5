//! Records and logs in memory.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    domain::{
        access::Token,
        artifact::Artifact,
        credential::{CredentialKey, CredentialsChange, PastCredential, SealedCredential},
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
    },
    ports::store::{
        EventBytes, RequestEntry, RequestOutcome, RequestRecord, StoreError, StorePort,
    },
};

/// A store in memory. Its disk is full when [`fill_disk`](Self::fill_disk)
/// says so.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Held for one operation, never over an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    disk_full: bool,
    workspaces: BTreeMap<WorkspaceId, Workspace>,
    logs: BTreeMap<SessionId, Vec<EventBytes>>,
    artifacts: BTreeMap<ArtifactId, Artifact>,
    pull_requests: BTreeMap<(String, u64), PullRequest>,
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    baked_setups: BTreeMap<SetupKey, SnapshotId>,
    operations: BTreeMap<OperationId, Operation>,
    workspace_events: BTreeMap<u64, WorkspaceEvent>,
    tree_copies: BTreeMap<VolumeRef, TreeCopy>,
    last_uses: BTreeMap<WorkspaceId, i64>,
    credentials: BTreeMap<CredentialKey, SealedCredential>,
    past_credentials: BTreeMap<String, PastCredential>,
    tokens: BTreeMap<TokenName, Token>,
    requests: BTreeMap<RequestId, RequestRecord>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every write fails with [`StoreError::DiskFull`].
    pub fn fill_disk(&self) {
        self.lock().disk_full = true;
    }

    /// Writes succeed again.
    pub fn free_disk(&self) {
        self.lock().disk_full = false;
    }

    /// Leaves of requests that have begun what older daemons wrote: not what they
    /// were about.
    pub fn forget_what_requests_are_about(&self) {
        let mut state = self.lock();
        for record in state.requests.values_mut() {
            if let RequestOutcome::Begun { about, .. } = &mut record.outcome {
                about.clear();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.disk_full {
            return Err(StoreError::DiskFull("memory".to_owned()));
        }
        Ok(state)
    }
}

#[async_trait]
impl StorePort for MemoryStore {
    async fn add_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        let name = &workspace.definition.name;
        if state
            .workspaces
            .values()
            .any(|other| other.definition.name == *name && other.id != workspace.id)
        {
            return Err(StoreError::NameTaken(name.clone()));
        }
        state
            .workspaces
            .insert(workspace.id.clone(), workspace.clone());
        Ok(())
    }

    async fn update_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        let name = &workspace.definition.name;
        if !state.workspaces.contains_key(&workspace.id) {
            return Err(StoreError::Missing(format!("workspace {}", workspace.id)));
        }
        if state
            .workspaces
            .values()
            .any(|other| other.definition.name == *name && other.id != workspace.id)
        {
            return Err(StoreError::NameTaken(name.clone()));
        }
        state
            .workspaces
            .insert(workspace.id.clone(), workspace.clone());
        Ok(())
    }

    async fn remove_workspace(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        state.workspaces.remove(id);
        state.last_uses.remove(id);
        Ok(())
    }

    async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, StoreError> {
        Ok(self.lock().workspaces.get(id).cloned())
    }

    async fn workspace_named(&self, name: &WorkspaceName) -> Result<Option<Workspace>, StoreError> {
        let state = self.lock();
        let mut all = state.workspaces.values();
        Ok(all
            .find(|workspace| workspace.definition.name == *name)
            .cloned())
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        let mut all: Vec<_> = self.lock().workspaces.values().cloned().collect();
        all.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        Ok(all)
    }

    async fn append(
        &self,
        session: &SessionId,
        next: u64,
        events: Vec<EventBytes>,
    ) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        let expected = state
            .logs
            .get(session)
            .map_or(1, |log| log.len() as u64 + 1);
        if next != expected {
            return Err(StoreError::WrongSequence {
                session: session.clone(),
                expected,
                given: next,
            });
        }
        if !events.is_empty() {
            state
                .logs
                .entry(session.clone())
                .or_default()
                .extend(events);
        }
        Ok(())
    }

    async fn events(
        &self,
        session: &SessionId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventBytes>, StoreError> {
        let skipped = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX);
        let state = self.lock();
        let Some(log) = state.logs.get(session) else {
            return Ok(Vec::new());
        };
        Ok(log.iter().skip(skipped).take(limit).cloned().collect())
    }

    async fn sessions(&self) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.lock().logs.keys().rev().cloned().collect())
    }

    async fn put_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.writable()?
            .artifacts
            .insert(artifact.id.clone(), artifact.clone());
        Ok(())
    }

    async fn artifact(&self, id: &ArtifactId) -> Result<Option<Artifact>, StoreError> {
        Ok(self.lock().artifacts.get(id).cloned())
    }

    async fn artifact_hashes(&self) -> Result<HashSet<String>, StoreError> {
        let state = self.lock();
        Ok(state.artifacts.values().map(|a| a.hash.clone()).collect())
    }

    async fn artifacts(&self, session: &SessionId) -> Result<Vec<Artifact>, StoreError> {
        let state = self.lock();
        let all = state.artifacts.values();
        Ok(all
            .filter(|artifact| artifact.session == *session)
            .cloned()
            .collect())
    }

    async fn put_pull_request(
        &self,
        repository: &str,
        pull_request: &PullRequest,
    ) -> Result<(), StoreError> {
        let key = (repository.to_owned(), pull_request.number);
        self.writable()?
            .pull_requests
            .insert(key, pull_request.clone());
        Ok(())
    }

    async fn pull_requests(&self, repository: &str) -> Result<Vec<PullRequest>, StoreError> {
        let state = self.lock();
        let all = state.pull_requests.iter();
        Ok(all
            .filter(|((of, _), _)| of == repository)
            .map(|(_, pull_request)| pull_request.clone())
            .collect())
    }

    async fn put_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let (id, snapshot) = (snapshot.id.clone(), snapshot.clone());
        self.writable()?.snapshots.insert(id, snapshot);
        Ok(())
    }

    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.lock().snapshots.get(id).cloned())
    }

    async fn snapshots(&self, of: Option<&WorkspaceId>) -> Result<Vec<Snapshot>, StoreError> {
        let state = self.lock();
        let all = state.snapshots.values();
        Ok(all
            .filter(|snapshot| of.is_none_or(|workspace| snapshot.workspace == *workspace))
            .cloned()
            .collect())
    }

    async fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        state.snapshots.remove(id);
        state.baked_setups.retain(|_, snapshot| snapshot != id);
        Ok(())
    }

    async fn put_baked_setup(
        &self,
        key: &SetupKey,
        snapshot: &SnapshotId,
    ) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        state.baked_setups.insert(key.clone(), snapshot.clone());
        Ok(())
    }

    async fn baked_setup(&self, key: &SetupKey) -> Result<Option<SnapshotId>, StoreError> {
        Ok(self.lock().baked_setups.get(key).cloned())
    }

    async fn put_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        let (id, operation) = (operation.id.clone(), operation.clone());
        self.writable()?.operations.insert(id, operation);
        Ok(())
    }

    async fn operations(&self) -> Result<Vec<Operation>, StoreError> {
        Ok(self.lock().operations.values().cloned().collect())
    }

    async fn remove_operation(&self, id: &OperationId) -> Result<(), StoreError> {
        self.writable()?.operations.remove(id);
        Ok(())
    }

    async fn put_workspace_events(
        &self,
        new: &[WorkspaceEvent],
        forgotten: &[u64],
    ) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        for sequence in forgotten {
            state.workspace_events.remove(sequence);
        }
        let new = new.iter().map(|event| (event.sequence, event.clone()));
        state.workspace_events.extend(new);
        Ok(())
    }

    async fn workspace_events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<WorkspaceEvent>, StoreError> {
        let state = self.lock();
        let events = state.workspace_events.range(after.saturating_add(1)..);
        Ok(events.take(limit).map(|(_, event)| event.clone()).collect())
    }

    async fn put_tree_copy(&self, copy: &TreeCopy) -> Result<(), StoreError> {
        let (volume, copy) = (copy.volume.clone(), copy.clone());
        self.writable()?.tree_copies.insert(volume, copy);
        Ok(())
    }

    async fn tree_copies(&self) -> Result<Vec<TreeCopy>, StoreError> {
        Ok(self.lock().tree_copies.values().cloned().collect())
    }

    async fn remove_tree_copy(&self, volume: &VolumeRef) -> Result<(), StoreError> {
        self.writable()?.tree_copies.remove(volume);
        Ok(())
    }

    async fn put_last_uses(&self, uses: &[(WorkspaceId, i64)]) -> Result<(), StoreError> {
        self.writable()?.last_uses.extend(uses.iter().cloned());
        Ok(())
    }

    async fn last_uses(&self) -> Result<Vec<(WorkspaceId, i64)>, StoreError> {
        let state = self.lock();
        let uses = state.last_uses.iter();
        Ok(uses.map(|(id, at_ms)| (id.clone(), *at_ms)).collect())
    }

    async fn change_credentials(&self, change: CredentialsChange) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        let new = change.put.into_iter();
        (state.credentials).extend(new.map(|one| (one.credential.key.clone(), one)));
        for key in &change.remove {
            state.credentials.remove(key);
        }
        let past = change.put_past.into_iter();
        (state.past_credentials).extend(past.map(|one| (one.id.clone(), one)));
        for id in &change.remove_past {
            state.past_credentials.remove(id);
        }
        Ok(())
    }

    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        Ok(self.lock().credentials.values().cloned().collect())
    }

    async fn past_credentials(&self) -> Result<Vec<PastCredential>, StoreError> {
        Ok(self.lock().past_credentials.values().cloned().collect())
    }

    async fn put_tokens(&self, tokens: &[Token]) -> Result<(), StoreError> {
        let new = tokens.iter().cloned();
        self.writable()?
            .tokens
            .extend(new.map(|one| (one.name.clone(), one)));
        Ok(())
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        Ok(self.lock().tokens.values().cloned().collect())
    }

    async fn remove_token(&self, name: &TokenName) -> Result<(), StoreError> {
        self.writable()?.tokens.remove(name);
        Ok(())
    }

    async fn request(&self, id: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
        Ok(self.lock().requests.get(id).cloned())
    }

    async fn put_request(&self, id: &RequestId, record: &RequestRecord) -> Result<(), StoreError> {
        self.writable()?.requests.insert(id.clone(), record.clone());
        Ok(())
    }

    async fn requests(&self) -> Result<Vec<RequestEntry>, StoreError> {
        let state = self.lock();
        let entries = state.requests.iter().map(|(id, record)| RequestEntry {
            id: id.clone(),
            at_ms: record.at_ms,
            bytes: match &record.outcome {
                RequestOutcome::Answered(answer) => answer.len() as u64,
                RequestOutcome::Begun { about, .. } => about.len() as u64,
                RequestOutcome::Failed => 0,
            },
            progress: record.outcome.progress(),
        });
        Ok(entries.collect())
    }

    async fn forget_requests(&self, entries: &[RequestEntry]) -> Result<(), StoreError> {
        let mut state = self.writable()?;
        for entry in entries {
            let known = state.requests.get(&entry.id);
            if known.is_some_and(|record| record.at_ms == entry.at_ms) {
                state.requests.remove(&entry.id);
            }
        }
        Ok(())
    }
}
