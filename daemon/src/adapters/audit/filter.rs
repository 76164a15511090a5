//! What may be in a block of lines: a set of bits for each, beside its file.
//!
//! A text is in a block only if each of its pieces of 1, 2, 3 and 5 bytes is, and
//! a record of this session with that tool only if the pair is. So a search for
//! what is rare, or is not there at all, reads an eighth of the log and not all of
//! it. The sets are only a copy: where one is missing, or is not that of its
//! block, the block is read.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::segment::Block;
use crate::domain::audit::{
    Entry, Kind, Outcome,
    query::{Query, any_text},
};

/// Bytes of a set. A block of 64 KiB of commands and hashes has some 30 000
/// different pieces, which sets two bits in five.
const SET_BYTES: usize = 8 << 10;
/// Bytes that a set takes in its file: it, and a checksum of it and its block.
const KEPT_BYTES: usize = SET_BYTES + size_of::<u32>();
/// Lengths of the pieces that a text is known by.
const PIECES: [usize; 4] = [1, 2, 3, 5];

/// What a block that is still written to has.
pub(super) struct Filter {
    bits: Box<[u8; SET_BYTES]>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            bits: Box::new([0; SET_BYTES]),
        }
    }
}

impl Filter {
    /// Adds a record's values.
    pub(super) fn add(&mut self, entry: &Entry) {
        let names = [
            Some(entry.caller.as_str()),
            entry.session.as_deref(),
            entry.workspace.as_deref(),
            entry.tool.as_deref(),
            Some(entry.kind.name()),
            entry.outcome.map(Outcome::name),
        ];
        each_bit_of_names(names, &mut |bit| self.insert(bit));
        any_text(entry, &mut |text| {
            each_bit_of_text(text, &mut |bit| self.insert(bit));
            false
        });
    }

    fn insert(&mut self, bit: u16) {
        self.bits[usize::from(bit >> 3)] |= 1 << (bit & 7);
    }

    /// Keeps it as the one of a block, which has this place among those of its
    /// file, and begins anew.
    pub(super) fn keep(&mut self, file: &File, place: usize, block: &Block) -> io::Result<()> {
        let mut kept = std::mem::take(self).bits.to_vec();
        kept.extend_from_slice(&checksum(&kept, block).to_le_bytes());
        file.write_all_at(&kept, offset(place))
    }
}

/// Bytes of a file with the sets of so many blocks.
pub(super) fn kept_bytes(blocks: usize) -> u64 {
    offset(blocks)
}

fn offset(place: usize) -> u64 {
    (place * KEPT_BYTES) as u64
}

fn checksum(bits: &[u8], block: &Block) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bits);
    for number in [block.offset, block.end, block.first, block.records] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize()
}

/// What a block must have for a record in it to match.
pub(super) struct Wanted {
    bits: Vec<u16>,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Self {
        let mut bits = Vec::new();
        let names = [
            query.caller.as_deref(),
            query.session.as_deref(),
            query.workspace.as_deref(),
            query.tool.as_deref(),
            query.kind.map(Kind::name),
            query.outcome.map(Outcome::name),
        ];
        each_bit_of_names(names, &mut |bit| bits.push(bit));
        let text = query.text.as_deref().unwrap_or_default();
        each_bit_of_text(text, &mut |bit| bits.push(bit));
        Self { bits }
    }

    /// Whether a block may have it. `kept` is room to read into.
    pub(super) fn may_be_in(
        &self,
        file: &File,
        place: usize,
        block: &Block,
        kept: &mut Vec<u8>,
    ) -> bool {
        if self.bits.is_empty() {
            return true;
        }
        kept.resize(KEPT_BYTES, 0);
        if file.read_exact_at(kept, offset(place)).is_err() {
            return true;
        }
        let (set, check) = kept.split_at(SET_BYTES);
        let has = |bit: &u16| set[usize::from(bit >> 3)] >> (bit & 7) & 1 == 1;
        // Only what would be left out has to be certain.
        self.bits.iter().all(has) || check != checksum(set, block).to_le_bytes()
    }
}

/// The bits of a record's names, each and in pairs.
fn each_bit_of_names(names: [Option<&str>; 6], each: &mut impl FnMut(u16)) {
    let hashes = [0_u8, 1, 2, 3, 4, 5].map(|field| {
        let name = names[usize::from(field)]?;
        Some(hash([field].into_iter().chain(name.bytes())))
    });
    let hashes: Vec<u64> = hashes.into_iter().flatten().collect();
    for (place, one) in hashes.iter().enumerate() {
        each_word(*one, each);
        for other in &hashes[place + 1..] {
            each_word(spread(one.rotate_left(7) ^ other), each);
        }
    }
}

fn each_word(hash: u64, each: &mut impl FnMut(u16)) {
    for part in hash.to_le_bytes().chunks_exact(2) {
        each(u16::from_le_bytes([part[0], part[1]]));
    }
}

/// The bits of a text's pieces.
fn each_bit_of_text(text: &str, each: &mut impl FnMut(u16)) {
    // The last bytes, the newest lowest.
    let mut last = 0_u64;
    for (place, byte) in text.bytes().enumerate() {
        last = last << 8 | u64::from(byte);
        for length in PIECES.into_iter().take_while(|length| *length <= place + 1) {
            let piece = last & ((1 << (8 * length)) - 1) | (length as u64) << 56;
            each((spread(piece) >> 48) as u16);
        }
    }
}

/// FNV-1a, which stays the same from one version to the next.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    spread(hash)
}

/// Spreads what differs over all bits, the highest most.
fn spread(value: u64) -> u64 {
    let mixed = (value ^ value >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}
