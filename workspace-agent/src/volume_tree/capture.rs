//! Capture: a walk, workers that name and pack chunks, and a sender that puts
//! what they made back into the walk's order.

use std::collections::HashSet;
use std::io;
use std::num::NonZero;

use compyd_proto::agent::{
    CaptureSummary, CaptureTreeResponse, CapturedChunk, CapturedChunks, CapturedEntries,
    CapturedEntry, Extent, FileKey, KeyedFile, capture_tree_response,
};
use prost::Message as _;
use tokio::sync::oneshot;

use super::chunks::{self, Claims, Job, Packed};
use super::content::Piece;
use super::node::Node;
use super::queue::{CloseOnDrop, Closed, Queue};
use super::walk::{Content, Walk};
use super::{WriteOut, failed, open_root, stamp_now_ns};
use crate::errors::AgentError;

/// Content that is read and not yet sent. The workers hold it twice, once as
/// it was read and once packed.
const HELD_BYTES: usize = 16 << 20;
/// What an entry or a chunk takes beside its content, about.
const STEP_BYTES: usize = 256;
/// Steps are handed on in batches of this much: waking the sender for each one
/// would take longer than to look at a file that is known.
const BATCH_BYTES: usize = 64 << 10;
const MAX_WORKERS: usize = 4;
/// Messages are sent when they hold this much.
const CHUNK_MESSAGE_BYTES: usize = 512 << 10;
const ENTRY_MESSAGE_BYTES: usize = 256 << 10;

/// The keys that a client remembers of an earlier capture.
///
/// Only a digest of each is kept: all that is ever asked is whether it is
/// there, and a tree may have millions.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    as_of_ns: i64,
    keys: HashSet<[u8; 16]>,
}

impl Remembered {
    /// Nothing yet; keys that are added were looked at in the tick of
    /// `as_of_ns` or later.
    pub(crate) fn as_of(as_of_ns: i64) -> Self {
        Self {
            as_of_ns,
            keys: HashSet::new(),
        }
    }

    pub(crate) fn add(&mut self, file: &KeyedFile) {
        if let Some(key) = &file.key {
            self.keys.insert(digest(&file.path, key));
        }
    }

    /// Whether the content under a key is known. See `CaptureHeader` for why a
    /// young key is not trusted.
    pub(super) fn knows(&self, path: &[u8], key: &FileKey) -> bool {
        key.mtime_ns.max(key.ctime_ns) < self.as_of_ns && self.keys.contains(&digest(path, key))
    }
}

fn digest(path: &[u8], key: &FileKey) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.size_bytes.to_le_bytes());
    hasher.update(&key.mtime_ns.to_le_bytes());
    hasher.update(&key.ctime_ns.to_le_bytes());
    hasher.update(&key.inode.to_le_bytes());
    hasher.update(path);
    let mut digest = [0; 16];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody wants the rest.
    Closed,
    /// A file could not be read; whoever knows its path says so.
    Io(io::Error),
    Failed(AgentError),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        Self::Failed(error)
    }
}

/// What the walk hands to the sender, in order.
enum Step {
    /// The next chunk of the file whose entry follows.
    Chunk {
        number: u64,
        length: u64,
        packed: oneshot::Receiver<Packed>,
    },
    /// The next hole of it.
    Hole(u64),
    /// The file is read again from its start.
    Again,
    Entry(Box<CapturedEntry>),
}

/// The walk's end of the queues.
pub(super) struct Outlet<'a> {
    batches: &'a Queue<Vec<Step>>,
    jobs: &'a Queue<Job>,
    next_number: u64,
    batch: Vec<Step>,
    batch_bytes: usize,
}

