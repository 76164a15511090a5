//! `compyctl approval`: one file per verb.

mod answer;
mod list;
mod watch;

use clap::Subcommand;
use compyd_proto::v1::Approval;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::time;
use crate::policy::tier_name;
use crate::terminal::{Lines, printable};

/// Verbs of `approval`.
#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalVerb {
    /// Shows what is waited for
    List,
    /// Lets a tool call be made: this one, or its like too
    Approve(answer::ApproveArguments),
    /// Refuses a tool call, with words that go to the model
    Deny(answer::DenyArguments),
    /// Shows what is waited for as it is asked and settled
    Watch,
}

impl ApprovalVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            ApprovalVerb::List => list::run(context).await,
            ApprovalVerb::Approve(arguments) => arguments.run(context).await,
            ApprovalVerb::Deny(arguments) => arguments.run(context).await,
            ApprovalVerb::Watch => watch::run(context).await,
        }
    }
}

/// An approval in JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ApprovalView {
    /// Id to answer with.
    pub(crate) id: String,
    /// Session that asks.
    pub(crate) session_id: String,
    /// Its workspace.
    pub(crate) workspace: String,
    /// Tool.
    pub(crate) tool: String,
    /// The command exactly as it would run, or the tool and its files.
    pub(crate) act: String,
    /// Where.
    pub(crate) directory: String,
    /// What would become of a file; empty when no file tool is asked for.
    pub(crate) diff: String,
    /// Hosts that it names.
    pub(crate) hosts: Vec<String>,
    /// `low`, `medium` or `high`.
    pub(crate) risk: String,
    /// What makes it the same as another call.
    pub(crate) classes: Vec<String>,
    /// Why it is asked.
    pub(crate) why: String,
    /// What a refusal does.
    pub(crate) refusal: String,
    /// When it counts as refused.
    pub(crate) expires_at: Option<String>,
}

impl From<Approval> for ApprovalView {
    fn from(approval: Approval) -> Self {
        ApprovalView {
            risk: tier_name(approval.tier()).to_owned(),
            expires_at: time(approval.expires_at.as_ref()),
            id: approval.id,
            session_id: approval.session_id,
            workspace: approval.workspace_name,
            tool: approval.tool,
            act: approval.act,
            directory: approval.directory,
            diff: approval.diff,
            hosts: approval.hosts,
            classes: approval.classes,
            why: approval.why,
            refusal: approval.refusal,
        }
    }
}

/// An approval for people. What the model wrote is shown without anything that a
/// terminal would act upon.
pub(crate) fn shown(view: &ApprovalView) -> String {
    let mut text = format!("{}  ({} risk)\n", view.id, view.risk);
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let value = printable(value.trim_end(), Lines::Keep);
            let value = value.replace('\n', "\n             ");
            text.push_str(&format!("  {name:<10} {value}\n"));
        }
    };
    line("workspace", &view.workspace);
    line("would do", &view.act);
    line("in", &view.directory);
    line("hosts", &view.hosts.join(", "));
    line("diff", &view.diff);
    line("because", &view.why);
    line("for like", &view.classes.join("\n"));
    line("refused", &view.refusal);
    line("until", view.expires_at.as_deref().unwrap_or(""));
    text
}
