//! What readers of a command watch: how much output there is, and how far the
//! command has come.

use std::sync::Arc;

use compyd_proto::agent::{Exit, Gap};

use super::extent::Extent;
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
    pub(crate) stdout: Extent,
    pub(crate) stderr: Extent,
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
            stdout: Extent::default(),
            stderr: Extent::default(),
            phase: Phase::Starting,
        }
    }
}

impl Progress {
    pub(crate) fn extent(&self, output: Output) -> Extent {
        match output {
            Output::Stdout => self.stdout,
            Output::Stderr => self.stderr,
        }
    }

    pub(super) fn extent_mut(&mut self, output: Output) -> &mut Extent {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    /// Bytes that the command has written, on both streams.
    pub(crate) fn written(&self) -> u64 {
        self.stdout.bytes + self.stderr.bytes
    }

    /// What is not kept.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        [Output::Stdout, Output::Stderr]
            .into_iter()
            .filter(|output| self.extent(*output).has_gap())
            .map(|output| Gap {
                stream: output.on_the_wire().into(),
                from: self.extent(output).gap_from,
                to: self.extent(output).gap_to,
            })
            .collect()
    }

    /// Bytes on disk, of both streams.
    pub(crate) fn kept(&self) -> u64 {
        self.stdout.kept() + self.stderr.kept()
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
