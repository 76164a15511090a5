//! `compyctl snapshot fork`.

use clap::Args;
use compyd_proto::v1::ForkWorkspaceRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::workspace::print_workspace;

/// `compyctl snapshot fork ID NEW`.
#[derive(Debug, Args)]
pub(crate) struct ForkArguments {
    /// Snapshot id.
    snapshot: String,
    /// Name of the new workspace.
    new: String,
}

impl ForkArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ForkWorkspaceRequest {
            request_id: request_id(),
            workspace: String::new(),
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
