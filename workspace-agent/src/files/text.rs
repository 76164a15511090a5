//! What counts as a text file that a model can work with.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::errors::{AgentError, Reason};

/// Larger files are not even looked through.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A NUL byte in this many first bytes makes a file binary, as for git.
const SNIFF_BYTES: usize = 8 * 1024;

/// Opens a regular file of bearable size and says how large it is.
pub(super) fn open(path: &Path) -> Result<(File, u64), AgentError> {
    // Without waiting, or opening a fifo would never return.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| AgentError::io("open", path, &error))?;
    let meta = file
        .metadata()
        .map_err(|error| AgentError::io("look at", path, &error))?;
    if !meta.is_file() {
        let what = if meta.is_dir() {
            "is a directory; list it instead"
        } else {
            "is not a regular file"
        };
        return Err(AgentError::new(
            Reason::NotAFile,
            format!("{} {what}", path.display()),
        ));
    }
    if meta.len() > MAX_BYTES {
        return Err(AgentError::new(
            Reason::FileTooLarge,
            format!(
                "{} has {} bytes and files up to {MAX_BYTES} bytes are read; search it with grep, or cut a part out with a command such as sed -n '1,200p'",
                path.display(),
                meta.len()
            ),
        )
        .with("size_bytes", meta.len()));
    }
    Ok((file, meta.len()))
}

/// Reads a whole text file.
pub(super) fn read_all(path: &Path) -> Result<String, AgentError> {
    let (file, size) = open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| AgentError::io("read", path, &error))?;
    if bytes[..bytes.len().min(SNIFF_BYTES)].contains(&0) {
        return Err(binary(path, "a NUL byte"));
    }
    String::from_utf8(bytes).map_err(|_| binary(path, "bytes that are not UTF-8"))
}

fn binary(path: &Path, why: &str) -> AgentError {
    AgentError::new(
        Reason::BinaryFile,
        format!(
            "{} is not text: it holds {why}; use a command such as file, xxd or strings on it",
            path.display()
        ),
    )
}

/// Looks through a stream piece by piece and refuses what is not text.
#[derive(Default)]
pub(super) struct TextCheck {
    seen: usize,
    /// The begin of a character whose end comes with the next piece.
    cut: Vec<u8>,
}

impl TextCheck {
    pub(super) fn piece(&mut self, path: &Path, piece: &[u8]) -> Result<(), AgentError> {
        let sniff = SNIFF_BYTES.saturating_sub(self.seen).min(piece.len());
        if piece[..sniff].contains(&0) {
            return Err(binary(path, "a NUL byte"));
        }
        self.seen += piece.len();
        let mut rest = piece;
        while !self.cut.is_empty() && !rest.is_empty() {
            self.cut.push(rest[0]);
            rest = &rest[1..];
            match std::str::from_utf8(&self.cut) {
                Ok(_) => self.cut.clear(),
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(binary(path, "bytes that are not UTF-8")),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.cut.extend_from_slice(&rest[error.valid_up_to()..]);
                Ok(())
            }
            Err(_) => Err(binary(path, "bytes that are not UTF-8")),
        }
    }

    pub(super) fn end(&self, path: &Path) -> Result<(), AgentError> {
        if self.cut.is_empty() {
            return Ok(());
        }
        Err(binary(path, "bytes that are not UTF-8"))
    }
}

/// blake3 of a file's content, 64 hex digits.
pub(super) fn hash_file(file: &mut File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(length) => {
                hasher.update(&buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lines of a text: a last line without its end counts.
pub(super) fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes()[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), Reason> {
        let path = Path::new("/f");
        let mut check = TextCheck::default();
        for piece in pieces {
            check.piece(path, piece).map_err(|error| error.reason())?;
        }
        check.end(path).map_err(|error| error.reason())
    }

    #[test]
    fn characters_may_be_cut_between_pieces_and_nothing_else() {
        let euro = "€".as_bytes();
        assert_eq!(
            check(&[b"a", &euro[..1], &euro[1..2], &euro[2..], b"b"]),
            Ok(())
        );
        assert_eq!(check(&[&euro[..2]]), Err(Reason::BinaryFile));
        assert_eq!(check(&[&euro[..2], b"x"]), Err(Reason::BinaryFile));
        assert_eq!(check(&[b"\xff"]), Err(Reason::BinaryFile));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn a_nul_byte_counts_in_the_first_bytes_only() {
        let text = vec![b'a'; SNIFF_BYTES];
        assert_eq!(check(&[&text, b"\0"]), Ok(()));
        assert_eq!(check(&[&text[1..], b"\0"]), Err(Reason::BinaryFile));
    }
}
