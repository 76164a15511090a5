//! `compyctl workspace port-forward`.

use std::net::Ipv4Addr;

use clap::Args;
use compyd_proto::pipe::Pipe;
use compyd_proto::v1::port_forward_request::Part;
use compyd_proto::v1::{GetWorkspaceRequest, PortForwardRequest, PortForwardStart};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::command_line::Context;
use crate::connection::Daemon;
use crate::exit::{Exit, Failure};

/// Messages between a connection and its call.
const PIECES_UNDER_WAY: usize = 4;

/// `compyctl workspace port-forward NAME PORT[:LOCAL]`.
#[derive(Debug, Args)]
pub(crate) struct PortForwardArguments {
    /// Name or id.
    workspace: String,
    /// A port of the workspace, and the port of this machine's loopback that
    /// leads to it; without, the same, and 0 means any that is free.
    #[arg(value_name = "PORT[:LOCAL]", value_parser = ports)]
    ports: Ports,
}

/// A port inside and a port here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    inside: u16,
    local: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (inside, local) = text.split_once(':').unwrap_or((text, text));
    match (inside.parse(), local.parse()) {
        (Ok(inside), Ok(local)) if inside != 0 => Ok(Ports { inside, local }),
        _ => Err("write PORT or PORT:LOCAL, each a number up to 65535".to_owned()),
    }
}

impl PortForwardArguments {
    /// Forwards connections until it is interrupted.
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        // A name that does not exist is told before anything is forwarded.
        let request = GetWorkspaceRequest {
            workspace: self.workspace.clone(),
        };
        daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.get_workspace(request).await }
            })
            .await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.ports.local)).await;
        let listener = listener.map_err(|error| {
            let message = format!("cannot listen on port {} here: {error}", self.ports.local);
            Failure::local(message, format!("another one: {}:0", self.ports.inside))
        })?;
        let address = listener.local_addr().map_err(anyhow::Error::from)?;
        println!(
            "forwarding {address} to port {} of {}; interrupt to end",
            self.ports.inside, self.workspace
        );
        let mut connections = JoinSet::new();
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            tokio::select! {
                _ = &mut interrupted => return Ok(Exit::OK),
                accepted = listener.accept() => {
                    let (stream, _) = accepted.map_err(anyhow::Error::from)?;
                    let start = PortForwardStart {
                        workspace: self.workspace.clone(),
                        port: self.ports.inside.into(),
                    };
                    let daemon = daemon.clone();
                    connections.spawn(async move { forward(&daemon, start, stream).await });
                }
                Some(ended) = connections.join_next() => {
                    if let Ok(Err(status)) = ended {
                        eprintln!("note: a connection was refused: {}", status.message());
                    }
                }
            }
        }
    }
}

/// Carries one connection. An error says why it did not come about.
async fn forward(
    daemon: &Daemon,
    start: PortForwardStart,
    mut stream: TcpStream,
) -> Result<(), Status> {
    // Forwarded programs do not wait for more bytes either.
    let _ = stream.set_nodelay(true);
    let (sender, requests) = mpsc::channel(PIECES_UNDER_WAY);
    let first = PortForwardRequest {
        part: Some(Part::Start(start)),
    };
    if sender.try_send(first).is_err() {
        return Err(Status::internal("the call ended before it began"));
    }
    let mut client = daemon.workspaces();
    let answer = client.port_forward(ReceiverStream::new(requests)).await?;
    let mut inside = Pipe::<_, PortForwardRequest>::with_sender(answer.into_inner(), sender);
    // Either side may break off; the other is closed with it.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_forwarded_to_itself_unless_another_is_named() {
        let same = Ports {
            inside: 8080,
            local: 8080,
        };
        assert_eq!(ports("8080"), Ok(same));
        assert_eq!(ports("8080:0"), Ok(Ports { local: 0, ..same }));
        assert_eq!(ports("8080:9"), Ok(Ports { local: 9, ..same }));
        for wrong in ["", "0", "x", "80:", ":80", "80:x", "70000", "1:2:3"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
