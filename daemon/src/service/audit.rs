//! What goes to the audit log, and with what it is linked.
//!
//! What must be on disk before it is done waits for
//! [`record_durably`](Audit::record_durably); everything else is handed over
//! and is on disk soon after. A connection of a workspace is linked to the step
//! of the session that works there, if there is exactly one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::redaction::Redactions;
use crate::{
    domain::{
        audit::{AuditUpkeep, Entry, Kind, Outcome},
        egress::{EgressDecision, EgressOutcome},
        ids::{ExecId, SessionId, SnapshotId, StepId, WorkspaceId},
        session::{audited, event::EventBody, state::SessionState},
        workspace_event::Happening,
    },
    ports::{
        audit::{AuditError, AuditPort, Retention},
        clock::ClockPort,
    },
};

/// The detail of a call that has what it was made with.
const ARGUMENTS: &str = "arguments";
/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// However often new records are to be signed.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<dyn AuditPort>,
    clock: Arc<dyn ClockPort>,
    redactions: Redactions,
    /// The steps under way in each workspace. Held for a look-up or a change.
    steps: Mutex<HashMap<WorkspaceId, HashMap<SessionId, StepId>>>,
}

impl Audit {
    /// A service that records in this log.
    #[must_use]
    pub fn new(log: Arc<dyn AuditPort>, clock: Arc<dyn ClockPort>, redactions: Redactions) -> Self {
        Self {
            inner: Arc::new(Inner {
                log,
                clock,
                redactions,
                steps: Mutex::default(),
            }),
        }
    }

