//! `compyctl snapshot delete`.

use clap::Args;
use compyd_proto::v1::DeleteSnapshotRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::terminal;

/// `compyctl snapshot delete ID`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// Snapshot id.
    snapshot: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl DeleteArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let id = &self.snapshot;
        let question = format!("Delete snapshot {id}? [y/N] ");
        if !self.yes
            && !terminal::confirmed(&question, &format!("compyctl snapshot delete {id} --yes"))?
        {
            eprintln!("nothing was deleted");
            return Ok(Exit::ERROR);
        }
        let daemon = context.daemon().await?;
        let request = DeleteSnapshotRequest {
            request_id: request_id(),
            snapshot: id.clone(),
        };
        daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.delete_snapshot(request).await }
            })
            .await?;
        eprintln!("deleted snapshot {id}");
        Ok(Exit::OK)
    }
}
