//! Credentials for hosts that the daemon itself speaks with for a workspace: none
//! of them is given away.

use async_trait::async_trait;

use crate::domain::{
    credential::{CredentialHost, git::GitRequest},
    ids::WorkspaceId,
    ssh::agent::{Identity, LoginToSign},
};

/// Who has the credentials of hosts. Errors are for a person.
#[async_trait]
pub trait HostCredentialsPort: Send + Sync {
    /// The value of the `Authorization` header for a request to a git host; its use
    /// is on record, durably, when this returns. `None` when the workspace has no
    /// login for the host.
    async fn git_login(
        &self,
        workspace: &WorkspaceId,
        host: &CredentialHost,
        request: &GitRequest,
    ) -> Result<Option<String>, String>;

    /// The SSH keys that a workspace may log in with.
    async fn ssh_identities(&self, workspace: &WorkspaceId) -> Result<Vec<Identity>, String>;

    /// Signs a login with the key that [`ssh_identities`] lists under its name; its
    /// use is on record, durably, when this returns.
    ///
    /// [`ssh_identities`]: Self::ssh_identities
    async fn ssh_sign(
        &self,
        workspace: &WorkspaceId,
        login: &LoginToSign,
    ) -> Result<Vec<u8>, String>;
}
