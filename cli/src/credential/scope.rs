//! Where a credential may be used, as options.

use clap::Args;
use compyd_proto::v1::{CredentialScope, credential_scope::Scope};

/// One of the scopes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ScopeArguments {
    /// In this workspace: its name or id.
    #[arg(long, value_name = "WORKSPACE")]
    workspace: Option<String>,
    /// In workspaces that have the repository of this URL.
    #[arg(long, value_name = "URL")]
    project: Option<String>,
    /// In every workspace.
    #[arg(long)]
    global: bool,
}

impl ScopeArguments {
    pub(crate) fn into_wire(self) -> CredentialScope {
        let scope = match (self.workspace, self.project) {
            (Some(workspace), _) => Scope::Workspace(workspace),
            (None, Some(url)) => Scope::Project(url),
            (None, None) => Scope::Global(self.global),
        };
        CredentialScope { scope: Some(scope) }
    }
}
