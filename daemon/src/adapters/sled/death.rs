//! Where tests kill the daemon: at an append to a session's log. Only with the
//! feature `test-util`, which the programs that users get are built without.
//!
//! A test writes a side and a sequence number into the file `death` of the data
//! directory: `before 17` or `after 17`. The daemon ends itself by SIGKILL
//! before, or after, the append with that event is durable. What it died at is in
//! the file `died`: its side in a line, and then the events of that append.

use std::path::{Path, PathBuf};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::ports::store::EventBytes;

/// Which side of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The effect is done, its outcome is not in the log.
    Before,
    /// The events are durable, and nobody has acted on them.
    After,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// The test's files.
#[derive(Debug)]
pub(super) struct Death {
    wanted: PathBuf,
    died: PathBuf,
}

impl Death {
    /// Of the store in this directory: its files are beside it.
    pub(super) fn beside(store: &Path) -> Self {
        Self {
            wanted: store.with_file_name("death"),
            died: store.with_file_name("died"),
        }
    }

    /// Does not return when a test wants the daemon dead here. The events have
    /// the numbers from `next` on.
    pub(super) fn at(&self, side: Side, next: u64, events: &[EventBytes]) {
        let Ok(wanted) = std::fs::read_to_string(&self.wanted) else {
            return;
        };
        let number = (wanted.trim().split_once(' '))
            .filter(|(name, _)| *name == side.name())
            .and_then(|(_, number)| number.parse::<u64>().ok());
        if number.is_none_or(|number| number >= next + events.len() as u64) {
            return;
        }
        let mut died = format!("{}\n", side.name()).into_bytes();
        for event in events {
            died.extend_from_slice(event);
            died.push(b'\n');
        }
        // Without it the test sees that nothing was said.
        let _ = std::fs::write(&self.died, died);
        let _ = kill(Pid::this(), Signal::SIGKILL);
        // The signal ends every thread; this one must not go on until it does.
        loop {
            std::thread::park();
        }
    }
}
