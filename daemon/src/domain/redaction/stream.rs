//! Redaction of bytes that come in pieces.

use std::sync::Arc;

use bytes::Bytes;

use super::{Redactor, Rest};

/// One stream of bytes on its way. Held back is only what the next piece could
/// make the rest of a value; everything else goes on at once.
#[derive(Clone)]
pub struct RedactionStream {
    redactor: Arc<Redactor>,
    held: Vec<u8>,
}

impl RedactionStream {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Self {
            redactor,
            held: Vec::new(),
        }
    }

    /// Takes the next piece and gives what is decided by now.
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        let piece = match self.held.is_empty() {
            true => piece,
            false => {
                self.held.extend_from_slice(&piece);
                std::mem::take(&mut self.held).into()
            }
        };
        let scan = self.redactor.scan(&piece, Rest::MayFollow);
        self.held.extend_from_slice(&piece[scan.decided..]);
        match scan.clean {
            Some(clean) => clean.into(),
            None => piece.slice(..scan.decided),
        }
    }

    /// Gives what was held back: nothing more belongs to it.
    pub fn flush(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        match self.redactor.scan(&held, Rest::Ended).clean {
            Some(clean) => clean.into(),
            None => held.into(),
        }
    }
}
