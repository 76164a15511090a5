//! `compyctl credential`: one file per verb.

mod delete;
mod list;
mod rotate;
mod scope;
mod set;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `credential`.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialVerb {
    /// Adds or replaces a credential; the value comes from standard input, a file
    /// or a prompt
    Set(set::SetArguments),
    /// Lists credentials, never their values
    List,
    /// Deletes a credential; commands that run keep what they were given
    Delete(delete::DeleteArguments),
    /// Seals every credential with another master key
    Rotate,
}

impl CredentialVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            CredentialVerb::Set(arguments) => arguments.run(context).await,
            CredentialVerb::List => list::run(context).await,
            CredentialVerb::Delete(arguments) => arguments.run(context).await,
            CredentialVerb::Rotate => rotate::run(context).await,
        }
    }
}
