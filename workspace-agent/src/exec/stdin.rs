//! Standard input of a command: offsets, back-pressure, and an explicit end.

use std::io;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::pipe::Pipe;
use crate::errors::{AgentError, Reason};

/// The agent's end of a command's standard input.
pub(super) struct Stdin {
    /// Held while bytes are written, so that two streams cannot mix theirs.
    writer: Mutex<Writer>,
    /// Bytes accepted so far, readable while a write waits.
    accepted: std::sync::atomic::AtomicU64,
    /// Set when the leader has exited: a waiting write gives up.
    over: CancellationToken,
}

struct Writer {
    sink: Sink,
    terminal: bool,
    last_byte: Option<u8>,
}

enum Sink {
    Open(Pipe),
    /// The command has closed its end: bytes are taken and dropped, as a shell
    /// pipeline would end `yes | head`.
    Broken,
    Closed,
}

impl Stdin {
    pub(super) fn new(pipe: Option<Pipe>, terminal: bool, over: CancellationToken) -> Self {
        Self {
            writer: Mutex::new(Writer {
                sink: pipe.map_or(Sink::Closed, Sink::Open),
                terminal,
                last_byte: None,
            }),
            accepted: Default::default(),
            over,
        }
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Writes the bytes above what is accepted already, then closes when asked
    /// to. Waits while the command does not read.
    ///
    /// # Cancel safety
    /// Every byte that reached the command is counted: a dropped call can be
    /// repeated with the same offset.
    pub(super) async fn write(
        &self,
        exec_id: &str,
        offset: u64,
        bytes: &[u8],
        eof: bool,
    ) -> Result<u64, AgentError> {
        let closed = || {
            AgentError::new(
                Reason::StdinClosed,
                format!(
                    "command {exec_id} takes no input: none was asked for at its start, it was closed, or the command has ended"
                ),
            )
        };
        let mut writer = tokio::select! {
            writer = self.writer.lock() => writer,
            () = self.over.cancelled() => return Err(closed()),
        };
        let accepted = self.accepted();
        let end = offset.saturating_add(bytes.len() as u64);
        if matches!(writer.sink, Sink::Closed) || self.over.is_cancelled() {
            // The last message of a resumed stream, seen again.
            let repeated = eof && end == accepted;
            return if repeated && accepted > 0 {
                Ok(accepted)
            } else {
                Err(closed())
            };
        }
        if offset > accepted {
            return Err(AgentError::new(
                Reason::StdinGap,
                format!("input of command {exec_id} would have a gap: {accepted} bytes are accepted and the next ones were sent for offset {offset}; continue at {accepted}"),
            )
            .with("accepted_bytes", accepted));
        }
        let skip = usize::try_from(accepted - offset).unwrap_or(usize::MAX);
        let mut rest = bytes.get(skip..).unwrap_or_default();
        while !rest.is_empty() {
            let written = tokio::select! {
                written = writer.write(rest) => written,
                () = self.over.cancelled() => return Err(closed()),
            };
            self.accepted
                .fetch_add(written as u64, std::sync::atomic::Ordering::AcqRel);
            rest = &rest[written..];
        }
        if eof {
            writer.close().await;
        }
        Ok(self.accepted())
    }
}

impl Writer {
    async fn write(&mut self, bytes: &[u8]) -> usize {
        let Sink::Open(pipe) = &self.sink else {
            return bytes.len();
        };
        match pipe.write(bytes).await {
            Ok(written) => {
                self.last_byte = written.checked_sub(1).map(|last| bytes[last]);
                written
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => {
                self.sink = Sink::Broken;
                bytes.len()
            }
        }
    }

    async fn close(&mut self) {
        if let (Sink::Open(pipe), true) = (&self.sink, self.terminal) {
            let end = pipe.end_of_input_byte();
            // In the middle of a line the first one only hands the line over.
            let times = if matches!(self.last_byte, None | Some(b'\n' | b'\r')) {
                1
            } else {
                2
            };
            for _ in 0..times {
                let _ = pipe.write(&[end]).await;
            }
        }
        self.sink = Sink::Closed;
    }
}
