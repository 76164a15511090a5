//! `compyctl snapshot`: one file per verb.

mod delete;
mod export;
mod fork;
mod import;
mod label;
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
    /// Labels a snapshot, which keeps it until somebody deletes it
    Label(label::LabelArguments),
    /// Deletes a snapshot; workspaces made from it stay as they are
    Delete(delete::DeleteArguments),
    /// Writes a snapshot into one file, for a copy or for another daemon
    Export(export::ExportArguments),
    /// Takes in a snapshot from a file that export wrote
    Import(import::ImportArguments),
    /// Makes a workspace from a snapshot, whose own workspace may be gone
    Fork(fork::ForkArguments),
    /// Removes what no snapshot names any more, and snapshots that are let go
    Prune(prune::PruneArguments),
}

impl SnapshotVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            SnapshotVerb::Show(arguments) => arguments.run(context).await,
            SnapshotVerb::Label(arguments) => arguments.run(context).await,
            SnapshotVerb::Delete(arguments) => arguments.run(context).await,
            SnapshotVerb::Export(arguments) => arguments.run(context).await,
            SnapshotVerb::Import(arguments) => arguments.run(context).await,
            SnapshotVerb::Fork(arguments) => arguments.run(context).await,
            SnapshotVerb::Prune(arguments) => arguments.run(context).await,
        }
    }
}
