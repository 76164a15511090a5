//! A chunk as it is in a pack. A change here is a new format.
//!
//! | bytes | what, integers little-endian                            |
//! |-------|---------------------------------------------------------|
//! | 4     | bytes of the data                                       |
//! | 4     | raw bytes of the chunk                                  |
//! | 1     | encoding of the data: 0 raw, 1 zstd                     |
//! | 32    | hash of the raw bytes                                   |
//! | 4     | check: crc32 of the above and the data                  |
//! | ...   | the data                                                |
//!
//! The check finds what a crash cut off. It proves nothing: who reads a chunk
//! compares its hash.

use bytes::Bytes;

use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{CHUNK_BYTES_MAX, Chunk, ChunkEncoding},
};

/// Bytes before the data.
pub(super) const HEADER_BYTES: usize = 45;
/// Where the check is.
const CHECK_AT: usize = 41;

/// The header of a chunk's record; its data follow.
pub(super) fn header(chunk: &Chunk) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(chunk.data.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&chunk.raw_bytes.to_le_bytes());
    header[8] = match chunk.encoding {
        ChunkEncoding::Raw => 0,
        ChunkEncoding::Zstd => 1,
    };
    header[9..CHECK_AT].copy_from_slice(chunk.hash.as_bytes());
    let check = check(&header, &chunk.data);
    header[CHECK_AT..].copy_from_slice(&check);
    header
}

/// Bytes of the record that begins with this header; `None` when none can.
pub(super) fn length(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let [a, b, c, d, ..] = *header;
    let data_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    (data_bytes <= CHUNK_BYTES_MAX).then_some(HEADER_BYTES + data_bytes)
}

/// The hash that the record with this header claims.
pub(super) fn hash(header: &[u8; HEADER_BYTES]) -> ChunkHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(&header[9..CHECK_AT]);
    ChunkHash::from_bytes(hash)
}

/// Reads a record that is exactly these bytes; `None` for anything else.
pub(super) fn decode(mut bytes: Bytes) -> Option<Chunk> {
    let header: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
    if length(&header)? != bytes.len() {
        return None;
    }
    let data = bytes.split_off(HEADER_BYTES);
    if check(&header, &data) != header[CHECK_AT..] {
        return None;
    }
    Some(Chunk {
        hash: hash(&header),
        raw_bytes: u32::from_le_bytes(*header[4..].first_chunk()?),
        encoding: match header[8] {
            0 => ChunkEncoding::Raw,
            1 => ChunkEncoding::Zstd,
            _ => return None,
        },
        data,
    })
}

fn check(header: &[u8; HEADER_BYTES], data: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..CHECK_AT]);
    hasher.update(data);
    hasher.finalize().to_le_bytes()
}
