//! Reading an archive that anybody may have made: members one by one, each
//! with a name, a type and a size that are expected. What they hold is for the
//! importer to judge.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::format::{ArchiveError, END_BYTES_MAX, End, HEAD_BYTES_MAX, Member, PADDING_BYTES_MAX};
use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::{chunks::CHUNK_BYTES_MAX, image_archive::CONFIG_BYTES_MAX},
};

/// Parts that wait for who takes them.
const PARTS_WAITING: usize = 8;
/// Bytes of a layer that are handed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// The most that decompressing may look back, as a power of two.
const WINDOW_LOG_MAX: u32 = 27;

/// What an archive holds, in its order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// The first document.
    Head(Bytes),
    /// Raw bytes that come as the chunk with this hash.
    Chunk(ChunkHash, Bytes),
    /// The image's config.
    Config(Bytes),
    /// A layer of so many bytes begins.
    Layer(u64),
    /// The next bytes of the last layer.
    Data(Bytes),
    /// The last document; nothing came after it.
    End(End),
}

/// The parts of an archive under way.
pub(super) struct Parts {
    parts: mpsc::Receiver<Part>,
    reading: JoinHandle<Result<(), ArchiveError>>,
}

impl Parts {
    /// Reads what comes; dropped, it stops.
    pub(super) fn of(archive: BoxStream<'static, io::Result<Bytes>>) -> Self {
        let input = SyncIoBridge::new(StreamReader::new(archive));
        let (tell, parts) = mpsc::channel(PARTS_WAITING);
        // On cancel: whoever takes the parts is gone, which ends it. On error:
        // told by `next`.
        let reading = tokio::task::spawn_blocking(move || read(input, &tell));
        Self { parts, reading }
    }

    /// The next part. After the last one every byte of the archive was read.
    pub(super) async fn next(&mut self) -> Result<Part, ArchiveError> {
        if let Some(part) = self.parts.recv().await {
            return Ok(part);
        }
        match (&mut self.reading).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => Err(broken("it has an end and goes on")),
            Err(error) => Err(broken(error.to_string())),
        }
    }
}

fn broken(why: impl Into<String>) -> ArchiveError {
    ArchiveError::Broken(why.into())
}

fn read(input: impl Read, tell: &mpsc::Sender<Part>) -> Result<(), ArchiveError> {
    let unreadable = |error: io::Error| broken(error.to_string());
    let send = |part| {
        tell.blocking_send(part)
            .map_err(|_| broken("nobody takes it"))
    };
    let mut decoder = zstd::stream::read::Decoder::new(input).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    let mut archive = tar::Archive::new(decoder);
    let mut expected = Expected::default();
    let mut end = None;
    // Raw: what the extensions of tar say is never followed.
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let member = member_of(entry.header())?;
        let size = entry.header().size().map_err(unreadable)?;
        expected.check(&member, size)?;
        let mut document = || {
            let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
            entry.read_exact(&mut content).map_err(unreadable)?;
            Ok::<_, ArchiveError>(Bytes::from(content))
        };
        match member {
            Member::Head => send(Part::Head(document()?))?,
            Member::Chunk(hash) => send(Part::Chunk(hash, document()?))?,
            Member::Config => send(Part::Config(document()?))?,
            Member::Layer(_) => {
                send(Part::Layer(size))?;
                let mut left = size;
                while left > 0 {
                    let length = left.min(PIECE_BYTES as u64);
                    let mut piece = vec![0; length as usize];
                    entry.read_exact(&mut piece).map_err(unreadable)?;
                    left -= length;
                    send(Part::Data(piece.into()))?;
                }
            }
            Member::End => {
                let read = serde_json::from_slice::<End>(&document()?);
                end = Some(read.map_err(|error| broken(error.to_string()))?);
            }
        }
    }
    let end = end.ok_or_else(|| ArchiveError::Missing(Member::End.name()))?;
    only_zeros(archive.into_inner()).map_err(unreadable)?;
    send(Part::End(end))
}

/// The member that a header begins.
fn member_of(header: &tar::Header) -> Result<Member, ArchiveError> {
    let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    let refused = |why| {
        let name = name.chars().take(200).collect();
        Err(ArchiveError::Member { name, why })
    };
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return refused("its name leads out of the archive");
    }
    if header.entry_type() != tar::EntryType::Regular {
        return refused("it is no plain file");
    }
    match Member::parse(&name) {
        Some(member) => Ok(member),
        None => refused("archives of snapshots have no such member"),
    }
}

/// What may come next.
#[derive(Debug, Default)]
struct Expected {
    has_head: bool,
    has_config: bool,
    has_end: bool,
    layers: u64,
}

impl Expected {
    fn check(&mut self, member: &Member, size: u64) -> Result<(), ArchiveError> {
        let refused = |why| {
            let name = member.name();
            Err(ArchiveError::Member { name, why })
        };
        if self.has_end {
            return refused("it comes after the end");
        }
        if !self.has_head && *member != Member::Head {
            return refused("it comes before the manifest");
        }
        let max = match member {
            Member::Head => HEAD_BYTES_MAX,
            Member::Chunk(_) => CHUNK_BYTES_MAX as u64,
            Member::Config => CONFIG_BYTES_MAX as u64,
            // The disk says; see `ImageLoading::layer`.
            Member::Layer(_) => u64::MAX,
            Member::End => END_BYTES_MAX,
        };
        if size > max {
            return refused("it is larger than such a member may be");
        }
        match member {
            Member::Head if self.has_head => return refused("it is there twice"),
            Member::Head => self.has_head = true,
            Member::Config if self.has_config => return refused("it is there twice"),
            Member::Config => self.has_config = true,
            Member::Layer(number) if *number < self.layers => return refused("it is there twice"),
            Member::Layer(number) if *number > self.layers => {
                return refused("a layer before it is not there");
            }
            Member::Layer(_) => self.layers += 1,
            Member::End => self.has_end = true,
            // The importer knows which it waits for.
            Member::Chunk(_) => {}
        }
        Ok(())
    }
}

/// Reads to the end of the compressed bytes.
fn only_zeros(mut rest: impl Read) -> io::Result<()> {
    let mut piece = [0; 4096];
    let mut read = 0;
    loop {
        let length = rest.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        read += length as u64;
        if read > PADDING_BYTES_MAX || piece[..length].iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("something follows it"));
        }
    }
}
