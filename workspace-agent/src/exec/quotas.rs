//! What the output of commands may take, and what it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use compyd_proto::agent::SpoolLimits;

/// Limits of an agent that was told none.
const STREAM_BYTES: u64 = 1024 * 1024 * 1024;
const TOTAL_BYTES: u64 = 8 * STREAM_BYTES;
/// The least that limits may be.
const LEAST_STREAM_BYTES: u64 = 1024 * 1024;
const LEAST_TOTAL_BYTES: u64 = 2 * LEAST_STREAM_BYTES;

/// Limits and their use, shared by all who write, drop and ask.
#[derive(Debug)]
pub(super) struct Quotas {
    stream_bytes: AtomicU64,
    total_bytes: AtomicU64,
    /// 0: for ever.
    ended_ms: AtomicU64,
    /// Bytes of all streams on disk.
    kept: AtomicU64,
}

impl Quotas {
    /// The agent's own limits, with so much in use.
    pub(super) fn new(kept: u64) -> Self {
        Self {
            stream_bytes: AtomicU64::new(STREAM_BYTES),
            total_bytes: AtomicU64::new(TOTAL_BYTES),
            ended_ms: AtomicU64::new(0),
            kept: AtomicU64::new(kept),
        }
    }

    /// Takes over what the daemon says.
    pub(super) fn set(&self, limits: &SpoolLimits) {
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        let stream = or(limits.stream_bytes, STREAM_BYTES).max(LEAST_STREAM_BYTES);
        let total = or(limits.total_bytes, TOTAL_BYTES).max(LEAST_TOTAL_BYTES);
        self.stream_bytes.store(stream, Ordering::Relaxed);
        self.total_bytes.store(total, Ordering::Relaxed);
        self.ended_ms.store(limits.ended_ms, Ordering::Relaxed);
    }

    /// Bytes that one stream may keep.
    pub(super) fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// How long output is kept after its command has ended.
    pub(super) fn age(&self) -> Option<Duration> {
        match self.ended_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    /// Whether so much more stays below the total.
    pub(super) fn has_room_for(&self, more: u64) -> bool {
        let kept = self.kept.load(Ordering::Relaxed);
        kept + more <= self.total_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn free(&self, bytes: u64) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
    }
}
