//! What a log has to be: every line whole, every record after the one that it
//! names, every checkpoint signed by the same key, a beginning that is the
//! first record or was signed to be one, and in it what a checkpoint that
//! somebody holds elsewhere says.

use super::{
    Kind,
    chain::{Hash, Head, Line, LineError},
    checkpoint::{Checkpoint, CheckpointError, PublicKey},
};

/// Reads a log line by line.
#[derive(Debug)]
pub struct Verifier {
    /// The last record; `None` before the first.
    head: Option<Head>,
    first: Option<First>,
    /// Who signs: known before, or the first who did.
    key: Option<PublicKey>,
    held: Option<Checkpoint>,
    held_found: bool,
    last_checkpoint: Option<Checkpoint>,
    /// Where the log begins by a record that is not signed yet.
    cut: Option<u64>,
    /// The same, signed.
    signed_cut: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct First {
    seq: u64,
    is_checkpoint: bool,
}

/// What was found of a log that is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of the first record; what was before it was removed by a signed
    /// decision.
    pub first: u64,
    /// Number of the last record; 0 when there is none.
    pub last: u64,
    /// The last checkpoint: what is after it is chained and not yet signed.
    pub checkpoint: Option<Checkpoint>,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line is no record.
    #[error("record {seq}: {error}")]
    Line {
        /// Number of the record that should be there; 0 when none is known.
        seq: u64,
        /// Why.
        error: LineError,
    },
    /// A record is at another's place: some are missing, or in another order.
    #[error("record {expected} should follow, and record {found} does")]
    Order {
        /// What should be there.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// A record does not name the one before it.
    #[error("record {seq} does not follow the one before it: something before it was changed")]
    Chain {
        /// The record.
        seq: u64,
    },
    /// A checkpoint is not one.
    #[error("record {seq} is not a valid checkpoint: {error}")]
    Checkpoint {
        /// The record.
        seq: u64,
        /// Why.
        error: CheckpointError,
    },
    /// A checkpoint is signed by somebody else.
    #[error("checkpoint {seq} is signed by {found}, not by {expected}")]
    Key {
        /// The record.
        seq: u64,
        /// Who should have signed.
        expected: PublicKey,
        /// Who did.
        found: PublicKey,
    },
    /// The beginning is missing, and nobody signed that it may.
    #[error("the log begins with record {first}, and no signed retention says so")]
    Beginning {
        /// The first record.
        first: u64,
    },
    /// The log ends before the checkpoint that is held elsewhere.
    #[error("the log ends with record {last}, before the checkpoint {held}: its end is cut off")]
    Truncated {
        /// The last record.
        last: u64,
        /// The checkpoint that is held.
        held: u64,
    },
    /// The checkpoint that is held elsewhere is not in the log.
    #[error("record {held} is not the checkpoint that is held elsewhere")]
    NotHeld {
        /// The checkpoint that is held.
        held: u64,
    },
    /// The log begins after the checkpoint that is held elsewhere.
    #[error("the log begins with record {first}, after the checkpoint {held}; use a newer one")]
    HeldIsOlder {
        /// The first record.
        first: u64,
        /// The checkpoint that is held.
        held: u64,
    },
    /// There is nothing.
    #[error("there is no record")]
    Empty,
}

impl Verifier {
    /// A verifier that has read nothing. With a `key`, every checkpoint must be
    /// signed by it; with a checkpoint that is `held` elsewhere, the log must
    /// have it.
    #[must_use]
    pub fn new(key: Option<PublicKey>, held: Option<Checkpoint>) -> Self {
        Self {
            head: None,
            first: None,
            key: key.or(held.as_ref().map(|held| held.key)),
            held,
            held_found: false,
            last_checkpoint: None,
            cut: None,
            signed_cut: None,
        }
    }

