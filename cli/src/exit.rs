//! Exit codes, and the failures that lead to them. Knows no gRPC call; turns
//! a `tonic::Status` into words for a person.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Done; for `run`: proved.
    pub(crate) const OK: Exit = Exit(0);
    /// Any failure without a code of its own.
    pub(crate) const ERROR: Exit = Exit(1);
    /// The command line, or what it names, cannot be used.
    pub(crate) const USAGE: Exit = Exit(2);
    /// The session ended without proof.
    pub(crate) const UNVERIFIED: Exit = Exit(3);
    /// The session goes on only when a person does something.
    pub(crate) const PERSON_NEEDED: Exit = Exit(4);
    /// The daemon cannot be reached.
    pub(crate) const UNREACHABLE: Exit = Exit(5);
    /// `exec` and `shell`: the command was ended by its time-out.
    pub(crate) const TIMED_OUT: Exit = Exit(124);
    /// `exec` and `shell`: compyctl failed, or the command's fate is not known.
    pub(crate) const FATE_UNKNOWN: Exit = Exit(125);
    /// `exec` and `shell`: the program was found and could not be executed.
    pub(crate) const NOT_EXECUTABLE: Exit = Exit(126);
    /// `exec` and `shell`: there is no such program.
    pub(crate) const NOT_FOUND: Exit = Exit(127);
}

/// The table in `compyctl --help`.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done; for `run` and `session watch`: the daemon proved the result
  1    failed for another reason
  2    the command line, or what it names, cannot be used
  3    the session ended unverified (failed or cancelled)
  4    a person is needed: the session waits, is paused or was interrupted
  5    the daemon cannot be reached
  130  Ctrl-C ended the watching; the session goes on";

/// The table in the help of `workspace exec` and `workspace shell`.
pub(crate) const EXEC_EXIT_CODES_HELP: &str = "\
Exit codes:
  the command's own, and:
  124    its time-out ended it
  125    compyctl failed (no daemon, no such workspace), or the command's fate is not known;
         standard error says which
  126    the program could not be executed
  127    there is no such program
  128+N  signal N ended it
  2      the command line cannot be used";

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What the person asked for cannot be meant.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        advice: String,
    },
    /// Nobody answers at the endpoint.
    #[error("the daemon cannot be reached at {endpoint}: {cause}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What the last attempt ended with.
        cause: String,
    },
    /// The daemon answered with an error.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// Something on this side went wrong.
    #[error("{message}")]
    Local {
        /// What failed, on what, and why.
        message: String,
        /// What to do; may be empty.
        advice: String,
    },
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Failure::Usage {
            message: message.into(),
            advice: advice.into(),
        }
    }

    pub(crate) fn local(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Failure::Local {
            message: message.into(),
            advice: advice.into(),
        }
    }

    /// Code to end with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::Usage { .. } => Exit::USAGE,
            Failure::Unreachable { .. } => Exit::UNREACHABLE,
            // What the command line names is not there, or cannot be meant.
            Failure::Refused(status)
                if matches!(status.code(), Code::NotFound | Code::InvalidArgument) =>
            {
                Exit::USAGE
            }
            Failure::Refused(_) | Failure::Local { .. } => Exit::ERROR,
        }
    }

    /// The stable reason the daemon gave, if it was the daemon.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Failure::Refused(status) => Some(status.get_details_error_info()?.reason),
            Failure::Usage { .. } | Failure::Unreachable { .. } | Failure::Local { .. } => None,
        }
    }

    /// Lines that say what to try.
    fn advice(&self) -> Vec<String> {
        match self {
            Failure::Usage { advice, .. } | Failure::Local { advice, .. } => {
                advice.lines().map(str::to_owned).collect()
            }
            Failure::Unreachable { .. } => vec![
                "start it with `compyd`, or name another one with --endpoint or COMPY_ENDPOINT"
                    .into(),
                "`compyctl doctor` says what is missing".into(),
            ],
            Failure::Refused(status) => refusal_advice(status),
        }
    }

    /// Everything a person should read, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("error: {self}")];
        lines.extend(
            self.advice()
                .into_iter()
                .filter(|line| !line.trim().is_empty())
                .map(|line| format!("  try: {line}")),
        );
        lines
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Refused(Box::new(status))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::local(format!("{error:#}"), "")
    }
}

