//! The listener on the container's loopback. One port serves both protocols: a
//! SOCKS5 greeting begins with 0x05, no HTTP request does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::desk::Desk;
use super::{http, socks};

/// Connections of programs at a time, asking ones included; more wait in the
/// kernel's backlog.
const MAX_CLIENTS: usize = 512;
/// For a program to say what it wants.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After the kernel had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts to serve programs, and tells the address.
pub(crate) async fn start(address: SocketAddr, desk: &Desk) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    desk.spawn(accept(listener, desk.clone()));
    Ok(address)
}

async fn accept(listener: TcpListener, desk: Desk) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    // The semaphore is never closed.
    while let Ok(place) = clients.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let serving = serve(stream, desk.clone());
        desk.spawn(async move {
            let _place = place;
            serving.await;
        });
    }
}

async fn serve(stream: TcpStream, desk: Desk) {
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    match tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == socks::VERSION => socks::serve(stream, &desk).await,
        Ok(Ok(1)) => http::serve(stream, desk).await,
        Ok(_) | Err(_) => {}
    }
}
