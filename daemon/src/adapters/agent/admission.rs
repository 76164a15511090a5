//! Who may be a workspace's agent: PID 1 of its container, and nobody else.
//!
//! Every process of a container can reach the socket. The kernel tells the
//! host's pid of a dialler (SO_PEERCRED), the engine that of PID 1.

use std::{sync::Arc, time::Duration};

use tokio::{net::UnixStream, time::Instant};

use crate::{
    domain::ids::WorkspaceId,
    ports::runtime::{ContainerState, ContainerStatus, RuntimePort},
};

/// An agent may dial before the engine has written down that it started.
const ENGINE_CATCHES_UP: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The workspace's container, when the peer of a stream is its PID 1; an error
/// says why it is not, for the log.
pub(super) async fn admit(
    runtime: &Arc<dyn RuntimePort>,
    workspace: &WorkspaceId,
    stream: &UnixStream,
) -> Result<ContainerState, String> {
    let peer = stream
        .peer_cred()
        .map_err(|error| format!("the kernel does not say who dialled: {error}"))?
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0)
        .ok_or("the dialler is of another pid namespace than this daemon's host")?;
    let deadline = Instant::now() + ENGINE_CATCHES_UP;
    loop {
        let found = runtime
            .find(workspace)
            .await
            .map_err(|error| error.to_string())?;
        let first = found.filter(|container| {
            container.pid != 0
                && matches!(
                    container.status,
                    ContainerStatus::Running | ContainerStatus::Paused
                )
        });
        match first {
            Some(container) if container.pid == peer => return Ok(container),
            Some(container) => {
                return Err(format!(
                    "process {peer} is not PID 1 of the container, which is {}",
                    container.pid
                ));
            }
            None if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            None => return Err(format!("process {peer} dialled, no container runs")),
        }
    }
}
