//! The thread that writes: group commit, and what happens on a full disk.
//!
//! ```text
//!            apply + sync fails
//! healthy ------------------------> broken
//!    ^                                |  reopen, undo what was
//!    +--------------------------------+  not acknowledged
//! ```
//!
//! A full disk is noticed before sled meets it, because sled can hang on one.
//! While broken, readers see the store as it was reopened, and writes fail
//! with the cause. Each write tries the way back first, so that work goes on
//! by itself once there is space. The journal of the session logs has no part
//! in this: it takes a failed write back itself.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
    time::Instant,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Shared, SledOptions,
    codec::{decode, encode, encode_request, key, request_at},
    database::{Database, check_room, failure, manifest_failure, panic_text},
};
use crate::{
    adapters::events::Journal,
    domain::{
        access::Token,
        artifact::Artifact,
        credential::CredentialsChange,
        forge::PullRequest,
        ids::{OperationId, RequestId, SessionId, SnapshotId, TokenName, WorkspaceId},
        setup::SetupKey,
        snapshot::{
            Snapshot,
            copies::{TreeCopy, VolumeRef},
        },
        workspace::Workspace,
        workspace_event::WorkspaceEvent,
    },
    metrics,
    ports::store::{EventBytes, RequestOutcome, RequestRecord, StoreError},
};

/// Bytes that sled may write for one of ours: the value, and the page that it
/// is on each time that is written anew.
const WRITTEN_PER_BYTE: u64 = 8;
/// Writes made durable together.
const GROUP: usize = 512;

/// Who is told of the outcome.
pub(super) type Ack = oneshot::Sender<Result<(), StoreError>>;

/// What the writer is sent.
pub(super) enum Message {
    /// Do this and say when it is on disk.
    Write(Write, Ack),
    /// The same for events of a session.
    Append(Append, Ack),
    /// Close the files and end.
    Close(oneshot::Sender<()>),
}

/// Events for a session's log, all or none.
pub(super) struct Append {
    pub(super) session: SessionId,
    pub(super) next: u64,
    pub(super) events: Vec<EventBytes>,
}

/// A change of the records, all or nothing.
pub(super) enum Write {
    AddWorkspace(Box<Workspace>),
    UpdateWorkspace(Box<Workspace>),
    RemoveWorkspace(WorkspaceId),
    PutArtifact(Artifact),
    PutPullRequest(String, PullRequest),
    PutSnapshot(WorkspaceId, SnapshotId, Vec<u8>),
    RemoveSnapshot(SnapshotId),
    PutBakedSetup(SetupKey, SnapshotId),
    PutOperation(OperationId, Vec<u8>),
    RemoveOperation(OperationId),
    /// Events to add, and sequence numbers to forget.
    PutWorkspaceEvents(Vec<WorkspaceEvent>, Vec<u64>),
    PutTreeCopy(TreeCopy),
    RemoveTreeCopy(VolumeRef),
    PutLastUses(Vec<(WorkspaceId, i64)>),
    ChangeCredentials(CredentialsChange),
    PutTokens(Vec<Token>),
    RemoveToken(TokenName),
    PutRequest(RequestId, RequestRecord),
    /// Those that are still of this time.
    ForgetRequests(Vec<(RequestId, i64)>),
}

