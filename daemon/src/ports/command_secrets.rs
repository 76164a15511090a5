//! What commands of a workspace may know: asked for when one starts, given to the
//! agent, and kept nowhere.

use async_trait::async_trait;

use crate::domain::{
    credential::CommandTool,
    ids::{ExecId, WorkspaceId},
};

/// Credentials for one command. It has no `Debug`, as it holds their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CommandSecrets {
    /// Variables, below those of the command's specification.
    pub environment: Vec<(String, Vec<u8>)>,
    /// Files on a tmpfs, readable for the command's account alone.
    pub files: Vec<SecretFile>,
    /// Names of files that stay if they are there: other commands have them.
    pub kept_files: Vec<String>,
}

impl CommandSecrets {
    /// Whether the command is given nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.environment.is_empty() && self.files.is_empty()
    }
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
    /// For a command that this tool starts in a workspace now. An error is for a
    /// person; the command is then not started.
    async fn of(
        &self,
        workspace: &WorkspaceId,
        exec: &ExecId,
        tool: Option<CommandTool>,
    ) -> Result<CommandSecrets, String>;
}
