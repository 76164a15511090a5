//! `compyctl token revoke`.

use clap::Args;
use compyd_proto::v1::RevokeTokenRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl token revoke NAME`. It does not ask: who revokes a token is in a
/// hurry, and another one is made at once.
#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    /// Its name.
    name: String,
}

impl RevokeArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = RevokeTokenRequest {
            request_id: request_id(),
            name: self.name,
        };
        daemon
            .call(|| {
                let (mut client, request) = (daemon.access(), request.clone());
                async move { client.revoke_token(request).await }
            })
            .await?;
        eprintln!("revoked token {}", request.name);
        Ok(Exit::OK)
    }
}
