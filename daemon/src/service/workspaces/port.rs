//! Workspaces as sessions see them.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{AddRepository, RepositoryOrigin, SetupChoice, Workspaces, WorkspacesError};
use crate::{
    domain::{
        idle::IdleStop,
        ids::WorkspaceId,
        workspace::{Purpose, Workspace},
    },
    ports::{
        agent::AgentPort,
        workspaces::{CleanRepository, WorkspaceAccessError, WorkspacesPort},
    },
};

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
        let source = source.map_or_else(String::new, |known| known.source.clone());
        let clean = match self.resolve(&name) {
            Ok(found) => found,
            Err(_) => {
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
