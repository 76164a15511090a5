//! Changes, events and readings of workspaces on the wire.

use compyd_proto::v1 as wire;

use super::super::time::timestamp;
use super::workspace;
use crate::{
    domain::{
        disk::DiskUse,
        workspace_event::{
            EgressSeen, EgressVerdict, Happening, Severity, StartCause, StopCause, WorkspaceEvent,
        },
    },
    service::{egress::EgressTotals, events::EventItem, stats::Reading, workspaces::Change},
};

/// What a watcher of workspaces receives.
#[must_use]
pub fn change(change: Change) -> wire::WatchWorkspacesResponse {
    use wire::watch_workspaces_response::Change as Wire;
    let change = match change {
        Change::Changed(view) => Wire::Changed(workspace::view(&view)),
        Change::Removed(id) => Wire::Removed(id.to_string()),
        Change::AllSent => Wire::AllSent(wire::AllSent {}),
    };
    wire::WatchWorkspacesResponse {
        change: Some(change),
    }
}

/// What a reader of events receives.
#[must_use]
pub fn event_item(item: EventItem) -> wire::ReadEventsResponse {
    use wire::read_events_response::Item;
    let item = match item {
        EventItem::Event(happened) => Item::Event(event(&happened)),
        EventItem::Gap { after, before } => Item::Gap(wire::EventGap {
            after_sequence: after,
            before_sequence: before,
        }),
    };
    wire::ReadEventsResponse { item: Some(item) }
}

fn event(event: &WorkspaceEvent) -> wire::WorkspaceEvent {
    let what = &event.what;
    let cause = match what {
        Happening::Started { cause } => start_cause(*cause),
        Happening::Stopped { cause } => stop_cause(*cause),
        _ => "",
    };
    let snapshot_id = match what {
        Happening::SnapshotTaken { snapshot, .. }
        | Happening::Restored { snapshot }
        | Happening::Forked { snapshot } => snapshot.to_string(),
        _ => String::new(),
    };
    wire::WorkspaceEvent {
        sequence: event.sequence,
        at: Some(timestamp(event.at_ms)),
        workspace_id: event.workspace.to_string(),
        workspace_name: event.name.to_string(),
        kind: what.kind().to_owned(),
        message: what.to_string(),
        warning: what.severity() == Severity::Warning,
        egress: match what {
            Happening::Egress(seen) => Some(egress(seen)),
            _ => None,
        },
        snapshot_id,
        cause: cause.to_owned(),
    }
}

fn start_cause(cause: StartCause) -> &'static str {
    match cause {
        StartCause::Request => "request",
        StartCause::Use => "use",
        StartCause::ShouldRun => "should_run",
    }
}

fn stop_cause(cause: StopCause) -> &'static str {
    match cause {
        StopCause::Request => "request",
        StopCause::Idle { .. } => "idle",
        StopCause::PauseLost => "pause_lost",
    }
}

fn egress(seen: &EgressSeen) -> wire::EgressEvent {
    let mut event = wire::EgressEvent {
        target: seen.target.clone(),
        protocol: seen.protocol.clone(),
        count: seen.count,
        ..wire::EgressEvent::default()
    };
    match &seen.verdict {
        EgressVerdict::Allowed { address } => event.address = address.clone(),
        EgressVerdict::Denied {
            code,
            reason,
            advice,
        } => {
            event.code = code.clone();
            event.reason = reason.clone();
            event.advice = advice.clone();
        }
        EgressVerdict::Failed { reason } => event.reason = reason.clone(),
    }
    event
}

/// What a workspace uses.
#[must_use]
pub fn reading(reading: &Reading) -> wire::WatchStatsResponse {
    let view = workspace::view(&reading.view);
    let usage = reading.usage;
    let running = reading.running_commands.unwrap_or(0);
    let stats = wire::WorkspaceStats {
        at: Some(timestamp(reading.at_ms)),
        state: view.state,
        cpu_millis: reading.cpu_millis,
        cpu_total_ms: usage.map_or(0, |usage| usage.cpu_ns / 1_000_000),
        memory_bytes: usage.map_or(0, |usage| usage.memory_bytes),
        pids: usage.map_or(0, |usage| usage.pids),
        limits: view.limits,
        disk: reading.disk.map(disk),
        tunnel: Some(tunnel(reading.egress)),
        running_commands: u32::try_from(running).unwrap_or(u32::MAX),
        last_used_at: Some(timestamp(reading.last_use_ms)),
    };
    wire::WatchStatsResponse { stats: Some(stats) }
}

fn disk(used: DiskUse) -> wire::DiskUse {
    wire::DiskUse {
        volume_bytes: used.volume_bytes,
        root_bytes: used.root_bytes,
        measured_at: Some(timestamp(used.measured_at_ms)),
    }
}

fn tunnel(totals: EgressTotals) -> wire::TunnelTotals {
    wire::TunnelTotals {
        allowed: totals.allowed,
        denied: totals.denied,
        failed: totals.failed,
        open: totals.open,
        sent_bytes: totals.sent_bytes,
        received_bytes: totals.received_bytes,
    }
}
