//! Trees of processes as `/proc` shows them, and how to end one.
//!
//! Used on both sides: a supervisor ends its own descendants, PID 1 ends what
//! a killed supervisor has left behind. A tree may grow while it is looked at,
//! so everything is stopped first, until a look finds nothing new; only then is
//! it killed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One line of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    state: u8,
}

impl Process {
    /// Whether it still can run: zombies and the dead cannot.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Whether a signal or a debugger has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Every process that can be seen, zombies included.
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// One process, when it exists.
pub(crate) fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &stat)
}

fn parse_stat(pid: i32, stat: &[u8]) -> Option<Process> {
    // The name is in parentheses and may hold any byte, parentheses too.
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    Some(Process {
        pid,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        session: fields.next()?.parse().ok()?,
    })
}

/// Of `all`, the processes below any of `roots`; the roots themselves are not
/// among them.
pub(crate) fn descendants(all: &[Process], roots: &[i32]) -> Vec<Process> {
    let mut known: HashSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for process in all {
            if known.contains(&process.parent) && known.insert(process.pid) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The living processes below `root` now.
pub(crate) fn living_below(root: i32) -> Vec<Process> {
    let mut found = descendants(&processes(), &[root]);
    found.retain(Process::is_alive);
    found
}

/// Sends a signal to each process; those that are gone by now do not matter.
pub(crate) fn signal_each(processes: &[Process], signal: i32) -> Result<(), Errno> {
    for process in processes {
        send(process.pid, signal)?;
    }
    Ok(())
}

/// Sends a signal by number, real-time signals included; a process or group
/// that is gone does not matter. A negative pid names a group.
pub(crate) fn send(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes two integers and touches no memory of ours. nix's
    // `Signal` cannot name the real-time signals.
    #[allow(unsafe_code)]
    let result = unsafe { nix::libc::kill(pid, signal) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// One sweep: stops everything that `find` shows until it shows nothing new or
/// `limit` has passed, then kills it all. Returns how many were found; the tree
/// is gone once a sweep returns zero.
pub(crate) fn sweep(find: impl Fn() -> Vec<Process>, limit: Duration) -> usize {
    let started = Instant::now();
    let mut stopped: HashSet<i32> = HashSet::new();
    loop {
        let mut fresh = 0;
        for process in find() {
            if stopped.insert(process.pid) {
                fresh += 1;
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGSTOP);
            }
        }
        if fresh == 0 || started.elapsed() > limit {
            break;
        }
    }
    for pid in &stopped {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    stopped.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pid: i32, parent: i32) -> Process {
        Process {
            pid,
            parent,
            group: 0,
            session: 0,
            state: b'S',
        }
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_right() {
        let found = parse_stat(42, b"42 (a) R 1 (b c) T 7 8 9 0 -1").unwrap();
        assert_eq!(
            found,
            Process {
                pid: 42,
                parent: 7,
                group: 8,
                session: 9,
                state: b'T'
            }
        );
        assert!(found.is_stopped() && found.is_alive());
        assert_eq!(parse_stat(1, b"1 (cut"), None);
        assert_eq!(parse_stat(1, b""), None);
    }

    #[test]
    fn descendants_are_found_in_any_order_and_without_the_root() {
        let all = [at(5, 4), at(4, 3), at(3, 2), at(9, 1), at(2, 1)];
        let mut found: Vec<i32> = descendants(&all, &[3]).iter().map(|p| p.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [4, 5]);
        assert!(descendants(&all, &[77]).is_empty());
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id() as i32;
        let found = process(me).unwrap();
        assert!(found.is_alive());
        assert!(processes().iter().any(|process| process.pid == me));
    }
}
