//! With whose rights the daemon fetches a repository, and that it does.

use core::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Asker, GitSourceError, Workspaces,
    git_source::{FetchRights, SourceUrl},
};
use crate::domain::{egress::Target, ids::WorkspaceId};

/// Who decides on the hosts that the daemon fetches from for others, and puts each
/// fetch on record; set by the owner of egress.
#[async_trait]
pub trait Fetches: Send + Sync {
    /// The addresses of a target that may be dialled for somebody who has none of
    /// the daemon's rights; on record either way. The error is for a person.
    async fn admit(&self, workspace: &WorkspaceId, target: &Target) -> Result<Vec<IpAddr>, String>;

    /// Puts on record that a URL, shown without its login, is fetched with the
    /// rights of the daemon's account.
    fn with_account(&self, workspace: &WorkspaceId, url: &str);
}

impl Workspaces {
    /// Names who decides on fetches, once; until then nothing is fetched for
    /// anybody but admins.
    pub fn set_fetches(&self, fetches: Arc<dyn Fetches>) {
        if self.inner.fetches.set(fetches).is_err() {
            tracing::warn!("who decides on fetches was named twice");
        }
    }

    /// With whose rights a URL is fetched for a workspace.
    pub(super) async fn fetch_rights(
        &self,
        id: &WorkspaceId,
        url: &SourceUrl,
        asker: Asker,
    ) -> Result<FetchRights, GitSourceError> {
        let fetches = self.inner.fetches.get();
        let forbidden = |why: String| GitSourceError::Forbidden {
            source_name: url.shown().to_owned(),
            why,
        };
        match asker {
            Asker::Admin => {
                if let Some(fetches) = fetches {
                    fetches.with_account(id, url.shown());
                }
                Ok(FetchRights::Account)
            }
            Asker::Other | Asker::OfSome => {
                let target = url.target()?;
                let nobody = || forbidden("nobody decides on its host".to_owned());
                let admitted = fetches.ok_or_else(nobody)?.admit(id, &target).await;
                match admitted.map_err(forbidden)? {
                    // Git would look an empty list up for itself.
                    none if none.is_empty() => Err(forbidden("its host has no address".to_owned())),
                    addresses => Ok(FetchRights::Nobody(target, addresses)),
                }
            }
        }
    }
}
