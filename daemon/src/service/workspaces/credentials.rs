//! A workspace's own credentials, which end with it.

use async_trait::async_trait;

use super::Workspaces;
use crate::{domain::ids::WorkspaceId, ports::store::StoreError};

/// Who keeps credentials.
#[async_trait]
pub trait WorkspaceCredentials: Send + Sync {
    /// Forgets those of one workspace, which is being deleted. May be called again
    /// after a failure.
    async fn forget(&self, workspace: &WorkspaceId) -> Result<(), StoreError>;
}

impl Workspaces {
    /// Names the keeper of credentials, once; until then none are forgotten.
    pub fn set_credentials(&self, keeper: std::sync::Arc<dyn WorkspaceCredentials>) {
        if self.inner.credentials.set(keeper).is_err() {
            tracing::warn!("the keeper of credentials was named twice");
        }
    }
}
