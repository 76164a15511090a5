//! What readers of a command watch: how much output there is, and how far the
//! command has come.

use std::sync::Arc;

use compyd_proto::agent::Exit;
use tokio::sync::watch;

use super::spool::Output;
use crate::errors::AgentError;

/// A command as readers see it.
///
/// ```text
///  Starting --> Running --> Ended
///      |'--------------------^      (the program could not be executed)
///      '------> Refused             (nothing was started, nothing is kept)
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
    pub(crate) stdout_lost: u64,
    pub(crate) stderr_lost: u64,
    pub(crate) phase: Phase,
}

/// How far a command has come.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Being started; whoever asks waits.
    Starting,
    Running {
        pid: i32,
    },
    /// Over, and its output is complete.
    Ended {
        pid: i32,
        exit: Arc<Exit>,
    },
    /// Could not be started; the id is free again.
    Refused(Arc<AgentError>),
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_lost: 0,
            stderr_lost: 0,
            phase: Phase::Starting,
        }
    }
}

impl Progress {
    pub(crate) fn bytes(&self, output: Output) -> u64 {
        match output {
            Output::Stdout => self.stdout_bytes,
            Output::Stderr => self.stderr_bytes,
        }
    }

    pub(crate) fn lost(&self, output: Output) -> u64 {
        match output {
            Output::Stdout => self.stdout_lost,
            Output::Stderr => self.stderr_lost,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.phase {
            Phase::Running { pid } | Phase::Ended { pid, .. } => u32::try_from(*pid).unwrap_or(0),
            Phase::Starting | Phase::Refused(_) => 0,
        }
    }

    pub(crate) fn exit(&self) -> Option<&Arc<Exit>> {
        match &self.phase {
            Phase::Ended { exit, .. } => Some(exit),
            Phase::Starting | Phase::Running { .. } | Phase::Refused(_) => None,
        }
    }
}

/// Counts output bytes that have reached the spool.
pub(super) fn add_bytes(progress: &watch::Sender<Progress>, output: Output, count: usize) {
    progress.send_modify(|progress| match output {
        Output::Stdout => progress.stdout_bytes += count as u64,
        Output::Stderr => progress.stderr_bytes += count as u64,
    });
}

/// Counts output bytes that could not be kept.
pub(super) fn add_lost(progress: &watch::Sender<Progress>, output: Output, count: usize) {
    progress.send_modify(|progress| match output {
        Output::Stdout => progress.stdout_lost += count as u64,
        Output::Stderr => progress.stderr_lost += count as u64,
    });
}
