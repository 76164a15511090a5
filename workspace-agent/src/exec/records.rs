//! What is known of every command, on disk: how it was started and how it
//! ended, in one log.
//!
//! ```text
//! records/0000000007    start a, start b, end a, forget a, ...
//! records/0000000008    end b, start c, ...                  <- appended to
//! ```
//!
//! Making a file takes longer than running `true`, so no command gets one. The
//! log lies in segments. When most of it is garbage, what still counts of the
//! oldest segment is appended once more and its file removed; so a segment always goes
//! before those after it, and nothing comes back that was forgotten.
//!
//! Nothing here is synced: the records outlive every process of the container,
//! and a power loss takes the running commands with it anyway. An append is one
//! small write into the page cache, made where it is asked for.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compyd_proto::agent::{Exec, Exit};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use prost::Message as _;

use super::spool::private_dir_all;

/// A segment that has grown beyond this is followed by the next.
const SEGMENT_BYTES: u64 = 256 * 1024;
/// Room in a segment for its last record.
const SPARE_BYTES: u64 = 64 * 1024;
const SEGMENTS_AT_MOST: usize = 4;
/// Length of the payload, then the beginning of its blake3.
pub(super) const HEADER_BYTES: usize = 8;

/// The end of a command, as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EndRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) exit: Option<Exit>,
    #[prost(uint64, tag = "2")]
    pub(crate) stdout_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) stderr_bytes: u64,
    /// What of them is not kept. Tags 4 and 5 were bytes that followed.
    #[prost(message, optional, tag = "6")]
    pub(crate) stdout_gap: Option<Span>,
    #[prost(message, optional, tag = "7")]
    pub(crate) stderr_gap: Option<Span>,
}

/// Bytes from one offset to before another.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Span {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(oneof = "What", tags = "1, 2, 3")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(message, tag = "1")]
    Start(Exec),
    #[prost(message, tag = "2")]
    End(End),
    /// By id.
    #[prost(string, tag = "3")]
    Forget(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct End {
    #[prost(string, tag = "1")]
    exec_id: String,
    #[prost(message, optional, tag = "2")]
    record: Option<EndRecord>,
}

/// A command found at the agent's start.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) exec: Exec,
    /// Absent for a command that ran when the last agent ended.
    pub(crate) end: Option<EndRecord>,
}

/// The log; cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    log: Arc<Mutex<Log>>,
}

struct Log {
    dir: PathBuf,
    /// Oldest first; the last one is appended to.
    segments: VecDeque<Segment>,
    /// Commands that are not forgotten.
    known: HashMap<String, Place>,
}

struct Segment {
    number: u64,
    file: File,
    bytes: u64,
}

/// Where the start of a command lies, and what is known of its end.
struct Place {
    segment: u64,
    offset: u64,
    length: usize,
    end: Option<EndRecord>,
}

