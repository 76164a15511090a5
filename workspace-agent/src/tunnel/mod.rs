//! Connections between the programs of the workspace and the world.
//!
//! ```text
//! program -- HTTP or SOCKS5 --> proxy --> desk -- announces --> daemon
//!                                 |                               | decides, dials
//!                                 `------ pipe <-- Connect -------'
//! ```
//!
//! The container has no network. [`proxy`] listens on its loopback, [`http`] and
//! [`socks`] understand what a program wants, [`desk`] asks the daemon and hands
//! out a pipe to the world. Nothing is decided here and no name is looked up:
//! everything that must hold is held by the daemon, which trusts nothing of this.
//! [`dial`] is the other way: the daemon reaches a port of the loopback.
//! [`ssh_agent`] is a door to the daemon itself.

pub(crate) mod desk;
pub(crate) mod dial;
mod http;
mod lingering;
pub(crate) mod proxy;
mod socks;
pub(crate) mod ssh_agent;

/// Bytes that one direction of a connection buffers.
const COPY_BYTES: usize = 64 * 1024;
