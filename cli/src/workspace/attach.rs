//! `compyctl workspace attach`.

use std::io::IsTerminal as _;

use clap::Args;
use compyd_proto::v1::{ExecAttach, ExecInfo};

use super::exec_stream::{ExecStream, Opening};
use super::execs::get_exec;
use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// `compyctl workspace attach NAME EXEC_ID`.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Name or id.
    workspace: String,
    /// The command; `compyctl workspace execs` lists them.
    exec_id: String,
    /// First byte of standard output wanted.
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    from: u64,
    /// First byte of standard error wanted.
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    stderr_from: u64,
    /// Only so many bytes of each output that is there, and what follows.
    #[arg(long, conflicts_with_all = ["from", "stderr_from"], value_name = "BYTES")]
    tail: Option<u64>,
    /// End at the output that is there, also when the command runs.
    #[arg(long)]
    no_follow: bool,
    /// Pass standard input on, also to a command without a terminal.
    #[arg(short, long)]
    interactive: bool,
}

impl AttachArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let info = get_exec(&daemon, &self.workspace, &self.exec_id).await?;
        let (stdout_offset, stderr_offset) = match self.tail {
            Some(tail) => last(&info, tail),
            None => (self.from, self.stderr_from),
        };
        let is_typed_at = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let tty = info.terminal && is_typed_at && info.exit.is_none() && !self.no_follow;
        ExecStream {
            daemon,
            opening: Opening::Attach(ExecAttach {
                workspace: self.workspace.clone(),
                exec_id: self.exec_id,
                stdout_offset,
                stderr_offset,
                exit_only: false,
                no_follow: self.no_follow,
            }),
            workspace: self.workspace,
            stdin: tty || self.interactive,
            tty,
        }
        .run()
        .await
    }
}

/// Offsets of the last bytes of both outputs.
pub(super) fn last(info: &ExecInfo, bytes: u64) -> (u64, u64) {
    (
        info.stdout_bytes.saturating_sub(bytes),
        info.stderr_bytes.saturating_sub(bytes),
    )
}
