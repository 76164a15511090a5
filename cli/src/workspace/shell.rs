//! `compyctl workspace shell`.

use std::io::IsTerminal as _;

use clap::Args;
use compyd_proto::v1::{EnvironmentVariable, ExecAttach, ExecInfo, ExecStart};

use super::attach::last;
use super::exec_stream::{ExecStream, Opening};
use super::execs::{get_exec, list_execs};
use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::terminal;

/// The best shell that the image has.
const FIND_SHELL: &str =
    "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi";

/// What is shown again of a shell that somebody comes back to.
const SCROLL_BACK_BYTES: u64 = 64 * 1024;

/// `compyctl workspace shell NAME`.
#[derive(Debug, Args)]
pub(crate) struct ShellArguments {
    /// Name or id.
    workspace: String,
    /// Working directory; default: /workspace.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    cwd: String,
    /// Account; default: the workspace's.
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "USER"
    )]
    user: String,
    /// Come back to a shell that runs: this one, or without an id the newest.
    /// The end of what it showed is shown again.
    #[arg(long, num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["cwd", "user", "argv"], value_name = "EXEC_ID")]
    attach: Option<String>,
    /// Another program instead of bash or sh.
    #[arg(last = true, value_name = "ARGV")]
    argv: Vec<String>,
}

impl ShellArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Err(Failure::usage(
                "a shell needs a terminal, and standard input or output is none",
                format!("compyctl workspace exec {} -- COMMAND", self.workspace),
            ));
        }
        if let Some(wanted) = &self.attach {
            return self.come_back(context, wanted).await;
        }
        let argv = match self.argv {
            argv if argv.is_empty() => ["/bin/sh", "-c", FIND_SHELL].map(Into::into).to_vec(),
            argv => argv,
        };
        let environment = ["TERM", "COLORTERM"]
            .into_iter()
            .filter_map(|name| {
                Some(EnvironmentVariable {
                    name: name.to_owned(),
                    value: std::env::var(name).ok()?.into(),
                })
            })
            .collect();
        let daemon = context.daemon().await?;
        ExecStream {
            daemon,
            opening: Opening::Start(ExecStart {
                request_id: request_id(),
                workspace: self.workspace.clone(),
                argv: argv.into_iter().map(Into::into).collect(),
                cwd: self.cwd,
                environment,
                user: self.user,
                timeout_ms: 0,
                stdin: true,
                terminal: Some(terminal::size()),
                over_limit: false,
            }),
            workspace: self.workspace,
            stdin: true,
            tty: true,
        }
        .run()
        .await
    }

    async fn come_back(&self, context: &Context, wanted: &str) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let shell = self.running_shell(&daemon, wanted).await?;
        let (stdout_offset, stderr_offset) = last(&shell, SCROLL_BACK_BYTES);
        ExecStream {
            daemon,
            opening: Opening::Attach(ExecAttach {
                workspace: self.workspace.clone(),
                exec_id: shell.exec_id,
                stdout_offset,
                stderr_offset,
                exit_only: false,
                no_follow: false,
            }),
            workspace: self.workspace.clone(),
            stdin: true,
            tty: true,
        }
        .run()
        .await
    }

    async fn running_shell(&self, daemon: &Daemon, wanted: &str) -> Result<ExecInfo, Failure> {
        let found = if wanted.is_empty() {
            let running = list_execs(daemon, &self.workspace, true).await?;
            running.into_iter().find(|exec| exec.terminal)
        } else {
            let exec = get_exec(daemon, &self.workspace, wanted).await?;
            Some(exec).filter(|exec| exec.terminal && exec.exit.is_none())
        };
        found.ok_or_else(|| {
            Failure::usage(
                match wanted {
                    "" => format!("no shell runs in {}", self.workspace),
                    id => format!("{id} is no running command with a terminal"),
                },
                format!(
                    "`compyctl workspace execs {} --running` lists what runs",
                    self.workspace
                ),
            )
        })
    }
}
