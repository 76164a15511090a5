//! The wall clock, so that tests can push it.

/// A wall clock.
pub trait ClockPort: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}
