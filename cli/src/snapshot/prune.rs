//! `compyctl snapshot prune`.

use std::time::Duration;

use clap::Args;
use compyd_proto::v1::{PruneSnapshotsRequest, PruneSnapshotsResponse};
use serde::Serialize;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, bytes, print, print_json,
    snapshot::{SnapshotView, list_table},
};
use crate::terminal;
use crate::values;

/// `compyctl snapshot prune`.
///
/// Without a rule no snapshot goes, only content that no snapshot names any
/// more. Where both rules are given, a snapshot goes that both let go. One with
/// a label never goes.
#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Change nothing; say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Keep this many newest snapshots of each workspace, and delete others.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Delete snapshots older than this: 12h, 30d.
    #[arg(long, value_name = "AGE", value_parser = values::duration)]
    older_than: Option<Duration>,
    /// Delete snapshots of this workspace only: name, or id, also of one that
    /// is gone.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    workspace: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// What went, in JSON.
#[derive(Debug, Serialize)]
struct PrunedView {
    /// Whether nothing was changed.
    dry_run: bool,
    /// Snapshots, oldest first.
    snapshots: Vec<SnapshotView>,
    /// Images that nothing needed.
    images: u64,
    /// Chunks of content.
    chunks: u64,
    /// Bytes of disk.
    freed_bytes: u64,
}

impl PruneArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let has_rule = self.keep.is_some() || self.older_than.is_some();
        if !self.workspace.is_empty() && !has_rule {
            return Err(Failure::usage(
                "--workspace says whose snapshots go, and no rule says which",
                "add --keep N or --older-than AGE",
            ));
        }
        let older_than_seconds = match self.older_than {
            Some(age) if age < Duration::from_secs(1) => {
                return Err(Failure::usage(
                    "--older-than takes whole seconds",
                    "give 1s or more",
                ));
            }
            Some(age) => age.as_secs(),
            None => 0,
        };
        if has_rule && !self.dry_run && !self.yes {
            let question = "Delete the snapshots that these rules let go? [y/N] ";
            let hint = "compyctl snapshot prune ... --yes; --dry-run shows what would go";
            if !terminal::confirmed(question, hint)? {
                eprintln!("nothing was pruned");
                return Ok(Exit::ERROR);
            }
        }
        let daemon = context.daemon().await?;
        let request = PruneSnapshotsRequest {
            request_id: request_id(),
            dry_run: self.dry_run,
            workspace: self.workspace,
            keep_last: self.keep.unwrap_or(0),
            older_than_seconds,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.prune_snapshots(request).await }
            })
            .await?;
        show(context.format, self.dry_run, response)?;
        Ok(Exit::OK)
    }
}

fn show(format: Format, dry_run: bool, response: PruneSnapshotsResponse) -> Result<(), Failure> {
    let view = PrunedView {
        dry_run,
        snapshots: response.snapshots.into_iter().map(Into::into).collect(),
        images: response.images,
        chunks: response.chunks,
        freed_bytes: response.freed_bytes,
    };
    if format == Format::Json {
        return print_json(&view);
    }
    if !view.snapshots.is_empty() {
        print(&list_table(&view.snapshots).to_string())?;
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    print(&format!(
        "{verb} {} snapshots, {} images and {} chunks; {} of chunks\n",
        view.snapshots.len(),
        view.images,
        view.chunks,
        bytes(view.freed_bytes)
    ))
}
