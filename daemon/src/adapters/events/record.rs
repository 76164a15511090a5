//! An event as it is on disk. A change here is a new format.
//!
//! | bytes | what, integers little-endian                                  |
//! |-------|---------------------------------------------------------------|
//! | 4     | length of all of it; never zero, so that zeros are the end    |
//! | 16    | check: blake3 of the rest and the length, with the file's key |
//! | 16    | session                                                       |
//! | 8     | sequence number, from 1                                       |
//! | 8     | number of the group that was written at once, from 1          |
//! | 4     | how many records of the group follow                          |
//! | ...   | the event                                                     |
//!
//! The key is random for each file, so that no event can hold something that
//! looks like a record.

use uuid::Uuid;

use crate::domain::ids::SessionId;

/// Bytes before the event.
pub(super) const HEADER_BYTES: usize = 56;
/// Where the group's number is.
const GROUP_AT: usize = 44;

/// What a record says beside its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) session: Uuid,
    pub(super) sequence: u64,
    pub(super) group: u64,
    pub(super) left: u32,
}

impl Record {
    /// Appends the record to `bytes`.
    pub(super) fn encode(&self, key: &[u8; 32], event: &[u8], bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let length = u32::try_from(HEADER_BYTES + event.len()).expect("staging keeps it below");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(self.session.as_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.group.to_le_bytes());
        bytes.extend_from_slice(&self.left.to_le_bytes());
        bytes.extend_from_slice(event);
        let check = check(key, &bytes[start..]);
        bytes[start + 4..start + 20].copy_from_slice(&check);
    }

    /// Reads one that is exactly these bytes; `None` for anything else.
    pub(super) fn decode<'a>(key: &[u8; 32], bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        if length(bytes)? != bytes.len() || bytes[4..20] != check(key, bytes) {
            return None;
        }
        let record = Self {
            session: Uuid::from_slice(&bytes[20..36]).ok()?,
            sequence: u64::from_le_bytes(bytes[36..44].try_into().ok()?),
            group: group(bytes)?,
            left: u32::from_le_bytes(bytes[52..56].try_into().ok()?),
        };
        Some((record, &bytes[HEADER_BYTES..]))
    }
}

/// The length of the record that begins here, if it can be one.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (length >= HEADER_BYTES).then_some(length)
}

/// The group of the record that begins here.
pub(super) fn group(bytes: &[u8]) -> Option<u64> {
    let group = bytes.get(GROUP_AT..)?.first_chunk()?;
    Some(u64::from_le_bytes(*group))
}

/// Of a record of at least its header's length.
fn check(key: &[u8; 32], record: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&record[..4]).update(&record[20..]);
    let mut check = [0; 16];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    check
}

/// The id as it is in a record.
pub(super) fn session_uuid(session: &SessionId) -> Uuid {
    let digits = session.as_str().trim_start_matches("se-");
    Uuid::try_parse(digits).expect("a session id is `se-` and the digits of a UUID")
}
