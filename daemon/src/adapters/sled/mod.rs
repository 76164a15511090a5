//! Records in sled, and session logs in a [journal](super::events) beside it.
//!
//! One thread writes. It takes every write that waits, applies them, makes the
//! whole group durable at once and then answers all of them, so that many
//! sessions share one `fdatasync`. Readers run on tokio's blocking threads.
//!
//! ```text
//!                                              +--> journal --> fdatasync
//! callers --bounded channel--> writer thread --+
//!    ^                              |          +--> sled -----> fdatasync
//!    +--------- acks, all at once --+
//! ```
//!
//! The logs are not in sled because its flush waits for the disk twice.
//!
//! sled 0.34 alone is not durable: its `flush` never calls fsync. [`database`]
//! adds that. After a failed write sled refuses every other one until it is
//! reopened; [`writer`] does that and takes back what was not acknowledged.

mod codec;
mod database;
#[cfg(feature = "test-util")]
mod death;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::{
    codec::{decode, encode, key},
    database::Database,
    writer::{Ack, Append, Message, Write, Writer},
};
use crate::{
    adapters::events::{Journal, JournalReader},
    domain::{
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
            ManifestError, Snapshot,
            copies::{TreeCopy, VolumeRef},
            journal::Operation,
        },
        workspace::Workspace,
        workspace_event::WorkspaceEvent,
    },
    ports::store::{EventBytes, RequestEntry, RequestRecord, StoreError, StorePort},
};

/// Writes that may wait before callers wait to hand theirs over.
const QUEUE: usize = 1024;

/// Where the store is and what it may use.
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// Its directory; made when it is not there.
    pub dir: PathBuf,
    /// Free bytes below which nothing more is written.
    pub low_water_bytes: u64,
    /// Bytes of pages kept in memory.
    pub cache_bytes: u64,
}

impl SledOptions {
    /// The usual sizes for a store in `dir`.
    #[must_use]
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            low_water_bytes: 0,
            cache_bytes: 8 << 20,
        }
    }
}

/// Records in sled and logs in a journal. Dropped without [`close`](Self::close), it still
/// loses nothing acknowledged.
#[derive(Debug)]
pub struct SledStore {
    /// `None` only while it is being reopened, or could not be.
    shared: Shared,
    logs: JournalReader,
    writes: mpsc::Sender<Message>,
    dir: PathBuf,
}

/// The database, shared by the readers with the writer, who alone replaces it.
type Shared = Arc<RwLock<Option<Database>>>;

impl SledStore {
    /// Opens or makes a store, migrates it where it is older, and starts its
    /// writer. Blocks: call it off the async threads.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], [`StoreError::Damaged`],
    /// [`StoreError::DiskFull`], or [`StoreError::Failed`] for the rest.
    pub fn open(options: SledOptions) -> Result<Self, StoreError> {
        let dir = options.dir.clone();
        let database = Database::open(&options)?;
        let journal = open_journal(&database, &options)?;
        let logs = journal.reader();
        let shared: Shared = Arc::new(RwLock::new(Some(database)));
        let (writes, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(shared.clone(), journal, options);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| StoreError::Failed {
                action: "start its writer",
                message: error.to_string(),
            })?;
        Ok(Self {
            shared,
            logs,
            writes,
            dir,
        })
    }

