//! Connections between a workspace's programs and the world, over its link.
//!
//! What a workspace announces is untrusted: hosts are as a program wrote them.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::agent::AgentError;
use crate::domain::{
    egress::{Denial, Protocol},
    ids::WorkspaceId,
};

/// Connections of one workspace at a time; the agent holds itself to it, too.
pub const MOST_TUNNELS: usize = compyd_proto::link::MAX_TUNNELS;

/// A byte stream both ways. Each direction is shut down by itself; dropped
/// before that, it is cut, which the other end notices.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A byte stream of some kind.
pub type BoxedBytes = Box<dyn ByteStream>;

/// The tunnels of one link.
#[async_trait]
pub trait TunnelPort: Send + Sync {
    /// Connections that programs want, until the link ends. One caller at a
    /// time: a second one ends the stream of the first.
    async fn wanted(&self) -> Result<BoxStream<'static, Result<Wanted, AgentError>>, AgentError>;

    /// Lets a wanted connection begin: the program's end of it. Refused with
    /// `CONNECTION_UNKNOWN` when the program has gone.
    async fn carry(&self, id: u64) -> Result<BoxedBytes, AgentError>;

    /// Tells a program why there is no connection.
    async fn refuse(&self, id: u64, refusal: Refusal) -> Result<(), AgentError>;

    /// Connects to a port of the workspace's loopback. Refused with
    /// `PORT_CLOSED` when nothing listens there.
    async fn dial(&self, port: u16) -> Result<BoxedBytes, AgentError>;
}

/// A connection that a program wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Names it towards the workspace.
    pub id: u64,
    /// The host as the program wrote it, at most 255 bytes.
    pub host: String,
    /// The port, 1 to 65,535.
    pub port: u16,
    /// How the program asked.
    pub protocol: Protocol,
}

/// Why a program gets no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is against the rules.
    Denied {
        /// Why.
        denial: Denial,
        /// What to do about it; may be empty.
        advice: String,
    },
    /// It is allowed and did not come about.
    Failed(super::world::WorldError),
}

/// A link that came up and can carry tunnels.
#[derive(Clone)]
pub struct Linked {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Its tunnels.
    pub tunnel: Arc<dyn TunnelPort>,
}
