//! `compyctl workspace restore`.

use clap::Args;
use compyd_proto::v1::RestoreWorkspaceRequest;

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::terminal;

/// `compyctl workspace restore NAME SNAPSHOT`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// Name or id.
    workspace: String,
    /// Snapshot id.
    snapshot: String,
    /// Do not keep what is there now as a snapshot.
    #[arg(long)]
    no_backup: bool,
    /// Cancel sessions that run in it first.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl RestoreArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let (workspace, snapshot) = (&self.workspace, &self.snapshot);
        // With a backup there is a way back.
        let question = format!("Replace all files of workspace {workspace} for good? [y/N] ");
        let instead =
            format!("compyctl workspace restore {workspace} {snapshot} --no-backup --yes");
        if self.no_backup && !self.yes && !terminal::confirmed(&question, &instead)? {
            eprintln!("nothing was restored");
            return Ok(Exit::ERROR);
        }
        let daemon = context.daemon().await?;
        let request = RestoreWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
            snapshot: self.snapshot,
            no_backup: self.no_backup,
            force: self.force,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.restore_workspace(request).await }
            })
            .await?;
        if !response.backup_id.is_empty() {
            eprintln!("what was there before is snapshot {}", response.backup_id);
        }
        print_workspace(context, response.workspace)
    }
}
