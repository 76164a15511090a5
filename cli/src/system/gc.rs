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
    /// Remove also volumes of workspaces that the daemon does not know: each may
    /// be the only copy of somebody's files
    #[arg(long)]
    volumes: bool,
}

/// One kind in JSON.
#[derive(Debug, Serialize)]
struct CollectedView {
    /// `containers`, `volumes`, `images` and the like.
    kind: String,
    /// How many are gone, or would be.
    count: u64,
    /// Bytes that are free again; 0 where that is not known.
    freed_bytes: u64,
    /// How many more nothing names, which were left.
    kept: u64,
}

impl From<CollectedGarbage> for CollectedView {
    fn from(collected: CollectedGarbage) -> Self {
        CollectedView {
            kind: collected.kind,
            count: collected.count,
            freed_bytes: collected.freed_bytes,
            kept: collected.kept,
        }
    }
}

impl GcArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = CollectGarbageRequest {
            request_id: request_id(),
            dry_run: self.dry_run,
            volumes: self.volumes,
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
                let mut table = Table::new(&["KIND", head, "FREED", "KEPT"]);
                for view in &views {
                    let freed = match view.freed_bytes {
                        0 => String::new(),
                        known => bytes(known),
                    };
                    let kept = match view.kept {
                        0 => String::new(),
                        some => some.to_string(),
                    };
                    table.row([&view.kind, &view.count.to_string(), &freed, &kept]);
                }
                print(&table.to_string())?;
                if views.iter().any(|view| view.kept > 0) {
                    eprintln!(
                        "What is kept belongs to no workspace that the daemon knows, and may be \
                         the only copy of somebody's files. `compyctl gc --volumes` removes it."
                    );
                }
            }
        }
        Ok(Exit::OK)
    }
}