/// The message with its stable reason: `there is no workspace "x" (WORKSPACE_UNKNOWN)`.
fn refusal(status: &Status) -> String {
    let message = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    match status.get_details_error_info() {
        Some(info) => format!("{message} ({})", info.reason),
        None => format!("{message} ({:?})", status.code()),
    }
}

fn refusal_advice(status: &Status) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(localized) = status.get_details_localized_message() {
        advice.extend(localized.message.lines().map(str::to_owned));
    }
    if let Some(delay) = retry_delay(status) {
        advice.push(format!("again in {}", humantime::format_duration(delay)));
    }
    if advice.is_empty() {
        advice.push(
            match status.code() {
                Code::Unimplemented => {
                    "compyctl and compyd may differ in version: compare `compyctl version`"
                }
                Code::DeadlineExceeded => {
                    "again; if it stays slow, look at the daemon's log and `compyctl doctor`"
                }
                _ => "`compyctl doctor`, and look at the daemon's log",
            }
            .into(),
        );
    }
    advice
}

/// How long the daemon asks to wait before the next attempt.
pub(crate) fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// Whether the connection, rather than the daemon, produced this status. The
/// daemon's own errors always carry details.
pub(crate) fn is_broken_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || (status.details().is_empty()
            && matches!(status.code(), Code::Unavailable | Code::Cancelled))
}

/// What the daemon refuses for a moment only.
const THROTTLED: [&str; 3] = ["RATE_LIMITED", "STREAMS_EXHAUSTED", "CONNECTIONS_EXHAUSTED"];

/// Whether the same request, sent again, may well succeed.
pub(crate) fn is_transient(status: &Status) -> bool {
    let is_throttled = status.code() == Code::ResourceExhausted
        && status
            .get_details_error_info()
            .is_some_and(|info| THROTTLED.contains(&&*info.reason));
    status.code() == Code::Unavailable || is_throttled || is_broken_connection(status)
}

/// The innermost cause of an error, which says more than "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn refused(code: Code, message: &str, details: ErrorDetails) -> Failure {
        use tonic_types::StatusExt as _;
        Status::with_error_details(code, message, details).into()
    }

    #[test]
    fn a_refusal_prints_message_reason_advice_and_delay() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "WORKSPACE_UNKNOWN",
            "compy",
            std::collections::HashMap::<String, String>::new(),
        );
        details.set_localized_message("en", "list them with `compyctl workspace list`");
        details.set_retry_info(Some(Duration::from_secs(2)));
        let failure = refused(Code::NotFound, "there is no workspace \"x\"", details);
        assert_eq!(
            failure.lines(),
            [
                "error: there is no workspace \"x\" (WORKSPACE_UNKNOWN)",
                "  try: list them with `compyctl workspace list`",
                "  try: again in 2s",
            ]
        );
        assert_eq!(failure.exit(), Exit::USAGE);
        assert_eq!(failure.reason().as_deref(), Some("WORKSPACE_UNKNOWN"));
    }

    #[test]
    fn an_error_without_details_still_says_what_to_try() {
        let failure = Failure::from(Status::internal(""));
        assert_eq!(failure.lines().len(), 2);
        assert!(failure.lines()[1].contains("compyctl doctor"));
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let unreachable = Failure::Unreachable {
            endpoint: "unix:///x".into(),
            cause: "no such file".into(),
        };
        assert_eq!(unreachable.exit(), Exit(5));
        assert_eq!(Failure::usage("m", "a").exit(), Exit(2));
        assert_eq!(Failure::local("m", "").exit(), Exit(1));
        for (status, code) in [
            (Status::not_found("no such session"), 2),
            (Status::invalid_argument("no id"), 2),
            (Status::failed_precondition("not now"), 1),
            (Status::internal("bug"), 1),
        ] {
            assert_eq!(Failure::from(status).exit(), Exit(code));
        }
    }

    #[test]
    fn the_daemons_own_errors_are_never_taken_for_a_broken_connection() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "ENGINE_UNAVAILABLE",
            "compy",
            std::collections::HashMap::<String, String>::new(),
        );
        let engine = Status::with_error_details(Code::Unavailable, "no engine", details);
        assert!(!is_broken_connection(&engine));
        assert!(is_transient(&engine));
        assert!(is_broken_connection(&Status::unavailable("refused")));
        assert!(!is_broken_connection(&Status::internal("bug")));
        assert!(!is_transient(&Status::unknown("what")));
    }
}
