//! The audit log: a chain of records that only grows and that nobody inside a
//! workspace can reach.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::audit::{
    Entry,
    chain::Record,
    checkpoint::PublicKey,
    query::Query,
    verify::{Fault, Verified},
};

/// Why the log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// There is no space, or too little to go on. What must be on record before
    /// it is done is refused until there is.
    #[error("{0}: the disk is too full for the audit log; free space, and it goes on by itself")]
    DiskFull(String),
    /// Its files are not as they were written.
    #[error(
        "the audit log is damaged: {0}; keep a copy of it for whoever looks into this, then move its directory away to begin a new log"
    )]
    Damaged(String),
    /// It was changed.
    #[error("the audit log does not verify: {0}")]
    Fault(#[from] Fault),
    /// Its signing key is missing or is another one.
    #[error("{file}: {message}")]
    Key {
        /// The key's file.
        file: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// Anything else.
    #[error("cannot {action} the audit log: {message}")]
    Failed {
        /// What was tried: "write".
        action: &'static str,
        /// The cause.
        message: String,
    },
}

impl AuditError {
    /// Whether there is too little space.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }
}

/// A part of the log, as its lines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    /// Whole lines, each with its newline; empty at the end.
    pub bytes: Bytes,
    /// Number of the record that follows.
    pub next: u64,
}

/// What is kept when the log is made shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Records before this time may go, in milliseconds since the Unix epoch.
    pub before_ms: i64,
    /// The oldest records go while there are more bytes than this.
    pub max_bytes: u64,
}

/// The audit log. Dropped without [`close`](Self::close), it loses nothing that
/// was acknowledged.
#[async_trait]
pub trait AuditPort: Send + Sync {
    /// Records something with the next group, and does not wait for it. What a
    /// queue that is full or a full disk does not take is counted, and the count
    /// is recorded as soon as that is possible.
    fn record(&self, entry: Entry);

    /// Records something; when this returns it is on disk, and what it is about
    /// may be done. Returns the record's number.
    ///
    /// # Errors
    /// [`AuditError::DiskFull`] or [`AuditError::Failed`]: it may not be done.
    async fn record_durably(&self, entry: Entry) -> Result<u64, AuditError>;

    /// Records that match, the newest first, with all that was recorded before
    /// this call.
    ///
    /// # Errors
    /// [`AuditError::Damaged`] or [`AuditError::Failed`].
    async fn search(&self, query: Query) -> Result<Vec<Record>, AuditError>;

    /// Signs everything before: returns the checkpoint's line once it is on
    /// disk. The last one when nothing was recorded since.
    ///
    /// # Errors
    /// [`AuditError::DiskFull`] or [`AuditError::Failed`].
    async fn checkpoint(&self) -> Result<Vec<u8>, AuditError>;

    /// Lines from record `from` on, or from the first there is for 0; up to and
    /// with record `last`.
    ///
    /// # Errors
    /// [`AuditError::Damaged`] or [`AuditError::Failed`]; also when the record
    /// was removed meanwhile.
    async fn lines(&self, from: u64, last: u64) -> Result<Lines, AuditError>;

    /// Reads all of it through.
    ///
    /// # Errors
    /// [`AuditError::Fault`] with what is wrong, or [`AuditError::Failed`].
    async fn verify(&self) -> Result<Verified, AuditError>;

    /// Removes what need not be kept, up to a signed checkpoint, and records
    /// that first. Returns the number of the first record that is left.
    ///
    /// # Errors
    /// [`AuditError::DiskFull`] or [`AuditError::Failed`].
    async fn retain(&self, retention: Retention) -> Result<u64, AuditError>;

    /// Who signs the checkpoints.
    fn public_key(&self) -> PublicKey;

    /// Writes what waits, signs it and closes the files; what is recorded later
    /// is lost.
    async fn close(&self);
}
