//! `compyctl snapshot export`.

use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::ExportSnapshotRequest;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, bytes, print_json};
use crate::sink::{Readers, Sink};

/// `compyctl snapshot export ID FILE`.
///
/// The file appears when it is whole, for this account alone: it holds
/// everything that the workspace held.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Snapshot id.
    snapshot: String,
    /// Where to; `-` for standard output.
    file: PathBuf,
}

/// What was written, in JSON.
#[derive(Debug, Serialize)]
struct ExportedView {
    /// Snapshot id.
    snapshot: String,
    /// The file.
    file: String,
    /// Its size.
    bytes: u64,
}

impl ExportArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let to_stdout = self.file.as_os_str() == "-";
        if context.format == Format::Json && to_stdout {
            return Err(Failure::usage(
                "the archive and its description would both go to standard output",
                "name a file instead of -",
            ));
        }
        let daemon = context.daemon().await?;
        let request = ExportSnapshotRequest {
            snapshot: self.snapshot.clone(),
        };
        let mut stream = daemon
            .call(|| {
                let (mut client, request) = (daemon.snapshots(), request.clone());
                async move { client.export_snapshot(request).await }
            })
            .await?;
        let file = (!to_stdout).then(|| self.file.clone());
        let mut sink = Sink::open(file, Readers::Owner)?;
        let mut written = 0;
        while let Some(piece) = stream
            .message()
            .await
            .map_err(|status| daemon.failure(status))?
        {
            if !sink.write(&piece.data)? {
                return Ok(Exit::OK);
            }
            written += piece.data.len() as u64;
        }
        sink.finish()?;
        let view = ExportedView {
            snapshot: self.snapshot,
            file: self.file.display().to_string(),
            bytes: written,
        };
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => eprintln!("{} in {}", bytes(view.bytes), view.file),
        }
        Ok(Exit::OK)
    }
}
