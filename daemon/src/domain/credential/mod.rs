//! Credentials: what they are, where they may be used, and how they are sealed.
//!
//! A credential's record can be shown; its value exists sealed in the store, in
//! the daemon's memory, and where it is used.

pub mod git;
mod host;
pub mod seal;
#[cfg(test)]
mod tests;
mod tools;

use serde::{Deserialize, Serialize};

pub use self::{
    host::{CredentialHost, CredentialHostError, StandIn},
    tools::{AllowedTools, CommandTool},
};
use super::{
    ids::{CredentialName, WorkspaceId},
    redaction::forms::{self, IndistinctError},
    ssh::{self, HostKey, HostKeyError, SshKey, SshKeyError},
    workspace::{Repository, Workspace},
};

/// Bytes that a value may have: keys and configuration files are far smaller.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// Keys that an SSH host may have.
pub const MAX_HOST_KEYS: usize = 16;

/// Begins the names of the files that the daemon makes of credentials.
pub const OWN_FILES: &str = "compy-";

/// Variables that commands cannot do without, or that change which code runs.
const RESERVED: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "BASH_ENV",
    "ENV",
    "IFS",
    "COMPY_EXEC_ID",
];

/// Where a credential may be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialScope {
    /// In every workspace.
    Global,
    /// In workspaces that have the repository of this URL, or of this path, by the
    /// daemon's own knowledge of where it came from.
    Project(String),
    /// In one workspace.
    Workspace(WorkspaceId),
}

/// What a credential is to those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A text in a variable of commands.
    Value,
    /// A file that commands find on a tmpfs.
    File,
    /// A login for the git repositories of one host, by HTTPS: no command has it.
    Git,
    /// A private key for one SSH host: commands have logins signed with it.
    SshKey,
}

impl CredentialKind {
    /// The port of a host that none is named for; `None` where there is no host.
    fn default_port(self) -> Option<u16> {
        match self {
            Self::Value | Self::File => None,
            Self::Git => Some(443),
            Self::SshKey => Some(22),
        }
    }
}

/// Names a credential: the same name may exist in several scopes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CredentialKey {
    /// Where it may be used.
    pub scope: CredentialScope,
    /// Its name there.
    pub name: CredentialName,
}

/// A credential without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Names it.
    pub key: CredentialKey,
    /// What it is.
    pub kind: CredentialKind,
    /// The variable that commands find it in: the value, or the path of the file.
    pub environment: Option<String>,
    /// The host it is for, where its kind is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<CredentialHost>,
    /// The keys that an SSH host may show; 1 to 16 for a key of SSH.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<HostKey>,
    /// The commands that are given it, or told of it.
    #[serde(default, skip_serializing_if = "AllowedTools::is_default")]
    pub tools: AllowedTools,
    /// From when on it is not used any more, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<i64>,
    /// When it was first set, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// When it was set last, in milliseconds since the Unix epoch.
    pub updated_at_ms: i64,
}

/// A credential as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCredential {
    /// What can be shown. The seal holds for exactly this.
    pub credential: Credential,
    /// Tells the master key, 16 hex digits.
    pub key_id: String,
    /// 24 bytes, never used twice.
    pub nonce: Vec<u8>,
    /// The encrypted value and its tag.
    pub sealed: Vec<u8>,
}

/// A value that a credential had before it was replaced or deleted, as it is stored:
/// looked for, never used and never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastCredential {
    /// Tells it apart from others: 48 hex digits, the same however often it is
    /// sealed.
    pub id: String,
    /// When it was replaced or deleted, in milliseconds since the Unix epoch.
    pub ended_at_ms: i64,
    /// The credential as it was, with the value.
    pub sealed: SealedCredential,
}

/// What changes of credentials, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialsChange {
    /// Added, or put in the place of what has their keys.
    pub put: Vec<SealedCredential>,
    /// Forgotten; unknown ones are accepted.
    pub remove: Vec<CredentialKey>,
    /// Past values that are added, or put in the place of what has their ids.
    pub put_past: Vec<PastCredential>,
    /// Ids of past values that are forgotten; unknown ones are accepted.
    pub remove_past: Vec<String>,
}

