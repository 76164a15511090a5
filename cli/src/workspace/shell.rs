//! `compyctl workspace shell`.

use std::io::IsTerminal as _;

use clap::Args;
use compyd_proto::v1::{EnvironmentVariable, ExecStart};

use super::exec_stream::{ExecStream, Opening};
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::terminal;

/// The best shell that the image has.
const FIND_SHELL: &str =
    "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi";

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
            }),
            workspace: self.workspace,
            stdin: true,
            tty: true,
        }
        .run()
        .await
    }
}
