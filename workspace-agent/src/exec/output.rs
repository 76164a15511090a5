//! Output: from a command's pipe to the keeper of its stream.
//!
//! One pump per stream. A trickle is written where it is read; a flood moves
//! in blocking slices of a few megabytes, so that a slow disk never holds up
//! the runtime. The disk gives the pace, and what it has no room for the keeper
//! drops: a full disk neither holds a command up nor ends it.
//!
//! When the leader has exited, everything it wrote is in the pipe already. The
//! pump takes that, waits a little longer only while bytes keep coming, and is
//! done, whether or not a background process still holds the other end.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::keeper::Keeper;
use super::pipe::Pipe;

const TRICKLE_BYTES: usize = 8 * 1024;
const FLOOD_BYTES: usize = 256 * 1024;
/// Bytes a blocking slice moves before others get their turn.
const SLICE_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait after the leader's exit for bytes of its leftovers.
const GRACE: Duration = Duration::from_millis(100);
/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(10);
/// Pace at which late output of leftovers is thrown away.
const DISCARD_PERIOD: Duration = Duration::from_millis(10);
/// Reads between two pauses of throwing away.
const DISCARD_READS: usize = 16;

pub(super) struct Pump {
    pipe: Pipe,
    /// Locked by the pump and its blocking slices, which take turns.
    keeper: Arc<Mutex<Keeper>>,
    /// Whether the pipe has been made wide.
    wide: bool,
}

/// How a pump has ended.
pub(super) enum Pumped {
    /// Every writer has closed the pipe.
    AtEnd,
    /// Leftovers hold it open.
    HeldOpen(Pipe),
}

impl Pump {
    pub(super) fn new(pipe: Pipe, keeper: Keeper) -> Self {
        Self {
            pipe,
            keeper: Arc::new(Mutex::new(keeper)),
            wide: false,
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
            if let Moved::End = self.move_some().await {
                return Pumped::AtEnd;
            }
        }
        let deadline = Instant::now() + GRACE;
        loop {
            match self.move_some().await {
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

    async fn move_some(&mut self) -> Moved {
        match self.trickle() {
            Trickle::Moved(Moved::Some, TRICKLE_BYTES) => self.move_slice().await,
            Trickle::Moved(moved, _) => moved,
            Trickle::Stuck(rest) => {
                let keeper = Arc::clone(&self.keeper);
                let kept = tokio::task::spawn_blocking(move || lock(&keeper).append(&rest));
                match kept.await {
                    Ok(()) => Moved::Some,
                    Err(_) => Moved::End,
                }
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
        let taken = lock(&self.keeper).append_at_once(&buffer[..length]);
        if taken == length {
            Trickle::Moved(Moved::Some, length)
        } else {
            Trickle::Stuck(buffer[taken..length].to_vec())
        }
    }

    /// Moves up to a slice in a blocking thread.
    async fn move_slice(&mut self) -> Moved {
        if !std::mem::replace(&mut self.wide, true) {
            self.pipe.widen();
        }
        let (pipe, keeper) = (self.pipe.clone(), Arc::clone(&self.keeper));
        let moved = tokio::task::spawn_blocking(move || {
            let mut keeper = lock(&keeper);
            let mut buffer = vec![0; FLOOD_BYTES];
            let mut total = 0;
            while total < SLICE_BYTES {
                match pipe.try_read(&mut buffer) {
                    Ok(0) => return Moved::End,
                    Ok(length) => {
                        keeper.append(&buffer[..length]);
                        total += length;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Moved::End,
                }
            }
            Moved::Some
        });
        moved.await.unwrap_or(Moved::End)
    }
}

fn lock(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Trickle {
    Moved(Moved, usize),
    /// Bytes that were read and need room made for them.
    Stuck(Vec<u8>),
}

enum Moved {
    Nothing,
    Some,
    End,
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