impl Outlet<'_> {
    pub(super) fn entry(&mut self, entry: CapturedEntry) -> Result<(), Stop> {
        let bytes = entry.encoded_len();
        self.step(Step::Entry(Box::new(entry)), bytes)
    }

    /// The next piece of the file whose entry comes when it is read.
    pub(super) fn piece(&mut self, piece: Piece) -> Result<(), Stop> {
        let data = match piece {
            Piece::Hole(length) => return self.step(Step::Hole(length), 0),
            Piece::Data(data) => data,
        };
        let (done, packed) = oneshot::channel();
        let (number, bytes) = (self.next_number, data.len());
        self.next_number += 1;
        let step = Step::Chunk {
            number,
            length: bytes as u64,
            packed,
        };
        // This queue has no limit: the other one holds the same chunks.
        self.jobs.push(Job { number, data, done }, 0)?;
        self.step(step, bytes)
    }

    /// What was handed on of the file does not count.
    pub(super) fn again(&mut self) -> Result<(), Stop> {
        self.step(Step::Again, 0)
    }

    fn step(&mut self, step: Step, bytes: usize) -> Result<(), Stop> {
        self.batch.push(step);
        self.batch_bytes += STEP_BYTES + bytes;
        if self.batch_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.flush()
    }

    /// Hands on what is left. The walk does so at its end.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let bytes = std::mem::take(&mut self.batch_bytes);
        Ok(self.batches.push(std::mem::take(&mut self.batch), bytes)?)
    }
}

/// What a capture does beside its walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CaptureOptions {
    pub(crate) content: Content,
    pub(crate) write_out: WriteOut,
}

/// Captures a tree, and hands each message to `send` until it refuses one.
pub(crate) fn capture(
    directory: &[u8],
    remembered: &Remembered,
    options: CaptureOptions,
    send: impl FnMut(CaptureTreeResponse) -> Result<(), ()>,
) -> Result<(), AgentError> {
    let CaptureOptions { content, write_out } = options;
    let root = open_root(directory)?;
    let node = Node::of(&root).map_err(|errno| failed("look at", directory, errno.into()))?;
    // Before anything is written out: a page that gets dirty while it is may
    // stay so, and then its file is as young as this.
    let keys_as_of_ns = stamp_now_ns();
    write_out.carry_out(&root, directory)?;
    let (batches, jobs) = (Queue::new(HELD_BYTES), Queue::new(usize::MAX));
    let claims = Claims::default();
    let outlet = Outlet {
        batches: &batches,
        jobs: &jobs,
        next_number: 0,
        batch: Vec::new(),
        batch_bytes: 0,
    };
    let mut sender = Sender::new(&claims, send);
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let packers: Vec<_> = (0..workers.min(MAX_WORKERS))
        .map(|_| chunks::packer())
        .collect::<Result<_, _>>()
        .map_err(|error| failed("make a compressor for", directory, error))?;
    let (walked, sent) = std::thread::scope(|scope| {
        for packer in packers {
            scope.spawn(|| chunks::work(&jobs, &claims, packer));
        }
        let walking = scope.spawn(|| {
            let _ends = (CloseOnDrop(&batches), CloseOnDrop(&jobs));
            Walk::new(outlet, remembered, content, &node).run(root)
        });
        let sent = {
            let _end = CloseOnDrop(&batches);
            sender.run(&batches)
        };
        (walking.join(), sent)
    });
    let walked = walked.map_err(|_| AgentError::lost_task("walk the tree"))?;
    let known = match (walked, sent) {
        (Err(Stop::Failed(error)), _) | (_, Err(Stop::Failed(error))) => return Err(error),
        (Err(Stop::Io(error)), _) | (_, Err(Stop::Io(error))) => {
            return Err(failed("read", directory, error));
        }
        (Err(Stop::Closed), _) | (_, Err(Stop::Closed)) => return Ok(()),
        (Ok(known), Ok(())) => known,
    };
    sender.finish(CaptureSummary {
        keys_as_of_ns,
        ..known
    });
    Ok(())
}

/// Puts what the workers made back into order, and messages together.
struct Sender<'a, F> {
    send: F,
    claims: &'a Claims,
    /// Of the file whose entry comes next.
    extents: Vec<Extent>,
    chunks: Vec<CapturedChunk>,
    chunk_message_bytes: usize,
    entries: Vec<CapturedEntry>,
    entry_message_bytes: usize,
    /// Bytes of all chunks sent, before and after packing.
    chunk_bytes: u64,
    sent_bytes: u64,
}

