//! The thread that writes.
//!
//! What a full disk does not take of the records that nobody waits for is held
//! back, up to a bound, and written when there is space again; beyond the bound
//! it is counted, and the count is recorded. Records that somebody waits for
//! are refused at once: what they are about is not done.

use std::{
    collections::VecDeque,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    AuditOptions, Shared, closed, failure, remove_file,
    segment::{self, Contents, Indexer, Segment},
};
use crate::{
    adapters::{disk_space::sync_dir, fill::Filled},
    domain::audit::{
        Entry, Kind,
        chain::{Hash, Head},
        checkpoint::SigningKey,
    },
    metrics::{self, AuditAppend},
    ports::audit::{AuditError, Retention},
};

/// Records that nobody waits for and that are not written yet.
const MOST_WAITING: usize = 16 * 1024;
/// Records that a full disk did not take and that are tried again.
const MOST_HELD_BACK: usize = 4 * 1024;
/// How long others may join a record that nobody waits for.
const GATHER: Duration = Duration::from_millis(5);
/// How long a record that nobody waits for may stay unsynced.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// After how long a full disk is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Into how many files the time that is kept is divided at least.
const FILES_OF_TIME: i64 = 8;

type Ack<T> = oneshot::Sender<Result<T, AuditError>>;

/// What somebody waits for.
pub(super) enum Order {
    /// Record it, and say when it is on disk.
    Durable(Entry, Ack<u64>),
    /// Say when everything before is written.
    Written(Ack<()>),
    /// Sign everything before.
    Checkpoint(Ack<Vec<u8>>),
    /// Remove what need not be kept.
    Retain(Retention, Ack<u64>),
    /// Sign, close and end.
    Close(Ack<()>),
}

enum Waiting {
    Entry(Entry),
    Order(Order),
}

/// What waits for the writer.
#[derive(Default)]
pub(super) struct Queue {
    /// Held for a push or a take.
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// Records that found no room.
    missed: u64,
    /// Somebody waits for an answer.
    urgent: bool,
    /// Nobody can push any more.
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record that nobody waits for.
    pub(super) fn record(&self, entry: Entry) {
        let mut state = self.state();
        if state.closed || state.waiting.len() >= MOST_WAITING {
            state.missed += 1;
            return;
        }
        state.waiting.push(Waiting::Entry(entry));
        // The others find a writer that is awake.
        if state.waiting.len() == 1 {
            self.arrived.notify_one();
        }
    }

    /// Adds an order.
    pub(super) fn push(&self, order: Order) -> Result<(), AuditError> {
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        state.waiting.push(Waiting::Order(order));
        state.urgent = true;
        self.arrived.notify_one();
        Ok(())
    }

    /// Lets the writer end after what waits.
    pub(super) fn abandon(&self) {
        self.state().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for something, until `deadline` at most, and takes all of it with
    /// the number of missed records; `None` at the end.
    fn take(&self, deadline: Option<Instant>) -> Option<(Vec<Waiting>, u64)> {
        let mut state = self.state();
        while state.waiting.is_empty() && !state.closed {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => break,
                Some(left) => self.wait(state, left),
                None => (self.arrived.wait(state)).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let gathered = Instant::now() + GATHER;
        while !state.waiting.is_empty() && !state.urgent && !state.closed {
            let left = gathered.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left);
        }
        if state.closed && state.waiting.is_empty() {
            return None;
        }
        state.urgent = false;
        let missed = std::mem::take(&mut state.missed);
        Some((std::mem::take(&mut state.waiting), missed))
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let waited = self.arrived.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Makes sure that nobody waits for a writer that has ended.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.waiting.clear();
    }
}

/// The writer.
pub(super) struct Writer {
    shared: Shared,
    queue: Arc<Queue>,
    options: AuditOptions,
    key: SigningKey,
    head: Head,
    /// Number and line of the last checkpoint.
    pub(super) last_checkpoint: Option<(u64, Vec<u8>)>,
    /// Of the current file.
    pub(super) indexer: Indexer,
    current: Arc<Segment>,
    /// Where the lines of the current file end.
    end: u64,
    /// Of the current file.
    filled: Filled,
    /// A write failed and may have left something beyond the end.
    must_cut: bool,
    /// Up to where the current file is on disk for certain.
    synced_end: u64,
    /// Number of the last record that is.
    synced: u64,
    /// What is behind that.
    unsynced: Vec<u8>,
    unsynced_since: Option<Instant>,
    /// A sync failed: the kernel may have dropped what it was to write.
    must_rewrite: bool,
    /// What a full disk did not take.
    held_back: VecDeque<Entry>,
    missed: u64,
    /// When it was refused last.
    refused_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Shared,
        queue: Arc<Queue>,
        options: AuditOptions,
        key: SigningKey,
        head: Head,
    ) -> Self {
        let contents = shared.read().unwrap_or_else(PoisonError::into_inner);
        let current = contents.last().expect("there is a file to write to");
        let (current, end) = (current.segment.clone(), current.end());
        drop(contents);
        Self {
            shared,
            queue,
            options,
            key,
            head,
            last_checkpoint: None,
            indexer: Indexer::default(),
            current,
            end,
            filled: Filled::to(end),
            must_cut: false,
            synced_end: end,
            synced: head.seq,
            unsynced: Vec::new(),
            unsynced_since: None,
            must_rewrite: false,
            held_back: VecDeque::new(),
            missed: 0,
            refused_at: None,
        }
    }

