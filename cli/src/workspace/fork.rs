//! `compyctl workspace fork`.

use clap::Args;
use compyd_proto::v1::ForkWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl workspace fork NAME NEW`.
#[derive(Debug, Args)]
pub(crate) struct ForkArguments {
    /// Name or id.
    workspace: String,
    /// Name of the new workspace.
    new: String,
    /// Snapshot id to make it from. Default: one taken now, which stays.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "SNAPSHOT"
    )]
    snapshot: String,
}

impl ForkArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ForkWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
            name: self.new,
            snapshot: self.snapshot,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.fork_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
