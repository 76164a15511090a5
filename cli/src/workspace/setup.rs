//! `compyctl workspace setup`.

use clap::Args;
use compyd_proto::v1::SetUpRepositoryRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl workspace setup NAME`.
#[derive(Debug, Args)]
pub(crate) struct SetupArguments {
    /// Name or id.
    workspace: String,
    /// Directory of the repository below /workspace, where there are several.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    repo: String,
    /// Run a setup again that is done.
    #[arg(long)]
    force: bool,
}

impl SetupArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = SetUpRepositoryRequest {
            request_id: request_id(),
            workspace: self.workspace,
            repository: self.repo,
            again: self.force,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.setups(), request.clone());
                async move { client.set_up_repository(request).await }
            })
            .await?;
        for note in &response.notes {
            eprintln!("note: {note}");
        }
        print_workspace(context, response.workspace)
    }
}
