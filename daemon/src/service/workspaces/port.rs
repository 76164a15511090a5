//! Workspaces as sessions see them.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

use super::{AddRepository, RepositoryOrigin, Workspaces, WorkspacesError};
use crate::{
    domain::{
        ids::{RepositoryName, WorkspaceId},
        workspace::{Purpose, Workspace},
    },
    ports::{
        agent::AgentPort,
        workspaces::{WorkspaceAccessError, WorkspacesPort},
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

    async fn create_clean(
        &self,
        like: &WorkspaceId,
        key: &str,
        repository: &RepositoryName,
        bundle: &Path,
        branch: &str,
    ) -> Result<WorkspaceId, WorkspaceAccessError> {
        let made = self.make_clean(like, key, repository, bundle, branch).await;
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
}

impl Workspaces {
    async fn make_clean(
        &self,
        like: &WorkspaceId,
        key: &str,
        repository: &RepositoryName,
        bundle: &Path,
        branch: &str,
    ) -> Result<WorkspaceId, WorkspacesError> {
        const DIGITS: usize = 32;
        // Deterministic, so that a retry after a restart finds what was made.
        let hash = blake3::hash(key.as_bytes()).to_hex();
        let name = format!("checks-{}", &hash[..DIGITS]);
        let clean = match self.resolve(&name) {
            Ok(found) => found,
            Err(_) => {
                let mut definition = self.record(like)?.definition.clone();
                definition.name = name
                    .parse()
                    .map_err(|error| WorkspacesError::Dropped(format!("{error}")))?;
                definition.purpose = Purpose::Checks;
                self.create_from(definition).await?
            }
        };
        if clean.repositories.iter().any(|r| r.name == *repository) {
            return Ok(clean.id.clone());
        }
        let request = AddRepository {
            name: Some(repository.clone()),
            reference: Some(branch.to_owned()),
            origin: RepositoryOrigin::File {
                source: bundle.display().to_string(),
                bundle: bundle.to_owned(),
            },
        };
        match self.add_repository(&clean.id, request).await {
            // A kill came between the checkout and its record: begin again.
            Err(WorkspacesError::RepositoryExists(_)) => {
                self.delete(&clean.id, true).await?;
                Err(WorkspacesError::Dropped(format!(
                    "the half-made copy {name} was removed; make it again"
                )))
            }
            other => other.map(|_| clean.id.clone()),
        }
    }
}

fn access(id: &WorkspaceId, error: WorkspacesError) -> WorkspaceAccessError {
    match error {
        WorkspacesError::Unknown(_) => WorkspaceAccessError::Unknown(id.clone()),
        error if error.is_transient() => WorkspaceAccessError::Unavailable(error.to_string()),
        error => WorkspaceAccessError::Broken(error.to_string()),
    }
}
