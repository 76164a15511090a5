//! The network of this machine, as its operating system knows it.

use core::net::{IpAddr, SocketAddr};
use std::{io, time::Duration};

use async_trait::async_trait;
use nix::ifaddrs::getifaddrs;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::ports::{
    tunnel::BoxedBytes,
    world::{WorldError, WorldPort},
};

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// This machine's resolver and its interfaces.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemWorld;

#[async_trait]
impl WorldPort for SystemWorld {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, WorldError> {
        let unresolved = |message: String| WorldError::Unresolved {
            name: name.to_owned(),
            message,
        };
        match timeout(RESOLVE_TIMEOUT, lookup_host((name, 0))).await {
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                match addresses.is_empty() {
                    true => Err(unresolved("it has no address".to_owned())),
                    false => Ok(addresses),
                }
            }
            Ok(Err(error)) => Err(unresolved(error.to_string())),
            Err(_) => Err(WorldError::Timeout(format!(
                "the resolver, asked for {name},"
            ))),
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<BoxedBytes, WorldError> {
        match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A tunnel adds no delay of its own.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(WorldError::Refused(address))
            }
            Ok(Err(error)) => Err(WorldError::Unreachable {
                address,
                message: error.to_string(),
            }),
            Err(_) => Err(WorldError::Timeout(address.to_string())),
        }
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        let interfaces = match getifaddrs() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                tracing::warn!(%error, "this machine does not tell its own addresses");
                return Vec::new();
            }
        };
        interfaces
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn the_loopback_is_one_of_the_machines_own() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(SystemWorld.own_addresses().contains(&loopback));
        assert!(
            SystemWorld
                .resolve("localhost")
                .await
                .unwrap()
                .contains(&loopback)
        );
    }

    #[tokio::test]
    async fn a_failure_tells_its_kind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        SystemWorld
            .dial(address)
            .await
            .unwrap()
            .shutdown()
            .await
            .unwrap();
        drop(listener);
        let refused = SystemWorld.dial(address).await.err();
        assert_eq!(refused, Some(WorldError::Refused(address)));
        let name = "no-such-host.invalid";
        let unresolved = SystemWorld.resolve(name).await;
        assert!(
            matches!(unresolved, Err(WorldError::Unresolved { .. })),
            "{unresolved:?}"
        );
    }
}
