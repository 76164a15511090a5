//! The agent's ends of a command's streams: pipes or a terminal, without
//! waiting, woken by the runtime.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use compyd_proto::agent::PtySize;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, pipe2, tcgetpgrp};
use tokio::io::unix::AsyncFd;

use crate::accounts::Account;

/// Size asked for of the kernel's buffer of an output pipe. Less is fine.
const PIPE_BYTES: i32 = 1024 * 1024;
/// The conventional group `tty`, which terminals belong to.
const TTY_GROUP: u32 = 5;

/// One end of a stream, shared by reader, writer and resizer of a terminal.
#[derive(Clone)]
pub(super) struct Pipe {
    fd: Arc<AsyncFd<OwnedFd>>,
}

/// The agent's ends of a command's streams.
pub(super) struct Streams {
    pub(super) stdin: Option<Pipe>,
    pub(super) stdout: Pipe,
    /// Absent with a terminal.
    pub(super) stderr: Option<Pipe>,
    /// Set with a terminal.
    pub(super) terminal: Option<Pipe>,
}

impl Streams {
    /// Pipes for the outputs, and one for the input when it is wanted; with the
    /// child's ends, in the order of their numbers.
    pub(super) fn pipes(with_stdin: bool) -> io::Result<(Self, [OwnedFd; 3])> {
        let (stdout, child_stdout) = output_pipe()?;
        let (stderr, child_stderr) = output_pipe()?;
        let (child_stdin, stdin) = if with_stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (read, Some(Pipe::new(write)?))
        } else {
            (
                open(
                    "/dev/null",
                    OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )?,
                None,
            )
        };
        let ours = Self {
            stdin,
            stdout,
            stderr: Some(stderr),
            terminal: None,
        };
        Ok((ours, [child_stdin, child_stdout, child_stderr]))
    }

    /// A terminal of this size that belongs to the account.
    pub(super) fn terminal(size: &PtySize, account: &Account) -> io::Result<(Self, [OwnedFd; 3])> {
        // Not openpty(3): its descriptors are inherited by whatever is started
        // at the same moment, and a terminal that stays open never ends.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname_r(&master)?;
        let child = open(
            Path::new(&name),
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        if Uid::effective().is_root() {
            nix::unistd::fchown(
                &child,
                Some(Uid::from_raw(account.uid)),
                Some(Gid::from_raw(TTY_GROUP)),
            )?;
            nix::sys::stat::fchmod(&child, Mode::from_bits_truncate(0o620))?;
        }
        set_size(child.as_raw_fd(), size)?;
        let master = Pipe::new(into_owned(master)?)?;
        let ours = Self {
            stdin: Some(master.clone()),
            stdout: master.clone(),
            stderr: None,
            terminal: Some(master),
        };
        Ok((ours, [child.try_clone()?, child.try_clone()?, child]))
    }
}

fn output_pipe() -> io::Result<(Pipe, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((Pipe::new(read)?, write))
}

fn into_owned(master: PtyMaster) -> io::Result<OwnedFd> {
    // PtyMaster gives its descriptor away only as a duplicate.
    master.as_fd().try_clone_to_owned()
}

fn window(size: &PtySize) -> libc::winsize {
    libc::winsize {
        ws_row: u16::try_from(size.rows).unwrap_or(u16::MAX),
        ws_col: u16::try_from(size.cols).unwrap_or(u16::MAX),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn set_size(fd: i32, size: &PtySize) -> io::Result<()> {
    let window = window(size);
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const window) };
    Errno::result(result)?;
    Ok(())
}

fn get_size(fd: i32) -> io::Result<libc::winsize> {
    let mut window = window(&PtySize::default());
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut window) };
    Errno::result(result)?;
    Ok(window)
}

impl Pipe {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            fd: Arc::new(watched(fd)?),
        })
    }

    /// Makes room for a flood. Most commands write little, and never pay for
    /// it; a terminal has no such room and stays as it is.
    pub(super) fn widen(&self) {
        let _ = fcntl(self.fd.get_ref(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }

    /// Waits until there is something to read, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Reads what is there. The end of a terminal is an end like any other.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Asks the kernel first: the runtime may not have heard of bytes that
        // arrived a moment ago, and at a leader's exit those must count.
        match read_now(self.fd.get_ref(), buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self
                .fd
                .try_io(tokio::io::Interest::READABLE, |fd| read_now(fd, buffer)),
            other => other,
        }
    }

    /// Writes a part of `bytes` as soon as there is room.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd
            .async_io(tokio::io::Interest::WRITABLE, |fd| {
                Ok(nix::unistd::write(fd, bytes)?)
            })
            .await
    }

    /// Sets a terminal's size. The foreground group is told by the kernel when
    /// it is another, and by us when it is the same: whoever comes back to a
    /// terminal wants it drawn.
    pub(super) fn resize(&self, size: &PtySize) -> io::Result<()> {
        let fd = self.fd.get_ref();
        if get_size(fd.as_raw_fd())? != window(size) {
            return set_size(fd.as_raw_fd(), size);
        }
        match tcgetpgrp(fd) {
            // Nobody may be there, and then nobody has to draw.
            Ok(group) if group.as_raw() > 0 => {
                let _ = killpg(group, Signal::SIGWINCH);
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// The byte that a terminal takes for the end of input.
    pub(super) fn end_of_input_byte(&self) -> u8 {
        nix::sys::termios::tcgetattr(self.fd.get_ref())
            .map(|settings| {
                settings.control_chars[nix::sys::termios::SpecialCharacterIndices::VEOF as usize]
            })
            .unwrap_or(4)
    }
}

fn read_now(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Err(Errno::EINTR) => {}
            Err(Errno::EIO) => return Ok(0),
            other => return Ok(other?),
        }
    }
}

/// Hands a descriptor to the runtime: reads and writes return instead of
/// waiting, and the runtime says when they would not.
pub(super) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped,
    // and AsyncFd deregisters it before that.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register(fd)? };
    Ok(watched)
}
