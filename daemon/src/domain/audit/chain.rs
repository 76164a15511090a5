//! The chain: a record's bytes, its line, and what follows what.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::{
    Entry, Kind,
    checkpoint::{SIGNATURE_FIELD, SigningKey},
};

/// What every line begins with.
const BEFORE_HASH: &str = r#"{"hash":""#;
/// What is between the hash and the record.
const BEFORE_RECORD: &str = r#"","record":"#;
/// Hex digits of a hash.
const HASH_DIGITS: usize = 64;
/// Where a line's record begins.
pub const RECORD_AT: usize = BEFORE_HASH.len() + HASH_DIGITS + BEFORE_RECORD.len();

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first record names as the one before it.
    pub const NONE: Self = Self([0; 32]);

    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(hash)
    }

    /// Reads 64 lower-case hex digits, and nothing else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        Some(Self(unhex(text)?.try_into().ok()?))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// Reads what [`hex`] writes, and nothing else.
pub(super) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    pairs.iter().map(byte).collect()
}

/// The end of a chain, where records are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record; 0 when there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// A chain without records.
    pub const START: Self = Self {
        seq: 0,
        hash: Hash::NONE,
    };

    /// Adds a record to `lines`. `synced` is the number of the last record that
    /// is on disk for certain; the first record of each write carries it, so
    /// that a torn end can be told from a damaged one.
    pub fn add(&mut self, fields: &str, synced: Option<u64>, lines: &mut Vec<u8>) {
        let record = format!("{{{}{fields}}}", self.place(synced));
        self.close(&record, lines);
    }

    /// Adds a checkpoint: everything before it is signed by it.
    pub fn add_checkpoint(
        &mut self,
        key: &SigningKey,
        at_ms: i64,
        synced: Option<u64>,
        lines: &mut Vec<u8>,
    ) {
        let fields = Entry::new(at_ms, Kind::Checkpoint, "daemon").fields();
        let public = hex(key.public().bytes());
        let signed = format!("{{{}{fields},\"key\":\"{public}\"", self.place(synced));
        let signature = hex(&key.sign(signed.as_bytes()));
        self.close(&format!("{signed}{SIGNATURE_FIELD}{signature}\"}}"), lines);
    }

    fn place(&self, synced: Option<u64>) -> String {
        let (seq, prev) = (self.seq + 1, self.hash);
        let synced = synced.map_or_else(String::new, |synced| format!("\"synced\":{synced},"));
        format!("\"seq\":{seq},\"prev\":\"{prev}\",{synced}")
    }

    fn close(&mut self, record: &str, lines: &mut Vec<u8>) {
        self.seq += 1;
        self.hash = Hash::of(record.as_bytes());
        lines.extend_from_slice(
            format!("{BEFORE_HASH}{}{BEFORE_RECORD}{record}}}\n", self.hash).as_bytes(),
        );
    }
}

/// A line that holds together: its record has the hash that it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The record's hash.
    pub hash: Hash,
    /// The record's bytes.
    pub record: &'a [u8],
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It has another form.
    #[error("it is not a line of an audit log")]
    Form,
    /// The record is not what was hashed.
    #[error("its hash is not that of its record")]
    Hash,
    /// The record has no known form.
    #[error("its record cannot be read: {0}")]
    Record(String),
}

impl<'a> Line<'a> {
    /// Reads a line, without the newline at its end.
    ///
    /// # Errors
    /// [`LineError::Form`] or [`LineError::Hash`].
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        let (hash, record) = Self::split(line).ok_or(LineError::Form)?;
        let hash = Hash::parse(hash).ok_or(LineError::Form)?;
        if Hash::of(record) != hash {
            return Err(LineError::Hash);
        }
        Ok(Self { hash, record })
    }

    /// The hash's digits and the record, if the line has that form.
    fn split(line: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let rest = line.strip_prefix(BEFORE_HASH.as_bytes())?;
        let (hash, rest) = rest.split_at_checked(HASH_DIGITS)?;
        let record = rest.strip_prefix(BEFORE_RECORD.as_bytes())?;
        Some((hash, record.strip_suffix(b"}")?))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`LineError::Record`].
    pub fn record(&self) -> Result<Record, LineError> {
        Record::read(self.record)
    }
}

/// A record of the log, as it was written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// Hash of the record before it, as hex digits.
    pub prev: String,
    /// Number of the last record that was on disk for certain when this one was
    /// written.
    #[serde(default)]
    pub synced: Option<u64>,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
    /// Of a checkpoint: the public key, as hex digits.
    #[serde(default)]
    pub key: Option<String>,
    /// Of a checkpoint: the signature, as hex digits.
    #[serde(default)]
    pub signature: Option<String>,
}

impl Record {
    /// Reads a record's bytes.
    ///
    /// # Errors
    /// [`LineError::Record`].
    pub fn read(bytes: &[u8]) -> Result<Self, LineError> {
        serde_json::from_slice(bytes).map_err(|error| LineError::Record(error.to_string()))
    }

    /// Reads the record of a line whose hash somebody else checks.
    ///
    /// # Errors
    /// [`LineError::Form`] or [`LineError::Record`].
    pub fn of_line(line: &[u8]) -> Result<Self, LineError> {
        let (_, record) = Line::split(line).ok_or(LineError::Form)?;
        Self::read(record)
    }
}