/// A credential to be set.
#[derive(Clone)]
pub struct NewCredential {
    /// Names it.
    pub key: CredentialKey,
    /// What it is.
    pub kind: CredentialKind,
    /// The variable; `None` means the one that follows from the name for a
    /// value, and none for a file.
    pub environment: Option<String>,
    /// `HOST` or `HOST:PORT`; empty for kinds that are for no host.
    pub host: String,
    /// Lines of `known_hosts`; empty for all kinds but a key of SSH.
    pub host_keys: String,
    /// The commands that are given it; the default when there are none. Empty for a
    /// login or a key of a host, which all are told of.
    pub tools: Vec<CommandTool>,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<i64>,
    /// The value as given.
    pub value: Vec<u8>,
}

/// Why a credential is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialRefused {
    /// The value has too many bytes.
    #[error("the value has {0} bytes and may have {MAX_VALUE_BYTES}")]
    Long(usize),
    /// It could not be hidden.
    #[error(
        "the value cannot be told from ordinary text, so it could not be kept out of logs and prompts: {0}"
    )]
    Indistinct(#[from] IndistinctError),
    /// A variable cannot hold it.
    #[error("the value holds a NUL byte, which no environment variable can; set it as a file")]
    Nul,
    /// No variable can have this name.
    #[error(
        "`{0}` is not a variable for a credential: names have letters, digits and `_`, do not start with a digit, and are none that commands depend on"
    )]
    Variable(String),
    /// A project has a URL.
    #[error("a project is named by the URL of its repository, and this is none: `{0}`")]
    Project(String),
    /// The host, or that there is none.
    #[error("its host: {0}")]
    Host(#[from] CredentialHostError),
    /// No command has it, so no variable has either.
    #[error("a login or a key of a host is in no variable: leave --env out")]
    NoVariable,
    /// Whatever runs in the workspace can use it.
    #[error(
        "a login or a key of a host is for whatever runs in its workspace, as the daemon cannot tell which command uses it: leave --tool out"
    )]
    NoTools,
    /// A login would end a header.
    #[error("a login is one line: USER:PASSWORD, or a token alone")]
    Login,
    /// The private key.
    #[error("its key: {0}")]
    SshKey(#[from] SshKeyError),
    /// The keys of the host.
    #[error("its host's keys: {0}")]
    HostKeys(#[from] HostKeyError),
    /// None or too many keys of the host.
    #[error(
        "an SSH host is known by 1 to {MAX_HOST_KEYS} keys of its own: name a file with them by --host-key, such as what `ssh-keyscan -t ed25519 HOST` prints, compared with what the host's operator says"
    )]
    HostKeyCount,
    /// Host keys for something else.
    #[error("only a key of SSH has host keys: leave --host-key out")]
    UnwantedHostKeys,
    /// The daemon's own files have such names.
    #[error("names of files do not begin with `{OWN_FILES}`")]
    OwnFile,
}

