//! `compyctl workspace stop`.

use clap::Args;
use compyd_proto::v1::StopWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl workspace stop NAME`.
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Name or id.
    workspace: String,
}

impl StopArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = StopWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.stop_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
