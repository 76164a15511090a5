//! `compyctl snapshot`: one file per verb.

mod delete;
mod show;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Shows one snapshot
    Show(show::ShowArguments),
    /// Deletes a snapshot; workspaces made from it stay as they are
    Delete(delete::DeleteArguments),
}

impl SnapshotVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            SnapshotVerb::Show(arguments) => arguments.run(context).await,
            SnapshotVerb::Delete(arguments) => arguments.run(context).await,
        }
    }
}
