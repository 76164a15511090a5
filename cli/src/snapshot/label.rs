//! `compyctl snapshot label`.

use clap::Args;
use compyd_proto::v1::LabelSnapshotRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::snapshot::print_snapshot;

/// `compyctl snapshot label ID [LABEL]`.
#[derive(Debug, Args)]
pub(crate) struct LabelArguments {
    /// Snapshot id.
    snapshot: String,
    /// The label; without one the snapshot loses the one it has.
    label: Option<String>,
}

impl LabelArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = LabelSnapshotRequest {
            request_id: request_id(),
            snapshot: self.snapshot,
            label: self.label.unwrap_or_default(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.label_snapshot(request).await }
            })
            .await?;
        print_snapshot(context.format, response.snapshot)
    }
}
