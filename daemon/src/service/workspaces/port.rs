//! Workspaces as sessions see them.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{AddRepository, Asker, RepositoryOrigin, SetupChoice, Workspaces, WorkspacesError};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{SessionId, SnapshotId, WorkspaceId, WorkspaceName},
        snapshot::SnapshotReason,
        workspace::{Desired, Purpose, Workspace},
    },
    ports::{
        agent::AgentPort,
        workspaces::{CleanRepository, WorkspaceAccessError, WorkspacesPort},
    },
};

/// Who takes snapshots, goes back to them, and makes clean workspaces from them;
/// set by the owner of snapshots. Each may be asked for again, after a kill as
/// well, and is done once.
#[async_trait]
pub trait CleanCopies: Send + Sync {
    /// Takes a snapshot under this id, unless there is one.
    async fn take(
        &self,
        id: &SnapshotId,
        of: &WorkspaceId,
        reason: SnapshotReason,
    ) -> Result<(), WorkspaceAccessError>;

    /// Puts a workspace back to a snapshot, while a session works in it that asks
    /// for it, and keeps what it was under this id.
    async fn roll_back(
        &self,
        of: &WorkspaceId,
        to: &SnapshotId,
        keep: &SnapshotId,
        session: &SessionId,
    ) -> Result<(), WorkspaceAccessError>;

    /// Makes a workspace from a snapshot, and starts it.
    async fn fork(&self, fork: CleanFork) -> Result<WorkspaceId, WorkspaceAccessError>;
}

/// A clean workspace to make from a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanFork {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The name of the new workspace.
    pub name: WorkspaceName,
    /// What it may reach.
    pub egress: Policy,
}

