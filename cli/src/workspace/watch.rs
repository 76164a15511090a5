//! `compyctl workspace watch`.

use std::collections::BTreeMap;

use clap::Args;
use compyd_proto::v1::{
    WatchWorkspacesRequest, WatchWorkspacesResponse, Workspace, watch_workspaces_response::Change,
};
use serde::Serialize;

use super::follow::{End, follow};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json_line,
    workspace::{WorkspaceView, state_name},
};
use crate::terminal::{Lines, printable};

/// `compyctl workspace watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArguments {}

/// A change in JSON, one a line.
#[derive(Debug, Serialize)]
struct ChangeView {
    /// `changed` or `removed`.
    change: &'static str,
    /// `ws-` and 32 hex digits.
    id: String,
    /// The workspace; `null` for one that is gone.
    workspace: Option<WorkspaceView>,
}

/// What was printed.
struct Known {
    format: Format,
    workspaces: BTreeMap<String, Workspace>,
    /// Sent since the last first round: what is not among it when a round ends
    /// has gone while there was no stream.
    sent: Vec<String>,
}

impl WatchArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let mut known = Known {
            format: context.format,
            workspaces: BTreeMap::new(),
            sent: Vec::new(),
        };
        let open = |_: &Known| {
            let mut client = daemon.activity();
            async move { client.watch_workspaces(WatchWorkspacesRequest {}).await }
        };
        follow(&daemon, &mut known, End::Broken, open, Known::take).await?;
        Ok(Exit::OK)
    }
}

impl Known {
    fn take(&mut self, item: WatchWorkspacesResponse) -> Result<(), Failure> {
        match item.change {
            Some(Change::Changed(workspace)) => {
                self.sent.push(workspace.id.clone());
                let id = workspace.id.clone();
                if self.workspaces.insert(id, workspace.clone()).as_ref() != Some(&workspace) {
                    self.changed(workspace)?;
                }
                Ok(())
            }
            Some(Change::Removed(id)) => self.removed(&id),
            // The first round, also of a stream that was opened again.
            Some(Change::AllSent(_)) => {
                let sent = std::mem::take(&mut self.sent);
                let gone: Vec<_> = self.workspaces.keys().cloned().collect();
                for id in gone.iter().filter(|id| !sent.contains(id)) {
                    self.removed(id)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn changed(&self, workspace: Workspace) -> Result<(), Failure> {
        match self.format {
            Format::Json => print_json_line(&ChangeView {
                change: "changed",
                id: workspace.id.clone(),
                workspace: Some(workspace.into()),
            }),
            Format::Table => {
                let state = state_name(workspace.state());
                let reason = printable(&workspace.state_reason, Lines::Join);
                let reason = match reason.as_str() {
                    "" => String::new(),
                    reason => format!("  ({reason})"),
                };
                print(&format!("{}  {state}{reason}\n", workspace.name))
            }
        }
    }

    fn removed(&mut self, id: &str) -> Result<(), Failure> {
        let Some(workspace) = self.workspaces.remove(id) else {
            return Ok(());
        };
        match self.format {
            Format::Json => print_json_line(&ChangeView {
                change: "removed",
                id: id.to_owned(),
                workspace: None,
            }),
            Format::Table => print(&format!("{}  removed\n", workspace.name)),
        }
    }
}