    /// Finishes what waits and closes the files; later calls fail.
    pub async fn close(&self) {
        let (ack, closed) = oneshot::channel();
        if self.writes.send(Message::Close(ack)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        self.send(|ack| Message::Write(write, ack)).await
    }

    async fn send(&self, message: impl FnOnce(Ack) -> Message) -> Result<(), StoreError> {
        let (ack, outcome) = oneshot::channel();
        self.writes.send(message(ack)).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    async fn read<T: Send + 'static>(
        &self,
        action: &'static str,
        read: impl FnOnce(&Database) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        let dir = self.dir.display().to_string();
        blocking(action, move || {
            let guard = shared.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &*guard else {
                return Err(StoreError::DiskFull(dir));
            };
            read(database).map_err(|error| match error {
                ReadError::Sled(error) => database::failure(action, &dir, &error),
                ReadError::Damaged(what) => StoreError::Damaged(what),
                ReadError::Manifest(error) => database::manifest_failure(&dir, &error),
            })
        })
        .await
    }
}

/// The journal of the session logs. Once made it must be there: without its
/// files every log would look empty.
fn open_journal(database: &Database, options: &SledOptions) -> Result<Journal, StoreError> {
    let failed = |error| database::failure("open", &options.dir.display().to_string(), &error);
    let made = database.tree().contains_key(key::JOURNAL).map_err(failed)?;
    let journal = Journal::open(options.dir.join("events"), made)?;
    if !made {
        let tree = database.tree();
        tree.insert(key::JOURNAL, Vec::new()).map_err(failed)?;
        database.sync().map_err(failed)?;
    }
    Ok(journal)
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| StoreError::Failed {
        action,
        message: error.to_string(),
    })?
}

/// Why a read failed, before it has its words.
enum ReadError {
    Sled(sled::Error),
    Damaged(String),
    Manifest(ManifestError),
}

impl From<sled::Error> for ReadError {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<codec::CodecError> for ReadError {
    fn from(error: codec::CodecError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<ManifestError> for ReadError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}

fn closed() -> StoreError {
    StoreError::Failed {
        action: "write",
        message: "the store is closed".to_owned(),
    }
}

#[async_trait]
impl StorePort for SledStore {
    async fn add_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        self.write(Write::AddWorkspace(workspace.clone().into()))
            .await
    }

    async fn update_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        self.write(Write::UpdateWorkspace(workspace.clone().into()))
            .await
    }

    async fn remove_workspace(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.write(Write::RemoveWorkspace(id.clone())).await
    }

    async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, StoreError> {
        let key = key::workspace(id);
        self.read("read a workspace", move |database| {
            Ok(database.tree().get(key)?.map(|v| decode(&v)).transpose()?)
        })
        .await
    }

    async fn workspace_named(&self, name: &WorkspaceName) -> Result<Option<Workspace>, StoreError> {
        let key = key::workspace_name(name);
        self.read("find a workspace by name", move |database| {
            let Some(id) = database.tree().get(key)? else {
                return Ok(None);
            };
            let record = database.tree().get(key::workspace(&decode(&id)?))?;
            Ok(record.map(|v| decode(&v)).transpose()?)
        })
        .await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        let mut all: Vec<Workspace> = self.read_all("list workspaces", key::WORKSPACES).await?;
        all.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        Ok(all)
    }

    async fn append(
        &self,
        session: &SessionId,
        next: u64,
        events: Vec<EventBytes>,
    ) -> Result<(), StoreError> {
        let append = Append {
            session: session.clone(),
            next,
            events,
        };
        #[cfg(feature = "test-util")]
        let (death, events) = (death::Death::beside(&self.dir), append.events.clone());
        #[cfg(feature = "test-util")]
        death.at(death::Side::Before, next, &events);
        self.send(|ack| Message::Append(append, ack)).await?;
        #[cfg(feature = "test-util")]
        death.at(death::Side::After, next, &events);
        Ok(())
    }

    async fn events(
        &self,
        session: &SessionId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventBytes>, StoreError> {
        let (logs, session) = (self.logs.clone(), session.clone());
        blocking("read events", move || logs.events(&session, from, limit)).await
    }

    async fn sessions(&self) -> Result<Vec<SessionId>, StoreError> {
        self.logs.sessions()
    }

    async fn put_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.write(Write::PutArtifact(artifact.clone())).await
    }

    async fn artifact(&self, id: &ArtifactId) -> Result<Option<Artifact>, StoreError> {
        let key = key::artifact(id);
        self.read("read an artifact", move |database| {
            Ok(database.tree().get(key)?.map(|v| decode(&v)).transpose()?)
        })
        .await
    }

