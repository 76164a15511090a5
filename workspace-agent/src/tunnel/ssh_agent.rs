//! The socket where SSH clients find their agent. What they say is carried to the
//! daemon, which has the keys and answers; nothing of it is understood here.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use compyd_proto::agent::TunnelProtocol;
use compyd_proto::link::SSH_AGENT_HOST;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::COPY_BYTES;
use super::desk::{Desk, Want, World};

/// Clients at a time; more wait in the kernel's backlog.
const MAX_CLIENTS: usize = 16;
/// After the kernel had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts to serve clients of every account of the container.
pub(crate) fn start(socket: &Path, desk: &Desk) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o666))?;
    desk.spawn(accept(listener, desk.clone()));
    Ok(())
}

async fn accept(listener: UnixListener, desk: Desk) {
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

/// A client that cannot be served sees its connection end, as with an agent that
/// has gone.
async fn serve(mut client: UnixStream, desk: Desk) {
    let want = Want {
        host: SSH_AGENT_HOST.to_owned(),
        port: 1,
        protocol: TunnelProtocol::Socks,
    };
    if let Ok(World { mut pipe, place }) = desk.ask(want).await {
        let _place = place;
        let _ = tokio::io::copy_bidirectional_with_sizes(
            &mut client,
            &mut pipe,
            COPY_BYTES,
            COPY_BYTES,
        )
        .await;
    }
}
