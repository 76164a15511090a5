//! `compyctl artifact`: one file per verb.

mod get;
mod list;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `artifact`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactVerb {
    /// Lists what a session left behind
    List(list::ListArguments),
    /// Writes an artifact's content to standard output or a file
    Get(get::GetArguments),
}

impl ArtifactVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            ArtifactVerb::List(arguments) => arguments.run(context).await,
            ArtifactVerb::Get(arguments) => arguments.run(context).await,
        }
    }
}
