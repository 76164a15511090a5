//! `compyctl session resume`.

use clap::Args;
use compyd_proto::v1::ResumeSessionRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl session resume ID`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    /// Session id.
    session: String,
}

impl ResumeArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ResumeSessionRequest {
            request_id: request_id(),
            session_id: self.session,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.resume_session(request).await }
            })
            .await?;
        super::print_changed(context, response.session)
    }
}
