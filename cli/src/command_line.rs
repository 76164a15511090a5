//! The command line as a whole: global options and the nouns. Each verb's own
//! options are beside the verb.

use clap::{Args, Parser, Subcommand};
use compyd_proto::endpoint::default_socket_path;

use crate::connection::{Daemon, DaemonEndpoint};
use crate::exit::{EXIT_CODES_HELP, Exit, Failure};
use crate::output::Format;
use crate::{
    approval, artifact, audit, credential, policy, run, session, setup, snapshot, system, workspace,
};

/// Gives tasks to coding agents and looks after the machines they work in.
#[derive(Debug, Parser)]
#[command(name = "compyctl", version, after_help = EXIT_CODES_HELP, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    noun: Noun,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct GlobalOptions {
    /// The daemon: unix:///PATH, http://HOST:PORT or tcp://HOST:PORT. Default:
    /// the unix socket of a daemon of the same account.
    #[arg(long, global = true, env = "COMPY_ENDPOINT", value_name = "URL")]
    endpoint: Option<DaemonEndpoint>,
    /// Form of the results on standard output.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Isolated machines with persistent volumes
    #[command(subcommand, visible_alias = "ws")]
    Workspace(workspace::WorkspaceVerb),
    /// Gives a task to an agent and shows its work
    Run(Box<run::RunArguments>),
    /// Tasks given to agents
    #[command(subcommand)]
    Session(session::SessionVerb),
    /// Setup files of repositories, `compy.toml`
    #[command(subcommand)]
    Setup(setup::SetupVerb),
    /// What sessions wait for a person to approve
    #[command(subcommand)]
    Approval(approval::ApprovalVerb),
    /// What sessions may do alone, ask for, or not do
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// What workspaces were at one moment
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotVerb),
    /// What sessions leave behind
    #[command(subcommand)]
    Artifact(artifact::ArtifactVerb),
    /// Who asked for what, what was done, what was decided
    #[command(subcommand)]
    Audit(audit::AuditVerb),
    /// Keys and passwords that commands in workspaces may use
    #[command(subcommand)]
    Credential(credential::CredentialVerb),
    /// Removes everything that Compy made and nothing needs any more
    Gc(system::gc::GcArguments),
    /// Checks engine, images, disk and configuration, and says what to do
    Doctor,
    /// Versions of compyctl and of the daemon
    Version,
}

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Context {
    endpoint: DaemonEndpoint,
    /// Form of the results.
    pub(crate) format: Format,
}

impl Context {
    /// Dials the daemon.
    pub(crate) async fn daemon(&self) -> Result<Daemon, Failure> {
        Daemon::connect(self.endpoint.clone()).await
    }
}

impl CommandLine {
    /// Whether the exit code belongs to a command in a workspace.
    pub(crate) fn is_exec(&self) -> bool {
        matches!(
            self.noun,
            Noun::Workspace(workspace::WorkspaceVerb::Exec(_) | workspace::WorkspaceVerb::Shell(_))
        )
    }

    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let context = Context {
            endpoint: self.global.endpoint.unwrap_or_else(default_endpoint),
            format: self.global.output,
        };
        match self.noun {
            Noun::Workspace(verb) => verb.run(&context).await,
            Noun::Run(arguments) => arguments.run(&context).await,
            Noun::Session(verb) => verb.run(&context).await,
            Noun::Setup(verb) => verb.run(&context).await,
            Noun::Approval(verb) => verb.run(&context).await,
            Noun::Policy(verb) => verb.run(&context).await,
            Noun::Snapshot(verb) => verb.run(&context).await,
            Noun::Artifact(verb) => verb.run(&context).await,
            Noun::Audit(verb) => verb.run(&context).await,
            Noun::Credential(verb) => verb.run(&context).await,
            Noun::Gc(arguments) => arguments.run(&context).await,
            Noun::Doctor => system::doctor::run(&context).await,
            Noun::Version => system::version::run(&context).await,
        }
    }
}

fn default_endpoint() -> DaemonEndpoint {
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    DaemonEndpoint::Unix(default_socket_path(
        runtime_dir.as_deref(),
        nix::unistd::getuid().as_raw(),
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn everything_after_the_name_and_dashes_is_the_command() {
        let line = CommandLine::try_parse_from([
            "compyctl",
            "workspace",
            "exec",
            "w",
            "--cwd",
            "/x",
            "--",
            "ls",
            "-l",
            "--timeout",
        ])
        .unwrap();
        assert!(line.is_exec());
    }

    #[test]
    fn what_is_needed_is_asked_for_and_what_contradicts_is_refused() {
        for wrong in [
            vec!["compyctl", "workspace", "exec", "w"],
            vec![
                "compyctl",
                "workspace",
                "exec",
                "w",
                "--detach",
                "--interactive",
                "--",
                "ls",
            ],
            vec!["compyctl", "workspace", "kill", "w", "id", "--tree"],
            vec!["compyctl", "workspace", "attach", "w"],
            vec!["compyctl", "credential", "set", "npm"],
            vec![
                "compyctl",
                "credential",
                "set",
                "npm",
                "--global",
                "--workspace",
                "w",
            ],
            vec!["compyctl", "credential", "set", "npm", "value", "--global"],
            vec!["compyctl", "run"],
            vec!["compyctl", "run", "task"],
            vec!["compyctl", "run", "task", "--repo", ".", "--max-steps", "0"],
        ] {
            assert!(
                CommandLine::try_parse_from(&wrong).is_err(),
                "{wrong:?} was accepted"
            );
        }
    }
}
