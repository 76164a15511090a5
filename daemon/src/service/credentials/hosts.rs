//! Logins and keys that the daemon uses for a workspace with hosts, each use on
//! record before it is made.

use async_trait::async_trait;
use ring::rand::SystemRandom;

use super::{Credentials, Held};
use crate::{
    domain::{
        audit::{Entry, Kind},
        credential::{CredentialHost, CredentialKind, git},
        ids::WorkspaceId,
        ssh::{
            SshKey,
            agent::{Identity, LoginToSign},
        },
    },
    ports::host_credentials::HostCredentialsPort,
};

impl Credentials {
    /// Those of one kind that a workspace may use now.
    async fn of_kind(
        &self,
        workspace: &WorkspaceId,
        kind: CredentialKind,
    ) -> Result<Vec<Held>, String> {
        let Some(workspace) = self.workspace(workspace).await? else {
            return Ok(Vec::new());
        };
        let mut held = self.in_force(&workspace);
        held.retain(|held| held.credential.kind == kind);
        Ok(held)
    }

    /// Puts a use on record, durably.
    async fn used(
        &self,
        workspace: &WorkspaceId,
        held: &Held,
        about: impl FnOnce(Entry) -> Entry,
    ) -> Result<(), String> {
        let name = held.credential.key.name.to_string();
        let audit = &self.inner.audit;
        let entry = (audit.entry(Kind::CredentialUse, "daemon"))
            .in_workspace(workspace)
            .with("credentials", vec![name]);
        let entry = audit.of_only_step(entry, workspace);
        let entry = match &held.credential.host {
            Some(host) => entry.with("host", host.to_string()),
            None => entry,
        };
        let recorded = audit.record_durably(about(entry)).await;
        recorded
            .map(|_| ())
            .map_err(|error| format!("the use of a credential is not on record: {error}"))
    }
}

#[async_trait]
impl HostCredentialsPort for Credentials {
    async fn git_login(
        &self,
        workspace: &WorkspaceId,
        host: &CredentialHost,
        request: &git::GitRequest,
    ) -> Result<Option<String>, String> {
        let held = self.of_kind(workspace, CredentialKind::Git).await?;
        // Of several for one host the one with the narrowest scope.
        let for_host = held
            .into_iter()
            .filter(|held| held.credential.host.as_ref() == Some(host));
        let Some(held) = for_host.max_by(|a, b| {
            let order = |held: &Held| {
                (
                    held.credential.key.scope.clone(),
                    held.credential.key.name.clone(),
                )
            };
            order(a).cmp(&order(b))
        }) else {
            return Ok(None);
        };
        let about = |entry: Entry| entry.with("repository", request.repository.clone());
        self.used(workspace, &held, about).await?;
        Ok(Some(git::authorization(&held.value)))
    }

    async fn ssh_identities(&self, workspace: &WorkspaceId) -> Result<Vec<Identity>, String> {
        let held = self.of_kind(workspace, CredentialKind::SshKey).await?;
        let identities = held.into_iter().filter_map(|held| {
            let key = SshKey::parse(&held.value).ok()?;
            Some(Identity {
                name: held.credential.key.name.to_string(),
                public: key.public().to_vec(),
                algorithms: key.algorithms(),
                host_keys: held.credential.host_keys,
            })
        });
        Ok(identities.collect())
    }

    async fn ssh_sign(
        &self,
        workspace: &WorkspaceId,
        login: &LoginToSign,
    ) -> Result<Vec<u8>, String> {
        let name = &login.name;
        let held = self.of_kind(workspace, CredentialKind::SshKey).await?;
        let found = (held.into_iter()).find(|held| held.credential.key.name.as_str() == name);
        let held = found.ok_or_else(|| format!("credential {name} is not there any more"))?;
        let key = SshKey::parse(&held.value).map_err(|error| error.to_string())?;
        let about = |entry: Entry| entry.with("user", login.user.clone());
        self.used(workspace, &held, about).await?;
        let signature = key.sign(login.algorithm, &login.data, &SystemRandom::new());
        signature.ok_or_else(|| "this machine gives no random numbers".to_owned())
    }
}
