//! What commands of a workspace may know: asked for when one starts, given to the
//! agent, and kept nowhere.

use async_trait::async_trait;

use crate::domain::ids::WorkspaceId;

/// Credentials for one command. It has no `Debug`, as it holds their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CommandSecrets {
    /// Variables, below those of the command's specification.
    pub environment: Vec<(String, Vec<u8>)>,
    /// Files on a tmpfs, readable for the command's account alone.
    pub files: Vec<SecretFile>,
}

/// A file with a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
    /// The variable with its path.
    pub variable: Option<String>,
}

/// Who knows what commands may know.
#[async_trait]
pub trait CommandSecretsPort: Send + Sync {
    /// For a command that starts in a workspace now. An error is for a person; the
    /// command is then not started.
    async fn of(&self, workspace: &WorkspaceId) -> Result<CommandSecrets, String>;
}
