//! One file of the log, and the sparse index of it: for each block of lines
//! where it is and when its records are from, and a [`Filter`] of what they say.
//!
//! The index of a file that is not written to any more lies beside it. It is
//! only a copy: where it is missing or not of that file, it is made anew.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    damaged, failure,
    filter::{self, Filter},
};
use crate::{
    domain::audit::{
        Entry,
        chain::{Hash, Head, Line, Record},
        query::Query,
    },
    ports::audit::AuditError,
};

/// A block is closed by the line with which it has this many bytes.
const BLOCK_BYTES: u64 = 64 << 10;

/// Some lines that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    /// Where it begins in its file.
    pub(super) offset: u64,
    /// Where it ends.
    pub(super) end: u64,
    /// Number of its first record.
    pub(super) first: u64,
    /// How many records it has.
    pub(super) records: u64,
    oldest_ms: i64,
    newest_ms: i64,
}

impl Block {
    /// A block of one line.
    fn new(offset: u64, end: u64, seq: u64, entry: &Entry) -> Self {
        let mut block = Self {
            offset,
            end: offset,
            first: seq,
            records: 0,
            oldest_ms: entry.at_ms,
            newest_ms: entry.at_ms,
        };
        block.add(end, entry);
        block
    }

    fn add(&mut self, end: u64, entry: &Entry) {
        self.end = end;
        self.records += 1;
        self.oldest_ms = self.oldest_ms.min(entry.at_ms);
        self.newest_ms = self.newest_ms.max(entry.at_ms);
    }

    /// Whether a record of it is of the time, and in the part, that is looked in.
    pub(super) fn may_be_of(&self, query: &Query) -> bool {
        query.since_ms.is_none_or(|since| self.newest_ms >= since)
            && query.until_ms.is_none_or(|until| self.oldest_ms < until)
            && query.before_seq.is_none_or(|before| self.first < before)
    }
}

/// Adds lines to the blocks of a file, and keeps the filters of those that are
/// full.
#[derive(Default)]
pub(super) struct Indexer {
    /// Of the last block.
    filter: Filter,
}

impl Indexer {
    /// Adds a line.
    pub(super) fn add(
        &mut self,
        segment: &Segment,
        blocks: &mut Vec<Block>,
        (offset, end, seq): (u64, u64, u64),
        entry: &Entry,
    ) {
        match blocks.last_mut() {
            Some(block) if block.end - block.offset < BLOCK_BYTES => block.add(end, entry),
            _ => {
                self.close(segment, blocks);
                blocks.push(Block::new(offset, end, seq, entry));
            }
        }
        self.filter.add(entry);
    }

    /// Keeps the filter of the last block, to which nothing is added any more. A
    /// failure costs every search a reading of the block.
    pub(super) fn close(&mut self, segment: &Segment, blocks: &[Block]) {
        let Some((last, before)) = blocks.split_last() else {
            return;
        };
        if let Err(error) = self.filter.keep(&segment.filters, before.len(), last) {
            tracing::warn!(file = %segment.path.display(), %error, "a filter of an audit file is not kept");
        }
    }
}

/// A file of the log, open for reading.
#[derive(Debug)]
pub(super) struct Segment {
    /// Number of its first record, which is its name.
    pub(super) first: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// The [filters](Filter) of its blocks, in order.
    pub(super) filters: File,
}

/// What is in a file.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    pub(super) segment: Arc<Segment>,
    pub(super) blocks: Vec<Block>,
}

impl Contents {
    /// Where its lines end.
    pub(super) fn end(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.end)
    }

    /// What it and what is kept beside it take, but for the index.
    pub(super) fn bytes(&self) -> u64 {
        self.end() + filter::kept_bytes(self.blocks.len())
    }

    /// The newest time of a record.
    pub(super) fn newest_ms(&self) -> i64 {
        let times = self.blocks.iter().map(|block| block.newest_ms);
        times.max().unwrap_or(i64::MIN)
    }

    /// The oldest time of a record.
    pub(super) fn oldest_ms(&self) -> i64 {
        let times = self.blocks.iter().map(|block| block.oldest_ms);
        times.min().unwrap_or(i64::MAX)
    }
}

impl Segment {
    /// Makes an empty one; its name is durable only after a sync of the
    /// directory.
    pub(super) fn create(dir: &Path, first: u64) -> io::Result<Self> {
        let path = path(dir, first);
        let file = readable_and_written().truncate(true).open(&path)?;
        let filters_path = filters_path(dir, first);
        let filters = readable_and_written().truncate(true).open(filters_path)?;
        Ok(Self {
            first,
            path,
            file,
            filters,
        })
    }

    /// Opens one.
    pub(super) fn open(dir: &Path, first: u64) -> io::Result<Self> {
        let path = path(dir, first);
        let file = readable_and_written().create(false).open(&path)?;
        let filters = readable_and_written().open(filters_path(dir, first))?;
        Ok(Self {
            first,
            path,
            file,
            filters,
        })
    }

    /// The bytes of some lines.
    pub(super) fn read(&self, offset: u64, end: u64, into: &mut Vec<u8>) -> Result<(), AuditError> {
        let length = usize::try_from(end - offset).expect("a block fits into memory");
        into.resize(length, 0);
        (self.file.read_exact_at(into, offset)).map_err(|error| failure("read", &self.path, &error))
    }
}

/// Options of a file that is made where it is not there, and kept where it is.
fn readable_and_written() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).create(true);
    options
}

/// What opening the last file found.
pub(super) struct LastSegment {
    pub(super) blocks: Vec<Block>,
    /// Goes on with the last of them.
    pub(super) indexer: Indexer,
    pub(super) head: Head,
    /// The line of the last checkpoint, and its number.
    pub(super) checkpoint: Option<(u64, Vec<u8>)>,
    /// What a crash left behind the last line: nobody was told that it is
    /// there.
    pub(super) torn: Vec<u8>,
}

