//! Errors on the wire: a stable code, a message for a person, what to do, and
//! whether a retry helps.

use std::time::Duration;

use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::ids::IdError;

/// Domain of every `google.rpc.ErrorInfo` this daemon sends.
pub const ERROR_DOMAIN: &str = "compy";

/// Whether a retry can help, as a status tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The caller must change something first.
    No,
    /// After this time, with the same `request_id`. Told in `retry-after` as well,
    /// in whole seconds.
    After(Duration),
}

/// A status with its details.
///
/// `reason` is the stable code in capitals, `message` says what failed and on
/// what, `advice` what to do next.
#[must_use]
pub fn refusal(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    advice: impl Into<String>,
    retry: Retry,
) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, ERROR_DOMAIN, std::collections::HashMap::new());
    details.set_localized_message("en", advice);
    let mut metadata = MetadataMap::new();
    if let Retry::After(wait) = retry {
        details.set_retry_info(Some(wait));
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        metadata.insert("retry-after", seconds.into());
    }
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

/// A caller's mistake in an argument.
#[must_use]
pub fn invalid(reason: &str, message: impl Into<String>, advice: impl Into<String>) -> Status {
    refusal(Code::InvalidArgument, reason, message, advice, Retry::No)
}

/// A text that is not the id or name it should be.
#[must_use]
pub fn invalid_id(reason: &str, error: &IdError) -> Status {
    invalid(
        reason,
        error.to_string(),
        format!("give {} that fits: {}", error.what, error.rule),
    )
}

/// Our own fault; the cause goes to our log, not to the caller.
#[must_use]
pub fn internal(cause: &dyn std::fmt::Display) -> Status {
    tracing::error!(%cause, "request failed");
    refusal(
        Code::Internal,
        "INTERNAL",
        "the daemon failed; its log says why",
        "look into the daemon's log; if it happens again, report it with the lines around it",
        Retry::No,
    )
}

/// The code that a refusal carries; empty where it carries none.
pub(super) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}
