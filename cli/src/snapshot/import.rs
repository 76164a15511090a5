//! `compyctl snapshot import`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use compyd_proto::v1::{ImportSnapshotRequest, ImportStart, import_snapshot_request::Part};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::snapshot::print_snapshot;

/// Bytes that are read and sent at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait to be sent.
const PIECES_WAITING: usize = 8;

/// `compyctl snapshot import FILE`.
///
/// Everything in the file is verified before anything of it is kept. The
/// snapshot is listed under the workspace that it was taken of, which need not
/// be there: `compyctl snapshot fork` makes a workspace from it.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// What `compyctl snapshot export` wrote; `-` for standard input.
    file: PathBuf,
}

impl ImportArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let input = open(&self.file).await?;
        let daemon = context.daemon().await?;
        let (tell, parts) = mpsc::channel(PIECES_WAITING);
        let reading = tokio::spawn(read(input, tell));
        let mut client = daemon.snapshots();
        let response = client.import_snapshot(ReceiverStream::new(parts)).await;
        let response = match response {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if reading.is_finished() => Err(daemon.failure(status)),
            // It wants no more of the file, and says why.
            Err(status) => {
                reading.abort();
                return Err(daemon.failure(status));
            }
        };
        // A file that cannot be read is the reason for whatever the daemon says.
        let unread = |error| {
            let path = self.file.display();
            Failure::local(format!("{path} cannot be read: {error}"), "")
        };
        match reading.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unread(error.to_string())),
            Err(error) => return Err(unread(error.to_string())),
        }
        let response = response?;
        if response.already {
            eprintln!("the snapshot was here already");
        }
        print_snapshot(context.format, response.snapshot)
    }
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

async fn open(path: &Path) -> Result<Input, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(tokio::io::stdin()));
    }
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Failure::usage(
            format!("{} cannot be read: {error}", path.display()),
            "name a file that `compyctl snapshot export` wrote",
        )),
    }
}

/// Sends the file. When it cannot be read the stream ends early, which the
/// daemon refuses; a daemon that takes no more says why itself.
async fn read(mut input: Input, tell: mpsc::Sender<ImportSnapshotRequest>) -> std::io::Result<()> {
    let message = |part| ImportSnapshotRequest { part: Some(part) };
    let start = ImportStart {
        request_id: request_id(),
    };
    let mut next = message(Part::Start(start));
    while tell.send(next).await.is_ok() {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut limited = (&mut input).take(PIECE_BYTES as u64);
        if limited.read_to_end(&mut piece).await? == 0 {
            break;
        }
        next = message(Part::Data(Bytes::from(piece)));
    }
    Ok(())
}
