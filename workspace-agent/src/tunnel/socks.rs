//! SOCKS5 (RFC 1928): no authentication, CONNECT only.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use compyd_proto::agent::{TunnelFailure, TunnelProtocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::COPY_BYTES;
use super::desk::{Desk, NoWorld, Want};
use super::lingering::Lingering;
use super::proxy::HEAD_TIMEOUT;

/// First byte of every message.
pub(super) const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// The replies of RFC 1928, section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    TimedOut = 6,
    CommandUnsupported = 7,
    AddressUnsupported = 8,
}

/// Serves one connection of a program.
pub(super) async fn serve(mut stream: TcpStream, desk: &Desk) {
    let asked = tokio::time::timeout(HEAD_TIMEOUT, request(&mut stream)).await;
    let want = match asked {
        Ok(Ok(Ok(want))) => want,
        Ok(Ok(Err(reply))) => return refuse(stream, reply).await,
        // It has gone, speaks something else, or says nothing.
        Ok(Err(_)) | Err(_) => return,
    };
    match desk.ask(want).await {
        Err(no_world) => refuse(stream, reply_to(&no_world)).await,
        Ok(mut world) => {
            if stream.write_all(&message(Reply::Succeeded)).await.is_ok() {
                // Either side may break off; the other is closed with it.
                let _ = tokio::io::copy_bidirectional_with_sizes(
                    &mut stream,
                    &mut world.pipe,
                    COPY_BYTES,
                    COPY_BYTES,
                )
                .await;
            }
        }
    }
}

/// What the program wants, or the reply that turns it away.
async fn request(stream: &mut TcpStream) -> io::Result<Result<Want, Reply>> {
    let [_, methods] = read(stream).await?;
    let mut offered = vec![0; methods.into()];
    stream.read_exact(&mut offered).await?;
    if !offered.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_METHOD]).await?;
        stream.shutdown().await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;

    let [version, command, _, kind] = read(stream).await?;
    if version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(stream).await?).to_string(),
        3 => {
            let [length] = read(stream).await?;
            let mut name = vec![0; length.into()];
            stream.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
        4 => Ipv6Addr::from(read::<16>(stream).await?).to_string(),
        _ => return Ok(Err(Reply::AddressUnsupported)),
    };
    let port = u16::from_be_bytes(read(stream).await?);
    if command != CONNECT {
        return Ok(Err(Reply::CommandUnsupported));
    }
    Ok(Ok(Want {
        host,
        port,
        protocol: TunnelProtocol::Socks,
    }))
}

async fn read<const BYTES: usize>(stream: &mut TcpStream) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn refuse(mut stream: TcpStream, reply: Reply) {
    // The program may have gone.
    if stream.write_all(&message(reply)).await.is_ok() {
        let _ = Lingering::new(stream).shutdown().await;
    }
}

/// A reply without the bound address, which a program has no use for.
fn message(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

fn reply_to(no_world: &NoWorld) -> Reply {
    match no_world {
        NoWorld::Denied(_) => Reply::NotAllowed,
        NoWorld::Failed(failed) => match failed.kind() {
            TunnelFailure::Refused => Reply::Refused,
            TunnelFailure::Unresolved => Reply::HostUnreachable,
            TunnelFailure::Unreachable => Reply::NetworkUnreachable,
            TunnelFailure::Timeout => Reply::TimedOut,
            TunnelFailure::Unspecified => Reply::Failure,
        },
        NoWorld::NoDaemon | NoWorld::Full => Reply::Failure,
    }
}
