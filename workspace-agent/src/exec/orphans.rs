//! Ending a tree from PID 1, when its supervisor cannot.
//!
//! With a living supervisor the tree is what is below it. Without one its
//! processes have become children of PID 1 among others, and are told apart by
//! the leader's session and group, and by the tag in their environment.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::libc;

use super::spec::TAG;
use crate::identity::as_ids;
use crate::tree::{self, Process};

const SWEEP_LIMIT: Duration = Duration::from_millis(100);
/// Longest time that everybody is kept frozen for the end of one tree.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// Whose processes are meant.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) exec_id: String,
    /// Set while the supervisor lives.
    pub(super) supervisor: Option<i32>,
    pub(super) leader: Option<i32>,
}

impl Target {
    /// The living processes of the command.
    pub(super) fn members(&self) -> Vec<Process> {
        if let Some(supervisor) = self.supervisor {
            return tree::living_below(supervisor);
        }
        let me = std::process::id() as i32;
        let all = tree::processes();
        let tag = format!("{TAG}={}", self.exec_id);
        let seeds: Vec<i32> = all
            .iter()
            .filter(|process| process.pid != me && process.pid != 1)
            .filter(|process| {
                self.leader.is_some_and(|leader| {
                    [process.pid, process.session, process.group].contains(&leader)
                }) || has_variable(process.pid, tag.as_bytes())
            })
            .map(|process| process.pid)
            .collect();
        let mut members = tree::descendants(&all, &seeds);
        members.extend(all.iter().filter(|process| seeds.contains(&process.pid)));
        members.retain(Process::is_alive);
        members
    }

    /// Kills what can be seen; returns how many processes that were.
    pub(super) fn sweep(&self) -> usize {
        tree::sweep(|| self.members(), SWEEP_LIMIT)
    }

    /// Ends a tree that grows faster than it can be swept: everybody is
    /// stopped in one system call, which nothing outruns, the tree is killed,
    /// and the others go on. Only for the init of a container: elsewhere "all
    /// processes" means the machine.
    pub(super) fn freeze_and_kill(&self) {
        assert_eq!(std::process::id(), 1, "only init may stop everybody");
        // Two freezes at once would take each other's stopped processes for
        // ones that a user had stopped.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock();
        let stopped_before: HashSet<i32> = tree::processes()
            .iter()
            .filter(|process| process.is_stopped())
            .map(|process| process.pid)
            .collect();
        let _ = tree::send(-1, libc::SIGSTOP);
        let _ = tree::signal_each(&self.members(), libc::SIGKILL);
        let started = Instant::now();
        while !self.members().is_empty() && started.elapsed() < FREEZE_LIMIT {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut others = tree::processes();
        others.retain(|process| process.pid != 1 && !stopped_before.contains(&process.pid));
        let _ = tree::signal_each(&others, libc::SIGCONT);
    }
}

/// Whether a process was started with this `NAME=value`.
fn has_variable(pid: i32, variable: &[u8]) -> bool {
    let directory = format!("/proc/{pid}");
    let Ok(owner) = std::fs::metadata(&directory) else {
        return false;
    };
    // Without CAP_SYS_PTRACE root may not look at another user's environment;
    // that user may.
    as_ids(owner.uid(), owner.gid(), &[], || {
        std::fs::read(format!("{directory}/environ")).is_ok_and(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == variable)
        })
    })
}