    /// Reads the next line, without the newline at its end.
    ///
    /// # Errors
    /// The first [`Fault`] of the log; what follows need not be read.
    pub fn read(&mut self, line: &[u8]) -> Result<(), Fault> {
        let expected = self.head.map_or(0, |head| head.seq + 1);
        let fault = |error| Fault::Line {
            seq: expected,
            error,
        };
        let line = Line::parse(line).map_err(fault)?;
        let record = line.record().map_err(fault)?;
        match self.head {
            Some(head) => {
                if record.seq != expected {
                    return Err(Fault::Order {
                        expected,
                        found: record.seq,
                    });
                }
                if record.prev != head.hash.to_string() {
                    return Err(Fault::Chain { seq: record.seq });
                }
            }
            None => {
                let starts = record.seq == 1 && record.prev == Hash::NONE.to_string();
                if record.seq <= 1 && !starts {
                    return Err(Fault::Chain { seq: record.seq });
                }
                self.first = Some(First {
                    seq: record.seq,
                    is_checkpoint: record.entry.kind == Kind::Checkpoint,
                });
            }
        }
        match record.entry.kind {
            Kind::Checkpoint => self.checkpoint(line, &record)?,
            Kind::Retention => {
                self.cut = (record.entry.detail.get("first")).and_then(serde_json::Value::as_u64);
            }
            Kind::ApiStarted
            | Kind::ApiCall
            | Kind::ToolStarted
            | Kind::ToolCall
            | Kind::Approval
            | Kind::Network
            | Kind::CredentialUse
            | Kind::Snapshot
            | Kind::PolicyChange
            | Kind::Login
            | Kind::Push
            | Kind::Session
            | Kind::Daemon => {}
        }
        if let Some(held) = &self.held
            && held.seq == record.seq
        {
            if held.hash != line.hash {
                return Err(Fault::NotHeld { held: held.seq });
            }
            self.held_found = true;
        }
        self.head = Some(Head {
            seq: record.seq,
            hash: line.hash,
        });
        Ok(())
    }

    fn checkpoint(&mut self, line: Line<'_>, record: &super::chain::Record) -> Result<(), Fault> {
        let seq = record.seq;
        let checkpoint =
            Checkpoint::of(line, record).map_err(|error| Fault::Checkpoint { seq, error })?;
        let expected = *self.key.get_or_insert(checkpoint.key);
        if expected != checkpoint.key {
            return Err(Fault::Key {
                seq,
                expected,
                found: checkpoint.key,
            });
        }
        self.signed_cut = self.cut;
        self.last_checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Judges the whole, after the last line.
    ///
    /// # Errors
    /// What only the end shows: [`Fault::Empty`], [`Fault::Beginning`],
    /// [`Fault::Truncated`], [`Fault::HeldIsOlder`].
    pub fn finish(self) -> Result<Verified, Fault> {
        let (Some(first), Some(head)) = (self.first, self.head) else {
            return match self.held {
                Some(held) => Err(Fault::Truncated {
                    last: 0,
                    held: held.seq,
                }),
                None => Err(Fault::Empty),
            };
        };
        let may_begin = first.is_checkpoint && self.signed_cut.is_some_and(|cut| first.seq <= cut);
        if first.seq != 1 && !may_begin {
            return Err(Fault::Beginning { first: first.seq });
        }
        if let Some(held) = self.held
            && !self.held_found
        {
            let held = held.seq;
            return Err(if held < first.seq {
                Fault::HeldIsOlder {
                    first: first.seq,
                    held,
                }
            } else {
                Fault::Truncated {
                    last: head.seq,
                    held,
                }
            });
        }
        Ok(Verified {
            first: first.seq,
            last: head.seq,
            checkpoint: self.last_checkpoint,
        })
    }
}

/// Verifies a log that is in memory as a whole.
///
/// # Errors
/// The first [`Fault`].
pub fn verify(
    log: &[u8],
    key: Option<PublicKey>,
    held: Option<Checkpoint>,
) -> Result<Verified, Fault> {
    let mut verifier = Verifier::new(key, held);
    let mut rest = log;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            let seq = verifier.head.map_or(0, |head| head.seq + 1);
            return Err(Fault::Line {
                seq,
                error: LineError::Form,
            });
        };
        verifier.read(&rest[..end])?;
        rest = &rest[end + 1..];
    }
    verifier.finish()
}
