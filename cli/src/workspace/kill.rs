//! `compyctl workspace kill`.

use std::time::Duration;

use clap::Args;
use compyd_proto::v1::{SignalExecRequest, signal_exec_request::What};

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::values;

/// `compyctl workspace kill NAME EXEC_ID`.
#[derive(Debug, Args)]
pub(crate) struct KillArguments {
    /// Name or id.
    workspace: String,
    /// The command; `compyctl workspace execs` lists them.
    exec_id: String,
    /// Send this signal to the command's process group, and nothing more: a
    /// number, or a name such as INT. Without it the whole tree is ended.
    #[arg(short, long, value_parser = values::signal, value_name = "SIGNAL")]
    signal: Option<i32>,
    /// Send the signal to every process that the command has started.
    #[arg(long, requires = "signal")]
    tree: bool,
    /// From SIGTERM to SIGKILL when the tree is ended.
    #[arg(long, default_value = "5s", value_parser = values::duration, conflicts_with = "signal", value_name = "TIME")]
    grace: Duration,
}

impl KillArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let what = match self.signal {
            Some(signal) if self.tree => What::Tree(signal),
            Some(signal) => What::Group(signal),
            None => {
                let grace = values::milliseconds(self.grace);
                What::EndAfterGraceMs(u32::try_from(grace).unwrap_or(u32::MAX))
            }
        };
        let request = SignalExecRequest {
            request_id: request_id(),
            workspace: self.workspace,
            exec_id: self.exec_id,
            what: Some(what),
        };
        daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.signal_exec(request).await }
            })
            .await?;
        Ok(Exit::OK)
    }
}
