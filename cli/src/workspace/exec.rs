//! `compyctl workspace exec`.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use compyd_proto::v1::{EnvironmentVariable, ExecStart};

use super::exec_stream::{ExecStream, Opening};
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::{terminal, values};

/// `compyctl workspace exec NAME -- ARGV`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Name or id.
    workspace: String,
    /// Program and arguments; no shell is involved.
    #[arg(last = true, required_unless_present = "attach", value_name = "ARGV")]
    argv: Vec<std::ffi::OsString>,
    /// Working directory; default: /workspace.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    cwd: String,
    /// A variable on top of the workspace's own. May be given more than once.
    #[arg(short, long = "env", value_parser = values::environment_variable, value_name = "NAME=VALUE")]
    environment: Vec<EnvironmentVariable>,
    /// Account; default: the workspace's.
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "USER"
    )]
    user: String,
    /// Wall time after which the command and all it started is ended.
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Pass standard input on even when it is a terminal. Input that is not a
    /// terminal is always passed on.
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; both outputs then arrive as one.
    #[arg(short, long)]
    tty: bool,
    /// Attach to a command that runs or has ended, from its first byte of
    /// output.
    #[arg(long, conflicts_with_all = ["argv", "cwd", "environment", "user", "timeout"], value_name = "EXEC_ID")]
    attach: Option<String>,
}

impl ExecArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        use std::os::unix::ffi::OsStringExt as _;

        let input_is_terminal = std::io::stdin().is_terminal();
        let stdin = self.interactive || self.tty || !input_is_terminal;
        let opening = match self.attach {
            Some(exec_id) => Opening::Attach { exec_id },
            None => Opening::Start(ExecStart {
                request_id: request_id(),
                workspace: self.workspace.clone(),
                argv: self
                    .argv
                    .into_iter()
                    .map(|argument| argument.into_vec().into())
                    .collect(),
                cwd: self.cwd,
                environment: self.environment,
                user: self.user,
                timeout_ms: self.timeout.map_or(0, values::milliseconds),
                stdin,
                terminal: self.tty.then(terminal::size),
            }),
        };
        let daemon = context.daemon().await?;
        ExecStream {
            daemon,
            workspace: self.workspace,
            opening,
            stdin,
            tty: self.tty && input_is_terminal,
        }
        .run()
        .await
    }
}