impl Write {
    /// Roughly the bytes it adds.
    fn size(&self) -> u64 {
        const RECORD: usize = 4096;
        const HASH_AS_TEXT: usize = 67;
        let bytes = match self {
            Self::PutRequest(_, record) => match &record.outcome {
                RequestOutcome::Answered(answer) => answer.len(),
                RequestOutcome::Begun { about, .. } => about.len(),
                RequestOutcome::Failed => 0,
            },
            Self::PutPullRequest(_, pull_request) => pull_request.draft.body.len(),
            Self::PutSnapshot(_, _, record) | Self::PutOperation(_, record) => record.len(),
            // One is far below the size of a record.
            Self::PutWorkspaceEvents(new, _) => new.len() * RECORD / 4,
            Self::PutTreeCopy(copy) => copy.tree.listing.len() * HASH_AS_TEXT,
            Self::PutLastUses(uses) => uses.len() * RECORD / 16,
            // A byte of a record takes up to four of JSON.
            Self::ChangeCredentials(change) => {
                let past = change.put_past.iter().map(|one| &one.sealed);
                let all = change.put.iter().chain(past);
                all.map(|one| 4 * one.sealed.len() + RECORD / 4).sum()
            }
            Self::PutTokens(all) => all.len() * RECORD / 4,
            Self::AddWorkspace(_)
            | Self::UpdateWorkspace(_)
            | Self::RemoveWorkspace(_)
            | Self::PutArtifact(_)
            | Self::RemoveSnapshot(_)
            | Self::PutBakedSetup(..)
            | Self::RemoveOperation(_)
            | Self::RemoveTreeCopy(_)
            | Self::RemoveToken(_)
            | Self::ForgetRequests(_) => 0,
        };
        (bytes + RECORD) as u64
    }
}

/// A key with its new value; `None` removes it.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn change_credentials(change: &CredentialsChange) -> Vec<Change> {
    let put = change.put.iter();
    let put = put.map(|one| (key::credential(&one.credential.key), Some(encode(one))));
    let removed = change.remove.iter().map(|key| (key::credential(key), None));
    let past = change.put_past.iter();
    let past = past.map(|one| (key::past_credential(&one.id), Some(encode(one))));
    let forgotten = change.remove_past.iter();
    let forgotten = forgotten.map(|id| (key::past_credential(id), None));
    put.chain(removed).chain(past).chain(forgotten).collect()
}
type Changes = Vec<Change>;

/// Why a write was not applied.
enum ApplyError {
    /// It is wrong; the store is as it was.
    Refused(StoreError),
    /// sled failed; the store must be reopened.
    Broken(sled::Error),
}

impl From<sled::Error> for ApplyError {
    fn from(error: sled::Error) -> Self {
        Self::Broken(error)
    }
}

pub(super) struct Writer {
    shared: Shared,
    options: SledOptions,
    dir: String,
    journal: Journal,
    /// How to take back what was applied and not yet acknowledged, oldest
    /// first.
    undo: Changes,
    /// Why the store must be reopened before the next write.
    broken: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(shared: Shared, journal: Journal, options: SledOptions) -> Self {
        Self {
            shared,
            dir: options.dir.display().to_string(),
            options,
            journal,
            undo: Vec::new(),
            broken: None,
        }
    }

