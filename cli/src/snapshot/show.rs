//! `compyctl snapshot show`.

use clap::Args;
use compyd_proto::v1::GetSnapshotRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::snapshot::print_snapshot;

/// `compyctl snapshot show ID`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Snapshot id.
    snapshot: String,
}

impl ShowArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = GetSnapshotRequest {
            snapshot: self.snapshot,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.get_snapshot(request).await }
            })
            .await?;
        print_snapshot(context.format, response.snapshot)
    }
}
