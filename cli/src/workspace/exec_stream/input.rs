//! Standard input on its way: read, kept until accepted, sent again.

use std::collections::VecDeque;
use std::io::Read as _;

use bytes::Bytes;
use compyd_proto::v1::ExecInput;
use tokio::sync::mpsc;

use super::{DETACH_KEYS, Opening};
use crate::exit::Failure;

/// Most input that is kept for a connection that may break.
const KEPT_INPUT_BYTES: u64 = 16 * 1024 * 1024;
/// Largest piece of input read at once.
const INPUT_CHUNK_BYTES: usize = 256 * 1024;

/// Standard input: what is read, what is sent, what is accepted.
///
/// `accepted <= sent <= end of kept`, all as offsets in the command's input.
pub(super) struct Input {
    /// `None` once standard input has ended, or when it is not passed on.
    reader: Option<mpsc::Receiver<Bytes>>,
    /// Chunks from `accepted` on, each with its offset.
    kept: VecDeque<(u64, Bytes)>,
    /// Offset of the first byte after the kept ones.
    end: u64,
    /// Offset of the first byte not sent on this connection.
    sent: u64,
    /// Bytes the daemon is known to have.
    pub(super) accepted: u64,
    /// Whether this connection has told how much was accepted.
    pub(super) is_settled: bool,
    /// Whether standard input has ended, and whether that was sent.
    eof: Eof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eof {
    /// Input is not passed on.
    NotOurs,
    /// More may come.
    Open,
    /// It has ended, unsent on this connection.
    Unsent,
    /// It was sent.
    Sent,
}

impl Input {
    pub(super) fn new(
        passed_on: bool,
        keys: Option<DetachKeys>,
        opening: &Opening,
    ) -> Result<Self, Failure> {
        Ok(Input {
            reader: passed_on.then(|| spawn_reader(keys)).transpose()?,
            kept: VecDeque::new(),
            end: 0,
            sent: 0,
            accepted: 0,
            is_settled: matches!(opening, Opening::Start(_)),
            eof: if passed_on { Eof::Open } else { Eof::NotOurs },
        })
    }

    /// Takes up where the daemon says its input ends. At the first message of
    /// a foreign command that is where ours begins.
    pub(super) fn settle(&mut self, stdin_bytes: u64) -> Result<(), Failure> {
        if self.end == 0 && self.kept.is_empty() && stdin_bytes > 0 {
            (self.end, self.sent, self.accepted) = (stdin_bytes, stdin_bytes, stdin_bytes);
        }
        self.accept(stdin_bytes)?;
        self.sent = self.accepted;
        if self.eof == Eof::Sent {
            self.eof = Eof::Unsent;
        }
        self.is_settled = true;
        Ok(())
    }

    pub(super) fn accept(&mut self, stdin_bytes: u64) -> Result<(), Failure> {
        if stdin_bytes > self.end || stdin_bytes < self.accepted {
            return Err(Failure::local(
                format!(
                    "the daemon has {stdin_bytes} bytes of standard input, between {} and {} were sent",
                    self.accepted, self.end
                ),
                "another client may feed the same command; its output can be followed with `compyctl workspace attach` and </dev/null",
            ));
        }
        self.accepted = stdin_bytes;
        while let Some((start, chunk)) = self.kept.front_mut() {
            let chunk_end = *start + chunk.len() as u64;
            if chunk_end <= stdin_bytes {
                self.kept.pop_front();
                continue;
            }
            if *start < stdin_bytes {
                let known = stdin_bytes - *start;
                *chunk = chunk.split_off(usize::try_from(known).unwrap_or(chunk.len()));
                *start = stdin_bytes;
            }
            break;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_settled && self.end - self.accepted >= KEPT_INPUT_BYTES
    }

    pub(super) fn wants_more(&self) -> bool {
        self.reader.is_some() && self.is_settled && self.sent == self.end && !self.is_full()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.is_settled && (self.sent < self.end || self.eof == Eof::Unsent)
    }

    pub(super) fn next_unsent(&mut self) -> Option<ExecInput> {
        let next = self
            .kept
            .iter()
            .find(|(start, chunk)| start + chunk.len() as u64 > self.sent);
        if let Some((start, chunk)) = next {
            let skip = usize::try_from(self.sent - start).unwrap_or(0);
            let input = ExecInput {
                offset: self.sent,
                data: chunk.slice(skip..),
                eof: false,
            };
            self.sent = start + chunk.len() as u64;
            return Some(input);
        }
        if self.eof != Eof::Unsent {
            return None;
        }
        self.eof = Eof::Sent;
        Some(ExecInput {
            offset: self.end,
            data: Bytes::new(),
            eof: true,
        })
    }

    /// Keeps the next chunk. Cancel safety: as `mpsc::Receiver::recv`.
    pub(super) async fn read(&mut self) {
        let Some(reader) = &mut self.reader else {
            return std::future::pending().await;
        };
        match reader.recv().await {
            Some(chunk) => {
                let start = self.end;
                self.end += chunk.len() as u64;
                self.kept.push_back((start, chunk));
            }
            None => {
                self.reader = None;
                self.eof = Eof::Unsent;
            }
        }
    }
}

/// Looks for [`DETACH_KEYS`] in what is typed.
pub(super) struct DetachKeys {
    /// Taken with the word that they were typed.
    detach: Option<mpsc::Sender<()>>,
    /// Whether the first of them was the last byte, which is held back.
    half: bool,
}

impl DetachKeys {
    pub(super) fn new(detach: mpsc::Sender<()>) -> Self {
        Self {
            detach: Some(detach),
            half: false,
        }
    }

