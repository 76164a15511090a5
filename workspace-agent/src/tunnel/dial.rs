//! From the daemon to a port of the container's loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use compyd_proto::agent as wire;
use compyd_proto::pipe::Pipe;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::COPY_BYTES;
use super::desk::Desk;
use crate::errors::{AgentError, Reason};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a port and, as work of `desk`, carries `bytes` to it; what comes back are the bytes
/// for the daemon.
pub(crate) async fn dial(
    desk: &Desk,
    port: u32,
    bytes: Streaming<wire::DialRequest>,
) -> Result<mpsc::Receiver<wire::TunnelBytes>, AgentError> {
    let port = match u16::try_from(port) {
        Ok(port) if port != 0 => port,
        _ => {
            return Err(AgentError::new(
                Reason::SpecInvalid,
                format!("there is no port {port}; ports are 1 to 65535"),
            ));
        }
    };
    let mut stream = connect(port).await?;
    let (mut pipe, outgoing) = Pipe::new(bytes);
    // On error either side has closed, which closes the other.
    desk.spawn(async move {
        let _ = tokio::io::copy_bidirectional_with_sizes(
            &mut stream,
            &mut pipe,
            COPY_BYTES,
            COPY_BYTES,
        )
        .await;
    });
    Ok(outgoing)
}

/// A server may listen on either loopback.
async fn connect(port: u16) -> Result<TcpStream, AgentError> {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut why = String::new();
    for address in loopbacks {
        let connecting = TcpStream::connect((address, port));
        match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if why.is_empty() => why = error.to_string(),
            Err(_) if why.is_empty() => why = "no answer in time".to_owned(),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(AgentError::new(
        Reason::PortClosed,
        format!("nothing answers on port {port} of the workspace's loopback: {why}"),
    ))
}
