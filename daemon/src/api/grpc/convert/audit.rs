//! The audit log on the wire.

use compyd_proto::v1 as wire;
use tonic::{Code, Status};

use crate::{
    api::grpc::{
        status::{Retry, internal, invalid, refusal},
        time::{millis, timestamp},
    },
    domain::audit::{
        Kind, Outcome, chain::Record, checkpoint::PublicKey, query::Query, verify::Verified,
    },
    ports::audit::AuditError,
};

/// Records that are returned when nobody says how many.
const LIMIT: usize = 100;
/// The most records that are returned at once.
const MOST: u32 = 10_000;

/// What is looked for.
///
/// # Errors
/// `AUDIT_KIND_UNKNOWN`, `AUDIT_OUTCOME_UNKNOWN`, `LIMIT_INVALID`.
#[allow(clippy::result_large_err)]
pub fn query(request: wire::SearchAuditRequest) -> Result<Query, Status> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let kind = given(request.kind).map(|name| {
        Kind::named(&name).ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            invalid(
                "AUDIT_KIND_UNKNOWN",
                format!("there is no kind of record `{name}`"),
                format!("give one of: {names}"),
            )
        })
    });
    let outcome = given(request.outcome).map(|name| {
        Outcome::named(&name).ok_or_else(|| {
            let names = Outcome::ALL.map(Outcome::name).join(", ");
            invalid(
                "AUDIT_OUTCOME_UNKNOWN",
                format!("there is no outcome `{name}`"),
                format!("give one of: {names}"),
            )
        })
    });
    let limit = match request.limit {
        0 => LIMIT,
        limit if limit <= MOST => limit as usize,
        limit => {
            return Err(invalid(
                "LIMIT_INVALID",
                format!("{limit} records are too many at once"),
                format!("give at most {MOST}, and ask for the next page with before_seq"),
            ));
        }
    };
    Ok(Query {
        caller: given(request.caller),
        session: given(request.session_id),
        workspace: given(request.workspace),
        tool: given(request.tool),
        kind: kind.transpose()?,
        outcome: outcome.transpose()?,
        text: given(request.text),
        since_ms: request.since.as_ref().map(millis),
        until_ms: request.until.as_ref().map(millis),
        before_seq: (request.before_seq != 0).then_some(request.before_seq),
        limit,
    })
}

/// A record.
#[must_use]
pub fn record(record: Record) -> wire::AuditRecord {
    let entry = record.entry;
    wire::AuditRecord {
        seq: record.seq,
        at: Some(timestamp(entry.at_ms)),
        kind: entry.kind.name().to_owned(),
        caller: entry.caller,
        workspace: entry.workspace.unwrap_or_default(),
        session_id: entry.session.unwrap_or_default(),
        step_id: entry.step.unwrap_or_default(),
        exec_id: entry.process.unwrap_or_default(),
        decision: entry.decision.unwrap_or_default(),
        tool: entry.tool.unwrap_or_default(),
        outcome: entry.outcome.map_or("", Outcome::name).to_owned(),
        detail_json: serde_json::Value::Object(entry.detail).to_string(),
    }
}

/// What a whole log was found to be.
#[must_use]
pub fn verified(verified: &Verified, key: PublicKey) -> wire::VerifyAuditResponse {
    let checkpoint = verified.checkpoint.as_ref();
    wire::VerifyAuditResponse {
        first_seq: verified.first,
        last_seq: verified.last,
        checkpoint_seq: checkpoint.map_or(0, |checkpoint| checkpoint.seq),
        checkpoint_at: checkpoint.map(|checkpoint| timestamp(checkpoint.at_ms)),
        checkpoint_hash: checkpoint
            .map_or_else(String::new, |checkpoint| checkpoint.hash.to_string()),
        public_key: key.to_string(),
    }
}

/// Why the log cannot be used.
#[must_use]
pub fn error(error: &AuditError) -> Status {
    match error {
        AuditError::DiskFull(_) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            error.to_string(),
            "free space on the disk with the daemon's data directory",
            Retry::No,
        ),
        AuditError::Fault(_) | AuditError::Damaged(_) => refusal(
            Code::DataLoss,
            "AUDIT_ALTERED",
            error.to_string(),
            "keep a copy of the data directory for whoever looks into it, and compare with a checkpoint that is kept elsewhere",
            Retry::No,
        ),
        AuditError::Key { .. } | AuditError::Failed { .. } => internal(error),
    }
}
