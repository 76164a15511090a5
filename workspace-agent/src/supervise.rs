//! `compy-agent supervise`: one command at a time, and its whole tree.
//!
//! A supervisor is a child subreaper, so whatever a command leaves behind comes
//! back to it and can be counted, signalled and ended. It has one thread and no
//! runtime, is kept warm by PID 1, and is free for the next command when the
//! tree is empty. It knows nothing of output: the pipes belong to PID 1, so
//! that a killed supervisor loses no byte.
//!
//! ```text
//!           Launch                leader reaped               last one reaped
//!  free ------------> running ---------------------> leftovers ------------> free
//!    ^  NotStarted      |       LeaderExited             |        Empty
//!    '------------------'                                '- EndTree, SignalTree
//! ```

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};
use nix::sys::stat::Mode;

use crate::exec::protocol::{Ending, Launch, Order, RECORD_BYTES, Report};
use crate::launch::launch;
use crate::tree;

/// How long one sweep may look before it kills what it has seen.
const SWEEP_LIMIT: Duration = Duration::from_millis(100);
/// Time between sweeps of a tree that does not go away.
const SWEEP_PERIOD: Duration = Duration::from_millis(5);

/// Runs until the socket on standard input closes.
pub(crate) fn run() -> ExitCode {
    match Supervisor::new().and_then(|mut supervisor| supervisor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compy-agent supervise: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Supervisor {
    socket: OwnedFd,
    children: SignalFd,
    tree: Option<Tree>,
}

/// The command that runs now.
struct Tree {
    leader: i32,
    leader_runs: bool,
    kill_leftovers: bool,
    end: End,
}

/// How far the ending of a tree has come.
#[derive(Clone, Copy)]
enum End {
    NotAsked,
    KillAt(Instant),
    Killing,
}

impl Supervisor {
    fn new() -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        nix::sys::prctl::set_dumpable(false)?;
        // Nothing but SIGKILL ends a supervisor: not a terminal's signals, and
        // not the TERM that PID 1 sends to everybody at its own end.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let children =
            SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // Descriptors 0 to 2 must stay taken, so that those of a command never
        // arrive there.
        let stdin = io::stdin();
        let raw = fcntl(&stdin, FcntlArg::F_DUPFD_CLOEXEC(10))?;
        // SAFETY: fcntl has just made this descriptor; nobody else owns it.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        // Whatever else was inherited must not reach the commands.
        // SAFETY: marks descriptors close-on-exec; closes nothing.
        #[allow(unsafe_code)]
        unsafe {
            libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as c_int);
        }
        Ok(Self {
            socket,
            children,
            tree: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let (orders, children) = self.wait()?;
            if orders && !self.take_orders()? {
                // PID 1 is gone. Nobody could ever attach to this tree again.
                return self.end_everything();
            }
            if children {
                while let Ok(Some(_)) = self.children.read_signal() {}
                self.reap()?;
            }
            self.continue_ending()?;
        }
    }

    /// Waits for an order, a child's end, or the next step of an ending.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let timeout = match self.tree.as_ref().map(|tree| tree.end) {
            None | Some(End::NotAsked) => PollTimeout::NONE,
            Some(End::Killing) => poll_timeout(SWEEP_PERIOD),
            Some(End::KillAt(when)) => poll_timeout(when.saturating_duration_since(Instant::now())),
        };
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {
                Ok((fds[0].any().unwrap_or(false), fds[1].any().unwrap_or(false)))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes all orders that are there; false when the other end is gone.
    fn take_orders(&mut self) -> io::Result<bool> {
        loop {
            let mut record = [0; RECORD_BYTES];
            let mut control = nix::cmsg_space!([libc::c_int; 4]);
            let mut slices = [IoSliceMut::new(&mut record)];
            let message = match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut slices,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            };
            let length = message.bytes;
            let mut fds = Vec::new();
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(received) = control {
                    for raw in received {
                        // SAFETY: the kernel has just made this descriptor for us.
                        #[allow(unsafe_code)]
                        fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
                    }
                }
            }
            if length == 0 {
                return Ok(false);
            }
            let Some(order) = Order::decode(&record[..length]) else {
                return Err(io::Error::other("an order could not be read"));
            };
            self.obey(order, fds)?;
        }
    }

    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) -> io::Result<()> {
        match (order, &mut self.tree) {
            (Order::Launch, None) => self.start(fds),
            (Order::Launch, Some(_)) => Err(io::Error::other("a second launch while one runs")),
            // The tree has ended while the order was on its way.
            (Order::SignalGroup(_) | Order::SignalTree(_) | Order::EndTree { .. }, None) => Ok(()),
            (Order::SignalGroup(signal), Some(tree)) => {
                // Until the leader is reaped its pid cannot name another group.
                if tree.leader_runs {
                    let _ = tree::send(-tree.leader, signal);
                }
                Ok(())
            }
            (Order::SignalTree(signal), Some(_)) => {
                let _ = tree::signal_each(&living_children(), signal);
                Ok(())
            }
            (Order::EndTree { grace_ms: 0 }, Some(tree)) => {
                tree.end = End::Killing;
                Ok(())
            }
            (Order::EndTree { grace_ms }, Some(tree)) => {
                let when = Instant::now() + Duration::from_millis(u64::from(grace_ms));
                tree.end = match tree.end {
                    End::NotAsked => End::KillAt(when),
                    End::KillAt(earlier) => End::KillAt(earlier.min(when)),
                    End::Killing => End::Killing,
                };
                let members = living_children();
                let _ = tree::signal_each(&members, libc::SIGTERM);
                // A stopped process acts on SIGTERM only once it continues.
                let _ = tree::signal_each(&members, libc::SIGCONT);
                Ok(())
            }
        }
    }

    fn start(&mut self, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Ok([memory_file, stdin, stdout, stderr]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err(io::Error::other("a launch without its descriptors"));
        };
        let plan = Launch::from_memory_file(memory_file)?;
        let kill_leftovers = plan.kill_leftovers;
        match launch(plan, &[stdin, stdout, stderr]) {
            Ok(pid) => {
                self.tree = Some(Tree {
                    leader: pid,
                    leader_runs: true,
                    kill_leftovers,
                    end: End::NotAsked,
                });
                self.report(Report::Started { pid })
            }
            Err(error) => self.report(Report::NotStarted {
                step: error.step,
                errno: error.errno,
            }),
        }
    }

    /// Reaps whatever has ended and tells PID 1 what it needs to know.
    fn reap(&mut self) -> io::Result<()> {
        let Some(tree) = &mut self.tree else {
            return Ok(());
        };
        let mut leader = None;
        let childless = loop {
            let mut status = 0;
            // SAFETY: both pointers are to locals of the right types, and a
            // zeroed rusage is a valid one.
            #[allow(unsafe_code)]
            let (pid, usage) = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                let pid = libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage);
                (pid, usage)
            };
            match pid {
                0 => break false,
                -1 => break Errno::last() == Errno::ECHILD,
                pid if pid == tree.leader => {
                    leader = Ending::from_wait_status(status).map(|ending| (ending, usage));
                }
                _ => {}
            }
        };
        if let Some((ending, usage)) = leader {
            tree.leader_runs = false;
            let leftovers = if childless {
                0
            } else {
                living_children().len()
            };
            if leftovers > 0 && tree.kill_leftovers {
                tree.end = End::Killing;
            }
            let kilobytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
            // Zombies that are not reaped yet count as nothing, but keep the
            // supervisor busy until it has seen them: a leftover at least.
            let leftovers = u32::try_from(leftovers).unwrap_or(u32::MAX);
            self.report(Report::LeaderExited {
                ending,
                leftovers,
                max_rss_bytes: kilobytes * 1024,
            })?;
            if childless {
                self.tree = None;
                self.report(Report::Empty)?;
            }
        } else if childless && !tree.leader_runs {
            self.tree = None;
            self.report(Report::Empty)?;
        }
        Ok(())
    }

    fn continue_ending(&mut self) -> io::Result<()> {
        let Some(tree) = &mut self.tree else {
            return Ok(());
        };
        match tree.end {
            End::NotAsked => return Ok(()),
            End::KillAt(when) if Instant::now() < when => return Ok(()),
            End::KillAt(_) | End::Killing => tree.end = End::Killing,
        }
        tree::sweep(living_children, SWEEP_LIMIT);
        self.reap()
    }

    fn end_everything(&mut self) -> io::Result<()> {
        while tree::sweep(living_children, SWEEP_LIMIT) > 0 {
            std::thread::sleep(SWEEP_PERIOD);
            self.reap().ok();
        }
        Ok(())
    }

    fn report(&self, report: Report) -> io::Result<()> {
        // Blocking: PID 1 reads reports as long as it lives.
        send(
            self.socket.as_raw_fd(),
            &report.encode(),
            MsgFlags::MSG_NOSIGNAL,
        )?;
        Ok(())
    }
}

fn living_children() -> Vec<tree::Process> {
    tree::living_below(std::process::id() as i32)
}

fn poll_timeout(duration: Duration) -> PollTimeout {
    // Rounded up, or a wait for the last fraction would spin.
    let millis = i32::try_from(duration.as_millis() + 1).unwrap_or(i32::MAX);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

use std::ffi::c_int;