    /// Will record that a crash cut off the end.
    pub(super) fn note_torn(&mut self, torn: &[u8]) {
        let torn = self
            .own(Kind::Daemon)
            .with("event", "end of the log was torn")
            .with("bytes", torn.len())
            .with("sha256", Hash::of(torn).to_string());
        self.held_back.push_back(torn);
    }

    fn own(&self, kind: Kind) -> Entry {
        Entry::new(self.options.clock.now_ms(), kind, "daemon")
    }

    /// Writes until told to close or until nobody can record any more.
    pub(super) fn run(mut self) {
        let ending = Ending(self.queue.clone());
        // What was read at the start may not be on disk yet.
        if let Err(error) = self.current.file.sync_all() {
            tracing::warn!(%error, "the audit log is not synced; the next sync tries again");
        }
        self.write_quietly(Vec::new());
        while let Some((waiting, missed)) = self.queue.take(self.deadline()) {
            self.missed += missed;
            metrics::audit_failed("missed", missed);
            let mut group = Vec::new();
            let mut acks = Vec::new();
            for next in waiting {
                match next {
                    Waiting::Entry(entry) => group.push(entry),
                    Waiting::Order(Order::Durable(entry, ack)) => acks.push((entry, ack)),
                    Waiting::Order(order) => {
                        self.write_quietly(std::mem::take(&mut group));
                        self.write_durably(std::mem::take(&mut acks));
                        if self.obey(order) {
                            return drop(ending);
                        }
                    }
                }
            }
            self.write_quietly(group);
            self.write_durably(acks);
            self.sync_when_due();
        }
        self.finish();
    }

    /// Leaves nothing but lines in the file. Where that fails, opening it does
    /// it.
    fn finish(&mut self) {
        if self.sync().is_ok() {
            let _ = self.cut();
        }
    }

    /// When there is something to do though nothing comes.
    fn deadline(&self) -> Option<Instant> {
        let sync = self.unsynced_since.map(|since| since + SYNC_AFTER);
        let held = (!self.held_back.is_empty() || self.missed > 0)
            .then(|| self.refused_at.unwrap_or_else(Instant::now) + TRY_AGAIN);
        sync.into_iter().chain(held).min()
    }

