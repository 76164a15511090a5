//! `compyctl gc`.

use clap::Args;
use compyd_proto::v1::{CollectGarbageRequest, CollectedGarbage};
use serde::Serialize;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::{Format, bytes, print, print_json, table::Table};

/// `compyctl gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArguments {
    /// Change nothing; say what would go.
    #[arg(long)]
    dry_run: bool,
}

/// One kind in JSON.
#[derive(Debug, Serialize)]
struct CollectedView {
    /// `images`, `chunks`.
    kind: String,
    /// How many are gone, or would be.
    count: u64,
    /// Bytes that are free again; 0 where that is not known.
    freed_bytes: u64,
}

impl From<CollectedGarbage> for CollectedView {
    fn from(collected: CollectedGarbage) -> Self {
        CollectedView {
            kind: collected.kind,
            count: collected.count,
            freed_bytes: collected.freed_bytes,
        }
    }
}

impl GcArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = CollectGarbageRequest {
            request_id: request_id(),
            dry_run: self.dry_run,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.system(), request.clone());
                async move { client.collect_garbage(request).await }
            })
            .await?;
        let views: Vec<CollectedView> = response.collected.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&views)?,
            Format::Table => {
                let head = if self.dry_run { "WOULD GO" } else { "GONE" };
                let mut table = Table::new(&["KIND", head, "FREED"]);
                for view in &views {
                    let freed = match view.freed_bytes {
                        0 => String::new(),
                        known => bytes(known),
                    };
                    table.row([&view.kind, &view.count.to_string(), &freed]);
                }
                print(&table.to_string())?;
            }
        }
        Ok(Exit::OK)
    }
}
