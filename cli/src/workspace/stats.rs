//! `compyctl workspace stats`.

use std::time::Duration;

use clap::Args;
use compyd_proto::v1::{WatchStatsRequest, WatchStatsResponse, WorkspaceStats};
use serde::Serialize;

use super::follow::{End, follow};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, bytes, print, print_json_line, time, workspace::state_name};
use crate::values;

/// `compyctl workspace stats NAME`.
#[derive(Debug, Args)]
pub(crate) struct StatsArguments {
    /// Name or id.
    workspace: String,
    /// One reading and no more.
    #[arg(long)]
    once: bool,
    /// Time between two readings, at least 200ms.
    #[arg(long, default_value = "2s", value_parser = values::duration, value_name = "TIME")]
    interval: Duration,
}

/// A reading in JSON, one a line.
#[derive(Debug, Serialize)]
struct StatsView {
    at: Option<String>,
    state: &'static str,
    /// Thousandths of a CPU since the reading before.
    cpu_millis: u64,
    cpu_total_ms: u64,
    cpu_limit_millis: u32,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    pids: u64,
    pids_limit: u32,
    /// `null` while it is not known.
    disk_bytes: Option<u64>,
    /// Of these, bytes of the root file system beyond the image; `null` while
    /// they were never counted.
    disk_root_bytes: Option<u64>,
    /// 0 is no limit.
    disk_limit_bytes: u64,
    connections_allowed: u64,
    connections_denied: u64,
    connections_failed: u64,
    connections_open: u64,
    sent_bytes: u64,
    received_bytes: u64,
    running_commands: u32,
    last_used_at: Option<String>,
}

impl StatsArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let interval_ms = u32::try_from(values::milliseconds(self.interval)).unwrap_or(u32::MAX);
        let request = WatchStatsRequest {
            workspace: self.workspace,
            interval_ms,
            once: self.once,
        };
        let end = match self.once {
            true => End::Done,
            false => End::Broken,
        };
        let mut format = context.format;
        let open = |_: &Format| {
            let (mut client, request) = (daemon.activity(), request.clone());
            async move { client.watch_stats(request).await }
        };
        follow(&daemon, &mut format, end, open, show).await?;
        Ok(Exit::OK)
    }
}

fn show(format: &mut Format, item: WatchStatsResponse) -> Result<(), Failure> {
    let stats = StatsView::from(item.stats.unwrap_or_default());
    match format {
        Format::Json => print_json_line(&stats),
        Format::Table => print(&line(&stats)),
    }
}

fn line(stats: &StatsView) -> String {
    let of = |used: String, limit: u64, shown: String| match limit {
        0 => used,
        _ => format!("{used}/{shown}"),
    };
    let disk = stats.disk_bytes.map_or_else(
        || "-".to_owned(),
        |used| {
            let limit = stats.disk_limit_bytes;
            of(bytes(used), limit, bytes(limit))
        },
    );
    format!(
        "{}  {}  cpu {:.2}/{}  memory {}/{}  pids {}/{}  disk {disk}  commands {}  connections {} ({} denied)  sent {}  received {}\n",
        stats.at.as_deref().unwrap_or_default(),
        stats.state,
        stats.cpu_millis as f64 / 1000.0,
        f64::from(stats.cpu_limit_millis) / 1000.0,
        bytes(stats.memory_bytes),
        bytes(stats.memory_limit_bytes),
        stats.pids,
        stats.pids_limit,
        stats.running_commands,
        stats.connections_open,
        stats.connections_denied,
        bytes(stats.sent_bytes),
        bytes(stats.received_bytes),
    )
}

impl From<WorkspaceStats> for StatsView {
    fn from(stats: WorkspaceStats) -> Self {
        let state = state_name(stats.state());
        let limits = stats.limits.unwrap_or_default();
        let tunnel = stats.tunnel.unwrap_or_default();
        let used = stats.disk.as_ref();
        StatsView {
            at: time(stats.at.as_ref()),
            state,
            cpu_millis: stats.cpu_millis,
            cpu_total_ms: stats.cpu_total_ms,
            cpu_limit_millis: limits.cpu_millis,
            memory_bytes: stats.memory_bytes,
            memory_limit_bytes: limits.memory_bytes,
            pids: stats.pids,
            pids_limit: limits.pids,
            disk_bytes: used.map(|used| used.volume_bytes + used.root_bytes()),
            disk_root_bytes: used.and_then(|used| used.root_bytes),
            disk_limit_bytes: limits.disk_bytes,
            connections_allowed: tunnel.allowed,
            connections_denied: tunnel.denied,
            connections_failed: tunnel.failed,
            connections_open: tunnel.open,
            sent_bytes: tunnel.sent_bytes,
            received_bytes: tunnel.received_bytes,
            running_commands: stats.running_commands,
            last_used_at: time(stats.last_used_at.as_ref()),
        }
    }
}
