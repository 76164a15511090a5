//! `compyctl workspace set`: what can be changed of a workspace that is there.

use std::time::Duration;

use clap::{ArgGroup, Args};
use compyd_proto::v1::{IdleStop, UpdateWorkspaceRequest, idle_stop::When};

use super::print_workspace;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::values;

/// `compyctl workspace set NAME`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("changes").args(["idle_stop", "disk"]).multiple(true).required(true)))]
pub(crate) struct SetArguments {
    /// Name or id.
    workspace: String,
    /// Stop it when nobody has used it for so long: 30m, 8h; or never, or
    /// default for the daemon's.
    #[arg(long, value_parser = idle_stop, value_name = "TIME|never|default")]
    idle_stop: Option<IdleStop>,
    /// What its files may use: 20G; 0 for no limit.
    #[arg(long, value_parser = values::disk_bytes, value_name = "SIZE")]
    disk: Option<u64>,
}

/// Reads `30m`, `never` or `default`.
pub(super) fn idle_stop(text: &str) -> Result<IdleStop, String> {
    let when = match text {
        "never" => Some(When::Never(true)),
        "default" => None,
        time => {
            let after = values::duration(time)?;
            if after < Duration::from_secs(1) {
                return Err("write at least 1s, or never".to_owned());
            }
            Some(When::AfterMs(values::milliseconds(after)))
        }
    };
    Ok(IdleStop { when })
}

impl SetArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = UpdateWorkspaceRequest {
            request_id: request_id(),
            workspace: self.workspace,
            idle_stop: self.idle_stop,
            disk_bytes: self.disk,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.workspaces(), request.clone());
                async move { client.update_workspace(request).await }
            })
            .await?;
        print_workspace(context, response.workspace)
    }
}
