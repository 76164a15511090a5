//! `compyctl approval list`.

use compyd_proto::v1::ListApprovalsRequest;

use super::{ApprovalView, shown};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json};

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let response = daemon
        .call(|| {
            let mut client = daemon.approvals();
            async move { client.list_approvals(ListApprovalsRequest {}).await }
        })
        .await?;
    let views: Vec<ApprovalView> = response.approvals.into_iter().map(Into::into).collect();
    match context.format {
        Format::Json => print_json(&views)?,
        Format::Table if views.is_empty() => eprintln!("nothing waits for an approval"),
        Format::Table => {
            for view in &views {
                print(&shown(view))?;
            }
        }
    }
    Ok(Exit::OK)
}
