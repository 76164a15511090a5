//! `compyctl session cancel`.

use clap::Args;
use compyd_proto::v1::CancelSessionRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl session cancel ID`.
#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// Session id.
    session: String,
    /// Why, for the record.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    reason: String,
}

impl CancelArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = CancelSessionRequest {
            request_id: request_id(),
            session_id: self.session,
            reason: self.reason,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.cancel_session(request).await }
            })
            .await?;
        super::print_changed(context, response.session)
    }
}