    /// What goes on to the command; tells of the keys, after which nothing
    /// does.
    fn pass(&mut self, typed: &[u8]) -> Vec<u8> {
        let [first, second] = DETACH_KEYS;
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for byte in typed.iter().copied() {
            if self.detach.is_none() {
                break;
            }
            if std::mem::take(&mut self.half) {
                if byte == second {
                    if let Some(detach) = self.detach.take() {
                        // The session may just have ended by itself.
                        let _ = detach.try_send(());
                    }
                    continue;
                }
                passed.push(first);
            }
            if byte == first {
                self.half = true;
            } else {
                passed.push(byte);
            }
        }
        passed
    }
}

/// Reads standard input until its end. The thread may stay in a read when the
/// command has ended; the process's exit ends it.
fn spawn_reader(mut keys: Option<DetachKeys>) -> Result<mpsc::Receiver<Bytes>, Failure> {
    let (tx, rx) = mpsc::channel(2);
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            let mut buffer = vec![0; INPUT_CHUNK_BYTES];
            loop {
                match std::io::stdin().lock().read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        let typed = &buffer[..length];
                        let chunk = match &mut keys {
                            None => Bytes::copy_from_slice(typed),
                            Some(keys) => keys.pass(typed).into(),
                        };
                        if tx.blocking_send(chunk).is_err() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        eprintln!("compyctl: standard input cannot be read on: {error}");
                        break;
                    }
                }
            }
        })
        .map_err(|error| Failure::local(format!("no thread for standard input: {error}"), ""))?;
    Ok(rx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> Input {
        Input {
            reader: None,
            kept: VecDeque::from([
                (0, Bytes::from_static(b"abc")),
                (3, Bytes::from_static(b"def")),
            ]),
            end: 6,
            sent: 0,
            accepted: 0,
            is_settled: true,
            eof: Eof::Unsent,
        }
    }

    fn rest(input: &mut Input) -> (Vec<u64>, Vec<u8>, bool) {
        let (mut offsets, mut data, mut eof) = (Vec::new(), Vec::new(), false);
        while let Some(piece) = input.next_unsent() {
            offsets.push(piece.offset);
            data.extend_from_slice(&piece.data);
            eof |= piece.eof;
        }
        (offsets, data, eof)
    }

    #[test]
    fn input_is_sent_again_from_the_byte_the_daemon_lacks() {
        let mut input = input();
        assert_eq!(rest(&mut input), (vec![0, 3, 6], b"abcdef".to_vec(), true));
        input.settle(4).unwrap();
        assert_eq!(rest(&mut input), (vec![4, 6], b"ef".to_vec(), true));
        input.settle(6).unwrap();
        assert_eq!(rest(&mut input), (vec![6], vec![], true));
        assert!(input.settle(5).is_err());
        assert!(input.settle(7).is_err());
    }

    #[test]
    fn the_keys_that_detach_are_found_also_when_they_come_apart() {
        let (detach, mut detached) = mpsc::channel(1);
        let mut keys = DetachKeys::new(detach);
        assert_eq!(keys.pass(b"a\x1d"), b"a");
        assert_eq!(keys.pass(b"x\x1d\x1d"), b"\x1dx\x1d");
        assert!(detached.try_recv().is_err());
        assert_eq!(keys.pass(b"dlost"), b"");
        assert!(detached.try_recv().is_ok());
    }
}
