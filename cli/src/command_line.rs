//! The command line as a whole: global options and the nouns. Each verb's own
//! options are beside the verb.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use compyd_proto::endpoint::default_socket_path;

use crate::connection::{Access, Daemon, DaemonEndpoint};
use crate::exit::{EXIT_CODES_HELP, Exit, Failure};
use crate::login::trust::Trust;
use crate::output::Format;
use crate::{
    approval, artifact, audit, credential, login, policy, run, session, setup, snapshot, system,
    token, workspace,
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
    /// The daemon: unix:///PATH, https://HOST:PORT after a `compyctl login`, or
    /// http://HOST:PORT on this machine. Default: the unix socket of a daemon of
    /// the same account.
    #[arg(long, global = true, env = "COMPY_ENDPOINT", value_name = "URL")]
    endpoint: Option<DaemonEndpoint>,
    /// A file with the token for a daemon over TCP, instead of the one of `compyctl
    /// login`; this account's alone.
    #[arg(long, global = true, env = "COMPY_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
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
    /// Who may use the daemon from other machines, and for what
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Trusts a daemon on another machine, and keeps the token for it
    Login(login::LoginArguments),
    /// Forgets the token for a daemon
    Logout(login::LogoutArguments),
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
    /// Holds the token, where that is not the login's.
    pub(crate) token_file: Option<PathBuf>,
    /// Form of the results.
    pub(crate) format: Format,
}

impl Context {
    /// Dials the daemon.
    pub(crate) async fn daemon(&self) -> Result<Daemon, Failure> {
        let access = self.access()?;
        Daemon::connect(self.endpoint.clone(), access).await
    }

    /// What the daemon asks for, and how it is known to be the right one.
    fn access(&self) -> Result<Access, Failure> {
        let endpoint = &self.endpoint;
        if matches!(endpoint, DaemonEndpoint::Unix(_)) {
            return Ok(Access::default());
        }
        let login = login::store::find(endpoint)?;
        let token = match &self.token_file {
            Some(file) => Some(login::store::token_in(file)?),
            None => login.as_ref().map(|login| login.token.clone()),
        };
        let again = format!("`compyctl login {endpoint}`, with a token of `compyctl token create`");
        let trust = match (endpoint, login.and_then(|login| login.ca)) {
            (DaemonEndpoint::Https(_), Some(pem)) => {
                Some(Trust::in_pem(&pem).map_err(|error| {
                    let message = format!("the login at {endpoint} holds no certificate: {error}");
                    Failure::local(message, again.as_str())
                })?)
            }
            (DaemonEndpoint::Https(_), None) => {
                let message = format!("there is no login at {endpoint}");
                return Err(Failure::usage(message, again));
            }
            (DaemonEndpoint::Http(_) | DaemonEndpoint::Unix(_), _) => None,
        };
        Ok(Access { token, trust })
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
            token_file: self.global.token_file,
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
            Noun::Token(verb) => verb.run(&context).await,
            Noun::Login(arguments) => arguments.run(&context).await,
            Noun::Logout(arguments) => arguments.run(),
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
            vec!["compyctl", "token", "create", "ci"],
            vec!["compyctl", "token", "create", "ci", "--role", "owner"],
            vec!["compyctl", "login"],
            vec!["compyctl", "login", "https://h:1", "secret"],
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
