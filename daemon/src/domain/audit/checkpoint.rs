//! Checkpoints: records that are signed with Ed25519, and with them everything
//! before.
//!
//! Signed are [`PURPOSE`] and the record's bytes up to its signature field,
//! which is the last one.

use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::chain::{Line, LineError, Record, hex, unhex};

/// What is signed before the record, so that a signature means only this.
pub const PURPOSE: &[u8] = b"compy audit checkpoint 1\n";
/// How the last field of a checkpoint begins.
pub(super) const SIGNATURE_FIELD: &str = r#","signature":""#;
/// What follows the signed bytes: the field, 128 digits, a quote and a brace.
const SIGNATURE_BYTES: usize = SIGNATURE_FIELD.len() + 128 + 2;

/// The key that checkpoints are signed with.
pub struct SigningKey(Ed25519KeyPair);

/// Who signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A seed that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a signing key is 32 bytes, as 64 hex digits")]
pub struct KeyError;

impl SigningKey {
    /// The key made from 32 random bytes.
    ///
    /// # Errors
    /// There are more or fewer.
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        pair.map(Self).map_err(|_| KeyError)
    }

    /// Reads a seed's hex digits.
    ///
    /// # Errors
    /// It is not 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::from_seed(&unhex(text.trim().as_bytes()).ok_or(KeyError)?)
    }

    /// Who signs with it.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// Signs what is before the signature field of a checkpoint.
    pub(super) fn sign(&self, signed: &[u8]) -> Vec<u8> {
        self.0.sign(&[PURPOSE, signed].concat()).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

impl PublicKey {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(unhex(text.as_bytes())?.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A checkpoint whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of its record.
    pub seq: u64,
    /// Hash of its record.
    pub hash: super::chain::Hash,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who signed.
    pub key: PublicKey,
}

/// Why a line is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It is no record either.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It is a record of another kind.
    #[error("it is no checkpoint")]
    Kind,
    /// Its key or its signature has not the form of one.
    #[error("its key or its signature is not one")]
    Form,
    /// Its signature is not of these bytes by that key.
    #[error("its signature does not hold")]
    Signature,
}

impl Checkpoint {
    /// Reads the line of a checkpoint, as somebody keeps it elsewhere.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn read(line: &[u8]) -> Result<Self, CheckpointError> {
        let line = Line::parse(line.trim_ascii_end())?;
        Self::of(line, &line.record()?)
    }

    /// Checks the signature of a record that is a checkpoint.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn of(line: Line<'_>, record: &Record) -> Result<Self, CheckpointError> {
        if record.entry.kind != super::Kind::Checkpoint {
            return Err(CheckpointError::Kind);
        }
        let key = record.key.as_deref().and_then(PublicKey::parse);
        let signature = record.signature.as_deref();
        let signature = signature.and_then(|digits| unhex(digits.as_bytes()));
        let (Some(key), Some(signature)) = (key, signature) else {
            return Err(CheckpointError::Form);
        };
        let at = line.record.len().checked_sub(SIGNATURE_BYTES);
        let (signed, rest) = at
            .map(|at| line.record.split_at(at))
            .ok_or(CheckpointError::Form)?;
        if !rest.starts_with(SIGNATURE_FIELD.as_bytes()) {
            return Err(CheckpointError::Form);
        }
        UnparsedPublicKey::new(&ED25519, key.bytes())
            .verify(&[PURPOSE, signed].concat(), &signature)
            .map_err(|_| CheckpointError::Signature)?;
        Ok(Self {
            seq: record.seq,
            hash: line.hash,
            at_ms: record.entry.at_ms,
            key,
        })
    }
}
