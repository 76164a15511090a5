//! What is left of commands that ended and were forgotten: how they ended, so
//! that one which is asked for again within a day is not run again.
//!
//! ```text
//! forgotten/0000000003    a, b, c, ...
//! forgotten/0000000004    d, b taken back, e, ...    <- appended to
//! ```
//!
//! A file takes a fifth of all that are kept. The oldest goes when there are too
//! many, or when all in it are a day old. In memory is only where each lies.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use prost::Message as _;

use super::records::{self, EndRecord, HEADER_BYTES};
use super::spool::private_dir_all;

/// How long a command that ended is remembered at least, unless there are too
/// many.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;
const PER_FILE: usize = 10_000;
const FILES_AT_MOST: usize = 5;

/// What is left of a command.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Remnant {
    #[prost(string, tag = "1")]
    pub(super) exec_id: String,
    /// Of what it was started with.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) started_at_ms: i64,
    #[prost(int64, tag = "4")]
    pub(super) ended_at_ms: i64,
    /// Absent for one that was removed on request: its id is free again.
    #[prost(message, optional, tag = "5")]
    pub(super) end: Option<EndRecord>,
}

/// All that were forgotten.
pub(super) struct Forgotten {
    dir: PathBuf,
    /// Oldest first; the last one is appended to.
    files: VecDeque<Part>,
    /// By a digest of the id.
    places: HashMap<[u8; 16], Place>,
}

struct Part {
    number: u64,
    file: File,
    bytes: u64,
    entries: usize,
    /// When the one that ended last did.
    newest_ms: i64,
}

#[derive(Clone, Copy)]
struct Place {
    file: u64,
    offset: u64,
    length: u32,
}

fn digest(id: &str) -> [u8; 16] {
    let mut digest = [0; 16];
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.as_bytes());
    hasher.finalize_xof().fill(&mut digest);
    digest
}

