//! Output: from a command's pipe into its spool.
//!
//! One pump per stream. A trickle is written where it is read; a flood moves
//! in blocking slices of a few megabytes, so that a slow disk never holds up
//! the runtime. The disk gives the pace: when it is full the pump waits and the
//! command with it, and no byte is lost.
//!
//! When the leader has exited, everything it wrote is in the pipe already. The
//! pump takes that, waits a little longer only while bytes keep coming, and is
//! done, whether or not a background process still holds the other end.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::pipe::Pipe;
use super::progress::{Progress, add_bytes, add_lost};
use super::spool::{ExecFiles, Output};

const TRICKLE_BYTES: usize = 8 * 1024;
const FLOOD_BYTES: usize = 256 * 1024;
/// Bytes a blocking slice moves before others get their turn.
const SLICE_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait after the leader's exit for bytes of its leftovers.
const GRACE: Duration = Duration::from_millis(100);
/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(10);
/// Time between two tries on a full disk.
const RETRY: Duration = Duration::from_millis(200);
/// Pace at which late output of leftovers is thrown away.
const DISCARD_PERIOD: Duration = Duration::from_millis(10);
/// Reads between two pauses of throwing away.
const DISCARD_READS: usize = 16;

pub(super) struct Pump {
    pub(super) pipe: Pipe,
    pub(super) output: Output,
    pub(super) files: ExecFiles,
    pub(super) progress: Arc<watch::Sender<Progress>>,
    file: Option<Arc<File>>,
    /// Whether the pipe has been made wide.
    wide: bool,
    /// Set with the first lost byte: what follows a gap has no offset, so it
    /// is lost too.
    lossy: bool,
}

/// How a pump has ended.
pub(super) enum Pumped {
    /// Every writer has closed the pipe.
    AtEnd,
    /// Leftovers hold it open.
    HeldOpen(Pipe),
}

impl Pump {
    pub(super) fn new(
        pipe: Pipe,
        output: Output,
        files: ExecFiles,
        progress: Arc<watch::Sender<Progress>>,
    ) -> Self {
        Self {
            pipe,
            output,
            files,
            progress,
            file: None,
            wide: false,
            lossy: false,
        }
    }

    /// Runs until the end of the stream, or until it is quiet after
    /// `leader_exited`.
    pub(super) async fn run(mut self, leader_exited: CancellationToken) -> Pumped {
        loop {
            tokio::select! {
                biased;
                () = leader_exited.cancelled() => break,
                ready = self.pipe.readable() => {
                    if ready.is_err() {
                        return Pumped::AtEnd;
                    }
                }
            }
            if let Moved::End = self.move_some(&leader_exited).await {
                return Pumped::AtEnd;
            }
        }
        let deadline = Instant::now() + GRACE;
        loop {
            match self.move_some(&leader_exited).await {
                Moved::End => return Pumped::AtEnd,
                Moved::Some if Instant::now() < deadline => {}
                Moved::Some => return Pumped::HeldOpen(self.pipe),
                Moved::Nothing => {
                    let quiet = deadline.min(Instant::now() + QUIET);
                    if timeout_at(quiet, self.pipe.readable()).await.is_err() {
                        return Pumped::HeldOpen(self.pipe);
                    }
                }
            }
        }
    }

    async fn move_some(&mut self, leader_exited: &CancellationToken) -> Moved {
        match self.trickle() {
            Trickle::Moved(Moved::Some, length) if length == TRICKLE_BYTES && !self.lossy => {
                self.move_slice(leader_exited).await
            }
            Trickle::Moved(moved, _) => moved,
            Trickle::Stuck(rest) => {
                self.keep(&rest, leader_exited).await;
                Moved::Some
            }
        }
    }

