//! `compyctl workspace resume`.

use clap::Args;
use compyd_proto::v1::ResumeWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl workspace resume NAME`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// Name or id.
    workspace: String,
}

impl ResumeArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ResumeWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.resume_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