impl Forgotten {
    /// Opens, and makes when missing, what an earlier agent left. A record that
    /// was torn ends its file.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        private_dir_all(dir)?;
        let mut forgotten = Self {
            dir: dir.to_owned(),
            files: VecDeque::new(),
            places: HashMap::new(),
        };
        for number in records::numbers(dir)? {
            forgotten.read(number)?;
        }
        Ok(forgotten)
    }

    /// Keeps what is left of a command.
    pub(super) fn put(&mut self, remnant: &Remnant, now_ms: i64) -> io::Result<()> {
        self.make_room(now_ms)?;
        let payload = remnant.encode_to_vec();
        let record = records::framed(&payload)?;
        let active = self
            .files
            .back_mut()
            .expect("there is a file that takes more");
        if let Err(error) = (&active.file).write_all(&record) {
            // A part of a record would hide those after it.
            active.file.set_len(active.bytes)?;
            return Err(error);
        }
        let place = Place {
            file: active.number,
            offset: active.bytes + HEADER_BYTES as u64,
            length: u32::try_from(payload.len()).map_err(io::Error::other)?,
        };
        active.bytes += record.len() as u64;
        active.entries += 1;
        active.newest_ms = active.newest_ms.max(remnant.ended_at_ms);
        self.places.insert(digest(&remnant.exec_id), place);
        Ok(())
    }

    /// What is left of a command that ended no longer than a day ago.
    pub(super) fn get(&self, id: &str, now_ms: i64) -> Option<Remnant> {
        let place = self.places.get(&digest(id))?;
        let file = self.files.iter().find(|file| file.number == place.file)?;
        let mut payload = vec![0; place.length as usize];
        let read = file.file.read_exact_at(&mut payload, place.offset);
        let remnant = Remnant::decode(read.map(|()| payload).ok()?.as_slice()).ok()?;
        let young = now_ms.saturating_sub(remnant.ended_at_ms) <= KEPT_MS;
        (young && remnant.exec_id == id && remnant.end.is_some()).then_some(remnant)
    }

    /// Frees the id of a command.
    pub(super) fn remove(&mut self, id: &str, now_ms: i64) -> io::Result<()> {
        let Some(remnant) = self.get(id, now_ms) else {
            return Ok(());
        };
        let freed = Remnant {
            end: None,
            ..remnant
        };
        self.put(&freed, now_ms)
    }

    /// Lets the oldest file go where it is due, and begins another where the
    /// last one is full.
    fn make_room(&mut self, now_ms: i64) -> io::Result<()> {
        let is_full = |part: &Part| part.entries >= PER_FILE;
        if self.files.back().is_none_or(is_full) {
            let number = self.files.back().map_or(1, |last| last.number + 1);
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(self.path(number))?;
            self.files.push_back(Part {
                number,
                file,
                bytes: 0,
                entries: 0,
                newest_ms: 0,
            });
        }
        while self.files.len() > 1 {
            let oldest = &self.files[0];
            let is_old = now_ms.saturating_sub(oldest.newest_ms) > KEPT_MS;
            if self.files.len() <= FILES_AT_MOST && !is_old {
                break;
            }
            let number = oldest.number;
            std::fs::remove_file(self.path(number))?;
            self.files.pop_front();
            self.places.retain(|_, place| place.file != number);
        }
        Ok(())
    }

    fn read(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let content = std::fs::read(&path)?;
        let (mut offset, mut entries, mut newest_ms) = (0, 0, 0);
        while let Some(payload) = records::record_at(&content, offset) {
            let Ok(remnant) = Remnant::decode(payload) else {
                break;
            };
            let place = Place {
                file: number,
                offset: (offset + HEADER_BYTES) as u64,
                length: u32::try_from(payload.len()).map_err(io::Error::other)?,
            };
            self.places.insert(digest(&remnant.exec_id), place);
            newest_ms = newest_ms.max(remnant.ended_at_ms);
            entries += 1;
            offset += HEADER_BYTES + payload.len();
        }
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        if offset < content.len() {
            eprintln!("compy-agent: {} ends in a torn record", path.display());
            file.set_len(offset as u64)?;
        }
        self.files.push_back(Part {
            number,
            file,
            bytes: offset as u64,
            entries,
            newest_ms,
        });
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compyd_proto::agent::{Exit, exit::How};

    fn remnant(id: &str, ended_at_ms: i64) -> Remnant {
        Remnant {
            exec_id: id.into(),
            fingerprint: vec![7; 32],
            started_at_ms: ended_at_ms - 1,
            ended_at_ms,
            end: Some(EndRecord {
                exit: Some(Exit {
                    how: Some(How::Code(3)),
                    ..Exit::default()
                }),
                ..EndRecord::default()
            }),
        }
    }

    #[test]
    fn what_was_forgotten_is_known_for_a_day_over_restarts_unless_it_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut forgotten = Forgotten::open(dir.path()).unwrap();
        for id in ["a", "b"] {
            forgotten.put(&remnant(id, 1_000), 1_000).unwrap();
        }
        forgotten.remove("b", 1_000).unwrap();
        forgotten.remove("unknown", 1_000).unwrap();
        for _ in 0..2 {
            assert_eq!(forgotten.get("a", 2_000), Some(remnant("a", 1_000)));
            assert_eq!(forgotten.get("a", 1_001 + KEPT_MS), None);
            assert_eq!(forgotten.get("b", 2_000), None);
            forgotten = Forgotten::open(dir.path()).unwrap();
        }
        // The id was free, and ends once more.
        forgotten.put(&remnant("b", 5_000), 5_000).unwrap();
        let forgotten = Forgotten::open(dir.path()).unwrap();
        assert_eq!(forgotten.get("b", 5_000), Some(remnant("b", 5_000)));
    }

    #[test]
    fn a_record_that_was_torn_hides_none_that_come_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut forgotten = Forgotten::open(dir.path()).unwrap();
        forgotten.put(&remnant("a", 1), 1).unwrap();
        let path = dir.path().join("0000000001");
        let mut content = std::fs::read(&path).unwrap();
        content.extend_from_slice(&[9; 11]);
        std::fs::write(&path, content).unwrap();
        let mut forgotten = Forgotten::open(dir.path()).unwrap();
        forgotten.put(&remnant("b", 1), 1).unwrap();
        let forgotten = Forgotten::open(dir.path()).unwrap();
        for id in ["a", "b"] {
            assert_eq!(forgotten.get(id, 1), Some(remnant(id, 1)), "{id}");
        }
    }

    #[test]
    fn the_oldest_go_when_they_are_too_many_and_when_they_are_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut forgotten = Forgotten::open(dir.path()).unwrap();
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let most = PER_FILE * FILES_AT_MOST;
        for number in 0..=most {
            forgotten.put(&remnant(&number.to_string(), 1), 1).unwrap();
        }
        assert_eq!(files(), FILES_AT_MOST);
        assert_eq!(forgotten.get("0", 1), None);
        let newest = most.to_string();
        assert!(forgotten.get(&newest, 1).is_some());
        assert!(forgotten.places.len() <= most);
        // A day later one more is all that counts, and the last file is open.
        let later = 2 + KEPT_MS;
        forgotten.put(&remnant("new", later), later).unwrap();
        assert_eq!(files(), 1);
        assert!(forgotten.get("new", later).is_some());
    }
}