impl<'a, F: FnMut(CaptureTreeResponse) -> Result<(), ()>> Sender<'a, F> {
    fn new(claims: &'a Claims, send: F) -> Self {
        Self {
            send,
            claims,
            extents: Vec::new(),
            chunks: Vec::new(),
            chunk_message_bytes: 0,
            entries: Vec::new(),
            entry_message_bytes: 0,
            chunk_bytes: 0,
            sent_bytes: 0,
        }
    }

    fn run(&mut self, batches: &Queue<Vec<Step>>) -> Result<(), Stop> {
        while let Some(batch) = batches.pop() {
            for step in batch {
                self.step(step)?;
            }
        }
        self.flush_entries()
    }

    fn step(&mut self, step: Step) -> Result<(), Stop> {
        match step {
            Step::Chunk {
                number,
                length,
                packed,
            } => {
                let packed = packed
                    .blocking_recv()
                    .map_err(|_| AgentError::lost_task("pack a chunk"))?;
                self.chunk(number, length, packed)?;
            }
            Step::Hole(length) => self.extents.push(Extent {
                length,
                ..Extent::default()
            }),
            Step::Again => self.extents.clear(),
            Step::Entry(entry) => self.entry(*entry)?,
        }
        Ok(())
    }

    fn chunk(&mut self, number: u64, length: u64, packed: Packed) -> Result<(), Stop> {
        let hash = bytes::Bytes::copy_from_slice(packed.hash.as_bytes());
        self.extents.push(Extent {
            length,
            hash: hash.clone(),
        });
        let Some(content) = packed.content else {
            return Ok(());
        };
        if !self.claims.claim(packed.hash, number) {
            return Ok(());
        }
        self.chunk_bytes += length;
        self.sent_bytes += content.data.len() as u64;
        self.chunk_message_bytes += content.data.len();
        self.chunks.push(CapturedChunk {
            hash,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            content: Some(content),
        });
        if self.chunk_message_bytes >= CHUNK_MESSAGE_BYTES {
            self.flush_chunks()?;
        }
        Ok(())
    }

    fn entry(&mut self, mut entry: CapturedEntry) -> Result<(), Stop> {
        if let Some(entry) = &mut entry.entry {
            entry.extents = std::mem::take(&mut self.extents);
        }
        let bytes = entry.encoded_len();
        // An entry may be as large as a message can be.
        if self.entry_message_bytes + bytes > ENTRY_MESSAGE_BYTES {
            self.flush_entries()?;
        }
        self.entry_message_bytes += bytes;
        self.entries.push(entry);
        Ok(())
    }

    fn flush_chunks(&mut self) -> Result<(), Stop> {
        self.chunk_message_bytes = 0;
        let chunks = std::mem::take(&mut self.chunks);
        if chunks.is_empty() {
            return Ok(());
        }
        self.message(capture_tree_response::Message::Chunks(CapturedChunks {
            chunks,
        }))
    }

    /// Sends the entries, after the chunks that they name.
    fn flush_entries(&mut self) -> Result<(), Stop> {
        self.flush_chunks()?;
        self.entry_message_bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return Ok(());
        }
        self.message(capture_tree_response::Message::Entries(CapturedEntries {
            entries,
        }))
    }

    fn finish(mut self, known: CaptureSummary) {
        // Whoever does not wait for the last message does not miss it.
        let _ = self.message(capture_tree_response::Message::Summary(CaptureSummary {
            chunk_bytes: self.chunk_bytes,
            sent_bytes: self.sent_bytes,
            ..known
        }));
    }

    fn message(&mut self, message: capture_tree_response::Message) -> Result<(), Stop> {
        (self.send)(CaptureTreeResponse {
            message: Some(message),
        })
        .map_err(|()| Stop::Closed)
    }
}
