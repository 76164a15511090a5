//! How often: a bucket that fills with time and that each call takes from.

use std::time::Duration;

/// A bucket of calls. It holds those of two seconds, so that a client which asks
/// for several things at once is not slowed down.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    calls: f64,
    /// Since some fixed moment.
    filled_at: Duration,
}

impl Bucket {
    /// A full bucket, with `now` since some fixed moment.
    #[must_use]
    pub fn new(per_second: u32, now: Duration) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self {
            per_second,
            calls: per_second * 2.0,
            filled_at: now,
        }
    }

    /// Takes a call.
    ///
    /// # Errors
    /// There is none: how long until there is.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let since = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let most = self.per_second * 2.0;
        self.calls = (self.calls + since.as_secs_f64() * self.per_second).min(most);
        if self.calls >= 1.0 {
            self.calls -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (1.0 - self.calls) / self.per_second,
        ))
    }

    /// Whether nothing was taken from it for so long that it is as good as new.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        now.saturating_sub(self.filled_at) >= Duration::from_secs(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seconds_of_calls_go_at_once_and_then_as_many_as_time_brings() {
        let mut bucket = Bucket::new(10, Duration::ZERO);
        for _ in 0..20 {
            assert_eq!(bucket.take(Duration::ZERO), Ok(()));
        }
        let wait = bucket.take(Duration::ZERO).unwrap_err();
        assert!((wait.as_millis().abs_diff(100)) <= 1, "{wait:?}");
        assert_eq!(bucket.take(Duration::from_millis(101)), Ok(()));
        assert!(bucket.take(Duration::from_millis(102)).is_err());
        // A clock that goes back gives nothing.
        assert!(bucket.take(Duration::ZERO).is_err());
        let later = Duration::from_secs(3_600);
        let taken = (0..100).filter(|_| bucket.take(later).is_ok()).count();
        assert_eq!(taken, 20, "it never holds more");
    }
}
