//! Callers that are not known, in the audit log: a few each second, and how many
//! were left out, so that nobody fills the log by guessing.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    domain::{
        access::rate::Bucket,
        audit::{Kind, Outcome},
    },
    service::audit::Audit,
};

/// Failures on record in a second.
const RECORDED_PER_SECOND: u32 = 2;

/// Records failures.
pub(super) struct Failures {
    audit: Audit,
    since: Instant,
    /// Held for a failure.
    state: Mutex<State>,
}

struct State {
    bucket: Bucket,
    /// Since one was recorded.
    left_out: u64,
}

impl Failures {
    pub(super) fn new(audit: Audit) -> Self {
        let since = Instant::now();
        Self {
            audit,
            state: Mutex::new(State {
                bucket: Bucket::new(RECORDED_PER_SECOND, since.elapsed()),
                left_out: 0,
            }),
            since,
        }
    }

    /// Somebody called `method` and is not known.
    pub(super) fn record(&self, address: SocketAddr, method: &str, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bucket.take(self.since.elapsed()).is_err() {
            state.left_out += 1;
            return;
        }
        let left_out = std::mem::take(&mut state.left_out);
        drop(state);
        let entry = (self
            .audit
            .entry(Kind::Login, format!("tcp:{}", address.ip())))
        .with_tool(method)
        .with("reason", reason)
        .with_outcome(Outcome::Denied);
        self.audit.record(match left_out {
            0 => entry,
            more => entry.with("not_recorded_before", more),
        });
    }
}
