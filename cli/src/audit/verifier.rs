//! An independent verifier of exported audit logs.
//!
//! It knows nothing of the daemon: what it needs is on this page, and SHA-256
//! and Ed25519. It is written apart from the daemon's own verifier on purpose.
//!
//! - A line is `{"hash":"H","record":R}` and a newline, without any other
//!   space. `H` is the SHA-256 of the bytes of `R`, in lower-case hex.
//! - `R` has `seq`, one more than in the line before, and `prev`, the `H` of the
//!   line before. In record 1, `prev` is 64 zeros.
//! - A record of the kind `checkpoint` ends with `"key"` and `"signature"`. The
//!   Ed25519 signature is of the text `compy audit checkpoint 1`, a newline and
//!   the bytes of `R` before `,"signature":`. All have the same key.
//! - A log that does not begin with record 1 begins with a checkpoint. A later
//!   record of the kind `retention`, which a checkpoint follows, has
//!   `detail.first`: no record from that one on may be missing.
//! - A checkpoint that is held elsewhere is in the log, byte for byte.

use std::io::{BufRead, Read as _};

use ring::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use serde::Deserialize;

/// No line of a log is longer.
const MOST_LINE_BYTES: u64 = 64 << 20;
/// What precedes the signed bytes of a checkpoint.
const SIGNED_FOR: &[u8] = b"compy audit checkpoint 1\n";
/// What of a checkpoint is not signed: `,"signature":"`, 128 digits, `"}`.
const UNSIGNED_TAIL: usize = 14 + 128 + 2;

/// What a record must say for its place in the log.
#[derive(Debug, Deserialize)]
struct Facts {
    seq: u64,
    prev: String,
    at_ms: i64,
    kind: String,
    key: Option<String>,
    signature: Option<String>,
    #[serde(default)]
    detail: Detail,
}

#[derive(Debug, Default, Deserialize)]
struct Detail {
    first: Option<u64>,
}

/// A signed record: everything up to it is as it was when it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Number of the record.
    pub(crate) seq: u64,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at_ms: i64,
    /// Public key of who signed, in hex.
    pub(crate) key: String,
    /// Hash of the record, in hex.
    pub(crate) hash: String,
}

/// A log in which nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sound {
    /// Number of the first record.
    pub(crate) first: u64,
    /// Number of the last record.
    pub(crate) last: u64,
    /// The last checkpoint; the records after it are chained and not signed.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// What is wrong: which line, from 1, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// In a line.
    #[error("line {line}: {why}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// Why.
        why: String,
    },
    /// In the log as a whole.
    #[error("{0}")]
    Whole(String),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// Reads the line of a checkpoint that was kept.
pub(crate) fn read_checkpoint(bytes: &[u8]) -> Result<Checkpoint, Flaw> {
    let flaw = |why: String| Flaw::Line { line: 1, why };
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let (hash, record) = take_apart(line).map_err(flaw)?;
    let facts = facts(record).map_err(flaw)?;
    signed(&facts, &hash, record).map_err(flaw)
}

