//! What PID 1 and its supervisors say to each other: small fixed records over
//! a SEQPACKET socket pair, and the launch itself in a memory file, because an
//! argument list may be larger than a packet.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use prost::Message as _;

/// Size of every record.
pub(crate) const RECORD_BYTES: usize = 24;

/// What a supervisor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start the command whose descriptors come with this record: the
    /// [`Launch`], then stdin, stdout and stderr.
    Launch,
    /// Send a signal to the leader's process group.
    SignalGroup(i32),
    /// Send a signal to every process of the tree.
    SignalTree(i32),
    /// SIGTERM now, SIGKILL after this many milliseconds.
    EndTree { grace_ms: u32 },
}

/// What a supervisor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The program runs.
    Started { pid: i32 },
    /// The program could not be executed; the supervisor is free again.
    NotStarted { step: Step, errno: i32 },
    /// The leader was reaped. With no leftovers the supervisor is free again.
    LeaderExited {
        ending: Ending,
        leftovers: u32,
        max_rss_bytes: u64,
    },
    /// The last leftover is gone; the supervisor is free again.
    Empty,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Code(u8),
    Signal(u8),
}

impl Ending {
    /// Reads a status of `wait4`; nothing for a process that was only stopped.
    pub(crate) fn from_wait_status(status: i32) -> Option<Self> {
        if nix::libc::WIFEXITED(status) {
            Some(Self::Code(nix::libc::WEXITSTATUS(status) as u8))
        } else if nix::libc::WIFSIGNALED(status) {
            Some(Self::Signal(nix::libc::WTERMSIG(status) as u8))
        } else {
            None
        }
    }
}

/// The steps between fork and a running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork,
    Session,
    Terminal,
    Streams,
    Account,
    Directory,
    Program,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Fork,
        Self::Session,
        Self::Terminal,
        Self::Streams,
        Self::Account,
        Self::Directory,
        Self::Program,
    ];

    fn from_number(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

fn record(kind: u32, first: i32, second: i32, third: i32, large: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..12].copy_from_slice(&second.to_le_bytes());
    bytes[12..16].copy_from_slice(&third.to_le_bytes());
    bytes[16..24].copy_from_slice(&large.to_le_bytes());
    bytes
}

fn fields(bytes: &[u8]) -> Option<(u32, i32, i32, i32, u64)> {
    let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
    let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let mut large = [0; 8];
    large.copy_from_slice(&bytes[16..24]);
    Some((
        u32::from_le_bytes(word(0)),
        i32::from_le_bytes(word(4)),
        i32::from_le_bytes(word(8)),
        i32::from_le_bytes(word(12)),
        u64::from_le_bytes(large),
    ))
}

impl Order {
    pub(crate) fn encode(self) -> [u8; RECORD_BYTES] {
        match self {
            Self::Launch => record(1, 0, 0, 0, 0),
            Self::SignalGroup(signal) => record(2, signal, 0, 0, 0),
            Self::SignalTree(signal) => record(3, signal, 0, 0, 0),
            Self::EndTree { grace_ms } => record(4, 0, 0, 0, u64::from(grace_ms)),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, first, _, _, large) = fields(bytes)?;
        match kind {
            1 => Some(Self::Launch),
            2 => Some(Self::SignalGroup(first)),
            3 => Some(Self::SignalTree(first)),
            4 => Some(Self::EndTree {
                grace_ms: u32::try_from(large).ok()?,
            }),
            _ => None,
        }
    }
}

