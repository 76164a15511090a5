//! Writing an archive: a tar put together piece by piece, compressed on a
//! thread of its own, and handed on as it comes.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::{super::SnapshotsError, format::Member};

/// Compressed bytes that are handed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait on each side of the compressor.
const PIECES_WAITING: usize = 8;
/// How hard it is compressed: chunks were when they were read.
const ZSTD_LEVEL: i32 = 1;
const BLOCK: usize = 512;

/// Whoever reads the archive has gone away.
#[derive(Debug)]
pub(super) struct Gone;

/// Where the pieces of an archive go, and what ended it early.
pub(super) type Pieces = mpsc::Receiver<Result<Bytes, SnapshotsError>>;

/// What the compressor is told.
enum Tar {
    Bytes(Bytes),
    /// It was whole.
    End,
}

/// A tar being written. Dropped without [`finish`](Self::finish), what came out
/// of it is no whole archive.
pub(super) struct ArchiveWriter {
    tar: mpsc::Sender<Tar>,
    out: mpsc::Sender<Result<Bytes, SnapshotsError>>,
    /// Bytes of the member under way that are still to come.
    left_bytes: u64,
    padding: usize,
}

impl ArchiveWriter {
    /// A writer, and where what it writes comes out.
    pub(super) fn new() -> (Self, Pieces) {
        let (tar, incoming) = mpsc::channel(PIECES_WAITING);
        let (out, pieces) = mpsc::channel(PIECES_WAITING);
        let compressed = out.clone();
        // On cancel: either end going away ends it. On error: there is none but
        // a reader that is gone.
        tokio::task::spawn_blocking(move || compress(incoming, compressed));
        let writer = Self {
            tar,
            out,
            left_bytes: 0,
            padding: 0,
        };
        (writer, pieces)
    }

    /// A member, whole.
    pub(super) async fn member(&mut self, member: &Member, content: Bytes) -> Result<(), Gone> {
        self.begin(member, content.len() as u64).await?;
        self.data(content).await
    }

    /// The beginning of a member of so many bytes.
    pub(super) async fn begin(&mut self, member: &Member, bytes: u64) -> Result<(), Gone> {
        debug_assert_eq!(self.left_bytes, 0, "the member before it is whole");
        let mut header = tar::Header::new_ustar();
        header
            .set_path(member.name())
            .expect("names of members are short");
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_size(bytes);
        header.set_cksum();
        self.send(Bytes::copy_from_slice(header.as_bytes())).await?;
        self.left_bytes = bytes;
        self.padding = (BLOCK - (bytes % BLOCK as u64) as usize) % BLOCK;
        Ok(())
    }

    /// The next bytes of the member that was begun.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Gone> {
        self.left_bytes = (self.left_bytes)
            .checked_sub(data.len() as u64)
            .ok_or(Gone)?;
        self.send(data).await?;
        match self.left_bytes {
            0 => self.send(Bytes::from(vec![0; self.padding])).await,
            _ => Ok(()),
        }
    }

    /// Whether the member that was begun is whole.
    pub(super) fn is_whole(&self) -> bool {
        self.left_bytes == 0
    }

    /// Ends the archive.
    pub(super) async fn finish(self) -> Result<(), Gone> {
        self.send(Bytes::from_static(&[0; 2 * BLOCK])).await?;
        self.tar.send(Tar::End).await.map_err(|_| Gone)
    }

    /// Tells whoever reads why there is no more.
    pub(super) async fn fail(self, error: SnapshotsError) {
        let _ = self.out.send(Err(error)).await;
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.tar.send(Tar::Bytes(bytes)).await.map_err(|_| Gone)
    }
}

fn compress(mut tar: mpsc::Receiver<Tar>, out: mpsc::Sender<Result<Bytes, SnapshotsError>>) {
    let work = || -> io::Result<()> {
        let out = Out {
            out,
            piece: BytesMut::with_capacity(PIECE_BYTES),
        };
        let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        while let Some(next) = tar.blocking_recv() {
            match next {
                Tar::Bytes(bytes) => encoder.write_all(&bytes)?,
                Tar::End => return encoder.finish()?.flush(),
            }
        }
        Ok(())
    };
    if let Err(error) = work() {
        tracing::debug!(%error, "an archive was not taken to its end");
    }
}

/// Sends what is written in larger pieces.
struct Out {
    out: mpsc::Sender<Result<Bytes, SnapshotsError>>,
    piece: BytesMut,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = self.piece.split().freeze();
        let sent = self.out.blocking_send(Ok(piece));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