impl Records {
    /// Opens, and makes when missing, the log in a directory, and says what it
    /// holds. A record that was torn ends its segment.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Vec<Kept>)> {
        private_dir_all(dir)?;
        let mut log = Log {
            dir: dir.to_owned(),
            segments: VecDeque::new(),
            known: HashMap::new(),
        };
        let mut kept = HashMap::new();
        for number in numbers(dir)? {
            log.read(number, &mut kept)?;
        }
        // Never after a torn record.
        log.begin_segment()?;
        let kept = kept
            .into_iter()
            .map(|(id, exec)| Kept {
                exec,
                end: log.known.get(&id).and_then(|place| place.end.clone()),
            })
            .collect();
        let log = Arc::new(Mutex::new(log));
        Ok((Self { log }, kept))
    }

    /// Records a command before anything is started, so that a repeated start
    /// after a crash finds it.
    pub(crate) fn start(&self, exec: &Exec) -> io::Result<()> {
        self.log().start(exec.clone(), None)
    }

    /// Records the end of a command.
    pub(crate) fn end(&self, id: &str, end: &EndRecord) -> io::Result<()> {
        let mut log = self.log();
        log.append(What::End(End {
            exec_id: id.to_owned(),
            record: Some(end.clone()),
        }))?;
        if let Some(place) = log.known.get_mut(id) {
            place.end = Some(end.clone());
        }
        Ok(())
    }

    /// Forgets a command; one that is not known is forgotten already.
    pub(crate) fn forget(&self, id: &str) -> io::Result<()> {
        let mut log = self.log();
        if !log.known.contains_key(id) {
            return Ok(());
        }
        log.append(What::Forget(id.to_owned()))?;
        log.known.remove(id);
        Ok(())
    }

    /// A command as it was started.
    pub(crate) fn read_start(&self, id: &str) -> io::Result<Exec> {
        self.log().read_start(id)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn start(&mut self, exec: Exec, end: Option<EndRecord>) -> io::Result<()> {
        let id = exec.exec_id.clone();
        let (segment, offset, length) = self.append(What::Start(exec))?;
        let place = Place {
            segment,
            offset,
            length,
            end,
        };
        self.known.insert(id, place);
        Ok(())
    }

    /// Appends an entry: all of it or nothing. Says where its payload lies.
    fn append(&mut self, what: What) -> io::Result<(u64, u64, usize)> {
        if self.active().bytes >= SEGMENT_BYTES {
            self.begin_segment()?;
            self.drop_oldest()?;
        }
        let payload = Entry { what: Some(what) }.encode_to_vec();
        let bytes = framed(&payload)?;
        let active = self.active();
        if let Err(error) = (&active.file).write_all(&bytes) {
            // A part of a record would hide those after it.
            active.file.set_len(active.bytes)?;
            return Err(error);
        }
        let place = (
            active.number,
            active.bytes + HEADER_BYTES as u64,
            payload.len(),
        );
        active.bytes += bytes.len() as u64;
        Ok(place)
    }

    fn active(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("a log has a segment from its opening on")
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(number))?;
        // The end of a command must find room when its output has filled the
        // disk. A file system that promises none is used without.
        let room = libc::off_t::try_from(SEGMENT_BYTES + SPARE_BYTES).map_err(io::Error::other)?;
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, room);
        self.segments.push_back(Segment {
            number,
            file,
            bytes: 0,
        });
        Ok(())
    }

    /// Carries on what still counts of the oldest segments, and removes them,
    /// as long as more than half of the log is about commands long forgotten.
    fn drop_oldest(&mut self) -> io::Result<()> {
        while self.segments.len() > SEGMENTS_AT_MOST && self.is_mostly_garbage() {
            let oldest = self.segments[0].number;
            let counts: Vec<String> = self
                .known
                .iter()
                .filter(|(_, place)| place.segment == oldest)
                .map(|(id, _)| id.clone())
                .collect();
            for id in counts {
                let exec = self.read_start(&id)?;
                let end = self.known.get(&id).and_then(|place| place.end.clone());
                self.start(exec, end.clone())?;
                if end.is_some() {
                    self.append(What::End(End {
                        exec_id: id,
                        record: end,
                    }))?;
                }
            }
            // Unless what was carried on has filled a segment, and so this
            // one was removed already.
            if self.segments[0].number == oldest {
                std::fs::remove_file(self.path(oldest))?;
                self.segments.pop_front();
            }
        }
        Ok(())
    }

    fn is_mostly_garbage(&self) -> bool {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let counts: usize = self.known.values().map(|place| place.length).sum();
        bytes > 2 * counts as u64
    }

    fn read_start(&self, id: &str) -> io::Result<Exec> {
        let missing = || io::Error::other(format!("command {id} is in no record"));
        let place = self.known.get(id).ok_or_else(missing)?;
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.number == place.segment)
            .ok_or_else(missing)?;
        let mut payload = vec![0; place.length];
        segment.file.read_exact_at(&mut payload, place.offset)?;
        match Entry::decode(payload.as_slice()).map_err(io::Error::other)? {
            Entry {
                what: Some(What::Start(exec)),
            } => Ok(exec),
            Entry { .. } => Err(missing()),
        }
    }

    /// Takes over a segment of an earlier agent.
    fn read(&mut self, number: u64, kept: &mut HashMap<String, Exec>) -> io::Result<()> {
        let path = self.path(number);
        let content = std::fs::read(&path)?;
        let mut offset = 0;
        while let Some(payload) = record_at(&content, offset) {
            let Ok(Entry { what: Some(what) }) = Entry::decode(payload) else {
                break;
            };
            let at = (offset + HEADER_BYTES) as u64;
            self.fold(what, (number, at, payload.len()), kept);
            offset += HEADER_BYTES + payload.len();
        }
        if offset < content.len() {
            eprintln!("compy-agent: {} ends in a torn record", path.display());
        }
        let file = File::open(&path)?;
        let bytes = content.len() as u64;
        self.segments.push_back(Segment {
            number,
            file,
            bytes,
        });
        Ok(())
    }

    fn fold(
        &mut self,
        what: What,
        (segment, offset, length): (u64, u64, usize),
        kept: &mut HashMap<String, Exec>,
    ) {
        match what {
            What::Start(exec) => {
                let id = exec.exec_id.clone();
                // Carried on from an older segment: what is known stays so.
                let end = self.known.remove(&id).and_then(|place| place.end);
                kept.insert(id.clone(), exec);
                let place = Place {
                    segment,
                    offset,
                    length,
                    end,
                };
                self.known.insert(id, place);
            }
            What::End(End { exec_id, record }) => {
                if let Some(place) = self.known.get_mut(&exec_id) {
                    place.end = record.filter(|end| end.exit.is_some());
                }
            }
            What::Forget(id) => {
                self.known.remove(&id);
                kept.remove(&id);
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}"))
    }
}