    async fn artifacts(&self, session: &SessionId) -> Result<Vec<Artifact>, StoreError> {
        let prefix = key::artifacts_of(session);
        self.read("list artifacts", move |database| {
            let mut all = Vec::new();
            for entry in database.tree().scan_prefix(prefix) {
                let id: ArtifactId = decode(&entry?.1)?;
                if let Some(record) = database.tree().get(key::artifact(&id))? {
                    all.push(decode(&record)?);
                }
            }
            Ok(all)
        })
        .await
    }

    async fn artifact_hashes(&self) -> Result<HashSet<String>, StoreError> {
        self.read("list artifacts", move |database| {
            let mut hashes = HashSet::new();
            for entry in database.tree().scan_prefix(key::ARTIFACTS) {
                let artifact: Artifact = decode(&entry?.1)?;
                hashes.insert(artifact.hash);
            }
            Ok(hashes)
        })
        .await
    }

    async fn put_pull_request(
        &self,
        repository: &str,
        pull_request: &PullRequest,
    ) -> Result<(), StoreError> {
        let repository = repository.to_owned();
        let pull_request = pull_request.clone();
        self.write(Write::PutPullRequest(repository, pull_request))
            .await
    }

    async fn pull_requests(&self, repository: &str) -> Result<Vec<PullRequest>, StoreError> {
        self.read_all("list pull requests", key::pull_requests_of(repository))
            .await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let (workspace, id) = (snapshot.workspace.clone(), snapshot.id.clone());
        self.write(Write::PutSnapshot(workspace, id, snapshot.to_json()))
            .await
    }

    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let key = key::snapshot(id);
        self.read("read a snapshot", move |database| {
            let record = database.tree().get(key)?;
            Ok(record.map(|v| Snapshot::from_json(&v)).transpose()?)
        })
        .await
    }

    async fn snapshots(&self, of: Option<&WorkspaceId>) -> Result<Vec<Snapshot>, StoreError> {
        let of = of.map(key::snapshots_of);
        self.read("list snapshots", move |database| {
            let tree = database.tree();
            let mut all = Vec::new();
            match of {
                None => {
                    for entry in tree.scan_prefix(key::SNAPSHOTS) {
                        all.push(Snapshot::from_json(&entry?.1)?);
                    }
                }
                Some(prefix) => {
                    for entry in tree.scan_prefix(prefix) {
                        let id: SnapshotId = decode(&entry?.1)?;
                        if let Some(record) = tree.get(key::snapshot(&id))? {
                            all.push(Snapshot::from_json(&record)?);
                        }
                    }
                }
            }
            Ok(all)
        })
        .await
    }

    async fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.write(Write::RemoveSnapshot(id.clone())).await
    }

    async fn put_baked_setup(
        &self,
        key: &SetupKey,
        snapshot: &SnapshotId,
    ) -> Result<(), StoreError> {
        self.write(Write::PutBakedSetup(key.clone(), snapshot.clone()))
            .await
    }

    async fn baked_setup(&self, key: &SetupKey) -> Result<Option<SnapshotId>, StoreError> {
        let key = key::baked_setup(key);
        self.read("read a baked setup", move |database| {
            Ok(database.tree().get(key)?.map(|v| decode(&v)).transpose()?)
        })
        .await
    }

    async fn put_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        self.write(Write::PutOperation(operation.id.clone(), encode(operation)))
            .await
    }

    async fn operations(&self) -> Result<Vec<Operation>, StoreError> {
        self.read_all("list operations", key::OPERATIONS).await
    }

    async fn remove_operation(&self, id: &OperationId) -> Result<(), StoreError> {
        self.write(Write::RemoveOperation(id.clone())).await
    }

    async fn put_workspace_events(
        &self,
        new: &[WorkspaceEvent],
        forgotten: &[u64],
    ) -> Result<(), StoreError> {
        self.write(Write::PutWorkspaceEvents(new.to_vec(), forgotten.to_vec()))
            .await
    }

    async fn workspace_events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<WorkspaceEvent>, StoreError> {
        let first = key::workspace_event(after.saturating_add(1));
        self.read("read events of workspaces", move |database| {
            let last = key::workspace_event(u64::MAX);
            let found = database.tree().range(first..=last).take(limit);
            found.map(|entry| Ok(decode(&entry?.1)?)).collect()
        })
        .await
    }

    async fn put_tree_copy(&self, copy: &TreeCopy) -> Result<(), StoreError> {
        self.write(Write::PutTreeCopy(copy.clone())).await
    }

    async fn tree_copies(&self) -> Result<Vec<TreeCopy>, StoreError> {
        self.read_all("list copies of trees", key::TREE_COPIES)
            .await
    }

    async fn remove_tree_copy(&self, volume: &VolumeRef) -> Result<(), StoreError> {
        self.write(Write::RemoveTreeCopy(volume.clone())).await
    }

    async fn put_last_uses(&self, uses: &[(WorkspaceId, i64)]) -> Result<(), StoreError> {
        self.write(Write::PutLastUses(uses.to_vec())).await
    }

    async fn last_uses(&self) -> Result<Vec<(WorkspaceId, i64)>, StoreError> {
        self.read_all("read when workspaces were used", key::LAST_USES)
            .await
    }

    async fn change_credentials(&self, change: CredentialsChange) -> Result<(), StoreError> {
        self.write(Write::ChangeCredentials(change)).await
    }

    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        let mut all: Vec<SealedCredential> =
            self.read_all("list credentials", key::CREDENTIALS).await?;
        all.sort_by(|a, b| a.credential.key.cmp(&b.credential.key));
        Ok(all)
    }

    async fn past_credentials(&self) -> Result<Vec<PastCredential>, StoreError> {
        let action = "list past credentials";
        self.read_all(action, key::PAST_CREDENTIALS).await
    }

    async fn put_tokens(&self, tokens: &[Token]) -> Result<(), StoreError> {
        self.write(Write::PutTokens(tokens.to_vec())).await
    }

    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.read_all("list tokens", key::TOKENS).await
    }

    async fn remove_token(&self, name: &TokenName) -> Result<(), StoreError> {
        self.write(Write::RemoveToken(name.clone())).await
    }

    async fn request(&self, id: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
        let key = key::request(id);
        self.read("read a request", move |database| {
            let value = database.tree().get(key)?;
            Ok(value.map(|v| codec::decode_request(&v)).transpose()?)
        })
        .await
    }

    async fn put_request(&self, id: &RequestId, record: &RequestRecord) -> Result<(), StoreError> {
        self.write(Write::PutRequest(id.clone(), record.clone()))
            .await
    }

    async fn requests(&self) -> Result<Vec<RequestEntry>, StoreError> {
        self.read("list requests", move |database| {
            let mut all = Vec::new();
            for entry in database.tree().scan_prefix(key::REQUESTS) {
                let (key, value) = entry?;
                let id = String::from_utf8_lossy(&key[key::REQUESTS.len()..]);
                // Every id was parsed before it was written.
                let Ok(id) = id.parse() else { continue };
                let record = codec::decode_request(&value)?;
                all.push(RequestEntry {
                    id,
                    at_ms: record.at_ms,
                    bytes: (key.len() + value.len()) as u64,
                    progress: record.outcome.progress(),
                });
            }
            Ok(all)
        })
        .await
    }

    async fn forget_requests(&self, entries: &[RequestEntry]) -> Result<(), StoreError> {
        let entries = entries.iter().map(|one| (one.id.clone(), one.at_ms));
        self.write(Write::ForgetRequests(entries.collect())).await
    }
}

impl SledStore {
    /// Every record below a prefix, in the order of the keys.
    async fn read_all<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        action: &'static str,
        prefix: impl AsRef<[u8]> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        self.read(action, move |database| {
            let mut all = Vec::new();
            for entry in database.tree().scan_prefix(prefix) {
                all.push(decode(&entry?.1)?);
            }
            Ok(all)
        })
        .await
    }
}
