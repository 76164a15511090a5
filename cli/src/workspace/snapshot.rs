//! `compyctl workspace snapshot`.

use clap::Args;
use compyd_proto::v1::CreateSnapshotRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::snapshot::print_snapshot;

/// `compyctl workspace snapshot NAME`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArguments {
    /// Name or id.
    workspace: String,
    /// What to call it.
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
}

impl SnapshotArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = CreateSnapshotRequest {
            request_id: request_id(),
            workspace: self.workspace,
            label: self.label,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.create_snapshot(request).await }
            })
            .await?;
        print_snapshot(context.format, response.snapshot)
    }
}