/// Reads the last file through and checks its chain. What is broken at its end
/// is torn, unless a later line says that it was on disk; zeros are room for
/// more.
pub(super) fn open_last(segment: &Segment) -> Result<LastSegment, AuditError> {
    let mut bytes =
        fs::read(&segment.path).map_err(|error| failure("read", &segment.path, &error))?;
    let written = bytes.iter().rposition(|byte| *byte != 0);
    bytes.truncate(written.map_or(0, |last| last + 1));
    let mut found = LastSegment {
        blocks: Vec::new(),
        indexer: Indexer::default(),
        head: Head::START,
        checkpoint: None,
        torn: Vec::new(),
    };
    let mut offset = 0;
    loop {
        let rest = &bytes[offset..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            break;
        };
        let line = &rest[..length];
        let Some((hash, record)) = next(&found, segment.first, line) else {
            break;
        };
        let end = offset + length + 1;
        if record.signature.is_some() {
            found.checkpoint = Some((record.seq, rest[..=length].to_vec()));
        }
        found.head = Head {
            seq: record.seq,
            hash,
        };
        let place = (offset as u64, end as u64, record.seq);
        (found.indexer).add(segment, &mut found.blocks, place, &record.entry);
        offset = end;
    }
    let torn = &bytes[offset..];
    let lost = found.head.seq.max(segment.first - 1) + 1;
    let mut lines = torn.split(|byte| *byte == b'\n');
    let was_synced = lines.any(|line| {
        let record = Line::parse(line).and_then(|line| line.record());
        record.is_ok_and(|record| record.synced.is_some_and(|synced| synced >= lost))
    });
    if was_synced {
        let why = format!("record {lost} is not what was written there");
        return Err(damaged(&segment.path, offset as u64, &why));
    }
    found.torn = torn.to_vec();
    Ok(found)
}

/// The record of a line, if it is the one that must follow.
fn next(found: &LastSegment, first: u64, line: &[u8]) -> Option<(Hash, Record)> {
    let line = Line::parse(line).ok()?;
    let record = line.record().ok()?;
    let follows = match found.head {
        Head::START => record.seq == first,
        head => record.seq == head.seq + 1 && record.prev == head.hash.to_string(),
    };
    follows.then_some((line.hash, record))
}

/// The index beside a file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// Length of the file that it is of.
    bytes: u64,
    blocks: Vec<Block>,
}

const KEPT_VERSION: u32 = 2;

/// Keeps the index of a file that is full. A failure costs a reading later.
pub(super) fn keep_index(dir: &Path, contents: &Contents) {
    let kept = Kept {
        version: KEPT_VERSION,
        bytes: contents.end(),
        blocks: contents.blocks.clone(),
    };
    let json = serde_json::to_vec(&kept).expect("an index has no maps");
    let check = Hash::of(&json);
    let file = index_path(dir, contents.segment.first);
    let unready = file.with_extension("new");
    let written = fs::write(&unready, [format!("{check}\n").as_bytes(), &json].concat())
        .and_then(|()| File::open(&unready)?.sync_all())
        .and_then(|()| fs::rename(&unready, &file));
    if let Err(error) = written {
        tracing::warn!(file = %file.display(), %error, "the index of an audit file is not kept");
    }
}

/// The index of a file that is full: the one that is kept, or a new one.
pub(super) fn open_full(dir: &Path, segment: &Segment) -> Result<Vec<Block>, AuditError> {
    let failed = |error| failure("read", &segment.path, &error);
    let length = segment.file.metadata().map_err(failed)?.len();
    let kept = fs::read(index_path(dir, segment.first)).ok();
    if let Some(blocks) = kept.and_then(|kept| read_kept(&kept, segment.first, length)) {
        let filters = segment.filters.metadata().map_err(failed)?.len();
        if filters == filter::kept_bytes(blocks.len()) {
            return Ok(blocks);
        }
    }
    let bytes = fs::read(&segment.path).map_err(failed)?;
    let (mut blocks, mut indexer) = (Vec::new(), Indexer::default());
    let mut offset = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let end = offset + line.len() as u64;
        let record = Record::of_line(line.trim_ascii_end())
            .map_err(|error| damaged(&segment.path, offset, &error.to_string()))?;
        let place = (offset, end, record.seq);
        indexer.add(segment, &mut blocks, place, &record.entry);
        offset = end;
    }
    indexer.close(segment, &blocks);
    Ok(blocks)
}

fn read_kept(kept: &[u8], first: u64, length: u64) -> Option<Vec<Block>> {
    let (check, json) = kept.split_at_checked(64)?;
    let json = json.strip_prefix(b"\n")?;
    if Hash::parse(check)? != Hash::of(json) {
        return None;
    }
    let kept: Kept = serde_json::from_slice(json).ok()?;
    let is_its =
        kept.version == KEPT_VERSION && kept.bytes == length && kept.blocks.first()?.first == first;
    is_its.then_some(kept.blocks)
}

/// The file whose first record has this number.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.jsonl"))
}

/// The index beside it.
pub(super) fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.index"))
}

/// The filters beside it.
pub(super) fn filters_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.filters"))
}

/// Everything that is kept of a file of the log, itself last.
pub(super) fn files(dir: &Path, first: u64) -> [PathBuf; 3] {
    [
        index_path(dir, first),
        filters_path(dir, first),
        path(dir, first),
    ]
}

/// The first records' numbers of the files in a directory, in order; other
/// files are left alone.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok())
            && path(dir, number).file_name() == Some(&name)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