/// Reads a whole log. With a checkpoint that is held elsewhere, it must be
/// there; with a key, it must be who signed.
pub(crate) fn read_log(
    mut log: impl BufRead,
    held: Option<&Checkpoint>,
    key: Option<&str>,
) -> Result<Sound, Flaw> {
    let mut signer = key.map(str::to_owned);
    if let Some(held) = held {
        match &signer {
            Some(signer) if *signer != held.key => {
                return Err(Flaw::Whole(format!(
                    "the checkpoint that is held is signed by {}, not by {signer}",
                    held.key
                )));
            }
            _ => signer = Some(held.key.clone()),
        }
    }
    let mut bytes = Vec::new();
    let mut number = 0;
    let mut before: Option<(u64, String)> = None;
    let mut begins_with: Option<(u64, bool)> = None;
    let mut has_held = false;
    let mut newest = None;
    let (mut announced, mut announced_and_signed) = (None, None);
    loop {
        bytes.clear();
        let read = (&mut log)
            .take(MOST_LINE_BYTES)
            .read_until(b'\n', &mut bytes);
        if read.map_err(|error| Flaw::Unreadable(error.to_string()))? == 0 {
            break;
        }
        number += 1;
        let flaw = |why: String| Flaw::Line { line: number, why };
        let line = bytes.strip_suffix(b"\n");
        let line = line.ok_or_else(|| flaw("it is cut off".to_owned()))?;
        let (hash, record) = take_apart(line).map_err(flaw)?;
        let facts = facts(record).map_err(flaw)?;
        match &before {
            Some((seq, _)) if facts.seq != seq + 1 => {
                let missing = seq + 1;
                return Err(flaw(format!(
                    "record {} is here, where record {missing} should be",
                    facts.seq
                )));
            }
            Some((_, hash)) if facts.prev != *hash => {
                return Err(flaw("it was not written after the line before".to_owned()));
            }
            Some(_) => {}
            None if facts.seq == 0 || (facts.seq == 1 && facts.prev != "0".repeat(64)) => {
                return Err(flaw("no log begins like this".to_owned()));
            }
            None => begins_with = Some((facts.seq, facts.kind == "checkpoint")),
        }
        match facts.kind.as_str() {
            "checkpoint" => {
                let checkpoint = signed(&facts, &hash, record).map_err(flaw)?;
                let by = signer.get_or_insert_with(|| checkpoint.key.clone());
                if *by != checkpoint.key {
                    let other = checkpoint.key;
                    return Err(flaw(format!("it is signed by {other}, not by {by}")));
                }
                announced_and_signed = announced;
                newest = Some(checkpoint);
            }
            "retention" => announced = facts.detail.first,
            _ => {}
        }
        if let Some(held) = held.filter(|held| held.seq == facts.seq) {
            if held.hash != hash {
                return Err(flaw("it is not the checkpoint that is held".to_owned()));
            }
            has_held = true;
        }
        before = Some((facts.seq, hash));
    }
    let (Some((first, is_checkpoint)), Some((last, _))) = (begins_with, before) else {
        return Err(Flaw::Whole("there is no record in it".to_owned()));
    };
    if let Some(held) = held
        && !has_held
    {
        let held = held.seq;
        return Err(Flaw::Whole(if held < first {
            format!(
                "it begins with record {first}, after the checkpoint {held} that is held: hold a newer one"
            )
        } else {
            format!(
                "it ends with record {last}, before the checkpoint {held} that is held: its end is missing"
            )
        }));
    }
    if first > 1 && !(is_checkpoint && announced_and_signed >= Some(first)) {
        return Err(Flaw::Whole(format!(
            "it begins with record {first}, and nothing signed says that it may: its beginning is missing"
        )));
    }
    Ok(Sound {
        first,
        last,
        checkpoint: newest,
    })
}

/// The hash and the record of a line: it is put together again from the record,
/// and must come out the same.
fn take_apart(line: &[u8]) -> Result<(String, &[u8]), String> {
    let frame = frame(&"0".repeat(64));
    let record = line
        .len()
        .checked_sub(1)
        .and_then(|end| line.get(frame.len()..end));
    let Some(record) = record else {
        return Err("it is not a line of an audit log".to_owned());
    };
    let hash = hex(digest(&SHA256, record).as_ref());
    let again = [self::frame(&hash).as_bytes(), record, b"}"].concat();
    if again != line {
        return Err("its record was changed, or its hash".to_owned());
    }
    Ok((hash, record))
}

/// What is before the record.
fn frame(hash: &str) -> String {
    format!(r#"{{"hash":"{hash}","record":"#)
}

fn facts(record: &[u8]) -> Result<Facts, String> {
    serde_json::from_slice(record).map_err(|error| format!("its record cannot be read: {error}"))
}

/// The checkpoint that a record is, if its signature holds.
fn signed(facts: &Facts, hash: &str, record: &[u8]) -> Result<Checkpoint, String> {
    let wrong = || "it is not a checkpoint whose signature holds".to_owned();
    let key = facts.key.as_deref().ok_or_else(wrong)?;
    let signature = facts
        .signature
        .as_deref()
        .and_then(unhex)
        .ok_or_else(wrong)?;
    let end = record.len().checked_sub(UNSIGNED_TAIL).ok_or_else(wrong)?;
    if facts.kind != "checkpoint" || !record[end..].starts_with(br#","signature":""#) {
        return Err(wrong());
    }
    UnparsedPublicKey::new(&ED25519, unhex(key).ok_or_else(wrong)?)
        .verify(&[SIGNED_FOR, &record[..end]].concat(), &signature)
        .map_err(|_| wrong())?;
    Ok(Checkpoint {
        seq: facts.seq,
        at_ms: facts.at_ms,
        key: key.to_owned(),
        hash: hash.to_owned(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !text.len().is_multiple_of(2) || !text.bytes().all(is_hex) {
        return None;
    }
    let at = |at| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(at).collect()
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
