//! `compyctl workspace wait`.

use clap::Args;
use compyd_proto::v1::{ExecAttach, ExecExit, ExecRequest, exec_request, exec_response};
use tonic::Status;

use super::exec_stream::conclude;
use crate::command_line::Context;
use crate::connection::{Backoff, Daemon, RESTART_GRACE};
use crate::exit::{Exit, Failure, is_transient};
use crate::output::{Format, exec::ExitView, print_json};

/// `compyctl workspace wait NAME EXEC_ID`.
#[derive(Debug, Args)]
pub(crate) struct WaitArguments {
    /// Name or id.
    workspace: String,
    /// The command; `compyctl workspace execs` lists them.
    exec_id: String,
}

impl WaitArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let exit = self.wait(&daemon).await?;
        if context.format == Format::Json {
            print_json(&ExitView::from(exit.clone()))?;
        }
        Ok(conclude(exit))
    }

    /// Waits over daemons that go and come back.
    async fn wait(&self, daemon: &Daemon) -> Result<ExecExit, Failure> {
        let mut backoff = Backoff::new(RESTART_GRACE);
        loop {
            let status = match self.attach(daemon, &mut backoff).await {
                Ok(exit) => return Ok(exit),
                Err(status) => status,
            };
            if !is_transient(&status) || !backoff.wait().await {
                return Err(daemon.failure(status));
            }
        }
    }

    /// Waits over one connection, however long it lasts.
    async fn attach(&self, daemon: &Daemon, backoff: &mut Backoff) -> Result<ExecExit, Status> {
        let attach = ExecAttach {
            workspace: self.workspace.clone(),
            exec_id: self.exec_id.clone(),
            exit_only: true,
            ..ExecAttach::default()
        };
        let first = ExecRequest {
            part: Some(exec_request::Part::Attach(attach)),
        };
        let mut client = daemon.workspaces();
        let mut answers = client.exec(tokio_stream::once(first)).await?.into_inner();
        loop {
            let message = answers.message().await;
            // However long that took, the daemon was there.
            backoff.reset();
            match message?.map(|message| message.event) {
                Some(Some(exec_response::Event::Exit(exit))) => return Ok(exit),
                Some(_) => {}
                None => break,
            }
        }
        Err(Status::unavailable(
            "the stream ended before the command did",
        ))
    }
}
