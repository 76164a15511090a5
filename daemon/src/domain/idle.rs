//! When a workspace that nobody uses is stopped.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The shortest time that a workspace may be idle before it is stopped.
pub const SHORTEST: Duration = Duration::from_secs(1);

/// When a workspace is stopped because nobody uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleStop {
    /// As the daemon's default says.
    #[default]
    Default,
    /// Never.
    Never,
    /// After this time, at least [`SHORTEST`].
    AfterMs(u64),
}

impl IdleStop {
    /// The time after which, where there is one.
    #[must_use]
    pub fn after(self, default: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Default => default,
            Self::Never => None,
            Self::AfterMs(ms) => Some(Duration::from_millis(ms)),
        }
    }
}

/// Whether a workspace that was last used at one time has been idle for long
/// enough at another, both in milliseconds since the Unix epoch. A clock that
/// went backwards makes nothing idle.
#[must_use]
pub fn is_due(last_use_ms: i64, after: Duration, now_ms: i64) -> bool {
    let idle_ms = u128::try_from(now_ms.saturating_sub(last_use_ms)).unwrap_or(0);
    idle_ms >= after.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_has_its_own_time_or_the_default_or_none() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(IdleStop::Default.after(minute), minute);
        assert_eq!(IdleStop::Default.after(None), None);
        assert_eq!(IdleStop::Never.after(minute), None);
        let own = Some(Duration::from_millis(5));
        assert_eq!(IdleStop::AfterMs(5).after(minute), own);
    }

    #[test]
    fn it_is_due_at_the_time_and_never_before_the_last_use() {
        let after = Duration::from_millis(100);
        assert!(!is_due(1_000, after, 1_099));
        assert!(is_due(1_000, after, 1_100));
        assert!(!is_due(1_000, after, 0));
        assert!(!is_due(i64::MAX, after, i64::MIN));
    }
}