    /// Carries out an order; whether it was the last one.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Durable(entry, ack) => self.write_durably(vec![(entry, ack)]),
            Order::Written(ack) => drop(ack.send(Ok(()))),
            Order::Checkpoint(ack) => drop(ack.send(self.checkpoint())),
            Order::Retain(retention, ack) => drop(ack.send(self.retain(retention))),
            Order::Close(ack) => {
                if let Err(error) = self.checkpoint() {
                    tracing::warn!(%error, "the end of the audit log is not signed");
                }
                self.finish();
                let _ = ack.send(Ok(()));
                return true;
            }
        }
        false
    }

    /// Writes records that nobody waits for, after those held back.
    fn write_quietly(&mut self, group: Vec<Entry>) {
        self.held_back.extend(group);
        if self.missed > 0 {
            let missed = self.own(Kind::Daemon).with("event", "records were missed");
            self.held_back.push_back(missed.with("count", self.missed));
        }
        if self.held_back.is_empty() {
            return;
        }
        let entries: Vec<Entry> = self.held_back.drain(..).collect();
        let begun = Instant::now();
        match self.write(&entries) {
            Ok(()) => {
                metrics::audit_appended(AuditAppend::Written, entries.len(), begun.elapsed());
                self.missed = 0;
                if self.refused_at.take().is_some() {
                    tracing::info!("the audit log is written again");
                }
            }
            Err(error) => {
                metrics::audit_failed("write", 1);
                if self.refused_at.replace(Instant::now()).is_none() {
                    tracing::error!(%error, "the audit log is not written; it is tried again");
                }
                self.held_back.extend(entries);
                if self.missed > 0 {
                    // It is made anew with the next count.
                    self.held_back.pop_back();
                }
                let beyond = self.held_back.len().saturating_sub(MOST_HELD_BACK);
                self.held_back.truncate(MOST_HELD_BACK);
                metrics::audit_failed("missed", beyond as u64);
                self.missed += beyond as u64;
            }
        }
    }

    /// Writes records that somebody waits for, makes them durable, answers.
    fn write_durably(&mut self, group: Vec<(Entry, Ack<u64>)>) {
        if group.is_empty() {
            return;
        }
        let (entries, acks): (Vec<Entry>, Vec<Ack<u64>>) = group.into_iter().unzip();
        let begun = Instant::now();
        let written = self.write(&entries).and_then(|()| self.sync());
        match &written {
            Ok(()) => {
                metrics::audit_appended(AuditAppend::Durable, entries.len(), begun.elapsed());
            }
            Err(_) => metrics::audit_failed("write", 1),
        }
        let first = written.map(|()| self.head.seq + 1 - entries.len() as u64);
        for (place, ack) in (0..).zip(acks) {
            let _ = ack.send(first.clone().map(|first| first + place));
        }
    }

    /// Appends records, all or none. They may be lost until a sync.
    fn write(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        self.check_room(0)?;
        let fields: Vec<String> = entries.iter().map(Entry::fields).collect();
        self.check_room(fields.iter().map(String::len).sum())?;
        if self.end >= self.options.segment_bytes {
            self.roll()?;
        }
        if self.end == 0 && self.head.seq > 0 {
            self.append_checkpoint()?;
        }
        let (mut head, mut lines) = (self.head, Vec::new());
        let mut places = Vec::with_capacity(entries.len());
        for (number, fields) in fields.iter().enumerate() {
            let start = self.end + lines.len() as u64;
            head.add(fields, (number == 0).then_some(self.synced), &mut lines);
            places.push((start, self.end + lines.len() as u64, head.seq));
        }
        self.append(head, &lines, places.into_iter().zip(entries))
    }

    /// Appends a checkpoint. It may be lost until a sync.
    fn append_checkpoint(&mut self) -> Result<(), AuditError> {
        let (mut head, mut line) = (self.head, Vec::new());
        let at_ms = self.options.clock.now_ms();
        head.add_checkpoint(&self.key, at_ms, Some(self.synced), &mut line);
        let entry = Entry::new(at_ms, Kind::Checkpoint, "daemon");
        let place = (self.end, self.end + line.len() as u64, head.seq);
        self.append(head, &line, [(place, &entry)].into_iter())?;
        self.last_checkpoint = Some((head.seq, line));
        metrics::audit_signed(at_ms);
        Ok(())
    }

    /// Appends lines that lead to this head, and shows them to readers.
    fn append<'a>(
        &mut self,
        head: Head,
        lines: &[u8],
        records: impl Iterator<Item = ((u64, u64, u64), &'a Entry)>,
    ) -> Result<(), AuditError> {
        self.append_bytes(lines)
            .map_err(|error| failure("write", &self.current.path, &error))?;
        self.head = head;
        self.end += lines.len() as u64;
        self.unsynced.extend_from_slice(lines);
        self.unsynced_since.get_or_insert_with(Instant::now);
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(contents) = shared.last_mut() {
            for (place, entry) in records {
                (self.indexer).add(&self.current, &mut contents.blocks, place, entry);
            }
        }
        metrics::audit_has(shared.iter().map(Contents::bytes).sum());
        Ok(())
    }

    fn append_bytes(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.must_cut {
            self.cut()?;
        }
        let Segment { file, path, .. } = &*self.current;
        self.filled.reach(file, path, self.end + lines.len() as u64);
        let written = file.write_all_at(lines, self.end);
        if written.is_err() {
            self.must_cut = true;
            // Where this fails too, the next write tries again.
            let _ = self.cut();
        }
        written
    }

    /// Takes everything behind the last line off the file.
    fn cut(&mut self) -> io::Result<()> {
        self.filled.cut(&self.current.file, self.end)?;
        self.must_cut = false;
        Ok(())
    }

    /// Makes everything that is written durable.
    fn sync(&mut self) -> Result<(), AuditError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let rewritten = if self.must_rewrite {
            (self.current.file).write_all_at(&self.unsynced, self.synced_end)
        } else {
            Ok(())
        };
        let synced = rewritten.and_then(|()| self.current.file.sync_data());
        if let Err(error) = synced {
            metrics::audit_failed("sync", 1);
            self.must_rewrite = true;
            // Waits for its next turn.
            self.unsynced_since = Some(Instant::now());
            return Err(failure("sync", &self.current.path, &error));
        }
        self.must_rewrite = false;
        self.synced_end = self.end;
        self.synced = self.head.seq;
        self.unsynced.clear();
        // A rare large group does not stay in memory.
        self.unsynced.shrink_to(1 << 20);
        self.unsynced_since = None;
        Ok(())
    }

    fn sync_when_due(&mut self) {
        let due = |since: Instant| since.elapsed() >= SYNC_AFTER;
        if self.unsynced_since.is_some_and(due)
            && let Err(error) = self.sync()
        {
            tracing::error!(%error, "the audit log is not on disk; it is tried again");
        }
    }

    fn check_room(&self, bytes: usize) -> Result<(), AuditError> {
        // A line's frame, and what a file system needs for itself.
        const BESIDE: u64 = 64 << 10;
        let dir = &self.options.dir;
        let free = (self.options.free_bytes)(dir).map_err(|error| failure("write", dir, &error))?;
        if free < self.options.low_water_bytes + 2 * bytes as u64 + BESIDE {
            return Err(AuditError::DiskFull(dir.display().to_string()));
        }
        Ok(())
    }

    /// Goes on in a new file, once this one is on disk.
    fn roll(&mut self) -> Result<(), AuditError> {
        self.sync()?;
        let cut = self.cut();
        let dir = &self.options.dir;
        let failed = |error| failure("write", dir, &error);
        cut.map_err(failed)?;
        let segment = Segment::create(dir, self.head.seq + 1).map_err(failed)?;
        sync_dir(dir).map_err(failed)?;
        let segment = Arc::new(segment);
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        let full = shared.last().cloned();
        shared.push(Contents {
            segment: segment.clone(),
            blocks: Vec::new(),
        });
        drop(shared);
        if let Some(full) = full {
            self.indexer.close(&full.segment, &full.blocks);
            segment::keep_index(dir, &full);
        }
        self.current = segment;
        self.end = 0;
        self.filled = Filled::to(0);
        self.synced_end = 0;
        Ok(())
    }

    /// Signs everything so far, durably.
    fn checkpoint(&mut self) -> Result<Vec<u8>, AuditError> {
        self.write_quietly(Vec::new());
        let last = self.last_checkpoint.as_ref();
        if last.is_none_or(|(seq, _)| *seq != self.head.seq) {
            self.check_room(0)?;
            self.append_checkpoint()?;
        }
        self.sync()?;
        let (_, line) = self.last_checkpoint.as_ref().expect("it was just made");
        Ok(line.clone())
    }

    /// Removes whole files, once it is on disk that they may be missing.
    fn retain(&mut self, retention: Retention) -> Result<u64, AuditError> {
        let now_ms = self.options.clock.now_ms();
        let kept_ms = now_ms.saturating_sub(retention.before_ms).max(0);
        let oldest_ms = {
            let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
            shared.last().map_or(i64::MAX, Contents::oldest_ms)
        };
        if oldest_ms < now_ms.saturating_sub(kept_ms / FILES_OF_TIME) {
            self.roll()?;
            self.checkpoint()?;
        }
        let (gone, first) = self.dispensable(retention);
        let Some(last_gone) = gone.last() else {
            return Ok(first);
        };
        let newest_ms = last_gone.newest_ms();
        let cut = self
            .own(Kind::Retention)
            .with("first", first)
            .with("files", gone.len())
            .with("newest_ms", newest_ms);
        self.write(&[cut])?;
        self.checkpoint()?;
        let dir = &self.options.dir;
        for contents in &gone {
            let first = contents.segment.first;
            for file in segment::files(dir, first) {
                remove_file(&file).map_err(|error| failure("shorten", &file, &error))?;
            }
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            shared.retain(|contents| contents.segment.first != first);
        }
        sync_dir(dir).map_err(|error| failure("shorten", dir, &error))?;
        tracing::info!(
            first,
            files = gone.len(),
            "old records of the audit log are removed"
        );
        Ok(first)
    }

    /// The files that may go, the oldest first, and the first record that is
    /// left. The file that is written to stays.
    fn dispensable(&self, retention: Retention) -> (Vec<Contents>, u64) {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let mut bytes: u64 = shared.iter().map(Contents::bytes).sum();
        let full = &shared[..shared.len() - 1];
        let mut gone = Vec::new();
        for contents in full {
            if contents.newest_ms() >= retention.before_ms && bytes <= retention.max_bytes {
                break;
            }
            bytes -= contents.bytes();
            gone.push(contents.clone());
        }
        let first = shared[gone.len()].segment.first;
        (gone, first)
    }
}
