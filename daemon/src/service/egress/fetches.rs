//! Fetches of repositories that the daemon makes itself, for a workspace.

use core::net::IpAddr;

use async_trait::async_trait;
use tokio::time::timeout;

use super::{CONNECT_TIMEOUT, Egress};
use crate::{
    domain::{
        audit::{Entry, Kind, Outcome},
        egress::Target,
        ids::WorkspaceId,
    },
    ports::{tunnel::Refusal, world::WorldError},
    service::workspaces::Fetches,
};

#[async_trait]
impl Fetches for Egress {
    async fn admit(&self, workspace: &WorkspaceId, target: &Target) -> Result<Vec<IpAddr>, String> {
        let found = timeout(CONNECT_TIMEOUT, self.addresses(workspace, target)).await;
        let found =
            found.unwrap_or_else(|_| Err(Refusal::Failed(WorldError::Timeout(target.to_string()))));
        self.fetch_decided(
            workspace,
            &target.to_string(),
            "nobody",
            |entry| match &found {
                Ok(addresses) => {
                    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                    entry
                        .with_outcome(Outcome::Ok)
                        .decided_by("ALLOWED")
                        .with("addresses", addresses)
                }
                Err(Refusal::Denied { denial, .. }) => entry
                    .with_outcome(Outcome::Denied)
                    .decided_by(denial.code())
                    .with("reason", denial.to_string()),
                Err(Refusal::Failed(error)) => entry
                    .with_outcome(Outcome::Failed)
                    .decided_by("ALLOWED")
                    .with("error", error.to_string()),
            },
        );
        found.map_err(|refusal| match refusal {
            Refusal::Denied { denial, advice } if advice.is_empty() => denial.to_string(),
            Refusal::Denied { denial, advice } => format!("{denial}; {advice}"),
            Refusal::Failed(error) => error.to_string(),
        })
    }

    fn with_account(&self, workspace: &WorkspaceId, url: &str) {
        self.fetch_decided(workspace, url, "the daemon's account", |entry| {
            entry.with_outcome(Outcome::Ok).decided_by("ADMIN")
        });
    }
}

impl Egress {
    /// Puts what was decided on a fetch on record; `rights` are those it is made
    /// with.
    fn fetch_decided(
        &self,
        workspace: &WorkspaceId,
        target: &str,
        rights: &str,
        about: impl FnOnce(Entry) -> Entry,
    ) {
        tracing::info!(workspace_id = %workspace, target, rights, "fetch decided");
        if let Some(audit) = self.inner.audit.get() {
            let entry = (audit.entry(Kind::Network, "daemon"))
                .in_workspace(workspace)
                .with("event", "fetch of a repository")
                .with("target", target)
                .with("protocol", "git")
                .with("rights", rights);
            audit.record(about(entry));
        }
    }
}
