//! Reading events back, from any thread.

use std::{
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError},
};

use super::{
    Shared, damaged, failure,
    record::{self, Record},
    segment::Segment,
};
use crate::{
    domain::ids::SessionId,
    ports::store::{EventBytes, StoreError},
};

/// What is read at once: the events of a session are mostly close together.
const WINDOW_BYTES: usize = 64 << 10;

/// Reads what the journal's writer has committed.
#[derive(Debug, Clone)]
pub struct JournalReader {
    shared: Shared,
}

impl JournalReader {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// Events of a session from a sequence number on, at most `limit`, in
    /// order. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with file and byte, or [`StoreError::Failed`].
    pub fn events(
        &self,
        session: &SessionId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventBytes>, StoreError> {
        let id = record::session_uuid(session);
        let first = usize::try_from(from.max(1) - 1).unwrap_or(usize::MAX);
        let wanted: Vec<_> = {
            let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
            let index = shared.as_ref().ok_or_else(closed)?;
            let log = index.logs.get(&id).map_or([].as_slice(), Vec::as_slice);
            let log = log.get(first..).unwrap_or_default();
            log.iter()
                .take(limit)
                .map(|at| {
                    let segment = index.segments[at.segment as usize - 1].clone();
                    (segment, u64::from(at.offset))
                })
                .collect()
        };
        let mut window = Window::default();
        let mut events = Vec::with_capacity(wanted.len());
        for (sequence, (segment, offset)) in (from.max(1)..).zip(&wanted) {
            let bytes = window
                .record(segment, *offset)
                .map_err(|error| failure("read events", segment.path(), &error))?;
            match bytes.and_then(|bytes| Record::decode(segment.key(), bytes)) {
                Some((record, event)) if (record.session, record.sequence) == (id, sequence) => {
                    events.push(event.to_vec());
                }
                _ => {
                    let why = format!("event {sequence} of {session} is not here any more");
                    return Err(damaged(segment.path(), *offset, &why));
                }
            }
        }
        Ok(events)
    }

    /// Every session with at least one event, newest id first.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the journal is closed.
    pub fn sessions(&self) -> Result<Vec<SessionId>, StoreError> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let index = shared.as_ref().ok_or_else(closed)?;
        let mut all: Vec<_> = index.logs.keys().copied().collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        Ok(all.into_iter().map(SessionId::from_uuid).collect())
    }
}

fn closed() -> StoreError {
    StoreError::Failed {
        action: "read events",
        message: "the store is closed".to_owned(),
    }
}

/// The piece of a file that was read last.
#[derive(Default)]
struct Window {
    segment: Option<Arc<Segment>>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The bytes of the record at a place; `None` when there is none.
    fn record(&mut self, segment: &Arc<Segment>, offset: u64) -> io::Result<Option<&[u8]>> {
        let header = self.read(segment, offset, record::HEADER_BYTES)?;
        let Some(length) = header.and_then(record::length) else {
            return Ok(None);
        };
        self.read(segment, offset, length)
    }

    fn read(
        &mut self,
        segment: &Arc<Segment>,
        offset: u64,
        length: usize,
    ) -> io::Result<Option<&[u8]>> {
        let same = self
            .segment
            .as_ref()
            .is_some_and(|held| held.number() == segment.number());
        let held = self.start..self.start + self.bytes.len() as u64;
        if !same || !held.contains(&offset) || offset + length as u64 > held.end {
            self.load(segment, offset, length)?;
        }
        let at = (offset - self.start) as usize;
        Ok(self.bytes.get(at..at + length))
    }

    fn load(&mut self, segment: &Arc<Segment>, offset: u64, length: usize) -> io::Result<()> {
        // A damaged length must not ask for more than there is.
        let there = segment.file().metadata()?.len().saturating_sub(offset);
        let most = length.max(WINDOW_BYTES) as u64;
        self.segment = None;
        self.bytes.resize(most.min(there) as usize, 0);
        segment.file().read_exact_at(&mut self.bytes, offset)?;
        self.segment = Some(segment.clone());
        self.start = offset;
        Ok(())
    }
}
