//! From a launch to a running program, inside a supervisor.
//!
//! The child shares the supervisor's memory until it executes the program
//! (`CLONE_VM | CLONE_VFORK`, what `posix_spawn` does): nothing is copied, and
//! a failed step comes back in memory. A plain `posix_spawn` cannot set the
//! account or the controlling terminal.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use crate::exec::protocol::{Launch, Step};

const STACK_BYTES: usize = 64 * 1024;
const UMASK: libc::mode_t = 0o022;

/// A step between fork and program that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaunchError {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

/// What the child reads; everything is allocated before it exists.
struct Plan {
    streams: [RawFd; 3],
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    candidates: Vec<*const c_char>,
    directory: *const c_char,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    set_account: bool,
    terminal: bool,
    failed: Option<LaunchError>,
}

/// Starts the program and returns its pid once it runs. Must be called from a
/// process with a single thread.
pub(crate) fn launch(launch: Launch, streams: &[OwnedFd; 3]) -> Result<i32, LaunchError> {
    let invalid = LaunchError {
        step: Step::Program,
        errno: libc::EINVAL,
    };
    let strings = |list: Vec<Vec<u8>>| -> Result<Vec<CString>, LaunchError> {
        list.into_iter()
            .map(|bytes| CString::new(bytes).map_err(|_| invalid))
            .collect()
    };
    let argv = strings(launch.argv)?;
    let environment = strings(launch.environment)?;
    let candidates = strings(launch.candidates)?;
    let directory = CString::new(launch.directory).map_err(|_| invalid)?;
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let mut plan = Plan {
        streams: [
            streams[0].as_raw_fd(),
            streams[1].as_raw_fd(),
            streams[2].as_raw_fd(),
        ],
        argv: pointers(&argv),
        environment: pointers(&environment),
        candidates: pointers(&candidates),
        directory: directory.as_ptr(),
        uid: launch.uid,
        gid: launch.gid,
        groups: launch.groups,
        set_account: launch.set_account,
        terminal: launch.terminal,
        failed: None,
    };
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    // SAFETY: the stack is aligned to 16 bytes and outlives the child's use of
    // it, because CLONE_VFORK suspends this thread until the child has executed
    // a program or ended. For the same reason nothing else reads or writes
    // `plan` or the strings it points to in the meantime. `child` makes system
    // calls only: no allocation, no lock, no unwinding.
    #[allow(unsafe_code)]
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(
            child,
            top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            std::ptr::from_mut(&mut plan).cast::<c_void>(),
        )
    };
    if pid < 0 {
        return Err(LaunchError {
            step: Step::Fork,
            errno: Errno::last_raw(),
        });
    }
    // SAFETY: the child wrote through the pointer it was given; a volatile read
    // keeps the compiler from assuming that it did not.
    #[allow(unsafe_code)]
    let failed = unsafe { std::ptr::read_volatile(&raw const plan.failed) };
    match failed {
        None => Ok(pid),
        Some(error) => {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            Err(error)
        }
    }
}

extern "C" fn child(argument: *mut c_void) -> c_int {
    let plan = argument.cast::<Plan>();
    // SAFETY: `argument` is the plan of `launch`, whose thread is suspended.
    #[allow(unsafe_code)]
    unsafe {
        let step = become_program(&*plan);
        (*plan).failed = Some(LaunchError {
            step,
            errno: Errno::last_raw(),
        });
        libc::_exit(127)
    }
}

/// Returns the step that failed, with errno set; does not return otherwise.
///
/// # Safety
/// Runs in a child that shares memory with its suspended parent; every pointer
/// of the plan is a NUL-terminated string or a NULL-terminated list of them.
#[allow(unsafe_code)]
unsafe fn become_program(plan: &Plan) -> Step {
    // SAFETY: plain system calls on the plan's own descriptors and strings.
    unsafe {
        // Dispositions belong to this child alone (no CLONE_SIGHAND).
        // Raw, because libc keeps two signals to itself and an ignored one is
        // inherited. All zero is SIG_DFL in the kernel's structure.
        let default = [0u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::umask(UMASK);
        if libc::setsid() < 0 {
            return Step::Session;
        }
        if plan.terminal && libc::ioctl(plan.streams[0], libc::TIOCSCTTY, 0) < 0 {
            return Step::Terminal;
        }
        for (target, source) in plan.streams.iter().enumerate() {
            if libc::dup2(*source, target as c_int) < 0 {
                return Step::Streams;
            }
        }
        if plan.set_account {
            // Raw system calls: the wrappers would go through all threads.
            let groups = plan.groups.as_ptr();
            if libc::syscall(libc::SYS_setgroups, plan.groups.len(), groups) < 0
                || libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid) < 0
                || libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid) < 0
            {
                return Step::Account;
            }
        }
        if libc::chdir(plan.directory) < 0 {
            return Step::Directory;
        }
        let mut denied = false;
        for candidate in &plan.candidates {
            if candidate.is_null() {
                break;
            }
            libc::execve(*candidate, plan.argv.as_ptr(), plan.environment.as_ptr());
            match Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => denied = true,
                _ => return Step::Program,
            }
        }
        Errno::set_raw(if denied { libc::EACCES } else { libc::ENOENT });
        Step::Program
    }
}
