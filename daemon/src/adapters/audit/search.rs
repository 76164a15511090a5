//! Reading the log: what matches, a part of it, and all of it.

use memchr::memmem::Finder;

use super::{
    damaged,
    filter::Wanted,
    segment::{Block, Contents},
};
use crate::{
    domain::audit::{
        chain::Record,
        checkpoint::PublicKey,
        query::Query,
        verify::{Fault, Verified, Verifier},
    },
    ports::audit::{AuditError, Lines},
};

/// Bytes that one reading returns, about.
const LINES_BYTES: usize = 256 << 10;
/// Threads that look at once.
const THREADS: usize = 4;
/// Blocks that a thread looks through at most before the others are asked what
/// they have found.
const ROUND: usize = 1024;

/// A block, and its place among those of its file.
type Place<'a> = (&'a Contents, usize, &'a Block);

/// Records that match, the newest first.
pub(super) fn search(contents: &[Contents], query: &Query) -> Result<Vec<Record>, AuditError> {
    let needles = query.needles();
    let finders: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
    let wanted = Wanted::of(query);
    let blocks: Vec<Place<'_>> = contents
        .iter()
        .flat_map(|contents| {
            let blocks = contents.blocks.iter().enumerate();
            blocks.map(move |(place, block)| (contents, place, block))
        })
        .filter(|(_, _, block)| block.may_be_of(query))
        .rev()
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(THREADS);
    let mut found = Vec::new();
    // A frequent match is found in the first block already.
    let mut round = 1;
    let mut rest = blocks.as_slice();
    while !rest.is_empty() && found.len() < query.limit {
        let (now, later) = rest.split_at(rest.len().min(round * threads));
        let parts: Vec<Result<Vec<Record>, AuditError>> = std::thread::scope(|scope| {
            let (wanted, finders) = (&wanted, &finders);
            let workers: Vec<_> = now
                .chunks(round)
                .map(|blocks| scope.spawn(move || in_blocks(blocks, query, wanted, finders)))
                .collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        for part in parts {
            found.extend(part?);
        }
        rest = later;
        round = (round * 4).min(ROUND);
    }
    found.truncate(query.limit);
    Ok(found)
}

fn in_blocks(
    blocks: &[Place<'_>],
    query: &Query,
    wanted: &Wanted,
    finders: &[Finder<'_>],
) -> Result<Vec<Record>, AuditError> {
    let mut found = Vec::new();
    let (mut bytes, mut kept) = (Vec::new(), Vec::new());
    for (contents, place, block) in blocks {
        if found.len() >= query.limit {
            break;
        }
        if !wanted.may_be_in(&contents.segment.filters, *place, block, &mut kept) {
            continue;
        }
        (contents.segment).read(block.offset, block.end, &mut bytes)?;
        let of_block = in_block(&bytes, query, finders)
            .map_err(|why| damaged(&contents.segment.path, block.offset, &why))?;
        found.extend(of_block.into_iter().rev());
    }
    Ok(found)
}

/// The matches among some lines, the oldest first.
fn in_block(bytes: &[u8], query: &Query, finders: &[Finder<'_>]) -> Result<Vec<Record>, String> {
    let mut found = Vec::new();
    let mut keep = |line: &[u8]| -> Result<(), String> {
        let record = Record::of_line(line).map_err(|error| error.to_string())?;
        if query.matches(record.seq, &record.entry) {
            found.push(record);
        }
        Ok(())
    };
    // The first text is the rarest: only lines with it are looked at.
    let Some((first, others)) = finders.split_first() else {
        let lines = bytes.split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty()).try_for_each(keep)?;
        return Ok(found);
    };
    let mut at = 0;
    while let Some(hit) = first.find(&bytes[at..]) {
        let hit = at + hit;
        let start = memchr::memrchr(b'\n', &bytes[..hit]).map_or(0, |newline| newline + 1);
        let end = memchr::memchr(b'\n', &bytes[hit..]).map_or(bytes.len(), |length| hit + length);
        let line = &bytes[start..end];
        if others.iter().all(|other| other.find(line).is_some()) {
            keep(line)?;
        }
        at = end;
    }
    Ok(found)
}

/// Whole lines from record `from` on, up to `last`.
pub(super) fn lines(contents: &[Contents], from: u64, last: u64) -> Result<Lines, AuditError> {
    let blocks = || {
        contents
            .iter()
            .flat_map(|contents| contents.blocks.iter().map(move |block| (contents, block)))
    };
    let first = blocks().next().map_or(1, |(_, block)| block.first);
    if from != 0 && from < first {
        return Err(AuditError::Failed {
            action: "read",
            message: format!("record {from} was removed meanwhile; begin again"),
        });
    }
    let mut next = from.max(first);
    let mut all = Vec::new();
    let mut bytes = Vec::new();
    for (contents, block) in blocks() {
        if block.first + block.records <= next {
            continue;
        }
        if next > last || all.len() >= LINES_BYTES {
            break;
        }
        (contents.segment).read(block.offset, block.end, &mut bytes)?;
        let skipped = usize::try_from(next - block.first).unwrap_or(usize::MAX);
        let wanted = usize::try_from(last - next + 1).unwrap_or(usize::MAX);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        for line in lines.skip(skipped).take(wanted) {
            all.extend_from_slice(line);
            next += 1;
        }
    }
    Ok(Lines {
        bytes: all.into(),
        next,
    })
}

/// Reads everything through. The index must be that of the lines, or a search
/// would not see them.
pub(super) fn verify(contents: &[Contents], key: PublicKey) -> Result<Verified, AuditError> {
    let mut verifier = Verifier::new(Some(key), None);
    let mut bytes = Vec::new();
    let (mut records, mut first) = (0, None);
    for contents in contents {
        for block in &contents.blocks {
            first.get_or_insert(block.first);
            records += block.records;
            (contents.segment).read(block.offset, block.end, &mut bytes)?;
            let (whole, end) = bytes.split_at(bytes.len().saturating_sub(1));
            if end != b"\n" {
                let why = "a line is not ended here";
                return Err(damaged(&contents.segment.path, block.end, why));
            }
            for line in whole.split(|byte| *byte == b'\n') {
                verifier.read(line)?;
            }
        }
    }
    let verified = verifier.finish()?;
    let indexed = first.unwrap_or(1) + records - 1;
    if indexed != verified.last {
        return Err(Fault::Order {
            expected: indexed,
            found: verified.last,
        }
        .into());
    }
    Ok(verified)
}
