//! `compyctl workspace snapshots`.

use clap::Args;
use compyd_proto::v1::ListSnapshotsRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json,
    snapshot::{SnapshotView, list_table},
};

/// `compyctl workspace snapshots NAME`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotsArguments {
    /// Name or id; the id of a workspace that is gone works too.
    workspace: String,
}

impl SnapshotsArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ListSnapshotsRequest {
            workspace: self.workspace.clone(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.list_snapshots(request).await }
            })
            .await?;
        let views: Vec<SnapshotView> = response.snapshots.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&views)?,
            Format::Table if views.is_empty() => {
                let workspace = &self.workspace;
                eprintln!("no snapshots; take one with `compyctl workspace snapshot {workspace}`");
            }
            Format::Table => print(&list_table(&views).to_string())?,
        }
        Ok(Exit::OK)
    }
}
