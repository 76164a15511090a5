//! `compyctl token create`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use compyd_proto::v1::{CreateTokenRequest, Role};

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json,
    token::{NewTokenView, TokenView},
};
use crate::values;

/// `compyctl token create NAME`.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Its name, which the audit log has of its calls.
    name: String,
    /// What it may do.
    #[arg(long, value_enum, value_name = "ROLE")]
    role: RoleName,
    /// The workspace that it is for, by name or id; may be given again. Without,
    /// it is for all.
    #[arg(long = "workspace", value_name = "WORKSPACE")]
    workspaces: Vec<String>,
    /// From when on it is refused: 12h, 30d. Without, never.
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    expires: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Looks at everything but credentials and the audit log
    Reader,
    /// Reads, answers what sessions ask, and reads the audit log
    Reviewer,
    /// Reads, and works: workspaces, commands, sessions, snapshots
    Author,
    /// Everything, tokens too
    Admin,
}

impl CreateArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let role = match self.role {
            RoleName::Reader => Role::Reader,
            RoleName::Reviewer => Role::Reviewer,
            RoleName::Author => Role::Author,
            RoleName::Admin => Role::Admin,
        };
        let request = CreateTokenRequest {
            request_id: request_id(),
            name: self.name,
            role: role.into(),
            workspaces: self.workspaces,
            expires_in_ms: self.expires.map_or(0, values::milliseconds),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.access(), request.clone());
                async move { client.create_token(request).await }
            })
            .await?;
        let token = TokenView::from(response.token.unwrap_or_default());
        match context.format {
            Format::Json => print_json(&NewTokenView {
                token,
                secret: response.secret,
            })?,
            Format::Table => {
                eprintln!(
                    "token {} ({}), expires: {}; it is not shown again:",
                    token.name,
                    token.role,
                    token.expires_at.as_deref().unwrap_or("never"),
                );
                print(&format!("{}\n", response.secret))?;
            }
        }
        Ok(Exit::OK)
    }
}
