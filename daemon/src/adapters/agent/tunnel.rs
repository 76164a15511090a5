//! Tunnels over an agent's link.

use std::time::Duration;

use async_trait::async_trait;
use compyd_proto::{
    agent::{
        self as wire, connect_request::Part as ConnectPart, dial_request::Part as DialPart,
        tunnel_client::TunnelClient, verdict::Outcome,
    },
    pipe::{Piece, Pipe},
};
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    link::{AgentLink, QUICK_DEADLINE, within},
    refusal::{self, broken},
};
use crate::{
    domain::egress::Protocol,
    ports::{
        agent::AgentError,
        tunnel::{BoxedBytes, Refusal, TunnelPort, Wanted},
        world::WorldError,
    },
};

/// A name of DNS or SOCKS is never longer.
const LONGEST_HOST: usize = 255;
/// Messages between a pipe and its call.
const PIECES_UNDER_WAY: usize = 4;
/// The agent connects within its own limit, which is shorter.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);

#[async_trait]
impl TunnelPort for AgentLink {
    async fn wanted(&self) -> Result<BoxStream<'static, Result<Wanted, AgentError>>, AgentError> {
        const CALL: &str = "accept";
        let mut client = self.tunnels();
        let answer = client.accept(wire::AcceptRequest {});
        let announced = within(CALL, QUICK_DEADLINE, answer).await?;
        let wanted = announced.map(|message| match message {
            Ok(message) => wanted(message).map_err(|message| broken(CALL, message)),
            Err(status) => Err(refusal::read(CALL, &status)),
        });
        Ok(wanted.boxed())
    }

    async fn carry(&self, id: u64) -> Result<BoxedBytes, AgentError> {
        let outcome = Outcome::Allowed(wire::TunnelAllowed {});
        self.answer(id, outcome).await
    }

    async fn refuse(&self, id: u64, refusal: Refusal) -> Result<(), AgentError> {
        self.answer(id, outcome(refusal)).await.map(|_| ())
    }

    async fn dial(&self, port: u16) -> Result<BoxedBytes, AgentError> {
        let first = wire::DialRequest {
            part: Some(DialPart::Port(port.into())),
        };
        let (sender, requests) = opened(first)?;
        let mut client = self.tunnels();
        let bytes = within("dial", DIAL_DEADLINE, client.dial(requests)).await?;
        Ok(Box::new(Pipe::with_sender(bytes, sender)))
    }
}

impl AgentLink {
    fn tunnels(&self) -> TunnelClient<Channel> {
        TunnelClient::new(self.channel())
    }

    async fn answer(&self, id: u64, outcome: Outcome) -> Result<BoxedBytes, AgentError> {
        let verdict = wire::Verdict {
            id,
            outcome: Some(outcome),
        };
        let first = wire::ConnectRequest {
            part: Some(ConnectPart::Verdict(verdict)),
        };
        let (sender, requests) = opened(first)?;
        let mut client = self.tunnels();
        let bytes = within("connect", QUICK_DEADLINE, client.connect(requests)).await?;
        Ok(Box::new(Pipe::with_sender(bytes, sender)))
    }
}

/// The messages of a call, the first one under way.
fn opened<M: Piece>(first: M) -> Result<(mpsc::Sender<M>, ReceiverStream<M>), AgentError> {
    let (sender, requests) = mpsc::channel(PIECES_UNDER_WAY);
    let gone = |_| AgentError::Unreachable("the call ended before it began".to_owned());
    sender.try_send(first).map_err(gone)?;
    Ok((sender, ReceiverStream::new(requests)))
}

fn wanted(message: wire::Wanted) -> Result<Wanted, String> {
    let protocol = match message.protocol() {
        wire::TunnelProtocol::Http => Protocol::Http,
        wire::TunnelProtocol::Connect => Protocol::Connect,
        wire::TunnelProtocol::Socks => Protocol::Socks,
        wire::TunnelProtocol::Unspecified => return Err("a connection of no protocol".to_owned()),
    };
    let mut host = message.host;
    // Longer ones are no hosts; what is left of them is refused as such.
    if host.len() > LONGEST_HOST {
        host = host.chars().take(LONGEST_HOST).collect();
    }
    Ok(Wanted {
        id: message.id,
        host,
        // No connection is ever allowed to port 0: no host listens there.
        port: u16::try_from(message.port).unwrap_or(0),
        protocol,
    })
}

fn outcome(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::Denied { denial, advice } => Outcome::Denied(wire::TunnelDenied {
            code: denial.code().to_owned(),
            message: denial.to_string(),
            advice,
        }),
        Refusal::Failed(error) => {
            let kind = match &error {
                WorldError::Unresolved { .. } => wire::TunnelFailure::Unresolved,
                WorldError::Refused(_) => wire::TunnelFailure::Refused,
                WorldError::Unreachable { .. } => wire::TunnelFailure::Unreachable,
                WorldError::Timeout(_) => wire::TunnelFailure::Timeout,
            };
            Outcome::Failed(wire::TunnelFailed {
                kind: kind.into(),
                message: error.to_string(),
            })
        }
    }
}
