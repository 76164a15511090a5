//! `compyctl approval approve` and `compyctl approval deny`.

use clap::{Args, ValueEnum};
use compyd_proto::v1::{AnswerApprovalRequest, ApprovalVerdict};

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl approval approve ID`.
#[derive(Debug, Args)]
pub(crate) struct ApproveArguments {
    /// Id of the approval.
    id: String,
    /// For how much it holds.
    #[arg(long = "for", value_enum, default_value = "once")]
    scope: ScopeName,
}

/// `compyctl approval deny ID`.
#[derive(Debug, Args)]
pub(crate) struct DenyArguments {
    /// Id of the approval.
    id: String,
    /// Words for the model.
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "WORDS"
    )]
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeName {
    /// This call.
    Once,
    /// It and its like in this session.
    Session,
    /// It and its like in every session of this repository in this workspace.
    Project,
}

impl ApproveArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let verdict = match self.scope {
            ScopeName::Once => ApprovalVerdict::Once,
            ScopeName::Session => ApprovalVerdict::Session,
            ScopeName::Project => ApprovalVerdict::Project,
        };
        answer(context, self.id, verdict, String::new()).await
    }
}

impl DenyArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        answer(context, self.id, ApprovalVerdict::Denied, self.text).await
    }
}

async fn answer(
    context: &Context,
    approval_id: String,
    verdict: ApprovalVerdict,
    text: String,
) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let request = AnswerApprovalRequest {
        request_id: request_id(),
        approval_id,
        verdict: verdict.into(),
        text,
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.approvals(), request.clone());
            async move { client.answer_approval(request).await }
        })
        .await?;
    crate::session::print_changed(context, response.session)
}
