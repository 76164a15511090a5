//! One file of the journal: its header, and reading it through.
//!
//! | bytes | header                                              |
//! |-------|-----------------------------------------------------|
//! | 8     | `compyev1`                                          |
//! | 4     | the file's number, from 1                           |
//! | 8     | the number of its first group                       |
//! | 32    | the key of its records' checks, random              |
//! | 12    | check: blake3 of the above                          |

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    damaged, failure,
    record::{self, Record},
};
use crate::{adapters::disk_space::sync_dir, ports::store::StoreError};

pub(super) const HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"compyev1";
/// Where the header's check is.
const CHECK_AT: usize = 52;

/// What the end of a file may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// It was cut to its records when the next file was made.
    IsWhole,
    /// Zeros, or what a crash left of a group that nobody was told of.
    MayBeTorn,
}

/// An open file of the journal.
#[derive(Debug)]
pub(super) struct Segment {
    number: u32,
    path: PathBuf,
    file: File,
    key: [u8; 32],
}

impl Segment {
    /// Makes an empty one, durably. One that a crash left unused is replaced.
    pub(super) fn create(dir: &Path, number: u32, first_group: u64) -> io::Result<Self> {
        let path = path(dir, number);
        let made = Self::make(path.clone(), number, first_group).and_then(|segment| {
            sync_dir(dir)?;
            Ok(segment)
        });
        if made.is_err() {
            let _ = fs::remove_file(path);
        }
        made
    }

    fn make(path: PathBuf, number: u32, first_group: u64) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let mut key = [0; 32];
        key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
        file.write_all_at(&header(number, first_group, &key), 0)?;
        file.sync_all()?;
        Ok(Self {
            number,
            path,
            file,
            key,
        })
    }

    /// Opens one; `None` when it is the last and a crash cut off its making.
    pub(super) fn open(
        path: &Path,
        number: u32,
        first_group: u64,
        last: bool,
    ) -> Result<Option<Self>, StoreError> {
        let failed = |error| failure("open", path, &error);
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut found = [0; HEADER_BYTES as usize];
        if length >= HEADER_BYTES {
            file.read_exact_at(&mut found, 0).map_err(failed)?;
        }
        let mut key = [0; 32];
        key.copy_from_slice(&found[20..CHECK_AT]);
        if found == header(number, first_group, &key) {
            return Ok(Some(Self {
                number,
                path: path.to_owned(),
                file,
                key,
            }));
        }
        // It is made durable before anything is written behind the header.
        if last && length <= HEADER_BYTES {
            return Ok(None);
        }
        let why = format!("the header is not that of file {number} from group {first_group} on");
        Err(damaged(path, 0, &why))
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Reads all records; `group` is the last whole group before and after,
    /// `keep` is given each record of a whole group with its place. Returns
    /// where they end.
    pub(super) fn scan(
        &self,
        tail: Tail,
        group: &mut u64,
        mut keep: impl FnMut(Record, u32) -> Result<(), String>,
    ) -> Result<u64, StoreError> {
        let failed = |error| failure("read events", &self.path, &error);
        let length = self.file.metadata().map_err(failed)?.len();
        let mut records = BufReader::with_capacity(1 << 18, At(&self.file, HEADER_BYTES));
        let mut bytes = Vec::new();
        let mut waiting: Vec<(Record, u32)> = Vec::new();
        let (mut end, mut offset) = (HEADER_BYTES, HEADER_BYTES);
        loop {
            let read = read_record(&mut records, length - offset, &mut bytes).map_err(failed)?;
            let found = read
                .then(|| Record::decode(&self.key, &bytes))
                .flatten()
                .map(|(record, _)| record);
            let follows = |record: &Record| {
                let left = waiting.last().map(|(before, _)| before.left);
                record.group == *group + 1 && left.is_none_or(|left| record.left + 1 == left)
            };
            let (Some(record), Ok(place)) = (found.filter(follows), u32::try_from(offset)) else {
                break;
            };
            waiting.push((record, place));
            offset += bytes.len() as u64;
            if record.left == 0 {
                for (record, place) in waiting.drain(..) {
                    keep(record, place)
                        .map_err(|why| damaged(&self.path, u64::from(place), &why))?;
                }
                *group += 1;
                end = offset;
            }
        }
        let broken = match tail {
            Tail::IsWhole => end != length,
            Tail::MayBeTorn => self.has_group_after(*group + 1, offset).map_err(failed)?,
        };
        if broken {
            return Err(damaged(&self.path, offset, "there is no valid record here"));
        }
        Ok(end)
    }

    /// Whether there is a record of a later group than this: a group is only
    /// written once the one before is durable, so the damage before it is no
    /// cut-off write.
    fn has_group_after(&self, group: u64, offset: u64) -> io::Result<bool> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut rest = Vec::new();
        At(&self.file, offset).read_to_end(&mut rest)?;
        while rest.ends_with(&ZEROS) {
            rest.truncate(rest.len() - ZEROS.len());
        }
        let most = group + rest.len() as u64;
        for start in 0..rest.len() {
            let bytes = &rest[start..];
            let Some(found) = record::group(bytes) else {
                break;
            };
            if found > group
                && found <= most
                && let Some(length) = record::length(bytes)
                && let Some(bytes) = bytes.get(..length)
                && Record::decode(&self.key, bytes).is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads what may be a record into `bytes`; `false` where none can be.
fn read_record(from: &mut impl Read, room: u64, bytes: &mut Vec<u8>) -> io::Result<bool> {
    if room < record::HEADER_BYTES as u64 {
        return Ok(false);
    }
    bytes.resize(4, 0);
    from.read_exact(bytes)?;
    let Some(length) = record::length(bytes).filter(|length| *length as u64 <= room) else {
        return Ok(false);
    };
    bytes.resize(length, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(true)
}

/// A file read from a place on, without moving the place others read at.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read_at(into, self.1)?;
        self.1 += count as u64;
        Ok(count)
    }
}

fn header(number: u32, first_group: u64, key: &[u8; 32]) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..20].copy_from_slice(&first_group.to_le_bytes());
    bytes[20..CHECK_AT].copy_from_slice(key);
    let check = blake3::hash(&bytes[..CHECK_AT]);
    bytes[CHECK_AT..].copy_from_slice(&check.as_bytes()[..12]);
    bytes
}

pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The numbers of the files in a directory, in order; other files are left
/// alone.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok())
            && path(dir, number).file_name() == Some(&name)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
