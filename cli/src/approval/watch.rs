//! `compyctl approval watch`.

use compyd_proto::v1::{WatchApprovalsRequest, watch_approvals_response::Change};
use serde::Serialize;

use super::{ApprovalView, shown};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json_line};

/// A change in JSON, one a line.
#[derive(Debug, Serialize)]
struct ChangeView {
    /// `asked` or `settled`.
    change: &'static str,
    /// Id of the approval.
    id: String,
    /// What is asked; `null` once it is settled.
    approval: Option<ApprovalView>,
}

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let mut client = daemon.approvals();
    let answer = client.watch_approvals(WatchApprovalsRequest {}).await;
    let answer = answer.map_err(|status| daemon.failure(status))?;
    let mut stream = answer.into_inner();
    loop {
        let message = stream.message().await;
        let Some(message) = message.map_err(|status| daemon.failure(status))? else {
            return Ok(Exit::OK);
        };
        let view = match message.change {
            Some(Change::Asked(approval)) => {
                let approval = ApprovalView::from(approval);
                ChangeView {
                    change: "asked",
                    id: approval.id.clone(),
                    approval: Some(approval),
                }
            }
            Some(Change::SettledId(id)) => ChangeView {
                change: "settled",
                id,
                approval: None,
            },
            None => continue,
        };
        match (context.format, &view.approval) {
            (Format::Json, _) => print_json_line(&view)?,
            (Format::Table, Some(approval)) => print(&shown(approval))?,
            (Format::Table, None) => print(&format!("{}  settled\n", view.id))?,
        }
    }
}