    /// The log itself, for whoever reads it.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn AuditPort> {
        &self.inner.log
    }

    /// An entry of now.
    #[must_use]
    pub fn entry(&self, kind: Kind, caller: impl Into<String>) -> Entry {
        Entry::new(self.inner.clock.now_ms(), kind, caller)
    }

    /// Records something; does not wait.
    pub fn record(&self, entry: Entry) {
        self.inner.log.record(self.redacted(entry));
    }

    /// Records something and waits until it is on disk; only then may it be
    /// done. For approvals, uses of credentials, changes of policy and pushes.
    /// Returns the record's number.
    ///
    /// # Errors
    /// It is not on disk, and what it is about must not be done.
    pub async fn record_durably(&self, entry: Entry) -> Result<u64, AuditError> {
        self.inner.log.record_durably(self.redacted(entry)).await
    }

    /// What is kept of a call's arguments until its end: without the values of
    /// credentials, and in bounds.
    pub fn shortened(&self, arguments: Value) -> Value {
        let mut entry = self.redacted(self.of_arguments(arguments));
        entry.detail.remove(ARGUMENTS).unwrap_or_default()
    }

    /// Records a call with arguments that are [`shortened`](Self::shortened): cut
    /// once more, they would have the hash of what was left of them.
    pub fn record_call(&self, entry: Entry, arguments: Value) {
        let mut entry = self.redacted(entry);
        // What they hold may have become a credential meanwhile.
        let arguments = self.hidden(self.of_arguments(arguments));
        entry.detail.extend(arguments.detail);
        self.inner.log.record(entry);
    }

    fn of_arguments(&self, arguments: Value) -> Entry {
        let entry = self.entry(Kind::ApiCall, "daemon");
        entry.with(ARGUMENTS, arguments)
    }

    /// Without the values of credentials, whatever brought them there, and then in
    /// bounds.
    fn redacted(&self, entry: Entry) -> Entry {
        self.hidden(entry).in_bounds()
    }

    /// Without the values of credentials.
    fn hidden(&self, entry: Entry) -> Entry {
        let redactor = self.inner.redactions.current();
        match redactor.is_empty() {
            true => entry,
            false => entry.map_texts(&|text| redactor.text(text).into_owned()),
        }
    }

    /// Records that a snapshot is deleted, once nothing but the end of the work is
    /// left of that.
    pub fn snapshot_deleted(&self, workspace: &WorkspaceId, snapshot: &SnapshotId, why: &str) {
        let entry = self.entry(Kind::Snapshot, "daemon");
        let entry = entry
            .in_workspace(workspace)
            .with_outcome(Outcome::Ok)
            .with("event", "deleted")
            .with("snapshot", snapshot.to_string())
            .with("why", why);
        self.record(entry);
    }

    /// Records a decision on a connection.
    pub fn network(&self, decision: &EgressDecision) {
        let entry = Entry::new(decision.at_ms, Kind::Network, "daemon")
            .in_workspace(&decision.workspace)
            .with("target", decision.target.clone())
            .with("protocol", decision.protocol.name());
        let entry = match &decision.outcome {
            EgressOutcome::Allowed(address) => entry
                .with_outcome(Outcome::Ok)
                .decided_by("ALLOWED")
                .with("address", address.to_string()),
            EgressOutcome::Denied(denial) => entry
                .with_outcome(Outcome::Denied)
                .decided_by(denial.code())
                .with("reason", denial.to_string()),
            EgressOutcome::Failed(error) => entry
                .with_outcome(Outcome::Failed)
                .decided_by("ALLOWED")
                .with("error", error.clone()),
        };
        self.record(self.of_only_step(entry, &decision.workspace));
    }

    /// Records what happened to a workspace, if it is about snapshots.
    pub fn happened(&self, workspace: &WorkspaceId, what: &Happening) {
        let entry = |event: &str| {
            let entry = self.entry(Kind::Snapshot, "daemon");
            entry.in_workspace(workspace).with("event", event)
        };
        let entry = match what {
            Happening::SnapshotTaken {
                snapshot,
                pause_ms: _,
                new_bytes,
                left_out,
            } => {
                let entry = entry("taken")
                    .with_outcome(Outcome::Ok)
                    .with("snapshot", snapshot.to_string())
                    .with("new_bytes", *new_bytes);
                match left_out.is_empty() {
                    true => entry,
                    false => entry.with("left_out", left_out.clone()),
                }
            }
            Happening::SnapshotFailed { message } => entry("taken")
                .with_outcome(Outcome::Failed)
                .with("error", message.clone()),
            Happening::Restored { snapshot } => entry("restored")
                .with_outcome(Outcome::Ok)
                .with("snapshot", snapshot.to_string()),
            Happening::Forked { snapshot } => entry("forked")
                .with_outcome(Outcome::Ok)
                .with("snapshot", snapshot.to_string()),
            Happening::Created
            | Happening::Started { .. }
            | Happening::Stopped { .. }
            | Happening::Paused
            | Happening::Resumed
            | Happening::Deleted
            | Happening::Died { .. }
            | Happening::OutOfMemory
            | Happening::Adopted
            | Happening::Damaged { .. }
            | Happening::Repaired { .. }
            | Happening::Egress(_)
            | Happening::EgressMissed { .. }
            | Happening::DiskHigh { .. }
            | Happening::DiskOver { .. }
            | Happening::DiskOk { .. }
            | Happening::SetUp { .. }
            | Happening::SetupFailed { .. }
            | Happening::Unknown => return,
        };
        self.record(match self.only_step(workspace) {
            Some((session, step)) => entry.in_session(&session).in_step(&step),
            None => entry,
        });
    }

    /// Whether something of these events is to be on disk before they are.
    pub fn records_first(&self, before: &SessionState, events: &[EventBody]) -> bool {
        let entries = audited::entries(before, self.inner.clock.now_ms(), events);
        entries.iter().any(audited::comes_first)
    }

    /// What is recorded of events that are about to be appended to a session.
    /// Approvals among them are on disk when this returns.
    ///
    /// # Errors
    /// An approval is not on disk: the events must not be appended.
    pub async fn before_session_events(
        &self,
        before: &SessionState,
        events: &[EventBody],
    ) -> Result<Vec<Entry>, AuditError> {
        let entries = audited::entries(before, self.inner.clock.now_ms(), events);
        let (first, later): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(audited::comes_first);
        for entry in first {
            self.record_durably(entry).await?;
        }
        Ok(later)
    }

    /// Records what [`before_session_events`](Self::before_session_events) left
    /// for after they are appended, and keeps which step is under way.
    pub fn after_session_events(
        &self,
        after: &SessionState,
        entries: impl IntoIterator<Item = Entry>,
    ) {
        for entry in entries {
            self.record(entry);
        }
        let mut steps = self.steps();
        let workspace = &after.created.workspace;
        match &after.open {
            Some(open) => {
                let of_workspace = steps.entry(workspace.clone()).or_default();
                of_workspace.insert(after.id().clone(), open.step.clone());
            }
            None => {
                if let Some(of_workspace) = steps.get_mut(workspace) {
                    of_workspace.remove(after.id());
                    if of_workspace.is_empty() {
                        steps.remove(workspace);
                    }
                }
            }
        }
    }

    /// Signs and shortens the log from time to time. On cancel it ends at once;
    /// a failure is logged and tried again.
    pub async fn run_upkeep(&self, upkeep: AuditUpkeep, stop: CancellationToken) {
        let look_every = upkeep
            .checkpoint_every
            .clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
        let mut every = tokio::time::interval(look_every);
        let mut signed_ms = self.inner.clock.now_ms();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            let now_ms = self.inner.clock.now_ms();
            let retention = Retention {
                before_ms: now_ms.saturating_sub(millis(upkeep.keep)),
                max_bytes: upkeep.max_bytes,
            };
            if let Err(error) = self.inner.log.retain(retention).await {
                tracing::warn!(%error, "old records of the audit log are not removed");
            }
            if now_ms.saturating_sub(signed_ms) < millis(upkeep.checkpoint_every) {
                continue;
            }
            match self.inner.log.checkpoint().await {
                Ok(_) => signed_ms = now_ms,
                Err(error) => tracing::warn!(%error, "the audit log is not signed"),
            }
        }
    }

    /// Links what some command of a workspace did to its step under way, if there
    /// is exactly one.
    pub(super) fn of_only_step(&self, entry: Entry, workspace: &WorkspaceId) -> Entry {
        match self.only_step(workspace) {
            Some((session, step)) => entry
                .in_session(&session)
                .in_step(&step)
                .by_process(ExecId::from(step).to_string()),
            None => entry,
        }
    }

    fn only_step(&self, workspace: &WorkspaceId) -> Option<(SessionId, StepId)> {
        let steps = self.steps();
        let mut of_workspace = steps.get(workspace)?.iter();
        match (of_workspace.next()?, of_workspace.next()) {
            ((session, step), None) => Some((session.clone(), step.clone())),
            (_, Some(_)) => None,
        }
    }

    /// Links what a command did to it and, where a step under way started it, to
    /// that.
    pub(super) fn of_command(&self, entry: Entry, workspace: &WorkspaceId, exec: &ExecId) -> Entry {
        let entry = entry.by_process(exec.to_string());
        let steps = self.steps();
        let mut of_workspace = steps.get(workspace).into_iter().flatten();
        let started = of_workspace.find(|(_, step)| {
            let rest = exec.as_str().strip_prefix(step.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        match started {
            Some((session, step)) => entry.in_session(session).in_step(step),
            None => entry,
        }
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<WorkspaceId, HashMap<SessionId, StepId>>> {
        let steps = self.inner.steps.lock();
        steps.unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        adapters::memory::{ManualClock, MemoryAudit},
        domain::{
            audit::{MAX_TEXT_BYTES, chain::Hash},
            redaction::Redactor,
        },
    };

    #[tokio::test]
    async fn no_record_holds_the_value_of_a_credential() {
        let (log, redactions) = (Arc::new(MemoryAudit::default()), Redactions::default());
        redactions.replace(Redactor::new([("npm", b"t0ken-of-npm".as_slice())]));
        let clock = Arc::new(ManualClock::default());
        let audit = Audit::new(log.clone(), clock, redactions);
        let entry = audit
            .entry(Kind::ToolCall, "model")
            .with("arguments", json!({"argv": ["curl", "-H", "t0ken-of-npm"]}));
        audit.record(entry.clone());
        audit.record_durably(entry).await.unwrap();
        let expected = json!({"argv": ["curl", "-H", "[redacted:npm]"]});
        for recorded in log.entries() {
            assert_eq!(recorded.detail["arguments"], expected);
        }
        assert_eq!(log.entries().len(), 2);
    }

    #[test]
    fn what_a_command_did_is_linked_to_the_step_that_started_it() {
        let audit = Audit::new(
            Arc::new(MemoryAudit::default()),
            Arc::new(ManualClock::default()),
            Redactions::default(),
        );
        let uuid = uuid::Uuid::from_u128;
        let workspace = WorkspaceId::from_uuid(uuid(1));
        let (one, other) = (SessionId::from_uuid(uuid(2)), SessionId::from_uuid(uuid(3)));
        let under_way = [
            (one.clone(), StepId::of(&one, 1)),
            (other.clone(), StepId::of(&other, 7)),
        ];
        audit.steps().insert(workspace.clone(), under_way.into());
        let linked = |exec: &str| {
            let entry = audit.entry(Kind::CredentialUse, "daemon");
            let entry = audit.of_command(entry, &workspace, &exec.parse().unwrap());
            assert_eq!(entry.process.as_deref(), Some(exec));
            entry.session.zip(entry.step)
        };
        let step = format!("{one}.1");
        let expected = Some((one.to_string(), step.clone()));
        assert_eq!(linked(&step), expected);
        assert_eq!(linked(&format!("{step}.tests")), expected);
        // A person's, another step's, and one that only begins alike.
        for exec in ["request-7", &format!("{other}.1"), &format!("{step}2")] {
            assert_eq!(linked(exec), None, "{exec}");
        }
        // Of two steps under way nobody knows which one asked for a host.
        let entry = audit.entry(Kind::Network, "daemon");
        assert_eq!(audit.of_only_step(entry.clone(), &workspace), entry);
        audit.steps().get_mut(&workspace).unwrap().remove(&one);
        let found = audit.of_only_step(entry, &workspace);
        assert_eq!(found.step, Some(format!("{other}.7")));
    }

    #[tokio::test]
    async fn a_credential_that_lies_across_the_bound_of_a_text_is_not_kept_in_part() {
        let (log, redactions) = (Arc::new(MemoryAudit::default()), Redactions::default());
        redactions.replace(Redactor::new([("npm", b"t0ken-of-npm".as_slice())]));
        let audit = Audit::new(log.clone(), Arc::new(ManualClock::default()), redactions);
        let before = "x".repeat(MAX_TEXT_BYTES - 6);
        let entry = audit.entry(Kind::ToolCall, "model");
        audit.record(entry.with(
            "arguments",
            json!({"text": format!("{before}t0ken-of-npm!")}),
        ));
        let kept = log.entries()[0].detail["arguments"]["text"].to_string();
        assert!(!kept.contains("t0k"), "{}", &kept[kept.len() - 200..]);
        // The hash is of what may be known.
        let redacted = format!("{before}[redacted:npm]!");
        let hash = Hash::of(redacted.as_bytes()).to_string();
        assert!(kept.contains(&hash), "{}", &kept[kept.len() - 200..]);
    }
}