impl NewCredential {
    /// What will be stored, and the value as it will be used. `before` is the
    /// credential that this one replaces.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn accept(
        self,
        now_ms: i64,
        before: Option<&Credential>,
    ) -> Result<(Credential, Vec<u8>), CredentialRefused> {
        if self.value.len() > MAX_VALUE_BYTES {
            return Err(CredentialRefused::Long(self.value.len()));
        }
        forms::check(&self.value)?;
        let mut key = self.key;
        if let CredentialScope::Project(url) = &key.scope {
            let known = project(url);
            if known.is_empty() || known.contains(char::is_whitespace) {
                return Err(CredentialRefused::Project(url.clone()));
            }
            key.scope = CredentialScope::Project(known.to_owned());
        }
        let (environment, value) = match self.kind {
            CredentialKind::Value => {
                // Shells and editors leave a line end behind.
                let value = self.value.trim_ascii().to_vec();
                if value.contains(&0) {
                    return Err(CredentialRefused::Nul);
                }
                let name = self.environment.unwrap_or_else(|| variable(&key.name));
                (Some(name), value)
            }
            CredentialKind::File if key.name.as_str().starts_with(OWN_FILES) => {
                return Err(CredentialRefused::OwnFile);
            }
            CredentialKind::File => (self.environment, self.value),
            CredentialKind::Git | CredentialKind::SshKey if self.environment.is_some() => {
                return Err(CredentialRefused::NoVariable);
            }
            CredentialKind::Git | CredentialKind::SshKey if !self.tools.is_empty() => {
                return Err(CredentialRefused::NoTools);
            }
            CredentialKind::Git => {
                let login = self.value.trim_ascii().to_vec();
                if login.iter().any(|byte| byte.is_ascii_control()) {
                    return Err(CredentialRefused::Login);
                }
                (None, login)
            }
            CredentialKind::SshKey => {
                SshKey::parse(&self.value)?;
                (None, self.value)
            }
        };
        let host = match (self.kind.default_port(), self.host.trim()) {
            (None, "") => None,
            (None, _) => return Err(CredentialHostError::Unwanted.into()),
            (Some(_), "") => return Err(CredentialHostError::Missing.into()),
            (Some(port), host) => Some(CredentialHost::parse(host, port)?),
        };
        let host_keys = HostKey::parse_all(&self.host_keys)?;
        match (self.kind, host_keys.len()) {
            (CredentialKind::SshKey, 1..=MAX_HOST_KEYS) => {}
            (CredentialKind::SshKey, _) => return Err(CredentialRefused::HostKeyCount),
            (_, 0) => {}
            (_, _) => return Err(CredentialRefused::UnwantedHostKeys),
        }
        if let Some(name) = &environment
            && !is_variable(name)
        {
            return Err(CredentialRefused::Variable(name.clone()));
        }
        let credential = Credential {
            key,
            kind: self.kind,
            environment,
            host,
            host_keys,
            tools: match self.kind {
                CredentialKind::Value | CredentialKind::File => AllowedTools::of(self.tools),
                CredentialKind::Git | CredentialKind::SshKey => {
                    AllowedTools::of(CommandTool::ALL.to_vec())
                }
            },
            expires_at_ms: self.expires_at_ms,
            created_at_ms: before.map_or(now_ms, |before| before.created_at_ms),
            updated_at_ms: now_ms,
        };
        Ok((credential, value))
    }
}

impl Credential {
    /// Whether it is not used any more.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// What is kept out of everything that is shown, of its value.
    #[must_use]
    pub fn secrets(&self, value: &[u8]) -> Vec<Vec<u8>> {
        match self.kind {
            CredentialKind::Value | CredentialKind::File | CredentialKind::Git => {
                vec![value.to_vec()]
            }
            CredentialKind::SshKey => ssh::secrets_of(value),
        }
    }

    /// Whether its scope covers a workspace.
    #[must_use]
    pub fn covers(&self, workspace: &Workspace) -> bool {
        match &self.key.scope {
            CredentialScope::Global => true,
            CredentialScope::Workspace(id) => *id == workspace.id,
            CredentialScope::Project(url) => {
                let mut vouched =
                    (workspace.repositories.iter()).filter_map(Repository::vouched_source);
                vouched.any(|source| project(source) == url)
            }
        }
    }
}

/// Of credentials that cover a workspace and have the same name, the one with the
/// narrowest scope counts, even when it has expired: a wider one is not what was
/// meant. In the order of their names.
#[must_use]
pub fn in_force<'a>(
    all: impl IntoIterator<Item = &'a Credential>,
    workspace: &Workspace,
    now_ms: i64,
) -> Vec<&'a Credential> {
    let mut covering: Vec<_> = (all.into_iter())
        .filter(|credential| credential.covers(workspace))
        .collect();
    // The order of scopes is from wide to narrow.
    covering.sort_by(|a, b| (&a.key.name, &b.key.scope).cmp(&(&b.key.name, &a.key.scope)));
    covering.dedup_by(|wider, narrower| wider.key.name == narrower.key.name);
    covering.retain(|credential| !credential.is_expired(now_ms));
    covering
}

/// A repository's URL as it is compared.
fn project(url: &str) -> &str {
    let url = url.trim().trim_end_matches('/');
    url.strip_suffix(".git").unwrap_or(url)
}

/// The variable that follows from a name: `npm-token` is in `NPM_TOKEN`.
fn variable(name: &CredentialName) -> String {
    let characters = name.as_str().chars();
    characters
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_uppercase(),
            false => '_',
        })
        .collect()
}

fn is_variable(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty()
        && name.len() <= 128
        && name.chars().all(legal)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.starts_with("LD_")
        && !RESERVED.contains(&name)
}
