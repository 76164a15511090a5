//! Where the key of stored credentials comes from.

use async_trait::async_trait;

use crate::domain::credential::seal::MasterKey;

/// What there is of keys.
pub struct KeysFound {
    /// The key in force; `None` where none was made yet.
    pub current: Option<MasterKey>,
    /// A key that a rotation made, and of which nobody knows whether it came
    /// into force.
    pub next: Option<MasterKey>,
}

/// The keeper of the master key. Only one caller at a time.
#[async_trait]
pub trait MasterKeyPort: Send + Sync {
    /// What there is.
    async fn load(&self) -> Result<KeysFound, MasterKeyError>;

    /// Makes the first key; durable when it returns. A keeper that makes none
    /// fails with [`MasterKeyError::Missing`].
    async fn create(&self) -> Result<MasterKey, MasterKeyError>;

    /// The key of a rotation; found again as [`KeysFound::next`] where it is the
    /// daemon that keeps it.
    async fn next(&self) -> Result<MasterKey, MasterKeyError>;

    /// Puts the key of a rotation in force; none is left over.
    async fn commit_next(&self) -> Result<(), MasterKeyError>;

    /// Forgets the key of a rotation that was not carried out; none is accepted.
    async fn discard_next(&self) -> Result<(), MasterKeyError>;
}

/// Why there is no key. The messages say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MasterKeyError {
    /// It is not where it should be.
    #[error(
        "the master key of stored credentials is missing: {0}; put it back from your copy, or, when it is lost, start once with credentials.forget_lost = true, which deletes what it sealed, and set that anew"
    )]
    Missing(String),
    /// Others may read it.
    #[error(
        "the master key in {file} can be read by other accounts (mode {mode:o}); run `chmod 600 {file}`, and rotate it with `compyctl credential rotate` if somebody may have read it"
    )]
    Exposed {
        /// The file.
        file: String,
        /// Its permissions.
        mode: u32,
    },
    /// It is none.
    #[error(
        "what {0} holds is no master key: it takes 64 hex digits, as `openssl rand -hex 32` prints them"
    )]
    Malformed(String),
    /// It cannot be read or written.
    #[error("the master key cannot be {action}: {source_name}: {message}")]
    Io {
        /// What was tried: "read".
        action: &'static str,
        /// Where.
        source_name: String,
        /// The cause.
        message: String,
    },
    /// A command that should print it failed.
    #[error(
        "the command that prints the master key failed: {command}: {message}; run it as the daemon's account to see why, or change credentials.key_command"
    )]
    Command {
        /// Its program.
        command: String,
        /// The cause.
        message: String,
    },
    /// This source has no other key.
    #[error("{0}")]
    CannotRotate(String),
}