#[async_trait]
impl WorkspacesPort for Workspaces {
    async fn get(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError> {
        let record = self.record(id).map_err(|error| access(id, error))?;
        Ok(Workspace::clone(&record))
    }

    async fn agent(&self, id: &WorkspaceId) -> Result<Arc<dyn AgentPort>, WorkspaceAccessError> {
        let agent = Self::agent(self, id).await;
        agent.map_err(|error| access(id, error))
    }

    async fn find_repositories(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError> {
        let found = Self::find_repositories(self, id).await;
        let workspace = found.map_err(|error| access(id, error))?;
        Ok(Workspace::clone(&workspace))
    }

    async fn create_clean(
        &self,
        like: &WorkspaceId,
        key: &str,
        clean: &CleanRepository<'_>,
    ) -> Result<WorkspaceId, WorkspaceAccessError> {
        let made = self.make_clean(like, key, clean).await;
        made.map_err(|error| access(like, error))
    }

    async fn take_snapshot(
        &self,
        of: &WorkspaceId,
        id: &SnapshotId,
        reason: SnapshotReason,
    ) -> Result<(), WorkspaceAccessError> {
        let (copies, id, of) = (self.copies()?.clone(), id.clone(), of.clone());
        self.to_its_end(async move { copies.take(&id, &of, reason).await })
            .await
    }

    async fn roll_back(
        &self,
        of: &WorkspaceId,
        to: &SnapshotId,
        keep: &SnapshotId,
        session: &SessionId,
    ) -> Result<(), WorkspaceAccessError> {
        let (copies, of, to) = (self.copies()?.clone(), of.clone(), to.clone());
        let (keep, session) = (keep.clone(), session.clone());
        self.to_its_end(async move { copies.roll_back(&of, &to, &keep, &session).await })
            .await
    }

    async fn fork_clean(
        &self,
        like: &WorkspaceId,
        snapshot: &SnapshotId,
        key: &str,
    ) -> Result<WorkspaceId, WorkspaceAccessError> {
        let name = clean_name(key);
        match self.clean_named(&name).await {
            Ok(Some(found)) => return Ok(found.id.clone()),
            Ok(None) => {}
            Err(error) => return Err(access(like, error)),
        }
        let like = self.record(like).map_err(|error| access(like, error))?;
        let name = (name.parse()).expect("`checks-` and hex digits are a workspace's name");
        let fork = CleanFork {
            snapshot: snapshot.clone(),
            name,
            // The checks may fetch what the work could fetch.
            egress: like.egress.clone(),
        };
        let copies = self.copies()?.clone();
        self.to_its_end(async move { copies.fork(fork).await })
            .await
    }

    async fn delete_clean(&self, id: &WorkspaceId) -> Result<(), WorkspaceAccessError> {
        match self.record(id) {
            // Deleted by an earlier call whose answer was lost.
            Err(_) => return Ok(()),
            Ok(record) if record.definition.purpose != Purpose::Checks => {
                let name = &record.definition.name;
                let message = format!("{name} is a project's and not made for checks");
                return Err(WorkspaceAccessError::Broken(message));
            }
            Ok(_) => {}
        }
        self.delete(id, false)
            .await
            .map_err(|error| access(id, error))
    }

    async fn delete_clean_of(&self, key: &str) -> Result<(), WorkspaceAccessError> {
        match self.resolve(&clean_name(key)) {
            Ok(clean) => self.delete_clean(&clean.id).await,
            Err(_) => Ok(()),
        }
    }

    async fn keep_clean(&self, keys: &[String]) -> Result<(), WorkspaceAccessError> {
        let kept: Vec<String> = keys.iter().map(|key| clean_name(key)).collect();
        let mut result = Ok(());
        for workspace in self.inner.index.all() {
            let (id, definition) = (&workspace.id, &workspace.definition);
            let is_kept = kept.iter().any(|name| name == definition.name.as_str());
            if definition.purpose == Purpose::Checks && !is_kept {
                tracing::info!(workspace_id = %id, "deleting a clean workspace of an earlier life");
                // One that the engine does not delete now the reconciler does.
                result = self.delete_clean(id).await.and(result);
            }
        }
        result
    }
}

/// Name of the clean workspace of a key. Deterministic, so that a retry after a
/// restart finds what was made.
fn clean_name(key: &str) -> String {
    const DIGITS: usize = 32;
    let hash = blake3::hash(key.as_bytes()).to_hex();
    format!("checks-{}", &hash[..DIGITS])
}

impl Workspaces {
    /// Names the owner of snapshots, once; until then there are no copies.
    pub fn set_clean_copies(&self, copies: Arc<dyn CleanCopies>) {
        if self.inner.copies.set(copies).is_err() {
            tracing::warn!("the maker of clean copies was named twice");
        }
    }

    /// Does something that must not be dropped halfway.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, WorkspaceAccessError>> + Send + 'static,
    ) -> Result<T, WorkspaceAccessError> {
        let ended = self.inner.tasks.spawn(work).await;
        ended.map_err(|error| WorkspaceAccessError::Unavailable(error.to_string()))?
    }

    /// The clean workspace of this name. One whose deletion was cut off is deleted
    /// first: what was checked in it is on nobody's record.
    pub(super) async fn clean_named(
        &self,
        name: &str,
    ) -> Result<Option<Arc<Workspace>>, WorkspacesError> {
        match self.resolve(name) {
            Err(_) => Ok(None),
            Ok(found) if found.desired == Desired::Deleted => {
                self.delete(&found.id, false).await?;
                Ok(None)
            }
            Ok(found) => Ok(Some(found)),
        }
    }

    fn copies(&self) -> Result<&Arc<dyn CleanCopies>, WorkspaceAccessError> {
        let nobody = || WorkspaceAccessError::Unavailable("nobody takes snapshots yet".to_owned());
        self.inner.copies.get().ok_or_else(nobody)
    }

    async fn make_clean(
        &self,
        like: &WorkspaceId,
        key: &str,
        wanted: &CleanRepository<'_>,
    ) -> Result<WorkspaceId, WorkspacesError> {
        let name = clean_name(key);
        let (repository, bundle) = (wanted.name, wanted.bundle);
        let source = self.record(like)?;
        let source = (source.repositories.iter()).find(|known| known.name == *repository);
        let source = source.and_then(|known| known.vouched_source().map(str::to_owned));
        let clean = match self.clean_named(&name).await? {
            Some(found) => found,
            None => {
                // The checks may fetch what the work could fetch.
                let like = self.record(like)?;
                let mut definition = like.definition.clone();
                definition.name = name
                    .parse()
                    .map_err(|error| WorkspacesError::Dropped(format!("{error}")))?;
                definition.purpose = Purpose::Checks;
                let id = WorkspaceId::from_uuid(Uuid::now_v7());
                self.create_from(id, definition, like.egress.clone(), IdleStop::Never)
                    .await?
            }
        };
        let request = AddRepository {
            key: name,
            asker: Asker::Other,
            name: Some(repository.clone()),
            reference: Some(wanted.branch.to_owned()),
            setup: SetupChoice::FileOf {
                commit: wanted.setup_at.to_owned(),
                source,
            },
            origin: RepositoryOrigin::File {
                source: bundle.display().to_string(),
                bundle: bundle.to_owned(),
            },
        };
        match self.add_repository(&clean.id, request).await {
            // The checks say what comes of that, and that it is so.
            Ok(_) | Err(WorkspacesError::SetupFailed { .. }) => Ok(clean.id.clone()),
            Err(error) => Err(error),
        }
    }
}

/// What a session does about an error: a workspace that is gone, or on its way
/// out, ends it; whatever else an engine, a link or a disk says may be over
/// when it is asked again, or when a person has looked.
fn access(id: &WorkspaceId, error: WorkspacesError) -> WorkspaceAccessError {
    match error {
        WorkspacesError::Unknown(_) => WorkspaceAccessError::Unknown(id.clone()),
        error @ WorkspacesError::Deleting(_) => WorkspaceAccessError::Broken(error.to_string()),
        error @ (WorkspacesError::NameTaken(_)
        | WorkspacesError::Limit(_)
        | WorkspacesError::Busy { .. }
        | WorkspacesError::Stopped(_)
        | WorkspacesError::Paused(_)
        | WorkspacesError::DiskLimit { .. }
        | WorkspacesError::Runtime(_)
        | WorkspacesError::ImageVolumes { .. }
        | WorkspacesError::ContainerEnded { .. }
        | WorkspacesError::AgentSilent { .. }
        | WorkspacesError::Link(_)
        | WorkspacesError::EgressOnBridge
        | WorkspacesError::NoTunnel(_)
        | WorkspacesError::Agent(_)
        | WorkspacesError::Store(_)
        | WorkspacesError::RepositoryExists(_)
        | WorkspacesError::Source(_)
        | WorkspacesError::Checkout(_)
        | WorkspacesError::RepositoryUnknown(_)
        | WorkspacesError::SetupFailed { .. }
        | WorkspacesError::Salvage(_)
        | WorkspacesError::Dropped(_)) => WorkspaceAccessError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{links::LinkError, runtime::RuntimeError, store::StoreError};

    #[test]
    fn only_a_workspace_that_is_gone_or_going_ends_a_session() {
        let id = WorkspaceId::from_uuid(Uuid::from_u128(1));
        let unknown = WorkspacesError::Unknown("a".to_owned());
        assert_eq!(
            access(&id, unknown),
            WorkspaceAccessError::Unknown(id.clone())
        );
        let deleting = WorkspacesError::Deleting("a".parse().unwrap());
        let broken = WorkspaceAccessError::Broken(deleting.to_string());
        assert_eq!(access(&id, deleting), broken);
        let refused = WorkspacesError::Runtime(RuntimeError::Refused {
            action: "start",
            subject: "container".to_owned(),
            message: "status 500".to_owned(),
        });
        for error in [
            refused,
            WorkspacesError::Checkout("exit 128".to_owned()),
            WorkspacesError::Stopped("a".parse().unwrap()),
            WorkspacesError::Link(LinkError::Timeout {
                seconds: 1,
                hint: String::new(),
            }),
            WorkspacesError::Store(StoreError::Missing("it".to_owned())),
        ] {
            let expected = WorkspaceAccessError::Unavailable(error.to_string());
            assert_eq!(access(&id, error), expected);
        }
    }
}
