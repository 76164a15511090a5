//! `compyctl workspace execs`.

use clap::Args;
use compyd_proto::v1::{ExecInfo, GetExecRequest, ListExecsRequest};

use crate::command_line::Context;
use crate::connection::Daemon;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format,
    exec::{ExecView, list_table},
    print, print_json,
};

/// `compyctl workspace execs NAME`.
#[derive(Debug, Args)]
pub(crate) struct ExecsArguments {
    /// Name or id.
    workspace: String,
    /// Only this command.
    exec_id: Option<String>,
    /// Leave out commands that have ended.
    #[arg(short, long, conflicts_with = "exec_id")]
    running: bool,
}

impl ExecsArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        if let Some(exec_id) = &self.exec_id {
            let info = get_exec(&daemon, &self.workspace, exec_id).await?;
            return print_exec(context, info);
        }
        let execs = list_execs(&daemon, &self.workspace, self.running).await?;
        let views: Vec<ExecView> = execs.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&views)?,
            Format::Table if views.is_empty() => eprintln!("no commands"),
            Format::Table => print(&list_table(&views).to_string())?,
        }
        Ok(Exit::OK)
    }
}

/// Commands that a workspace knows, newest first.
pub(super) async fn list_execs(
    daemon: &Daemon,
    workspace: &str,
    running_only: bool,
) -> Result<Vec<ExecInfo>, Failure> {
    let request = ListExecsRequest {
        workspace: workspace.to_owned(),
        running_only,
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.workspaces(), request.clone());
            async move { client.list_execs(request).await }
        })
        .await?;
    Ok(response.execs)
}

/// One command as it is now.
pub(super) async fn get_exec(
    daemon: &Daemon,
    workspace: &str,
    exec_id: &str,
) -> Result<ExecInfo, Failure> {
    let request = GetExecRequest {
        workspace: workspace.to_owned(),
        exec_id: exec_id.to_owned(),
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.workspaces(), request.clone());
            async move { client.get_exec(request).await }
        })
        .await?;
    Ok(response.exec.unwrap_or_default())
}

/// Prints one command in the form asked for.
pub(super) fn print_exec(context: &Context, info: ExecInfo) -> Result<Exit, Failure> {
    let view = ExecView::from(info);
    match context.format {
        Format::Json => print_json(&view)?,
        Format::Table => print(&list_table(&[view]).to_string())?,
    }
    Ok(Exit::OK)
}
