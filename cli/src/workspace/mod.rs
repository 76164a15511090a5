//! `compyctl workspace`: one file per verb.

mod add_repo;
mod attach;
mod cp;
pub(crate) mod create;
pub(crate) mod delete;
mod diff;
mod egress;
mod events;
mod exec;
mod exec_stream;
mod execs;
mod follow;
mod fork;
mod kill;
mod list;
mod pause;
mod port_forward;
mod restore;
mod resume;
mod set;
mod setup;
mod shell;
mod show;
mod snapshot;
mod snapshots;
mod start;
mod stats;
mod stop;
mod wait;
mod watch;

use clap::Subcommand;

use crate::command_line::Context;
use crate::exit::{EXEC_EXIT_CODES_HELP, Exit, Failure};
use crate::output::{Format, print, print_json, workspace::WorkspaceView, workspace::detail_table};

pub(crate) use add_repo::{RepositorySource, add_repository};

/// Verbs of `workspace`.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceVerb {
    /// Creates a workspace and starts it
    Create(create::CreateArguments),
    /// Lists workspaces by name
    List,
    /// Shows one workspace
    Show(show::ShowArguments),
    /// Starts a stopped workspace; a running one is left as it is
    Start(start::StartArguments),
    /// Stops a workspace; its files stay
    Stop(stop::StopArguments),
    /// Freezes every process of a workspace until it is resumed
    Pause(pause::PauseArguments),
    /// Lets a paused workspace go on
    Resume(resume::ResumeArguments),
    /// Changes when it is stopped as idle, and its disk limit
    Set(set::SetArguments),
    /// Shows every workspace, and then each change of its state
    Watch(watch::WatchArguments),
    /// Shows what a workspace uses, again and again
    Stats(stats::StatsArguments),
    /// Shows what happened: life cycle, connections, limits, snapshots
    Events(events::EventsArguments),
    /// Deletes a workspace with its container and its volumes
    Delete(delete::DeleteArguments),
    /// Runs a command; input, outputs and exit status pass through untouched
    #[command(after_help = EXEC_EXIT_CODES_HELP)]
    Exec(exec::ExecArguments),
    /// Lists the commands of a workspace, newest first
    Execs(execs::ExecsArguments),
    /// Joins a command that runs or has ended, from any byte of its output
    #[command(after_help = EXEC_EXIT_CODES_HELP)]
    Attach(attach::AttachArguments),
    /// Waits for a command; exits as it does
    #[command(after_help = EXEC_EXIT_CODES_HELP)]
    Wait(wait::WaitArguments),
    /// Ends a command and all it has started, or signals it
    #[command(visible_alias = "signal")]
    Kill(kill::KillArguments),
    /// Opens an interactive shell, or comes back to one; closing the terminal
    /// or typing Ctrl-] d leaves it running
    #[command(after_help = EXEC_EXIT_CODES_HELP)]
    Shell(shell::ShellArguments),
    /// Copies files between this machine and a workspace, either way
    Cp(cp::CpArguments),
    /// Puts a repository into a workspace
    AddRepo(add_repo::AddRepoArguments),
    /// Runs the setup of a repository by its compy.toml, unless it is done
    Setup(setup::SetupArguments),
    /// Sets what a workspace may reach, at once; without options, shows it
    Egress(egress::EgressArguments),
    /// Leads a port of this machine's loopback to a port of a workspace's
    PortForward(port_forward::PortForwardArguments),
    /// Takes a snapshot of the root file system and every volume
    Snapshot(snapshot::SnapshotArguments),
    /// Lists the snapshots of a workspace, oldest first
    Snapshots(snapshots::SnapshotsArguments),
    /// Says what differs between two snapshots, or a snapshot and now
    Diff(diff::DiffArguments),
    /// Brings a workspace back to a snapshot; what is there now is kept as one
    Restore(restore::RestoreArguments),
    /// Makes a workspace with the files of another
    Fork(fork::ForkArguments),
}

impl WorkspaceVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            WorkspaceVerb::Create(arguments) => arguments.run(context).await,
            WorkspaceVerb::List => list::run(context).await,
            WorkspaceVerb::Show(arguments) => arguments.run(context).await,
            WorkspaceVerb::Start(arguments) => arguments.run(context).await,
            WorkspaceVerb::Stop(arguments) => arguments.run(context).await,
            WorkspaceVerb::Pause(arguments) => arguments.run(context).await,
            WorkspaceVerb::Resume(arguments) => arguments.run(context).await,
            WorkspaceVerb::Set(arguments) => arguments.run(context).await,
            WorkspaceVerb::Watch(arguments) => arguments.run(context).await,
            WorkspaceVerb::Stats(arguments) => arguments.run(context).await,
            WorkspaceVerb::Events(arguments) => arguments.run(context).await,
            WorkspaceVerb::Delete(arguments) => arguments.run(context).await,
            WorkspaceVerb::Exec(arguments) => arguments.run(context).await,
            WorkspaceVerb::Execs(arguments) => arguments.run(context).await,
            WorkspaceVerb::Attach(arguments) => arguments.run(context).await,
            WorkspaceVerb::Wait(arguments) => arguments.run(context).await,
            WorkspaceVerb::Kill(arguments) => arguments.run(context).await,
            WorkspaceVerb::Shell(arguments) => arguments.run(context).await,
            WorkspaceVerb::Cp(arguments) => arguments.run(context).await,
            WorkspaceVerb::AddRepo(arguments) => arguments.run(context).await,
            WorkspaceVerb::Setup(arguments) => arguments.run(context).await,
            WorkspaceVerb::Egress(arguments) => arguments.run(context).await,
            WorkspaceVerb::PortForward(arguments) => arguments.run(context).await,
            WorkspaceVerb::Snapshot(arguments) => arguments.run(context).await,
            WorkspaceVerb::Snapshots(arguments) => arguments.run(context).await,
            WorkspaceVerb::Diff(arguments) => arguments.run(context).await,
            WorkspaceVerb::Restore(arguments) => arguments.run(context).await,
            WorkspaceVerb::Fork(arguments) => arguments.run(context).await,
        }
    }
}

/// Prints one workspace in the form asked for.
pub(crate) fn print_workspace(
    context: &Context,
    workspace: Option<compyd_proto::v1::Workspace>,
) -> Result<Exit, Failure> {
    let view = WorkspaceView::from(workspace.unwrap_or_default());
    match context.format {
        Format::Json => print_json(&view)?,
        Format::Table => print(&detail_table(&view).to_string())?,
    }
    Ok(Exit::OK)
}
