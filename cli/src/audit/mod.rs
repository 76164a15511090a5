//! `compyctl audit`: one file per verb.

mod export;
mod search;
mod verifier;
mod verify;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Looks for records
    Search(search::SearchArguments),
    /// Writes the log and a checkpoint to files
    Export(export::ExportArguments),
    /// Checks that the daemon's log, or an exported one, is as it was written
    Verify(verify::VerifyArguments),
}

impl AuditVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            AuditVerb::Search(arguments) => arguments.run(context).await,
            AuditVerb::Export(arguments) => arguments.run(context).await,
            AuditVerb::Verify(arguments) => arguments.run(context).await,
        }
    }
}
