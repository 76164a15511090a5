//! The two file methods that stream: bridges between messages and the blocking
//! archive code.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use compyd_proto::agent as wire;
use compyd_proto::link::MAX_CHUNK_BYTES;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, Replies, check_chunk};
use crate::errors::{AgentError, Reason};
use crate::files::FileTools;

/// Messages between the link and the disk: enough that neither waits for the
/// other's every step.
const QUEUE: usize = 4;
const PIECE_BYTES: usize = 128 * 1024;

pub(super) async fn upload(
    files: &FileTools,
    mut requests: Streaming<wire::UploadRequest>,
) -> Answer<wire::UploadResponse> {
    let Some(first) = requests.message().await? else {
        return Err(AgentError::new(
            Reason::SpecInvalid,
            "the upload ended before it named a directory",
        )
        .into());
    };
    check_chunk("a piece of the archive", &first.data)?;
    let (tx, rx) = mpsc::channel(QUEUE);
    let _ = tx.send(Ok(first.data)).await;
    let content = Incoming {
        pieces: rx,
        piece: Bytes::new(),
    };
    let unpacking = files.upload(first.directory, first.step_id, first.user, content);
    // Owns the sender: when it is done, the archive ends.
    let feeding = async move {
        loop {
            let piece = match requests.message().await {
                Ok(None) => return,
                Ok(Some(request)) => check_chunk("a piece of the archive", &request.data)
                    .map(|()| request.data)
                    .map_err(io::Error::other),
                // An upload that is cut off must not pass for a short archive.
                Err(status) => Err(io::Error::other(status.message().to_owned())),
            };
            let failed = piece.is_err();
            if tx.send(piece).await.is_err() || failed {
                return;
            }
        }
    };
    tokio::pin!(unpacking);
    let answer = tokio::select! {
        answer = &mut unpacking => answer,
        () = feeding => unpacking.await,
    };
    Ok(Response::new(answer?))
}

pub(super) async fn download(
    files: &FileTools,
    request: wire::DownloadRequest,
) -> Answer<Replies<wire::DownloadResponse>> {
    files.check_download(request.path.clone()).await?;
    let (tx, rx) = mpsc::channel(QUEUE);
    let sink = Outgoing {
        pieces: tx.clone(),
        piece: BytesMut::new(),
    };
    let files = files.clone();
    // Driven by the stream itself: when the caller goes away, the sink breaks
    // and the packing ends.
    let packing = async move {
        let result = files.download(request.path, sink).await;
        if let Err(error) = result {
            let _ = tx.send(Err(Status::from(error))).await;
        }
        None
    };
    let pieces = ReceiverStream::new(rx).map(Some);
    let replies = futures_util::stream::select(pieces, futures_util::stream::once(packing))
        .filter_map(|reply| async move { reply });
    let replies: Replies<_> = Box::pin(replies);
    Ok(Response::new(replies))
}

/// The messages of an upload as a reader.
struct Incoming {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The messages of a download as a writer.
struct Outgoing {
    pieces: mpsc::Sender<Result<wire::DownloadResponse, Status>>,
    piece: BytesMut,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const { assert!(PIECE_BYTES <= MAX_CHUNK_BYTES) };
        let length = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = self.piece.split().freeze();
        self.pieces
            .blocking_send(Ok(wire::DownloadResponse { data }))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
