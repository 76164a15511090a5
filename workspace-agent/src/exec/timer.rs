//! A time-out that does not run while the container is paused.
//!
//! A paused container does not see its own pause: its clock jumps. The time is
//! therefore counted in short ticks, and what a tick took beyond its length is
//! not counted.

use std::time::Duration;

use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(250);
/// How late a tick may be on a busy machine and still count in full.
const LATE: Duration = Duration::from_millis(250);

pub(super) struct PausableTimer {
    remaining: Duration,
    last: Instant,
}

impl PausableTimer {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            remaining: limit,
            last: Instant::now(),
        }
    }

    /// Returns when the limit has passed.
    ///
    /// # Cancel safety
    /// The time counted so far is kept.
    pub(super) async fn passed(&mut self) {
        while !self.remaining.is_zero() {
            let tick = self.remaining.min(TICK);
            tokio::time::sleep_until(self.last + tick).await;
            self.count(tick, Instant::now());
        }
    }

    fn count(&mut self, tick: Duration, now: Instant) {
        let took = now - self.last;
        let counted = if took > tick + LATE { tick } else { took };
        self.remaining = self.remaining.saturating_sub(counted);
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_not_counted_and_lateness_is() {
        let mut timer = PausableTimer::new(Duration::from_secs(1));
        let start = timer.last;
        timer.count(TICK, start + Duration::from_millis(300));
        assert_eq!(timer.remaining, Duration::from_millis(700));
        // One hour of pause in the middle of a tick.
        timer.count(TICK, start + Duration::from_secs(3600));
        assert_eq!(timer.remaining, Duration::from_millis(450));
        timer.count(TICK, start + Duration::from_secs(3600) + TICK);
        assert_eq!(timer.remaining, Duration::from_millis(200));
    }
}
