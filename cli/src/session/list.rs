//! `compyctl session list`.

use clap::{Args, ValueEnum};
use compyd_proto::v1::{ListSessionsRequest, SessionState};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json,
    session::{SessionView, list_table},
};

/// `compyctl session list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only sessions of this workspace, by name or id.
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    workspace: String,
    /// Only sessions in this state.
    #[arg(short, long, value_enum)]
    state: Option<StateName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateName {
    Running,
    Paused,
    Waiting,
    Interrupted,
    Failed,
    Verified,
    Cancelled,
}

impl From<StateName> for SessionState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Running => SessionState::Running,
            StateName::Paused => SessionState::Paused,
            StateName::Waiting => SessionState::Waiting,
            StateName::Interrupted => SessionState::Interrupted,
            StateName::Failed => SessionState::Failed,
            StateName::Verified => SessionState::Verified,
            StateName::Cancelled => SessionState::Cancelled,
        }
    }
}

impl ListArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ListSessionsRequest {
            workspace: self.workspace,
            state: self
                .state
                .map_or(SessionState::Unspecified, Into::into)
                .into(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.list_sessions(request).await }
            })
            .await?;
        let views: Vec<SessionView> = response.sessions.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&views)?,
            Format::Table if views.is_empty() => eprintln!("no sessions"),
            Format::Table => print(&list_table(&views).to_string())?,
        }
        Ok(Exit::OK)
    }
}
