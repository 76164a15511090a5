//! `compyctl workspace delete`.

use clap::Args;
use compyd_proto::v1::DeleteWorkspaceRequest;

use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::terminal;

/// `compyctl workspace delete NAME`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// Name or id.
    workspace: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Cancel sessions that run in it first.
    #[arg(long)]
    force: bool,
}

impl DeleteArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let name = &self.workspace;
        let question =
            format!("Delete workspace {name} with its container and all its files? [y/N] ");
        let instead = format!("compyctl workspace delete {name} --yes");
        if !self.yes && !terminal::confirmed(&question, &instead)? {
            eprintln!("nothing was deleted");
            return Ok(Exit::ERROR);
        }
        let daemon = context.daemon().await?;
        delete(&daemon, &self.workspace, self.force).await?;
        eprintln!("deleted workspace {}", self.workspace);
        Ok(Exit::OK)
    }
}

/// Deletes a workspace without asking.
pub(crate) async fn delete(daemon: &Daemon, workspace: &str, force: bool) -> Result<(), Failure> {
    let request = DeleteWorkspaceRequest {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        force,
    };
    daemon
        .call(|| {
            let (mut client, request) = (daemon.workspaces(), request.clone());
            async move { client.delete_workspace(request).await }
        })
        .await?;
    Ok(())
}
