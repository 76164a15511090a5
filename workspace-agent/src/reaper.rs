//! The one place that reaps children of PID 1.
//!
//! Orphans of the whole container come here, supervisors too. Nothing else in
//! this process ever waits for a child, so no status can be stolen; the last
//! ones are kept, because the leader of a command whose supervisor was killed
//! ends up here and its status is the truth about the command.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exec::protocol::Ending;

/// Statuses kept: an orphan's is asked for within moments of its end.
const KEPT: usize = 1024;

/// A process that was reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    pid: i32,
    at: Instant,
    pub(crate) ending: Ending,
    pub(crate) max_rss_bytes: u64,
}

/// Handle to the reaper; cheap to clone.
#[derive(Clone)]
pub(crate) struct Reaper {
    recent: Arc<Mutex<VecDeque<Reaped>>>,
    /// Changes with each batch of reaped children.
    batches: watch::Receiver<u64>,
}

impl Reaper {
    /// Starts reaping; ends with `stop`.
    pub(crate) fn start(tracker: &TaskTracker, stop: CancellationToken) -> io::Result<Self> {
        let mut children = signal(SignalKind::child())?;
        let (tx, batches) = watch::channel(0);
        let recent = Arc::new(Mutex::new(VecDeque::new()));
        let reaper = Self {
            recent: Arc::clone(&recent),
            batches,
        };
        // On cancel: stops at once, the process is about to end.
        tracker.spawn(async move {
            loop {
                if reap_all(&recent) {
                    tx.send_modify(|batch| *batch += 1);
                }
                tokio::select! {
                    _ = children.recv() => {}
                    () = stop.cancelled() => return,
                }
            }
        });
        Ok(reaper)
    }

    /// Waits until the process with this pid, started at `since`, has been
    /// reaped here. Never returns for one that is not a child.
    ///
    /// # Cancel safety
    /// Loses nothing: the status stays among the recent ones.
    pub(crate) async fn reaped(&self, pid: i32, since: Instant) -> Reaped {
        let mut batches = self.batches.clone();
        loop {
            batches.mark_unchanged();
            if let Some(reaped) = self.find(pid, since) {
                return reaped;
            }
            if batches.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The status of a process that was reaped lately; `since` tells it from an
    /// earlier one with the same pid.
    pub(crate) fn find(&self, pid: i32, since: Instant) -> Option<Reaped> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent
            .iter()
            .rev()
            .find(|reaped| reaped.pid == pid && reaped.at >= since)
            .copied()
    }
}

fn reap_all(recent: &Mutex<VecDeque<Reaped>>) -> bool {
    let mut any = false;
    while let Some(reaped) = reap_one() {
        any = true;
        if let Some(reaped) = reaped {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() == KEPT {
                recent.pop_front();
            }
            recent.push_back(reaped);
        }
    }
    any
}

/// Reaps one child that has ended; nothing when there is none.
fn reap_one() -> Option<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: both pointers are to locals of the right types, and a zeroed
    // rusage is a valid one.
    #[allow(unsafe_code)]
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage);
        (pid, usage)
    };
    match pid {
        -1 if Errno::last() == Errno::EINTR => Some(None),
        pid if pid <= 0 => None,
        pid => Some(Ending::from_wait_status(status).map(|ending| Reaped {
            pid,
            at: Instant::now(),
            ending,
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })),
    }
}
