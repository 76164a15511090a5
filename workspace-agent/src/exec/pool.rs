//! Warm supervisors.
//!
//! Starting a process costs more than running `true`, so a few supervisors
//! wait, and one whose tree is empty is used again. Under a burst the waiting
//! commands take whatever is free first: a new supervisor or a returned one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::pipe::watched;
use super::protocol::{Order, RECORD_BYTES, Report, send_order};

/// Supervisors that are started ahead of need.
const WARM: usize = 4;
/// Free supervisors kept at most; further ones are let go.
const FREE_AT_MOST: usize = 12;
/// Supervisors being started at one time. A short command gives its own back
/// sooner than a new one is there, so more would only fight for the CPU.
const STARTING_AT_MOST: usize = 1;

/// No supervisor could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("could not start a supervisor process: {0}")]
    Start(String),
}

/// The pool; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    /// The agent's own binary.
    program: PathBuf,
    tracker: TaskTracker,
    /// Held for list operations only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: Vec<Supervisor>,
    waiting: VecDeque<oneshot::Sender<Result<Supervisor, PoolError>>>,
    starting: usize,
}

impl Pool {
    pub(crate) fn new(program: PathBuf, tracker: TaskTracker) -> Self {
        let pool = Self {
            shared: Arc::new(Shared {
                program,
                tracker,
                state: Mutex::default(),
            }),
        };
        pool.refill();
        pool
    }

    /// Takes a free supervisor, or the first that becomes free.
    pub(crate) async fn take(&self) -> Result<Supervisor, PoolError> {
        let waiting = {
            let mut state = self.state();
            match state.free.pop() {
                Some(supervisor) => Ok(supervisor),
                None => {
                    let (tx, rx) = oneshot::channel();
                    state.waiting.push_back(tx);
                    Err(rx)
                }
            }
        };
        match waiting {
            Ok(supervisor) => {
                self.refill();
                Ok(supervisor)
            }
            Err(rx) => {
                self.refill();
                rx.await
                    .unwrap_or_else(|_| Err(PoolError::Start("the agent is shutting down".into())))
            }
        }
    }

    /// Gives back a supervisor whose tree is empty.
    pub(crate) fn give_back(&self, mut supervisor: Supervisor) {
        let mut state = self.state();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(Ok(supervisor)) {
                Ok(()) => return,
                Err(Ok(back)) => supervisor = back,
                Err(Err(_)) => return,
            }
        }
        if state.free.len() < FREE_AT_MOST {
            state.free.push(supervisor);
        }
    }

    fn refill(&self) {
        let missing = {
            let mut state = self.state();
            let wanted = if state.waiting.is_empty() {
                // Half empty before anything is started: a lone command gives
                // its supervisor back long before it is missed.
                let have = state.free.len() + state.starting;
                if have > WARM / 2 { 0 } else { WARM - have }
            } else {
                state.waiting.len().saturating_sub(state.starting)
            };
            let missing = wanted.min(STARTING_AT_MOST.saturating_sub(state.starting));
            state.starting += missing;
            missing
        };
        for _ in 0..missing {
            let pool = self.clone();
            // On cancel: runs on, a supervisor nobody wants ends by itself.
            self.shared.tracker.spawn_blocking(move || pool.start_one());
        }
    }

    fn start_one(&self) {
        let started = Supervisor::start(&self.shared.program);
        self.state().starting -= 1;
        match started {
            Ok(supervisor) => self.give_back(supervisor),
            Err(error) => {
                eprintln!("compy-agent: could not start a supervisor: {error}");
                // One waiting command is told; the others have their own tries.
                let waiting = self.state().waiting.pop_front();
                if let Some(waiting) = waiting {
                    let _ = waiting.send(Err(PoolError::Start(error.to_string())));
                    self.refill();
                }
                return;
            }
        }
        self.refill();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One supervisor process. It ends when this is dropped; the reaper of PID 1
/// collects it.
pub(crate) struct Supervisor {
    pid: i32,
    socket: AsyncFd<OwnedFd>,
    /// Whether it ended with orders that it never read.
    left_unread: AtomicBool,
}

impl Supervisor {
    fn start(program: &std::path::Path) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // The name shows in process lists.
        let child = Command::new(program)
            .arg("supervise")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .env_clear()
            .spawn()?;
        Ok(Self {
            pid: i32::try_from(child.id()).unwrap_or_default(),
            socket: watched(ours)?,
            left_unread: AtomicBool::new(false),
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it ended before it read everything it was told. The kernel says
    /// so, which makes the difference between a command that was certainly
    /// not started and one that nobody knows about.
    pub(crate) fn left_unread(&self) -> bool {
        self.left_unread.load(Ordering::Relaxed)
    }

    /// Sends an order, with descriptors for [`Order::Launch`]. Fails when the
    /// supervisor is gone; then it has not seen the order.
    pub(crate) fn order(&self, order: Order, fds: &[OwnedFd]) -> io::Result<()> {
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        send_order(self.socket.get_ref(), order, &raw)
    }

    /// The next report; nothing when the supervisor is gone or talks nonsense.
    ///
    /// # Cancel safety
    /// A report is taken in one step: dropping the future loses none.
    pub(crate) async fn report(&self) -> Option<Report> {
        let mut record = [0; RECORD_BYTES];
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let received = ready.try_io(|socket| {
                let fd = socket.get_ref().as_raw_fd();
                Ok(recv(fd, &mut record, MsgFlags::MSG_DONTWAIT)?)
            });
            match received {
                Ok(Ok(length)) if length > 0 => return Report::decode(&record[..length]),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // Comes once, and before reports that wait to be read.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.left_unread.store(true, Ordering::Relaxed);
                }
                Ok(_) => return None,
                Err(_would_block) => {}
            }
        }
    }
}