impl Report {
    pub(crate) fn encode(self) -> [u8; RECORD_BYTES] {
        match self {
            Self::Started { pid } => record(1, pid, 0, 0, 0),
            Self::NotStarted { step, errno } => record(2, step as i32, errno, 0, 0),
            Self::LeaderExited {
                ending,
                leftovers,
                max_rss_bytes,
            } => {
                let (how, number) = match ending {
                    Ending::Code(code) => (0, code),
                    Ending::Signal(signal) => (1, signal),
                };
                let leftovers = i32::try_from(leftovers).unwrap_or(i32::MAX);
                record(3, how, i32::from(number), leftovers, max_rss_bytes)
            }
            Self::Empty => record(4, 0, 0, 0, 0),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, first, second, third, large) = fields(bytes)?;
        match kind {
            1 => Some(Self::Started { pid: first }),
            2 => Some(Self::NotStarted {
                step: Step::from_number(first)?,
                errno: second,
            }),
            3 => {
                let number = u8::try_from(second).ok()?;
                Some(Self::LeaderExited {
                    ending: match first {
                        0 => Ending::Code(number),
                        _ => Ending::Signal(number),
                    },
                    leftovers: u32::try_from(third).ok()?,
                    max_rss_bytes: large,
                })
            }
            4 => Some(Self::Empty),
            _ => None,
        }
    }
}

/// Everything a supervisor needs to start a command, worked out by PID 1.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Launch {
    /// Program and arguments.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) argv: Vec<Vec<u8>>,
    /// `NAME=value` each.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) environment: Vec<Vec<u8>>,
    /// Paths to try for the program, in order.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(crate) candidates: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) directory: Vec<u8>,
    #[prost(uint32, tag = "5")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) gid: u32,
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) groups: Vec<u32>,
    /// Whether the ids are to be set; only root can.
    #[prost(bool, tag = "8")]
    pub(crate) set_account: bool,
    /// Whether stdin is a terminal that shall control the session.
    #[prost(bool, tag = "9")]
    pub(crate) terminal: bool,
    /// Whether leftovers are ended when the leader has exited.
    #[prost(bool, tag = "10")]
    pub(crate) kill_leftovers: bool,
}

impl Launch {
    /// Writes the launch into a memory file that can be passed on.
    pub(crate) fn to_memory_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"compy-launch", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&self.encode_to_vec())?;
        Ok(file.into())
    }

    /// Reads what [`Launch::to_memory_file`] wrote.
    pub(crate) fn from_memory_file(file: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(file);
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Self::decode(bytes.as_slice()).map_err(io::Error::other)
    }
}

/// Sends an order without waiting; `fds` come with it.
pub(crate) fn send_order(socket: &OwnedFd, order: Order, fds: &[RawFd]) -> io::Result<()> {
    let bytes = order.encode();
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_survive_the_wire() {
        for order in [
            Order::Launch,
            Order::SignalGroup(15),
            Order::SignalTree(64),
            Order::EndTree { grace_ms: u32::MAX },
        ] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        for step in Step::ALL {
            let report = Report::NotStarted { step, errno: 2 };
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        for report in [
            Report::Started { pid: 4711 },
            Report::LeaderExited {
                ending: Ending::Code(255),
                leftovers: 3,
                max_rss_bytes: 1 << 40,
            },
            Report::LeaderExited {
                ending: Ending::Signal(64),
                leftovers: 0,
                max_rss_bytes: 0,
            },
            Report::Empty,
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    #[test]
    fn records_of_another_size_or_kind_are_refused() {
        assert_eq!(Order::decode(&[0; 23]), None);
        assert_eq!(Order::decode(&[9; RECORD_BYTES]), None);
        assert_eq!(Report::decode(&record(2, 99, 0, 0, 0)), None);
        assert_eq!(Report::decode(&record(3, 0, 256, 0, 0)), None);
    }

    #[test]
    fn a_launch_larger_than_a_packet_survives_the_memory_file() {
        let launch = Launch {
            argv: vec![b"sh".to_vec(), vec![0xff; 2 * 1024 * 1024]],
            directory: b"/".to_vec(),
            groups: vec![1, 2],
            terminal: true,
            ..Launch::default()
        };
        let file = launch.to_memory_file().unwrap();
        assert_eq!(Launch::from_memory_file(file).unwrap(), launch);
    }
}
