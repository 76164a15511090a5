//! `compyctl workspace egress`, and the options that say what a workspace may
//! reach.

use clap::{Args, ValueEnum};
use compyd_proto::v1::{Egress, EgressPolicy, GetWorkspaceRequest, SetWorkspaceEgressRequest};

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// What a workspace may reach through its proxy.
#[derive(Debug, Clone, Args)]
pub(crate) struct EgressOptions {
    /// What it may reach: nothing, the hosts of --allow, or every public host.
    #[arg(long, value_enum, value_name = "RULES")]
    egress: Option<Rules>,
    /// A host it may reach: HOST or *.DOMAIN, with an optional :PORT; without,
    /// ports 80 and 443. May be given more than once; stands for --egress allow.
    #[arg(long, value_name = "HOST")]
    allow: Vec<String>,
}

/// Rules of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rules {
    /// Nothing.
    None,
    /// The hosts of --allow.
    Allow,
    /// Every public host, on every port but 25.
    Open,
}

impl EgressOptions {
    /// What was asked for; `None` leaves it to the daemon.
    pub(crate) fn to_wire(&self) -> Option<Egress> {
        if self.egress.is_none() && self.allow.is_empty() {
            return None;
        }
        let policy = match self.egress {
            None | Some(Rules::Allow) => EgressPolicy::AllowList,
            Some(Rules::None) => EgressPolicy::None,
            Some(Rules::Open) => EgressPolicy::Open,
        };
        Some(Egress {
            policy: policy.into(),
            allow: self.allow.clone(),
        })
    }
}

/// `compyctl workspace egress NAME`.
#[derive(Debug, Args)]
pub(crate) struct EgressArguments {
    /// Name or id.
    workspace: String,
    #[command(flatten)]
    egress: EgressOptions,
}

impl EgressArguments {
    /// Sets what a workspace may reach; asked for nothing, shows it.
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let Some(egress) = self.egress.to_wire() else {
            let request = GetWorkspaceRequest {
                workspace: self.workspace,
            };
            let response = daemon
                .call(|| {
                    let (mut client, request) = (daemon.workspaces(), request.clone());
                    async move { client.get_workspace(request).await }
                })
                .await?;
            return print_workspace(context, response.workspace);
        };
        let request = SetWorkspaceEgressRequest {
            request_id: request_id(),
            workspace: self.workspace,
            egress: Some(egress),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.set_workspace_egress(request).await }
            })
            .await?;
        if response.connections_cut > 0 {
            eprintln!(
                "note: {} open connection(s) were cut",
                response.connections_cut
            );
        }
        print_workspace(context, response.workspace)
    }
}
