//! `compy.agent.v1.Tunnel` on top of the desk.

use compyd_proto::agent as wire;
use compyd_proto::agent::connect_request::Part as ConnectPart;
use compyd_proto::agent::dial_request::Part as DialPart;
use compyd_proto::agent::tunnel_server::Tunnel;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::{Answer, Replies};
use crate::errors::{AgentError, Reason};
use crate::tunnel::desk::Desk;
use crate::tunnel::dial;

pub(crate) struct TunnelService {
    desk: Desk,
}

impl TunnelService {
    pub(crate) fn new(desk: Desk) -> Self {
        Self { desk }
    }
}

#[tonic::async_trait]
impl Tunnel for TunnelService {
    type AcceptStream = Replies<wire::Wanted>;

    async fn accept(&self, _: Request<wire::AcceptRequest>) -> Answer<Self::AcceptStream> {
        Ok(replies(self.desk.listen()))
    }

    type ConnectStream = Replies<wire::TunnelBytes>;

    async fn connect(
        &self,
        request: Request<Streaming<wire::ConnectRequest>>,
    ) -> Answer<Self::ConnectStream> {
        let mut bytes = request.into_inner();
        let first = bytes.message().await?.and_then(|message| message.part);
        let Some(ConnectPart::Verdict(verdict)) = first else {
            return Err(wrong_first("a verdict").into());
        };
        Ok(replies(self.desk.answer(verdict, bytes)?))
    }

    type DialStream = Replies<wire::TunnelBytes>;

    async fn dial(
        &self,
        request: Request<Streaming<wire::DialRequest>>,
    ) -> Answer<Self::DialStream> {
        let mut bytes = request.into_inner();
        let first = bytes.message().await?.and_then(|message| message.part);
        let Some(DialPart::Port(port)) = first else {
            return Err(wrong_first("a port").into());
        };
        Ok(replies(dial::dial(&self.desk, port, bytes).await?))
    }
}

fn replies<T: Send + 'static>(messages: mpsc::Receiver<T>) -> Response<Replies<T>> {
    Response::new(Box::pin(ReceiverStream::new(messages).map(Ok)))
}

fn wrong_first(expected: &str) -> AgentError {
    AgentError::new(
        Reason::SpecInvalid,
        format!("the first message of the stream must be {expected}"),
    )
}
