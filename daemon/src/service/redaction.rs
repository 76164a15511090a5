//! The redactor of the moment, shared by everything that writes, shows or sends.
//!
//! It is replaced as a whole when credentials change; who works with a stream
//! keeps the one it began with.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use crate::domain::redaction::{RedactionStream, Redactor};

/// A handle to the redactor of the moment. Cheap to clone.
#[derive(Clone)]
pub struct Redactions {
    /// Held to read or replace the `Arc`.
    current: Arc<RwLock<Arc<Redactor>>>,
}

impl std::fmt::Debug for Redactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactions(***)")
    }
}

impl Default for Redactions {
    fn default() -> Self {
        let nothing = Arc::new(Redactor::new([]));
        Self {
            current: Arc::new(RwLock::new(nothing)),
        }
    }
}

impl Redactions {
    /// The redactor of the moment.
    #[must_use]
    pub fn current(&self) -> Arc<Redactor> {
        (self.current.read().unwrap_or_else(PoisonError::into_inner)).clone()
    }

    /// A stream that begins now.
    #[must_use]
    pub fn stream(&self) -> RedactionStream {
        RedactionStream::new(self.current())
    }

    /// From now on this one.
    pub(super) fn replace(&self, redactor: Redactor) {
        *(self.current.write().unwrap_or_else(PoisonError::into_inner)) = Arc::new(redactor);
    }

    /// A writer that takes values out of each piece before `inner` gets it. For
    /// writers that are given whole lines, as those of logs are.
    pub fn writer<W: io::Write>(&self, inner: W) -> RedactingWriter<W> {
        RedactingWriter {
            redactor: self.current(),
            inner,
        }
    }
}

/// See [`Redactions::writer`].
pub struct RedactingWriter<W> {
    redactor: Arc<Redactor>,
    inner: W,
}

impl<W: io::Write> io::Write for RedactingWriter<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.inner.write_all(&self.redactor.bytes(piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_that_is_written_holds_no_value() {
        let redactions = Redactions::default();
        let mut before = Vec::new();
        writeln!(redactions.writer(&mut before), "has t0ken-of-npm").unwrap();
        assert_eq!(before, b"has t0ken-of-npm\n");
        redactions.replace(Redactor::new([("npm", b"t0ken-of-npm".as_slice())]));
        let mut after = Vec::new();
        let mut writer = redactions.writer(&mut after);
        writer.write_all(b"has t0ken-of-npm\n").unwrap();
        writer.flush().unwrap();
        assert_eq!(after, b"has [redacted:npm]\n");
    }
}