    /// Moves a little without waiting. The buffer lives on the stack: in the
    /// future it would be memory that every idle command holds.
    fn trickle(&mut self) -> Trickle {
        let mut buffer = [0; TRICKLE_BYTES];
        let length = match self.pipe.try_read(&mut buffer) {
            Ok(0) => return Trickle::Moved(Moved::End, 0),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Trickle::Moved(Moved::Nothing, 0);
            }
            Err(_) => return Trickle::Moved(Moved::End, 0),
        };
        if self.lossy {
            return Trickle::Stuck(buffer[..length].to_vec());
        }
        match self.write(&buffer[..length]) {
            Ok(()) => Trickle::Moved(Moved::Some, length),
            Err((written, _)) => Trickle::Stuck(buffer[written..length].to_vec()),
        }
    }

    /// Writes a little, however long a full disk takes to have room again.
    async fn keep(&mut self, mut bytes: &[u8], leader_exited: &CancellationToken) {
        while !self.lossy {
            match self.write(bytes) {
                Ok(()) => return,
                Err((written, error)) => {
                    bytes = &bytes[written..];
                    self.lossy = !self.wait_for_room(&error, leader_exited).await;
                }
            }
        }
        add_lost(&self.progress, self.output, bytes.len());
    }

    /// Moves up to a slice in a blocking thread.
    async fn move_slice(&mut self, leader_exited: &CancellationToken) -> Moved {
        if !std::mem::replace(&mut self.wide, true) {
            self.pipe.widen();
        }
        let (pipe, output) = (self.pipe.clone(), self.output);
        let progress = Arc::clone(&self.progress);
        let Ok(file) = self.file() else {
            return Moved::Some;
        };
        let moved = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; FLOOD_BYTES];
            let mut total = 0;
            while total < SLICE_BYTES {
                match pipe.try_read(&mut buffer) {
                    Ok(0) => return (Moved::End, None),
                    Ok(length) => {
                        if let Err((written, error)) =
                            write_counted(&file, &buffer[..length], output, &progress)
                        {
                            buffer.copy_within(written..length, 0);
                            buffer.truncate(length - written);
                            return (Moved::Some, Some((buffer, error)));
                        }
                        total += length;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return (Moved::End, None),
                }
            }
            (Moved::Some, None)
        })
        .await;
        match moved {
            Ok((moved, None)) => moved,
            Ok((moved, Some((rest, error)))) => {
                self.lossy = !self.wait_for_room(&error, leader_exited).await;
                self.keep(&rest, leader_exited).await;
                moved
            }
            Err(_) => Moved::End,
        }
    }

    /// Waits a while on a full disk. False when the leader has exited: nobody
    /// is left to be slowed down, and the call must return.
    async fn wait_for_room(&self, error: &io::Error, leader_exited: &CancellationToken) -> bool {
        if leader_exited.is_cancelled() {
            eprintln!("compy-agent: output of a command was lost: {error}");
            return false;
        }
        tokio::select! {
            () = leader_exited.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
        true
    }

    fn file(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.files.writer(self.output)?);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let file = self.file().map_err(|error| (0, error))?;
        write_counted(&file, bytes, self.output, &self.progress)
    }
}

enum Trickle {
    Moved(Moved, usize),
    /// Bytes that were read and have no place yet.
    Stuck(Vec<u8>),
}

enum Moved {
    Nothing,
    Some,
    End,
}

/// Appends to the spool and tells the readers; says how much was written
/// before an error.
fn write_counted(
    mut file: &File,
    bytes: &[u8],
    output: Output,
    progress: &watch::Sender<Progress>,
) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                written += count;
                add_bytes(progress, output, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Reads and drops what leftovers write after the end of the call, so that
/// they neither block nor die of a broken pipe; slowly, so that a flood of it
/// costs nothing.
pub(super) async fn discard(pipe: Pipe) {
    let mut buffer = vec![0; TRICKLE_BYTES];
    while pipe.readable().await.is_ok() {
        for _ in 0..DISCARD_READS {
            match pipe.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        tokio::time::sleep(DISCARD_PERIOD).await;
    }
}