    /// Writes until told to close or until nobody can write any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = queue.blocking_recv() else {
                break;
            };
            let mut writes = Vec::new();
            let mut appends = Vec::new();
            let mut message = Some(first);
            while let Some(next) = message {
                match next {
                    Message::Write(write, ack) => writes.push((write, ack)),
                    Message::Append(append, ack) => appends.push((append, ack)),
                    Message::Close(ack) => {
                        closing = Some(ack);
                        break;
                    }
                }
                message = (writes.len() + appends.len() < GROUP)
                    .then(|| queue.try_recv().ok())
                    .flatten();
            }
            self.append(appends);
            self.commit(writes);
        }
        self.journal.close();
        drop(
            self.shared
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(ack) = closing {
            let _ = ack.send(());
        }
    }

    /// Appends a group to the logs, durably, and answers.
    fn append(&mut self, group: Vec<(Append, Ack)>) {
        let bytes = |(append, _): &(Append, Ack)| append.events.iter().map(Vec::len).sum::<usize>();
        let bytes = group.iter().map(bytes).sum::<usize>() as u64;
        let room = check_room(&self.options, bytes);
        let mut staged = Vec::with_capacity(group.len());
        for (append, ack) in group {
            let Append {
                session,
                next,
                events,
            } = append;
            let outcome = room
                .clone()
                .and_then(|()| self.journal.stage(&session, next, events));
            match outcome {
                Ok(()) => staged.push(ack),
                Err(error) => drop(ack.send(Err(error))),
            }
        }
        let outcome = self.journal.commit();
        if let Err(error) = &outcome {
            tracing::error!(%error, "the session logs were not written");
        }
        for ack in staged {
            let _ = ack.send(outcome.clone());
        }
    }

    /// Applies a group of changes of the records, makes it durable, answers.
    fn commit(&mut self, group: Vec<(Write, Ack)>) {
        if group.is_empty() {
            return;
        }
        let bytes = group.iter().map(|(write, _)| write.size()).sum::<u64>();
        if let Err(error) = self.make_ready(bytes * WRITTEN_PER_BYTE) {
            for (_, ack) in group {
                let _ = ack.send(Err(error.clone()));
            }
            return;
        }
        let mut applied = Vec::with_capacity(group.len());
        for (write, ack) in group {
            if let Some(error) = &self.broken {
                let _ = ack.send(Err(error.clone()));
                continue;
            }
            match self.guarded(|writer, database| writer.apply(database, write)) {
                Ok(()) => applied.push(ack),
                Err(ApplyError::Refused(error)) => drop(ack.send(Err(error))),
                Err(ApplyError::Broken(error)) => {
                    let error = failure("write", &self.dir, &error);
                    self.broken = Some(error.clone());
                    let _ = ack.send(Err(error));
                }
            }
        }
        if self.broken.is_none() && !applied.is_empty() {
            let begun = Instant::now();
            match self.guarded(|_, database| database.sync()) {
                Ok(()) => metrics::store_synced(applied.len(), begun.elapsed()),
                Err(error) => self.broken = Some(failure("write", &self.dir, &error)),
            }
        }
        match self.broken.clone() {
            None => {
                self.undo.clear();
                for ack in applied {
                    let _ = ack.send(Ok(()));
                }
            }
            Some(error) => {
                tracing::error!(%error, "the store failed to write; it is being reopened");
                // At once, so that readers go on and nothing unacknowledged
                // is seen by them for long.
                if let Err(error) = self.reopen() {
                    tracing::warn!(%error, "the store is not open; the next write tries again");
                }
                for ack in applied {
                    let _ = ack.send(Err(error.clone()));
                }
            }
        }
    }

    /// Whether a write may be tried: the store is whole and the disk has room.
    fn make_ready(&mut self, bytes: u64) -> Result<(), StoreError> {
        check_room(&self.options, bytes)?;
        if self.broken.is_some() {
            self.reopen()?;
        }
        Ok(())
    }

    /// Opens the files anew and takes back what was not acknowledged.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut slot = shared.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        let database = Database::open(&self.options)?;
        let undone = catch_unwind(AssertUnwindSafe(|| {
            let mut batch = sled::Batch::default();
            // The newest first, so that the oldest value stays.
            for (key, before) in self.undo.iter().rev() {
                match before {
                    Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                    None => batch.remove(key.as_slice()),
                }
            }
            database.tree().apply_batch(batch)?;
            database.sync()
        }));
        let undone = undone.unwrap_or_else(|panic| Err(panicked(&*panic)));
        // Kept even when the undo failed, so that readers go on.
        *slot = Some(database);
        undone.map_err(|error| failure("reopen", &self.dir, &error))?;
        self.undo.clear();
        self.broken = None;
        tracing::info!(dir = %self.dir, "the store is open again");
        Ok(())
    }

    /// Runs `work` on the database; a panic of sled is a failure like another.
    fn guarded<T, E: From<sled::Error>>(
        &mut self,
        work: impl FnOnce(&mut Self, &Database) -> Result<T, E>,
    ) -> Result<T, E> {
        let shared = self.shared.clone();
        let slot = shared.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*slot else {
            return Err(sled::Error::ReportableBug("the store is not open".to_owned()).into());
        };
        catch_unwind(AssertUnwindSafe(|| work(self, database)))
            .unwrap_or_else(|panic| Err(panicked(&*panic).into()))
    }

    fn apply(&mut self, database: &Database, write: Write) -> Result<(), ApplyError> {
        let tree = database.tree();
        let changes = match write {
            Write::AddWorkspace(workspace) => add_workspace(tree, &workspace)?,
            Write::UpdateWorkspace(workspace) => update_workspace(tree, &workspace)?,
            Write::RemoveWorkspace(id) => remove_workspace(tree, &id)?,
            Write::PutArtifact(artifact) => put_artifact(&artifact),
            Write::PutPullRequest(repository, pull_request) => {
                let key = key::pull_request(&repository, pull_request.number);
                vec![(key, Some(encode(&pull_request)))]
            }
            Write::PutSnapshot(workspace, id, record) => vec![
                (key::snapshot_of(&workspace, &id), Some(encode(&id))),
                (key::snapshot(&id), Some(record)),
            ],
            Write::RemoveSnapshot(id) => remove_snapshot(tree, &self.dir, &id)?,
            Write::PutBakedSetup(setup, snapshot) => {
                vec![(key::baked_setup(&setup), Some(encode(&snapshot)))]
            }
            Write::PutOperation(id, record) => vec![(key::operation(&id), Some(record))],
            Write::RemoveOperation(id) => vec![(key::operation(&id), None)],
            Write::PutWorkspaceEvents(new, forgotten) => {
                let forgotten = forgotten
                    .into_iter()
                    .map(|n| (key::workspace_event(n), None));
                let new = new.iter();
                forgotten
                    .chain(new.map(|e| (key::workspace_event(e.sequence), Some(encode(e)))))
                    .collect()
            }
            Write::PutTreeCopy(copy) => vec![(key::tree_copy(&copy.volume), Some(encode(&copy)))],
            Write::RemoveTreeCopy(volume) => vec![(key::tree_copy(&volume), None)],
            Write::PutLastUses(uses) => {
                let uses = uses.into_iter();
                uses.map(|used| (key::last_use(&used.0), Some(encode(&used))))
                    .collect()
            }
            Write::ChangeCredentials(change) => change_credentials(&change),
            Write::PutTokens(all) => {
                let all = all.iter();
                all.map(|one| (key::token(&one.name), Some(encode(one))))
                    .collect()
            }
            Write::RemoveToken(name) => vec![(key::token(&name), None)],
            Write::PutRequest(id, record) => {
                vec![(key::request(&id), Some(encode_request(&record)))]
            }
            Write::ForgetRequests(entries) => forget_requests(tree, &entries)?,
        };
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            let before = tree.get(&key)?.map(|value| value.to_vec());
            self.undo.push((key.clone(), before));
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        tree.apply_batch(batch)?;
        Ok(())
    }
}

