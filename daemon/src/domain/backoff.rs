//! Waits between tries: they double, up to a longest one, with jitter so that
//! what failed together does not come back together.

use std::time::Duration;

/// The longest wait that a provider may ask for: beyond it nobody waits, and a
/// person decides.
pub const PROVIDER_WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// The longest, before jitter.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after the `failed`th failure in a row (from 1). `jitter` in
    /// `0.0..1.0` spreads it by a tenth either way.
    #[must_use]
    pub fn wait(&self, failed: u32, jitter: f64) -> Duration {
        let doublings = failed.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.longest);
        wait.mul_f64(0.9 + 0.2 * jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(2),
        longest: Duration::from_secs(7),
    };

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [1, 2, 3, u32::MAX].map(|failed| BACKOFF.wait(failed, 0.5));
        assert_eq!(waits, [2, 4, 7, 7].map(Duration::from_secs));
    }

    #[test]
    fn jitter_spreads_a_wait_by_a_tenth_either_way() {
        let spread = [0.0, 1.0].map(|jitter| BACKOFF.wait(1, jitter));
        assert_eq!(spread, [1_800, 2_200].map(Duration::from_millis));
    }
}
