//! A clock that moves only when pushed.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::ports::clock::ClockPort;

/// A clock that moves only when pushed.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at a time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self {
            now_ms: AtomicI64::new(now_ms),
        }
    }

    /// Pushes the clock forward.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// A clock that stands at an ordinary day of 2026.
    fn default() -> Self {
        Self::at(1_780_000_000_000)
    }
}

impl ClockPort for ManualClock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}
