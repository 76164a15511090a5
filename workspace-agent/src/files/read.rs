//! ReadFile: lines of a text file, in one pass over all of it.

use std::io::Read as _;
use std::path::Path;

use compyd_proto::agent::{ReadFileRequest, ReadFileResponse};

use super::text::{TextCheck, open};
use crate::errors::AgentError;

const DEFAULT_LINES: u32 = 2000;
const DEFAULT_BYTES: u32 = 256 * 1024;
const MAX_BYTES: u32 = 4 * 1024 * 1024;

/// Reads the lines asked for from the file at this real path.
pub(super) fn read(path: &Path, request: &ReadFileRequest) -> Result<ReadFileResponse, AgentError> {
    let (mut file, _) = open(path)?;
    let mut lines = Lines::new(request);
    let mut check = TextCheck::default();
    let mut hasher = blake3::Hasher::new();
    let mut total_bytes = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(AgentError::io("read", path, &error)),
        };
        let piece = &buffer[..length];
        check.piece(path, piece)?;
        hasher.update(piece);
        total_bytes += length as u64;
        lines.piece(piece);
    }
    check.end(path)?;
    let mut response = lines.finish();
    response.total_bytes = total_bytes;
    response.hash = hasher.finalize().to_hex().to_string();
    Ok(response)
}

/// Counts lines and keeps those that are wanted.
struct Lines {
    first: u32,
    wanted: u32,
    max_bytes: usize,
    /// Lines that have ended.
    ended: u32,
    kept: Vec<u8>,
    /// Bytes kept up to the last line end.
    kept_to_line_end: usize,
    kept_lines: u32,
    /// Whether something wanted did not fit.
    full: bool,
    in_line: bool,
}

impl Lines {
    fn new(request: &ReadFileRequest) -> Self {
        let or = |value: u32, default| if value == 0 { default } else { value };
        Self {
            first: or(request.first_line, 1),
            wanted: or(request.line_count, DEFAULT_LINES),
            max_bytes: or(request.max_bytes, DEFAULT_BYTES).min(MAX_BYTES) as usize,
            ended: 0,
            kept: Vec::new(),
            kept_to_line_end: 0,
            kept_lines: 0,
            full: false,
            in_line: false,
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.ends_with(b"\n");
            let number = self.ended + 1;
            let is_wanted = number >= self.first
                && u64::from(number) < u64::from(self.first) + u64::from(self.wanted);
            if is_wanted && !self.full {
                let room = self.max_bytes - self.kept.len();
                self.kept.extend_from_slice(&part[..part.len().min(room)]);
                self.full = part.len() > room;
                if ends && !self.full {
                    self.kept_lines += 1;
                    self.kept_to_line_end = self.kept.len();
                }
            }
            self.in_line = !ends;
            if ends {
                self.ended = self.ended.saturating_add(1);
            }
        }
    }

    fn finish(mut self) -> ReadFileResponse {
        let total_lines = self.ended + u32::from(self.in_line);
        if self.full && self.kept_to_line_end > 0 {
            self.kept.truncate(self.kept_to_line_end);
        } else if self.kept.len() > self.kept_to_line_end {
            // A last line without its end, or one that alone is too long.
            self.kept_lines += 1;
        }
        let content = match String::from_utf8(self.kept) {
            Ok(content) => content,
            // Cut inside a character; the whole file was checked before.
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(valid);
                String::from_utf8(bytes).unwrap_or_default()
            }
        };
        let after = u64::from(self.first) - 1 + u64::from(self.kept_lines);
        ReadFileResponse {
            content,
            first_line: if total_lines == 0 { 0 } else { self.first },
            line_count: self.kept_lines,
            total_lines,
            truncated: self.full || after < u64::from(total_lines),
            ..ReadFileResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &str, first: u32, count: u32, max_bytes: u32) -> ReadFileResponse {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content).unwrap();
        let request = ReadFileRequest {
            path: String::new(),
            first_line: first,
            line_count: count,
            max_bytes,
        };
        read(&path, &request).unwrap()
    }

    fn brief(answer: &ReadFileResponse) -> (&str, u32, u32, u32, bool) {
        (
            &answer.content,
            answer.first_line,
            answer.line_count,
            answer.total_lines,
            answer.truncated,
        )
    }

    #[test]
    fn ranges_are_cut_at_line_ends() {
        let text = "one\ntwo\r\nthree\nfour";
        assert_eq!(brief(&lines(text, 0, 0, 0)), (text, 1, 4, 4, false));
        assert_eq!(
            brief(&lines(text, 2, 2, 0)),
            ("two\r\nthree\n", 2, 2, 4, true)
        );
        assert_eq!(brief(&lines(text, 4, 9, 0)), ("four", 4, 1, 4, false));
        assert_eq!(brief(&lines(text, 5, 1, 0)), ("", 5, 0, 4, false));
        assert_eq!(
            brief(&lines(text, 1, 0, 9)),
            ("one\ntwo\r\n", 1, 2, 4, true)
        );
        assert_eq!(brief(&lines(text, 1, 0, 8)), ("one\n", 1, 1, 4, true));
    }

    #[test]
    fn an_empty_file_has_no_line_and_a_last_line_needs_no_end() {
        assert_eq!(brief(&lines("", 0, 0, 0)), ("", 0, 0, 0, false));
        assert_eq!(brief(&lines("a", 0, 0, 0)), ("a", 1, 1, 1, false));
        assert_eq!(brief(&lines("a\n", 0, 0, 0)), ("a\n", 1, 1, 1, false));
        assert_eq!(brief(&lines("\n\n", 0, 0, 0)), ("\n\n", 1, 2, 2, false));
    }

    #[test]
    fn a_line_that_alone_is_too_long_is_cut_between_characters() {
        assert_eq!(brief(&lines("€€€\nx\n", 0, 0, 7)), ("€€", 1, 1, 2, true));
    }

    #[test]
    fn pieces_do_not_show_and_the_hash_is_of_the_whole_file() {
        let text = "0123456789abcde\n".repeat(20_000);
        let answer = lines(&text, 19_999, 5, 0);
        assert_eq!(
            brief(&answer),
            (
                "0123456789abcde\n0123456789abcde\n",
                19_999,
                2,
                20_000,
                false
            )
        );
        assert_eq!(answer.total_bytes, 320_000);
        assert_eq!(
            answer.hash,
            blake3::hash(text.as_bytes()).to_hex().to_string()
        );
        let answer = lines(&text, 0, u32::MAX, 0);
        assert_eq!((answer.content.len(), answer.truncated), (262_144, true));
    }
}
