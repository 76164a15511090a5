//! What compyctl prints on standard output: tables for people, and JSON whose
//! field names are a promise to scripts.
//!
//! The JSON structs are compyctl's own: a change of the protocol does not
//! rename them. Every field is always present; what is not known is `null`,
//! an empty list or an empty string. Times are RFC 3339 in UTC.

pub(crate) mod artifact;
pub(crate) mod credential;
pub(crate) mod exec;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod system;
pub(crate) mod table;
pub(crate) mod token;
pub(crate) mod workspace;

use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::exit::Failure;

/// Form of the results on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns and headings.
    Table,
    /// One JSON value.
    Json,
}

/// Prints one JSON value, indented, with a line end.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::local(format!("the result cannot be written as JSON: {error}"), "")
    })?;
    print(&format!("{text}\n"))
}

/// Prints one JSON value on one line: one of many.
pub(crate) fn print_json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| {
        Failure::local(format!("the result cannot be written as JSON: {error}"), "")
    })?;
    print(&format!("{text}\n"))
}

/// Prints to standard output. A reader that has gone away is not an error:
/// `compyctl ... | head -1` has what it wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::local(
            format!("standard output cannot be written: {error}"),
            "",
        )),
    }
}

/// A time as RFC 3339 in whole seconds; `None` when it is not set.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<String> {
    timestamp.map(|timestamp| {
        prost_types::Timestamp {
            seconds: timestamp.seconds,
            nanos: 0,
        }
        .to_string()
    })
}

/// From one time to another; nothing when a clock went backwards.
pub(crate) fn between(from: &prost_types::Timestamp, to: &prost_types::Timestamp) -> Duration {
    let nanos =
        |t: &prost_types::Timestamp| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos);
    u64::try_from(nanos(to) - nanos(from)).map_or(Duration::ZERO, Duration::from_nanos)
}

/// Now, by this machine's clock.
pub(crate) fn now() -> prost_types::Timestamp {
    prost_types::Timestamp::from(std::time::SystemTime::now())
}

/// `03:07`, or `1:02:03` from an hour on.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// `950`, `12.3k`, `4.5M`.
pub(crate) fn count(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1}k", number as f64 / 1e3),
        _ => format!("{:.1}M", number as f64 / 1e6),
    }
}

/// `17 B`, `1.5 KiB`, `2.0 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_for_people() {
        assert_eq!(count(999), "999");
        assert_eq!(count(12_345), "12.3k");
        assert_eq!(count(4_500_000), "4.5M");
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(2 << 30), "2.0 GiB");
        assert_eq!(clock(Duration::from_secs(187)), "03:07");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn times_are_rfc_3339_and_differences_never_negative() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 5 };
        assert_eq!(time(Some(&at(0))).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(time(None), None);
        assert_eq!(between(&at(3), &at(10)), Duration::from_secs(7));
        assert_eq!(between(&at(10), &at(3)), Duration::ZERO);
    }
}
