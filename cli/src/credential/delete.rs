//! `compyctl credential delete`.

use clap::Args;
use compyd_proto::v1::DeleteCredentialRequest;

use super::scope::ScopeArguments;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::terminal;

/// `compyctl credential delete NAME`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// Its name.
    name: String,
    #[command(flatten)]
    scope: ScopeArguments,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl DeleteArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let name = &self.name;
        let question = format!("Delete credential {name}? [y/N] ");
        let instead = format!("compyctl credential delete {name} --yes, with its scope");
        if !self.yes && !terminal::confirmed(&question, &instead)? {
            eprintln!("nothing was deleted");
            return Ok(Exit::ERROR);
        }
        let daemon = context.daemon().await?;
        let request = DeleteCredentialRequest {
            request_id: request_id(),
            name: name.clone(),
            scope: Some(self.scope.into_wire()),
        };
        daemon
            .call(|| {
                let (mut client, request) = (daemon.credentials(), request.clone());
                async move { client.delete_credential(request).await }
            })
            .await?;
        eprintln!("deleted credential {}", request.name);
        Ok(Exit::OK)
    }
}
