//! `compyctl workspace show`.

use clap::Args;
use compyd_proto::v1::GetWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// `compyctl workspace show NAME`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Name or id.
    workspace: String,
}

impl ShowArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = GetWorkspaceRequest {
            workspace: self.workspace,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.get_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
