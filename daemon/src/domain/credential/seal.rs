//! Sealing with XChaCha20-Poly1305.
//!
//! What can be shown of a credential is authenticated with its value, so a record
//! that was moved to another scope or name does not open. Randomness comes from
//! the caller.

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};

use super::{Credential, SealedCredential};

/// Bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce: enough to be drawn at random.
pub const NONCE_BYTES: usize = 24;

/// The key that every value is sealed with. It has no `Debug` and cannot be
/// serialised.
#[derive(Clone)]
pub struct MasterKey([u8; KEY_BYTES]);

/// Why a text is no master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a master key is 64 hex digits")]
pub struct NotAKey;

/// Why a sealed credential does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with another key.
    #[error("it was sealed with master key {sealed_with}, and this is master key {given}")]
    WrongKey {
        /// The key it was sealed with.
        sealed_with: String,
        /// The key that was tried.
        given: String,
    },
    /// It was changed since.
    #[error("it was changed after it was sealed")]
    Tampered,
}

impl MasterKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hex digits, with white space around them.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
            return Err(NotAKey);
        }
        let mut bytes = [0; KEY_BYTES];
        for (place, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * place..2 * place + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotAKey)?;
        }
        Ok(Self(bytes))
    }

    /// The key as 64 hex digits, for the file that holds it.
    #[must_use]
    pub fn expose(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Tells the key without giving anything of it away, 16 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        let derived = blake3::derive_key("compy 2026 credentials: id of a master key", &self.0);
        derived[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Seals a value. `nonce` is drawn at random for this call.
    #[must_use]
    pub fn seal(
        &self,
        credential: Credential,
        value: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> SealedCredential {
        let payload = Payload {
            msg: value,
            aad: &shown(&credential),
        };
        let sealed = XChaCha20Poly1305::new(&self.0.into())
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a value is far shorter than the cipher's limit");
        SealedCredential {
            credential,
            key_id: self.id(),
            nonce: nonce.to_vec(),
            sealed,
        }
    }

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, sealed: &SealedCredential) -> Result<Vec<u8>, OpenError> {
        if sealed.key_id != self.id() {
            return Err(OpenError::WrongKey {
                sealed_with: sealed.key_id.clone(),
                given: self.id(),
            });
        }
        let nonce: [u8; NONCE_BYTES] =
            (sealed.nonce.as_slice().try_into()).map_err(|_| OpenError::Tampered)?;
        let payload = Payload {
            msg: &sealed.sealed,
            aad: &shown(&sealed.credential),
        };
        XChaCha20Poly1305::new(&self.0.into())
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| OpenError::Tampered)
    }
}

fn shown(credential: &Credential) -> Vec<u8> {
    serde_json::to_vec(credential).expect("a credential has text keys only")
}
