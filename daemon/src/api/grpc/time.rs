//! Times on the wire.

use prost_types::Timestamp;

/// Milliseconds since the Unix epoch as a timestamp.
#[must_use]
pub fn timestamp(ms: i64) -> Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1_000) * 1_000_000).expect("less than a second");
    Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos,
    }
}

/// A timestamp in milliseconds since the Unix epoch, at the limits of an `i64`
/// for one that is beyond them.
#[must_use]
pub fn millis(timestamp: &Timestamp) -> i64 {
    timestamp
        .seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(timestamp.nanos) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_before_the_epoch_count_forwards_too() {
        let before = Timestamp {
            seconds: -1,
            nanos: 999_000_000,
        };
        assert_eq!(timestamp(-1), before);
    }

    #[test]
    fn times_survive_a_round_trip() {
        for ms in [0, 1, 999, 1_780_000_000_123, -1, -1_500] {
            assert_eq!(millis(&timestamp(ms)), ms);
        }
    }
}
