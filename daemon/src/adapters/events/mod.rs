//! The logs of all sessions, in one journal that only grows.
//!
//! A group of appends is one write and one `fdatasync`, into room that is
//! [made ahead](super::fill).
//!
//! ```text
//! events/00000001.log   header | record | record | ...          full: cut to its end
//! events/00000002.log   header | record | record | 0 0 0 0 0 0  the one written
//! ```
//!
//! Where each event is, is kept in memory, eight bytes per event, and found
//! again by reading all of the journal when it is opened. Then a group that
//! was cut off by a crash is taken off the end: nobody was told that it is
//! there. Any other damage is refused with file and byte, never skipped.
//!
//! This module knows nothing of what an event says nor of threads: its owner
//! calls [`Journal`] from one of them, and [`JournalReader`] from any.

mod read;
mod record;
mod segment;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use uuid::Uuid;

pub use self::read::JournalReader;
use self::{
    record::Record,
    segment::{Segment, Tail},
};
use crate::{
    adapters::{
        disk_space::{is_disk_full, sync_dir},
        fill::{FILL_BYTES, Filled},
    },
    domain::ids::SessionId,
    metrics,
    ports::store::{EventBytes, StoreError},
};

/// A file this long is not written to any more.
const SEGMENT_BYTES: u64 = 256 << 20;

/// The place of an event: the number of its file and the byte there.
#[derive(Debug, Clone, Copy)]
struct Position {
    segment: u32,
    offset: u32,
}

/// What is durable, and where.
#[derive(Debug, Default)]
struct Index {
    /// The event with sequence number `n` is at `n - 1`.
    logs: HashMap<Uuid, Vec<Position>>,
    /// The file with number `n` is at `n - 1`.
    segments: Vec<Arc<Segment>>,
}

/// `None` once it is closed.
type Shared = Arc<RwLock<Option<Index>>>;

/// An event that is checked and not yet written.
struct Staged {
    session: Uuid,
    sequence: u64,
    event: EventBytes,
}

/// The journal's writer. Appends are staged, then [committed](Self::commit)
/// together.
pub struct Journal {
    dir: PathBuf,
    segment_bytes: u64,
    shared: Shared,
    current: Arc<Segment>,
    /// Where the acknowledged records of the current file end.
    end: u64,
    /// Of the current file.
    filled: Filled,
    /// The number of the last group.
    group: u64,
    staged: Vec<Staged>,
    /// Bytes of what is staged, as they will be on disk.
    staged_bytes: u64,
    /// The next sequence numbers of logs with something staged.
    staged_ends: HashMap<Uuid, u64>,
    /// A write failed and left something beyond the end.
    must_cut: bool,
    buffer: Vec<u8>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("current", &self.current)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `dir` and reads it through; makes it where there
    /// is none, unless it `must_exist`. Blocks. One at a time may have it open,
    /// which its owner ensures.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with file and byte, [`StoreError::DiskFull`],
    /// or [`StoreError::Failed`] for the rest.
    pub fn open(dir: impl Into<PathBuf>, must_exist: bool) -> Result<Self, StoreError> {
        Self::open_with(dir.into(), must_exist, SEGMENT_BYTES)
    }