fn forget_requests(tree: &sled::Tree, entries: &[(RequestId, i64)]) -> Result<Changes, ApplyError> {
    let mut changes = Changes::new();
    for (id, at_ms) in entries {
        let key = key::request(id);
        let same = |value: sled::IVec| value.starts_with(&request_at(*at_ms));
        if tree.get(&key)?.is_some_and(same) {
            changes.push((key, None));
        }
    }
    Ok(changes)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> sled::Error {
    sled::Error::ReportableBug(format!("sled panicked: {}", panic_text(panic)))
}

fn add_workspace(tree: &sled::Tree, workspace: &Workspace) -> Result<Changes, ApplyError> {
    let id = encode(&workspace.id);
    let name = key::workspace_name(&workspace.definition.name);
    if tree.get(&name)?.is_some_and(|owner| owner != id) {
        let name = workspace.definition.name.clone();
        return Err(ApplyError::Refused(StoreError::NameTaken(name)));
    }
    let record = (key::workspace(&workspace.id), Some(encode(workspace)));
    let mut changes = vec![record, (name.clone(), Some(id))];
    changes.extend(freed_name(tree, &workspace.id, &name)?);
    Ok(changes)
}

fn update_workspace(tree: &sled::Tree, workspace: &Workspace) -> Result<Changes, ApplyError> {
    if tree.get(key::workspace(&workspace.id))?.is_none() {
        let what = format!("workspace {}", workspace.id);
        return Err(ApplyError::Refused(StoreError::Missing(what)));
    }
    add_workspace(tree, workspace)
}

fn remove_workspace(tree: &sled::Tree, id: &WorkspaceId) -> Result<Changes, ApplyError> {
    let mut changes = vec![(key::workspace(id), None), (key::last_use(id), None)];
    changes.extend(freed_name(tree, id, &[])?);
    Ok(changes)
}

/// The removal of the name a workspace has, unless it is `kept`.
fn freed_name(
    tree: &sled::Tree,
    id: &WorkspaceId,
    kept: &[u8],
) -> Result<Option<Change>, ApplyError> {
    let Some(record) = tree.get(key::workspace(id))? else {
        return Ok(None);
    };
    let record: Workspace = decode(&record)
        .map_err(|error| ApplyError::Refused(StoreError::Damaged(error.to_string())))?;
    let name = key::workspace_name(&record.definition.name);
    Ok((name != kept).then_some((name, None)))
}

fn remove_snapshot(tree: &sled::Tree, dir: &str, id: &SnapshotId) -> Result<Changes, ApplyError> {
    let Some(record) = tree.get(key::snapshot(id))? else {
        return Ok(Changes::new());
    };
    let record = Snapshot::from_json(&record)
        .map_err(|error| ApplyError::Refused(manifest_failure(dir, &error)))?;
    let mut changes = vec![
        (key::snapshot_of(&record.workspace, id), None),
        (key::snapshot(id), None),
    ];
    for entry in tree.scan_prefix(key::BAKED_SETUPS) {
        let (setup, snapshot) = entry?;
        if *snapshot == *encode(id) {
            changes.push((setup.to_vec(), None));
        }
    }
    Ok(changes)
}

fn put_artifact(artifact: &Artifact) -> Changes {
    vec![
        (key::artifact(&artifact.id), Some(encode(artifact))),
        (
            key::artifact_of(&artifact.session, &artifact.id),
            Some(encode(&artifact.id)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, RwLock};

    use super::*;
    use crate::ports::contract::store::workspace;

    #[test]
    fn a_store_that_broke_is_reopened_without_what_was_not_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let options = SledOptions::in_dir(dir.path());
        let database = Database::open(&options).unwrap();
        let shared: Shared = Arc::new(RwLock::new(Some(database)));
        let journal = Journal::open(dir.path().join("events"), false).unwrap();
        let mut writer = Writer::new(shared, journal, options);
        let send = |writer: &mut Writer, write| {
            let (ack, mut outcome) = oneshot::channel();
            writer.commit(vec![(write, ack)]);
            outcome.try_recv().unwrap()
        };
        send(
            &mut writer,
            Write::AddWorkspace(workspace(1, "before").into()),
        )
        .unwrap();

        // Applied and even on disk, but not acknowledged when sled breaks.
        let renamed = Write::UpdateWorkspace(workspace(1, "after").into());
        for write in [renamed, Write::AddWorkspace(workspace(2, "second").into())] {
            let applied = writer.guarded(|writer, database| writer.apply(database, write));
            assert!(applied.is_ok());
        }
        writer
            .guarded(|_, database| database.sync())
            .expect("the disk is sound");
        writer.broken = Some(StoreError::DiskFull("here".to_owned()));

        // The logs do not wait for sled.
        let log = SessionId::from_uuid(uuid::Uuid::from_u128(1));
        let (ack, mut outcome) = oneshot::channel();
        let append = Append {
            session: log,
            next: 1,
            events: vec![vec![1]],
        };
        writer.append(vec![(append, ack)]);
        assert_eq!(outcome.try_recv().unwrap(), Ok(()));
        assert!(writer.broken.is_some());

        send(
            &mut writer,
            Write::AddWorkspace(workspace(3, "third").into()),
        )
        .expect("the store is opened again");
        writer
            .guarded::<_, sled::Error>(|_, database| {
                let name = |name: &str| key::workspace_name(&name.parse().unwrap());
                for there in ["before", "third"] {
                    assert!(database.tree().get(name(there))?.is_some(), "{there}");
                }
                for gone in ["after", "second"] {
                    assert!(database.tree().get(name(gone))?.is_none(), "{gone}");
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(writer.undo, Changes::new());
    }
}
