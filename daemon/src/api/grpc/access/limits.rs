//! What one caller may use: calls per second, calls at once, bytes of a message.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use crate::{
    api::grpc::status::{Retry, refusal},
    domain::access::rate::Bucket,
};

/// When it is tried again where only others' ending helps.
const AGAIN: Duration = Duration::from_secs(1);
/// Callers of which state is kept, beyond which those that are at rest go.
const MANY_CALLERS: usize = 1_024;

/// What each caller on another machine may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Calls in a second; for a moment, twice as many.
    pub calls_per_second: u32,
    /// Calls that are open at once.
    pub streams: usize,
    /// Bytes of a message that it sends.
    pub message_bytes: usize,
}

/// The callers of now.
pub(super) struct Limits {
    limits: CallerLimits,
    since: Instant,
    /// By what names the token. Held for a call's begin or end.
    callers: Mutex<HashMap<String, Use>>,
}

struct Use {
    bucket: Bucket,
    open: usize,
}

impl Limits {
    pub(super) fn new(limits: CallerLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            since: Instant::now(),
            callers: Mutex::default(),
        })
    }

    /// Lets a call begin, or says when it may.
    pub(super) fn begin(self: &Arc<Self>, caller: &str) -> Result<Permit, Box<Status>> {
        let now = self.since.elapsed();
        let mut callers = self.callers();
        if callers.len() >= MANY_CALLERS {
            callers.retain(|_, it| it.open > 0 || !it.bucket.is_full(now));
        }
        let used = callers.entry(caller.to_owned()).or_insert_with(|| Use {
            bucket: Bucket::new(self.limits.calls_per_second, now),
            open: 0,
        });
        if let Err(wait) = used.bucket.take(now) {
            let most = self.limits.calls_per_second;
            return Err(Box::new(refusal(
                Code::ResourceExhausted,
                "RATE_LIMITED",
                format!("this token makes more than {most} calls a second"),
                "call less often, or raise remote.calls_per_second of the daemon",
                Retry::After(wait),
            )));
        }
        if used.open >= self.limits.streams {
            let most = self.limits.streams;
            return Err(Box::new(refusal(
                Code::ResourceExhausted,
                "STREAMS_EXHAUSTED",
                format!("this token has {most} calls open already"),
                "end some of them, or raise remote.streams of the daemon",
                Retry::After(AGAIN),
            )));
        }
        used.open += 1;
        Ok(Permit {
            limits: self.clone(),
            caller: caller.to_owned(),
        })
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is open; dropped, it is not.
pub(super) struct Permit {
    limits: Arc<Limits>,
    caller: String,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(used) = self.limits.callers().get_mut(&self.caller) {
            used.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::status::reason;

    fn limits(calls_per_second: u32, streams: usize) -> Arc<Limits> {
        Limits::new(CallerLimits {
            calls_per_second,
            streams,
            message_bytes: 1,
        })
    }

    #[test]
    fn a_caller_that_calls_too_often_is_told_when_and_others_are_not_held_up() {
        let limits = limits(1, 100);
        let first: Vec<_> = (0..2).map(|_| limits.begin("a").map(drop)).collect();
        assert!(first.iter().all(Result::is_ok));
        let refused = limits.begin("a").map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "RATE_LIMITED");
        assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
        assert!(limits.begin("b").is_ok());
    }

    #[test]
    fn a_call_that_has_ended_makes_room() {
        let limits = limits(1_000, 2);
        let open = [limits.begin("a"), limits.begin("a")];
        let refused = limits.begin("a").map(drop).unwrap_err();
        assert_eq!(reason(&refused), "STREAMS_EXHAUSTED");
        assert!(limits.begin("b").is_ok());
        drop(open);
        assert!(limits.begin("a").is_ok());
    }
}
