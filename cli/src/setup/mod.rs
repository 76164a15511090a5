//! `compyctl setup`: one file per verb.

mod check;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `setup`.
#[derive(Debug, Subcommand)]
pub(crate) enum SetupVerb {
    /// Says what is wrong with a setup file; 1 when something is
    Check(check::CheckArguments),
}

impl SetupVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            SetupVerb::Check(arguments) => arguments.run(context).await,
        }
    }
}
