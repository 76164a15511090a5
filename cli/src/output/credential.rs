//! Credentials as compyctl prints them: never a value.

use compyd_proto::v1::{
    Credential, CredentialKind, CredentialScope, RotateMasterKeyResponse, credential_scope::Scope,
};
use serde::Serialize;

use super::{table::Table, time};

/// A credential in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct CredentialView {
    /// Its name.
    pub(crate) name: String,
    /// `global`, `project URL` or `workspace ID`.
    pub(crate) scope: String,
    /// `value`, `file`, `git` or `ssh-key`.
    pub(crate) kind: String,
    /// The variable; empty where there is none.
    pub(crate) env: String,
    /// The host that it is for, with its port; empty for a value or a file.
    pub(crate) host: String,
    /// The keys of an SSH host.
    pub(crate) host_keys: Vec<String>,
    /// Whose commands are given it, or told of it.
    pub(crate) tools: Vec<String>,
    /// From when on it is not used any more.
    pub(crate) expires_at: Option<String>,
    /// Whether it has expired.
    pub(crate) expired: bool,
    /// When it was first set.
    pub(crate) created_at: Option<String>,
    /// When it was set last.
    pub(crate) updated_at: Option<String>,
}

impl From<Credential> for CredentialView {
    fn from(credential: Credential) -> Self {
        let kind = match credential.kind() {
            CredentialKind::Unspecified | CredentialKind::Value => "value",
            CredentialKind::File => "file",
            CredentialKind::Git => "git",
            CredentialKind::SshKey => "ssh-key",
        };
        CredentialView {
            kind: kind.to_owned(),
            scope: scope(credential.scope),
            expires_at: time(credential.expires_at.as_ref()),
            expired: credential.expired,
            created_at: time(credential.created_at.as_ref()),
            updated_at: time(credential.updated_at.as_ref()),
            name: credential.name,
            env: credential.environment,
            host: credential.host,
            host_keys: credential.host_keys,
            tools: credential.tools,
        }
    }
}

fn scope(scope: Option<CredentialScope>) -> String {
    match scope.and_then(|scope| scope.scope) {
        Some(Scope::Project(url)) => format!("project {url}"),
        Some(Scope::Workspace(id)) => format!("workspace {id}"),
        Some(Scope::Global(_)) | None => "global".to_owned(),
    }
}

/// A rotation in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct RotationView {
    /// How many credentials were sealed anew.
    pub(crate) credentials: u32,
    /// Tells the key in force.
    pub(crate) key_id: String,
}

impl From<RotateMasterKeyResponse> for RotationView {
    fn from(response: RotateMasterKeyResponse) -> Self {
        RotationView {
            credentials: response.credentials,
            key_id: response.key_id,
        }
    }
}

/// Credentials, one line each.
pub(crate) fn list_table(credentials: &[CredentialView]) -> Table {
    let mut table = Table::new(&[
        "NAME", "KIND", "ENV/HOST", "TOOLS", "EXPIRES", "SET", "SCOPE",
    ]);
    for credential in credentials {
        let expires = match (&credential.expires_at, credential.expired) {
            (Some(_), true) => "expired",
            (Some(at), false) => at,
            (None, _) => "never",
        };
        let place = match credential.host.as_str() {
            "" => &credential.env,
            _ => &credential.host,
        };
        table.row([
            credential.name.as_str(),
            &credential.kind,
            place,
            &credential.tools.join(","),
            expires,
            credential.updated_at.as_deref().unwrap_or_default(),
            &credential.scope,
        ]);
    }
    table
}