    fn open_with(dir: PathBuf, must_exist: bool, segment_bytes: u64) -> Result<Self, StoreError> {
        let failed = |error| failure("open", &dir, &error);
        fs::create_dir_all(&dir).map_err(failed)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent).map_err(failed)?;
        }
        let numbers = segment::numbers(&dir).map_err(failed)?;
        if let Some((expected, _)) = (1..).zip(&numbers).find(|(n, found)| n != *found) {
            let missing = segment::path(&dir, expected);
            return Err(StoreError::Damaged(format!(
                "{} is missing",
                missing.display()
            )));
        }
        if numbers.is_empty() && must_exist {
            let dir = dir.display();
            return Err(StoreError::Damaged(format!(
                "{dir} has lost its session logs"
            )));
        }
        let mut index = Index::default();
        let mut group = 0;
        let mut end = 0;
        for number in &numbers {
            let last = *number as usize == numbers.len();
            let path = segment::path(&dir, *number);
            let Some(segment) = Segment::open(&path, *number, group + 1, last)? else {
                break;
            };
            let tail = if last { Tail::MayBeTorn } else { Tail::IsWhole };
            let logs = &mut index.logs;
            end = segment.scan(tail, &mut group, |record, offset| {
                let log = logs.entry(record.session).or_default();
                let expected = log.len() as u64 + 1;
                if record.sequence != expected {
                    let found = record.sequence;
                    return Err(format!("event {found} is where {expected} should be"));
                }
                log.push(Position {
                    segment: *number,
                    offset,
                });
                Ok(())
            })?;
            index.segments.push(Arc::new(segment));
        }
        if index.segments.len() == numbers.len().saturating_sub(1) || numbers.is_empty() {
            // None, or the last one was never written to.
            let number = index.segments.len() as u32 + 1;
            let made = Segment::create(&dir, number, group + 1).map_err(failed)?;
            index.segments.push(Arc::new(made));
            end = segment::HEADER_BYTES;
        }
        let current = index.segments.last().expect("there is at least one");
        let mut journal = Self {
            segment_bytes,
            current: current.clone(),
            shared: Arc::new(RwLock::new(Some(index))),
            end,
            filled: Filled::to(end),
            group,
            staged: Vec::new(),
            staged_bytes: 0,
            staged_ends: HashMap::new(),
            must_cut: false,
            buffer: Vec::new(),
            dir,
        };
        journal
            .cut()
            .map_err(|error| failure("open", &journal.dir, &error))?;
        Ok(journal)
    }

    /// Reads what is committed.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// Takes up an append for the next [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`StoreError::WrongSequence`], or [`StoreError::Failed`] for one that
    /// is too large; then nothing of it is staged.
    pub fn stage(
        &mut self,
        session: &SessionId,
        next: u64,
        events: Vec<EventBytes>,
    ) -> Result<(), StoreError> {
        let id = record::session_uuid(session);
        let expected = match self.staged_ends.get(&id) {
            Some(end) => *end,
            None => self.committed(&id) + 1,
        };
        if next != expected {
            return Err(StoreError::WrongSequence {
                session: session.clone(),
                expected,
                given: next,
            });
        }
        let bytes: u64 = events
            .iter()
            .map(|event| record::HEADER_BYTES as u64 + event.len() as u64)
            .sum();
        // Places in a file have 32 bits.
        if self.staged_bytes + bytes > u64::from(u32::MAX) - self.segment_bytes - FILL_BYTES {
            return Err(StoreError::Failed {
                action: "append events",
                message: format!("{bytes} bytes are too many at once; append fewer"),
            });
        }
        self.staged_bytes += bytes;
        self.staged_ends.insert(id, next + events.len() as u64);
        for (sequence, event) in (next..).zip(events) {
            self.staged.push(Staged {
                session: id,
                sequence,
                event,
            });
        }
        Ok(())
    }

    /// Makes everything staged durable: all or none of it. Readers see it
    /// afterwards.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] or [`StoreError::Failed`]: nothing was
    /// appended, and the next commit may succeed.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        let staged = std::mem::take(&mut self.staged);
        self.staged_bytes = 0;
        self.staged_ends.clear();
        if staged.is_empty() {
            return Ok(());
        }
        self.write(&staged).map_err(|error| {
            if self.must_cut
                && let Err(error) = self.cut()
            {
                let file = self.current.path().display();
                tracing::warn!(%file, %error, "a failed write is not taken back yet; the next one tries again");
            }
            failure("append events", &self.dir, &error)
        })
    }

    /// Closes the files: later reads fail.
    pub fn close(mut self) {
        // Gives back the space filled ahead; opening does it otherwise.
        let _ = self.cut();
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        drop(shared.take());
    }

    /// How many events of a log are committed.
    fn committed(&self, session: &Uuid) -> u64 {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let log = shared.as_ref().and_then(|index| index.logs.get(session));
        log.map_or(0, |log| log.len() as u64)
    }

    fn write(&mut self, staged: &[Staged]) -> io::Result<()> {
        if self.must_cut {
            self.cut()?;
        }
        if self.end >= self.segment_bytes {
            self.roll()?;
        }
        let group = self.group + 1;
        let mut positions = Vec::with_capacity(staged.len());
        self.buffer.clear();
        for (left, event) in (0..staged.len() as u32).rev().zip(staged) {
            let offset = self.end + self.buffer.len() as u64;
            positions.push(Position {
                segment: self.current.number(),
                offset: u32::try_from(offset).expect("staging keeps a group below 4 GiB"),
            });
            let record = Record {
                session: event.session,
                sequence: event.sequence,
                group,
                left,
            };
            record.encode(self.current.key(), &event.event, &mut self.buffer);
        }
        let end = self.end + self.buffer.len() as u64;
        self.must_cut = true;
        self.filled
            .reach(self.current.file(), self.current.path(), end);
        self.current.file().write_all_at(&self.buffer, self.end)?;
        let begun = Instant::now();
        self.current.file().sync_data()?;
        metrics::journal_synced(staged.len(), begun.elapsed());
        self.must_cut = false;
        self.end = end;
        self.group = group;
        // A rare large group does not stay in memory.
        self.buffer.shrink_to(1 << 20);

        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &mut *shared {
            for (event, position) in staged.iter().zip(positions) {
                index.logs.entry(event.session).or_default().push(position);
            }
        }
        Ok(())
    }

    /// Takes everything beyond the acknowledged end off the file, durably.
    fn cut(&mut self) -> io::Result<()> {
        self.filled.cut(self.current.file(), self.end)?;
        self.must_cut = false;
        Ok(())
    }

    /// Goes on in a new file.
    fn roll(&mut self) -> io::Result<()> {
        self.cut()?;
        let number = self.current.number() + 1;
        let segment = Arc::new(Segment::create(&self.dir, number, self.group + 1)?);
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &mut *shared {
            index.segments.push(segment.clone());
        }
        self.current = segment;
        self.end = segment::HEADER_BYTES;
        self.filled = Filled::to(self.end);
        Ok(())
    }
}

/// An error of the file system in the port's words.
fn failure(action: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let path = path.display();
    if is_disk_full(error) {
        return StoreError::DiskFull(path.to_string());
    }
    StoreError::Failed {
        action,
        message: format!("{path}: {error}"),
    }
}

fn damaged(path: &Path, offset: u64, why: &str) -> StoreError {
    let path = path.display();
    StoreError::Damaged(format!("{path} at byte {offset}: {why}"))
}
