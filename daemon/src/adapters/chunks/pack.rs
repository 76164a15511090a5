//! One pack: records one after the other, and where each is at the end.
//!
//! | bytes | what, integers little-endian                                |
//! |-------|-------------------------------------------------------------|
//! | 8     | `compypk1`                                                  |
//! | ...   | [records](super::record)                                    |
//! | 40 n  | for each: hash 32, place 4, length 4                        |
//! | 4     | n                                                           |
//! | 16    | check: blake3 of the above two                              |
//! | 8     | `compypx1`                                                  |
//!
//! A pack is written once, in `tmp/`, and gets its name when it is durable, so
//! that one with a name is whole unless the disk has lost something. Then its
//! end is no index: the records are read through, and those that are sound
//! are there.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::record;
use crate::{domain::snapshot::hash::ChunkHash, ports::chunks::Chunk};

const MAGIC: &[u8; 8] = b"compypk1";
const INDEX_MAGIC: &[u8; 8] = b"compypx1";
const ENTRY_BYTES: usize = 40;
/// Count, check and magic at the very end.
const TRAILER_BYTES: usize = 28;
/// Small records are written together.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a pack beside its records.
pub(super) fn overhead_bytes(chunks: u64) -> u64 {
    (MAGIC.len() + TRAILER_BYTES) as u64 + ENTRY_BYTES as u64 * chunks
}

/// Where the record of a chunk is in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: ChunkHash,
    pub(super) offset: u32,
    /// Of the whole record.
    pub(super) length: u32,
}

/// A pack being written. Dropped, its file is removed.
#[derive(Debug)]
pub(super) struct UnfinishedPack {
    file: BufWriter<NamedTempFile>,
    end: u32,
    entries: Vec<Entry>,
}

impl UnfinishedPack {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let file = NamedTempFile::new_in(dir)?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, file);
        file.write_all(MAGIC)?;
        Ok(Self {
            file,
            end: MAGIC.len() as u32,
            entries: Vec::new(),
        })
    }

    /// Where the next record will be: the bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.end.into()
    }

    /// Adds a chunk at the end.
    pub(super) fn append(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.file.write_all(&record::header(chunk))?;
        self.file.write_all(&chunk.data)?;
        let length = (record::HEADER_BYTES + chunk.data.len()) as u32;
        self.entries.push(Entry {
            hash: chunk.hash,
            offset: self.end,
            length,
        });
        self.end += length;
        Ok(())
    }

    /// Ends the pack and makes it durable but for its name.
    pub(super) fn seal(mut self) -> io::Result<SealedPack> {
        let mut index = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + TRAILER_BYTES);
        for entry in &self.entries {
            index.extend_from_slice(entry.hash.as_bytes());
            index.extend_from_slice(&entry.offset.to_le_bytes());
            index.extend_from_slice(&entry.length.to_le_bytes());
        }
        index.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        let check = index_check(&index);
        index.extend_from_slice(&check);
        index.extend_from_slice(INDEX_MAGIC);
        self.file.write_all(&index)?;
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.as_file().sync_all()?;
        Ok(SealedPack {
            file,
            bytes: u64::from(self.end) + index.len() as u64,
            entries: self.entries,
        })
    }
}

/// A pack that is durable and has no name yet. Dropped, its file is removed.
#[derive(Debug)]
pub(super) struct SealedPack {
    pub(super) file: NamedTempFile,
    /// Of the file.
    pub(super) bytes: u64,
    pub(super) entries: Vec<Entry>,
}

/// What a pack holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Of the file.
    pub(super) bytes: u64,
    /// What state it is in.
    pub(super) state: PackState,
    pub(super) entries: Vec<Entry>,
}

/// Whether a pack is as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackState {
    /// Its index is there.
    Whole,
    /// What is sound was found by reading it through.
    Salvaged,
}

/// Why a pack is not opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Io(io::Error),
    NewerFormat,
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads what a pack holds.
pub(super) fn open(path: &Path) -> Result<Contents, OpenError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    if bytes >= MAGIC.len() as u64 {
        file.read_exact_at(&mut magic, 0)?;
    }
    if magic[..7] == MAGIC[..7] && (b'2'..=b'9').contains(&magic[7]) {
        return Err(OpenError::NewerFormat);
    }
    if let Some(entries) = read_index(&file, bytes)? {
        return Ok(Contents {
            bytes,
            state: PackState::Whole,
            entries,
        });
    }
    Ok(Contents {
        bytes,
        state: PackState::Salvaged,
        entries: salvage(file, bytes)?,
    })
}

/// The index at the end; `None` when it is not there whole.
fn read_index(file: &File, bytes: u64) -> io::Result<Option<Vec<Entry>>> {
    let Some(trailer_at) = bytes.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, trailer_at)?;
    let [a, b, c, d, check @ ..] = trailer;
    let (check, magic) = check.split_at(16);
    let index_bytes = u64::from(u32::from_le_bytes([a, b, c, d])) * ENTRY_BYTES as u64;
    let Some(index_at) = trailer_at.checked_sub(index_bytes) else {
        return Ok(None);
    };
    if magic != INDEX_MAGIC {
        return Ok(None);
    }
    let mut index = vec![0; index_bytes as usize + 4];
    file.read_exact_at(&mut index, index_at)?;
    if index_check(&index) != check {
        return Ok(None);
    }
    let (entries, _count) = index.as_chunks::<ENTRY_BYTES>();
    Ok(Some(entries.iter().map(entry).collect()))
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let [hash @ .., a, b, c, d, e, f, g, h] = *bytes;
    Entry {
        hash: ChunkHash::from_bytes(hash),
        offset: u32::from_le_bytes([a, b, c, d]),
        length: u32::from_le_bytes([e, f, g, h]),
    }
}

fn index_check(index: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    check.copy_from_slice(&blake3::hash(index).as_bytes()[..16]);
    check
}

/// Every sound record, as far as the lengths lead from one to the next.
fn salvage(file: File, bytes: u64) -> io::Result<Vec<Entry>> {
    let mut records = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut entries = Vec::new();
    let mut offset = MAGIC.len() as u64;
    io::copy(&mut records.by_ref().take(offset), &mut io::sink())?;
    while offset + record::HEADER_BYTES as u64 <= bytes {
        let mut header = [0; record::HEADER_BYTES];
        records.read_exact(&mut header)?;
        let length = record::length(&header).filter(|length| offset + *length as u64 <= bytes);
        let (Some(length), Ok(place)) = (length, u32::try_from(offset)) else {
            break;
        };
        let mut bytes = vec![0; length];
        bytes[..record::HEADER_BYTES].copy_from_slice(&header);
        records.read_exact(&mut bytes[record::HEADER_BYTES..])?;
        if let Some(chunk) = record::decode(bytes.into()) {
            entries.push(Entry {
                hash: chunk.hash,
                offset: place,
                length: length as u32,
            });
        }
        offset += length as u64;
    }
    Ok(entries)
}

/// The record of a chunk; `None` when what is there is not it.
pub(super) fn read(file: &File, entry: &Entry) -> io::Result<Option<Chunk>> {
    let mut bytes = vec![0; entry.length as usize];
    match file.read_exact_at(&mut bytes, entry.offset.into()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let found = record::decode(Bytes::from(bytes));
    Ok(found.filter(|chunk| chunk.hash == entry.hash))
}

pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.pack"))
}

/// The numbers of the packs in a directory, in order; other files are left
/// alone.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for file in dir.read_dir()? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".pack"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok())
            && path(dir, number).file_name() == Some(&name)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}
