//! `compyctl workspace list`.

use compyd_proto::v1::ListWorkspacesRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json,
    workspace::{WorkspaceView, list_table},
};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let response = daemon
        .call(|| {
            let mut client = daemon.workspaces();
            async move { client.list_workspaces(ListWorkspacesRequest {}).await }
        })
        .await?;
    let views: Vec<WorkspaceView> = response.workspaces.into_iter().map(Into::into).collect();
    match context.format {
        Format::Json => print_json(&views)?,
        Format::Table if views.is_empty() => {
            eprintln!("no workspaces; create one with `compyctl workspace create NAME`");
        }
        Format::Table => print(&list_table(&views).to_string())?,
    }
    Ok(Exit::OK)
}
