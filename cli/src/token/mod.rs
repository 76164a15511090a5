//! `compyctl token`: one file per verb.

mod create;
mod list;
mod revoke;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Makes a token and prints it, this once
    Create(create::CreateArguments),
    /// Lists tokens with their roles, scopes, expiry and last use
    List,
    /// Ends a token at once, and the calls that are made with it
    Revoke(revoke::RevokeArguments),
}

impl TokenVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            TokenVerb::Create(arguments) => arguments.run(context).await,
            TokenVerb::List => list::run(context).await,
            TokenVerb::Revoke(arguments) => arguments.run(context).await,
        }
    }
}