fn checksum(payload: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(payload);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// A record as it is on disk.
pub(super) fn framed(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(payload));
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// The payload of the record at an offset; `None` at the end and where it is
/// torn.
pub(super) fn record_at(content: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = content.get(offset..)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    (checksum(payload) == *sum).then_some(payload)
}

/// The segments that are there, oldest first.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = std::fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use compyd_proto::agent::{ExecSpec, exit::How};

    fn exec(id: &str) -> Exec {
        Exec {
            exec_id: id.into(),
            started_at_ms: 1,
            ..Exec::default()
        }
    }

    fn end(code: u32) -> EndRecord {
        EndRecord {
            exit: Some(Exit {
                how: Some(How::Code(code)),
                ..Exit::default()
            }),
            stdout_bytes: 5,
            ..EndRecord::default()
        }
    }

    fn brief(kept: Vec<Kept>) -> Vec<(String, Option<EndRecord>)> {
        let mut brief: Vec<_> = kept
            .into_iter()
            .map(|kept| (kept.exec.exec_id, kept.end))
            .collect();
        brief.sort_by(|a, b| a.0.cmp(&b.0));
        brief
    }

    #[test]
    fn what_was_recorded_is_found_again_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (records, kept) = Records::open(dir.path()).unwrap();
        assert_eq!(kept, []);
        for id in ["runs", "ended", "gone", ".."] {
            records.start(&exec(id)).unwrap();
        }
        records.end("ended", &end(3)).unwrap();
        records.end("gone", &end(0)).unwrap();
        for _ in 0..2 {
            records.forget("gone").unwrap();
        }
        for _ in 0..2 {
            let (records, kept) = Records::open(dir.path()).unwrap();
            let wanted = [("..", None), ("ended", Some(end(3))), ("runs", None)];
            assert_eq!(brief(kept), wanted.map(|(id, end)| (id.to_owned(), end)));
            assert_eq!(records.read_start("runs").unwrap(), exec("runs"));
            assert!(records.read_start("gone").is_err());
        }
        // The id is free again, and starts from nothing.
        records.start(&exec("gone")).unwrap();
        let (_, kept) = Records::open(dir.path()).unwrap();
        assert!(brief(kept).contains(&("gone".to_owned(), None)));
    }

    #[test]
    fn a_log_cut_anywhere_keeps_what_lies_before_and_takes_more() {
        let dir = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(dir.path()).unwrap();
        records.start(&exec("a")).unwrap();
        let whole = dir.path().join("0000000001");
        let first = std::fs::read(&whole).unwrap().len();
        records.start(&exec("b")).unwrap();
        let content = std::fs::read(&whole).unwrap();
        for length in 0..content.len() {
            let cut = tempfile::tempdir().unwrap();
            std::fs::write(cut.path().join("0000000001"), &content[..length]).unwrap();
            let (records, kept) = Records::open(cut.path()).unwrap();
            assert_eq!(kept.len(), usize::from(length >= first), "cut at {length}");
            records.start(&exec("c")).unwrap();
            let (_, kept) = Records::open(cut.path()).unwrap();
            assert_eq!(kept.len(), 1 + usize::from(length >= first));
        }
    }

    #[test]
    fn many_long_commands_that_all_count_are_kept_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(dir.path()).unwrap();
        for number in 0..700 {
            let spec = ExecSpec {
                argv: vec![vec![b'x'; 4_000].into()],
                ..ExecSpec::default()
            };
            let exec = Exec {
                spec: Some(spec),
                ..exec(&number.to_string())
            };
            records.start(&exec).unwrap();
        }
        for number in 100..700 {
            records.forget(&number.to_string()).unwrap();
        }
        for number in 0..2_000 {
            records.end(&(number % 100).to_string(), &end(1)).unwrap();
        }
        let (_, kept) = Records::open(dir.path()).unwrap();
        assert_eq!(kept.len(), 100);
        assert!(kept.iter().all(|kept| kept.end == Some(end(1))));
    }

    #[test]
    fn a_long_life_takes_little_room_and_loses_no_command_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(dir.path()).unwrap();
        let long = Exec {
            spec: Some(ExecSpec {
                argv: vec![vec![b'x'; 2_000].into()],
                ..ExecSpec::default()
            }),
            ..exec("old")
        };
        records.start(&long).unwrap();
        records.start(&exec("ended long ago")).unwrap();
        records.end("ended long ago", &end(7)).unwrap();
        for number in 0..20_000 {
            let id = format!("{number:060}");
            records.start(&exec(&id)).unwrap();
            records.end(&id, &end(0)).unwrap();
            records.forget(&id).unwrap();
        }
        let files = std::fs::read_dir(dir.path()).unwrap().flatten();
        let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
        assert!(
            bytes < 2 * SEGMENT_BYTES * SEGMENTS_AT_MOST as u64,
            "{bytes}"
        );
        assert_eq!(records.read_start("old").unwrap(), long);
        let (records, kept) = Records::open(dir.path()).unwrap();
        let wanted = [("ended long ago", Some(end(7))), ("old", None)];
        assert_eq!(brief(kept), wanted.map(|(id, end)| (id.to_owned(), end)));
        assert_eq!(records.read_start("old").unwrap(), long);
    }
}
