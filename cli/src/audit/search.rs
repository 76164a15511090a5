//! `compyctl audit search`.

use std::time::SystemTime;

use clap::Args;
use compyd_proto::v1::{AuditRecord, SearchAuditRequest};
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json_line, table::Table, time};
use crate::values;

/// `compyctl audit search`.
///
/// Everything that is given must hold. The newest records come first; `-o json`
/// prints one on each line.
#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// Who acted: uid:1000, tcp:127.0.0.1, model, daemon.
    #[arg(long, default_value = "", hide_default_value = true)]
    caller: String,
    /// Id of the session.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// Id of the workspace, or what a call named it.
    #[arg(long, default_value = "", hide_default_value = true)]
    workspace: String,
    /// Tool or method: run_command, SnapshotService/DeleteSnapshot.
    #[arg(long, default_value = "", hide_default_value = true)]
    tool: String,
    /// Kind: api_call, tool_call, approval, network, snapshot, push, ...
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// Outcome: ok, failed, denied.
    #[arg(long, default_value = "", hide_default_value = true)]
    outcome: String,
    /// A text within any value, in this case.
    #[arg(long, default_value = "", hide_default_value = true)]
    text: String,
    /// Not before: a duration ago such as 2h, or a time such as
    /// 2026-11-21T08:00:00Z.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<SystemTime>,
    /// Before: the same.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<SystemTime>,
    /// Only records with a smaller number: for the page after a page.
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "SEQ"
    )]
    before: u64,
    /// The most records.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Reads a time, or how long ago it was.
fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = values::duration(text).map_err(|_| {
        "write a duration such as 2h, or a time such as 2026-11-21T08:00:00Z".to_owned()
    })?;
    let past = SystemTime::now().checked_sub(ago);
    past.ok_or_else(|| "that is too long ago".to_owned())
}

/// A record in JSON.
#[derive(Debug, Serialize)]
struct RecordView {
    /// Its number.
    seq: u64,
    /// When.
    at: Option<String>,
    /// What it is about.
    kind: String,
    /// Who acted.
    caller: String,
    /// Workspace; may be empty, as may all that follow.
    workspace: String,
    /// Session.
    session_id: String,
    /// Step.
    step_id: String,
    /// Command.
    exec_id: String,
    /// Decision.
    decision: String,
    /// Tool or method.
    tool: String,
    /// How it went.
    outcome: String,
    /// Everything else.
    detail: serde_json::Value,
}

impl From<AuditRecord> for RecordView {
    fn from(record: AuditRecord) -> Self {
        Self {
            seq: record.seq,
            at: time(record.at.as_ref()),
            kind: record.kind,
            caller: record.caller,
            workspace: record.workspace,
            session_id: record.session_id,
            step_id: record.step_id,
            exec_id: record.exec_id,
            decision: record.decision,
            tool: record.tool,
            outcome: record.outcome,
            detail: serde_json::from_str(&record.detail_json).unwrap_or_default(),
        }
    }
}

impl SearchArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = SearchAuditRequest {
            caller: self.caller,
            session_id: self.session,
            workspace: self.workspace,
            tool: self.tool,
            kind: self.kind,
            outcome: self.outcome,
            text: self.text,
            since: self.since.map(Into::into),
            until: self.until.map(Into::into),
            before_seq: self.before,
            limit: self.limit,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.audit(), request.clone());
                async move { client.search_audit(request).await }
            })
            .await?;
        let views: Vec<RecordView> = response.records.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => views.iter().try_for_each(print_json_line)?,
            Format::Table if views.is_empty() => eprintln!("no records"),
            Format::Table => print(&table(&views).to_string())?,
        }
        Ok(Exit::OK)
    }
}

fn table(views: &[RecordView]) -> Table {
    /// Characters of a record's details.
    const SHOWN: usize = 100;
    let mut table = Table::new(&[
        "SEQ", "TIME", "KIND", "CALLER", "WHERE", "TOOL", "OUTCOME", "DETAIL",
    ]);
    for view in views {
        let places = [&view.step_id, &view.session_id, &view.workspace];
        let place = places.into_iter().find(|place| !place.is_empty());
        let detail: String = view.detail.to_string().chars().take(SHOWN).collect();
        table.row([
            view.seq.to_string().as_str(),
            view.at.as_deref().unwrap_or_default(),
            &view.kind,
            &view.caller,
            place.map_or("", String::as_str),
            &view.tool,
            &view.outcome,
            &detail,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_moments_or_durations_ago() {
        let moment_of =
            |text: &str| moment(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap());
        let second = Duration::from_secs(1_000_000_000);
        assert_eq!(moment_of("2001-09-09T01:46:40Z"), Ok(second));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = now - moment_of("2h").unwrap();
        assert!(ago <= Duration::from_secs(7_200) && ago > Duration::from_secs(7_100));
        assert!(moment_of("yesterday").is_err());
    }
}
