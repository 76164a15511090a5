//! What a workspace's files may use: a limit that the daemon holds by looking.

use serde::{Deserialize, Serialize};

/// What the files of a workspace use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Bytes of its volumes, as they are on disk.
    pub volume_bytes: u64,
    /// Bytes of its root file system beyond the image; `None` while they were
    /// never counted.
    pub root_bytes: Option<u64>,
    /// When they were counted, in milliseconds since the Unix epoch.
    pub measured_at_ms: i64,
}

impl DiskUse {
    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let root_bytes = self.root_bytes.unwrap_or(0);
        self.volume_bytes.saturating_add(root_bytes)
    }
}

/// How a use is to a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskLevel {
    /// Well below it.
    #[default]
    Ok,
    /// Near to it, or not far below since.
    High,
    /// Above it: nothing new is begun.
    Over,
    /// So far above it that what runs is ended.
    FarOver,
}

/// In hundredths of the limit: from here on the use is high.
const HIGH: u128 = 90;
/// What was high is so until it is below this, so that it is not said again and
/// again.
const HIGH_STILL: u128 = 85;
/// From here on what runs is ended.
const FAR_OVER: u128 = 110;

/// The level of a use; `limit_bytes` 0 is no limit.
#[must_use]
pub fn level(used_bytes: u64, limit_bytes: u64, before: DiskLevel) -> DiskLevel {
    if limit_bytes == 0 {
        return DiskLevel::Ok;
    }
    let used = u128::from(used_bytes) * 100;
    let of = |hundredths| u128::from(limit_bytes) * hundredths;
    let high = if before == DiskLevel::Ok {
        HIGH
    } else {
        HIGH_STILL
    };
    if used > of(FAR_OVER) {
        DiskLevel::FarOver
    } else if used > of(100) {
        DiskLevel::Over
    } else if used >= of(high) {
        DiskLevel::High
    } else {
        DiskLevel::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_begin_where_they_should_and_do_not_flutter() {
        use DiskLevel::{FarOver, High, Ok, Over};
        for (used, before, expected) in [
            (0, Ok, Ok),
            (89, Ok, Ok),
            (90, Ok, High),
            (89, High, High),
            (85, Over, High),
            (84, High, Ok),
            (100, Ok, High),
            (101, Ok, Over),
            (110, Over, Over),
            (111, Ok, FarOver),
            (100, FarOver, High),
        ] {
            assert_eq!(
                level(used, 100, before),
                expected,
                "{used} after {before:?}"
            );
        }
        assert_eq!(level(u64::MAX, 0, Over), Ok);
        assert_eq!(level(u64::MAX, u64::MAX, Ok), High);
        assert_eq!(level(u64::MAX, 1, Ok), FarOver);
    }
}
