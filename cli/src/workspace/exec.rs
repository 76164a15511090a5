//! `compyctl workspace exec`.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use compyd_proto::v1::{
    EnvironmentVariable, ExecInfo, ExecRequest, ExecStart, exec_request, exec_response,
};
use tonic::Status;

use super::exec_stream::{ExecStream, Opening};
use super::execs::print_exec;
use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::{terminal, values};

/// `compyctl workspace exec NAME -- ARGV`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Name or id.
    workspace: String,
    /// Program and arguments; no shell is involved.
    #[arg(last = true, required = true, value_name = "ARGV")]
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
    /// Start the command, print its id and leave it running; it gets no input.
    #[arg(short, long, conflicts_with = "interactive")]
    detach: bool,
    /// Run it although the workspace is over its disk limit: to clean up.
    #[arg(long)]
    over_limit: bool,
}

impl ExecArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        use std::os::unix::ffi::OsStringExt as _;

        let input_is_terminal = std::io::stdin().is_terminal();
        let stdin = self.interactive || self.tty || !input_is_terminal;
        let start = ExecStart {
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
            // Who comes back to a terminal wants to type.
            stdin: if self.detach { self.tty } else { stdin },
            terminal: self.tty.then(terminal::size),
            over_limit: self.over_limit,
        };
        let daemon = context.daemon().await?;
        if self.detach {
            let info = start_detached(&daemon, start).await?;
            return print_exec(context, info);
        }
        ExecStream {
            daemon,
            workspace: self.workspace,
            opening: Opening::Start(start),
            stdin,
            tty: self.tty && input_is_terminal,
        }
        .run()
        .await
    }
}

/// Starts a command and reads no more than that it was started.
async fn start_detached(daemon: &Daemon, start: ExecStart) -> Result<ExecInfo, Failure> {
    let response = daemon
        .call(|| {
            let mut client = daemon.workspaces();
            let first = ExecRequest {
                part: Some(exec_request::Part::Start(start.clone())),
            };
            async move {
                let mut answers = client.exec(tokio_stream::once(first)).await?.into_inner();
                let first = answers.message().await?.and_then(|message| message.event);
                match first {
                    Some(exec_response::Event::Attached(info)) => Ok(tonic::Response::new(info)),
                    Some(_) | None => Err(Status::unavailable("the command was not told of")),
                }
            }
        })
        .await?;
    Ok(response)
}
