//! `compyctl snapshot`: one file per verb.

mod delete;
mod prune;
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
    /// Removes what no snapshot names any more, and snapshots that are let go
    Prune(prune::PruneArguments),
}

impl SnapshotVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            SnapshotVerb::Show(arguments) => arguments.run(context).await,
            SnapshotVerb::Delete(arguments) => arguments.run(context).await,
            SnapshotVerb::Prune(arguments) => arguments.run(context).await,
        }
    }
}
