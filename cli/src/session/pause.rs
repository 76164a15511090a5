//! `compyctl session pause`.

use clap::Args;
use compyd_proto::v1::PauseSessionRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl session pause ID`.
#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    /// Session id.
    session: String,
}

impl PauseArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = PauseSessionRequest {
            request_id: request_id(),
            session_id: self.session,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.pause_session(request).await }
            })
            .await?;
        super::print_changed(context, response.session)
    }
}
