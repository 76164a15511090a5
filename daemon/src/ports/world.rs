//! The world beyond the daemon's own machine: names and connections.

use core::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use super::tunnel::BoxedBytes;

/// The network of the daemon's machine.
#[async_trait]
pub trait WorldPort: Send + Sync {
    /// The addresses of a name, at least one, as the machine resolves it. Has a
    /// deadline of the adapter's.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, WorldError>;

    /// Connects to an address. Has a deadline of the adapter's.
    async fn dial(&self, address: SocketAddr) -> Result<BoxedBytes, WorldError>;

    /// The addresses of the machine itself, as they are now.
    fn own_addresses(&self) -> Vec<IpAddr>;
}

/// Why there is no connection. The messages are for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// The name has no address.
    #[error("{name} cannot be resolved: {message}")]
    Unresolved {
        /// The name.
        name: String,
        /// The cause.
        message: String,
    },
    /// The host refused the connection.
    #[error("{0} refused the connection")]
    Refused(SocketAddr),
    /// There is no way to the host.
    #[error("{address} cannot be reached: {message}")]
    Unreachable {
        /// The address.
        address: SocketAddr,
        /// The cause.
        message: String,
    },
    /// No answer in time.
    #[error("no answer from {0} in time")]
    Timeout(String),
}
