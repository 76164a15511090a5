//! `compyctl workspace events`.

use std::time::{Duration, SystemTime};

use clap::Args;
use compyd_proto::v1::{
    EventGap, ReadEventsRequest, ReadEventsResponse, WorkspaceEvent, read_events_response::Item,
};
use serde::Serialize;

use super::follow::{End, follow};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json_line, time};
use crate::terminal::{Lines, printable};
use crate::values;

/// `compyctl workspace events [NAME]`.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// Name or id, or the id of a workspace that is gone; without, of all.
    #[arg(default_value = "", hide_default_value = true)]
    workspace: String,
    /// Only what happened this lately: 10m, 2h.
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Only what has a higher sequence number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    after: u64,
    /// Go on with what happens from now on.
    #[arg(short, long)]
    follow: bool,
    /// Only what a person should look at: denials, failures, limits.
    #[arg(long)]
    warnings: bool,
}

/// An event in JSON, one a line.
#[derive(Debug, Serialize)]
struct EventView {
    sequence: u64,
    at: Option<String>,
    workspace_id: String,
    workspace: String,
    /// `created`, `stopped`, `egress_denied` and so on.
    kind: String,
    message: String,
    warning: bool,
    /// Why it was started or stopped; may be empty.
    cause: String,
    /// The snapshot it is about; may be empty.
    snapshot_id: String,
    /// Set for connections.
    egress: Option<EgressView>,
}

/// Connections that were decided on in the same way, in JSON.
#[derive(Debug, Serialize)]
struct EgressView {
    target: String,
    protocol: String,
    count: u64,
    address: String,
    code: String,
    reason: String,
    advice: String,
}

/// Events that are not there any more, in JSON.
#[derive(Debug, Serialize)]
struct GapView {
    kind: &'static str,
    after_sequence: u64,
    before_sequence: u64,
}

struct Known {
    format: Format,
    warnings_only: bool,
    /// The last sequence number received.
    after: u64,
}

impl EventsArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let since = self.since.map(|since| {
            let since = SystemTime::now().checked_sub(since);
            since.unwrap_or(SystemTime::UNIX_EPOCH).into()
        });
        let mut known = Known {
            format: context.format,
            warnings_only: self.warnings,
            after: self.after,
        };
        let open = |known: &Known| {
            let mut client = daemon.activity();
            let request = ReadEventsRequest {
                workspace: self.workspace.clone(),
                after_sequence: known.after,
                since,
                follow: self.follow,
            };
            async move { client.read_events(request).await }
        };
        let end = match self.follow {
            true => End::Broken,
            false => End::Done,
        };
        follow(&daemon, &mut known, end, open, Known::take).await?;
        Ok(Exit::OK)
    }
}

impl Known {
    fn take(&mut self, item: ReadEventsResponse) -> Result<(), Failure> {
        match item.item {
            Some(Item::Event(event)) => {
                self.after = event.sequence;
                if self.warnings_only && !event.warning {
                    return Ok(());
                }
                self.event(event)
            }
            Some(Item::Gap(gap)) => {
                // Numbers that began anew are followed from there.
                self.after = self.after.min(gap.before_sequence.saturating_sub(1));
                self.gap(&gap)
            }
            None => Ok(()),
        }
    }

    fn event(&self, event: WorkspaceEvent) -> Result<(), Failure> {
        match self.format {
            Format::Json => print_json_line(&EventView::from(event)),
            Format::Table => {
                let message = printable(&event.message, Lines::Join);
                print(&format!(
                    "{}  {}  {}  {}\n",
                    time(event.at.as_ref()).unwrap_or_default(),
                    event.workspace_name,
                    event.kind,
                    message
                ))
            }
        }
    }

    fn gap(&self, gap: &EventGap) -> Result<(), Failure> {
        let (after, before) = (gap.after_sequence, gap.before_sequence);
        match self.format {
            Format::Json => print_json_line(&GapView {
                kind: "gap",
                after_sequence: after,
                before_sequence: before,
            }),
            Format::Table if before <= after => {
                eprintln!("[events begin anew: the daemon has lost its store]");
                Ok(())
            }
            Format::Table => {
                eprintln!("[events between {after} and {before} are not kept any more]");
                Ok(())
            }
        }
    }
}

impl From<WorkspaceEvent> for EventView {
    fn from(event: WorkspaceEvent) -> Self {
        EventView {
            sequence: event.sequence,
            at: time(event.at.as_ref()),
            workspace_id: event.workspace_id,
            workspace: event.workspace_name,
            kind: event.kind,
            message: event.message,
            warning: event.warning,
            cause: event.cause,
            snapshot_id: event.snapshot_id,
            egress: event.egress.map(|egress| EgressView {
                target: egress.target,
                protocol: egress.protocol,
                count: egress.count,
                address: egress.address,
                code: egress.code,
                reason: egress.reason,
                advice: egress.advice,
            }),
        }
    }
}
