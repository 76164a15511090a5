//! `compyctl audit export`.

use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::ExportAuditRequest;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, bytes, print_json};
use crate::sink::{Readers, Sink};

/// `compyctl audit export FILE`.
///
/// JSON lines up to a signed checkpoint, which is the last line. The files
/// appear when they are whole, for this account alone.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Where to; `-` for standard output.
    file: PathBuf,
    /// Write the checkpoint here too: kept on another machine, it shows whether
    /// the log was cut off or written anew.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

/// What was written, in JSON.
#[derive(Debug, Serialize)]
struct ExportedView {
    /// The file.
    file: String,
    /// Its size.
    bytes: u64,
    /// Its records.
    records: u64,
}

impl ExportArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let to_stdout = self.file.as_os_str() == "-";
        if context.format == Format::Json && to_stdout {
            return Err(Failure::usage(
                "the log and its description would both go to standard output",
                "name a file instead of -",
            ));
        }
        let daemon = context.daemon().await?;
        let mut stream = daemon
            .call(|| {
                let mut client = daemon.audit();
                async move { client.export_audit(ExportAuditRequest {}).await }
            })
            .await?;
        let file = (!to_stdout).then(|| self.file.clone());
        let mut sink = Sink::open(file, Readers::Owner)?;
        let (mut written, mut records, mut last) = (0, 0, Vec::new());
        while let Some(part) = stream
            .message()
            .await
            .map_err(|status| daemon.failure(status))?
        {
            for line in part.lines.split_inclusive(|byte| *byte == b'\n') {
                records += 1;
                last = line.to_vec();
            }
            written += part.lines.len() as u64;
            if !sink.write(&part.lines)? {
                return Ok(Exit::OK);
            }
        }
        sink.finish()?;
        if let Some(file) = self.checkpoint {
            let mut sink = Sink::open(Some(file), Readers::Owner)?;
            sink.write(&last)?;
            sink.finish()?;
        }
        let view = ExportedView {
            file: self.file.display().to_string(),
            bytes: written,
            records,
        };
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => eprintln!(
                "{} records, {} in {}",
                view.records,
                bytes(view.bytes),
                view.file
            ),
        }
        Ok(Exit::OK)
    }
}
