//! `compyctl workspace pause`.

use clap::Args;
use compyd_proto::v1::PauseWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl workspace pause NAME`.
#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    /// Name or id.
    workspace: String,
}

impl PauseArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = PauseWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.pause_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
