//! The agent's gRPC statuses in the port's words.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::ports::agent::AgentError;

const LONGEST_CODE: usize = 64;
const LONGEST_MESSAGE: usize = 4096;

/// What an agent's status means. Only what the contract knows is passed on, cut
/// to a sound length.
pub(super) fn read(call: &'static str, status: &Status) -> AgentError {
    let details = status.get_error_details();
    if let Some(info) = details.error_info()
        && info.domain == compyd_proto::link::ERROR_DOMAIN
        && is_code(&info.reason)
    {
        return AgentError::Refused {
            code: info.reason.clone(),
            message: cut(status.message()),
        };
    }
    match status.code() {
        Code::DeadlineExceeded => deadline(call, Duration::ZERO),
        // What a broken connection looks like, here and in hyper's words.
        Code::Unavailable | Code::Cancelled | Code::Aborted | Code::Unknown => {
            AgentError::Unreachable(cut(status.message()))
        }
        Code::Internal if status.message().contains("h2 protocol error") => {
            AgentError::Unreachable(cut(status.message()))
        }
        _ => AgentError::Protocol {
            call,
            message: format!("{:?}: {}", status.code(), cut(status.message())),
        },
    }
}

/// No answer in time.
pub(super) fn deadline(call: &'static str, after: Duration) -> AgentError {
    AgentError::Deadline {
        call,
        seconds: after.as_secs(),
    }
}

/// An answer outside the contract.
pub(super) fn broken(call: &'static str, message: impl Into<String>) -> AgentError {
    AgentError::Protocol {
        call,
        message: message.into(),
    }
}

fn is_code(reason: &str) -> bool {
    !reason.is_empty()
        && reason.len() <= LONGEST_CODE
        && reason
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(LONGEST_MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(domain: &str, reason: &str, message: &str) -> Status {
        let details =
            ErrorDetails::with_error_info(reason, domain, std::collections::HashMap::new());
        Status::with_error_details(Code::NotFound, message, details)
    }

    #[test]
    fn a_code_of_the_contract_is_passed_on() {
        let error = read(
            "stat",
            &status("agent.compy", "NOT_FOUND", "no such file: /x"),
        );
        assert_eq!(error.code(), Some("NOT_FOUND"));
        assert_eq!(error.to_string(), "no such file: /x");
    }

    #[test]
    fn foreign_codes_and_long_messages_are_not_believed() {
        let error = read("stat", &status("elsewhere", "NOT_FOUND", "x"));
        assert!(matches!(error, AgentError::Protocol { .. }), "{error:?}");
        let error = read("stat", &status("agent.compy", "not a code", "x"));
        assert!(matches!(error, AgentError::Protocol { .. }), "{error:?}");
        let error = read(
            "stat",
            &status("agent.compy", "NOT_FOUND", &"ä".repeat(9000)),
        );
        assert!(error.to_string().len() <= LONGEST_MESSAGE);
    }

    #[test]
    fn a_broken_connection_is_transient() {
        for code in [Code::Unavailable, Code::Cancelled, Code::Unknown] {
            assert!(read("ping", &Status::new(code, "gone")).is_transient());
        }
        assert!(!read("ping", &Status::new(Code::Unimplemented, "what")).is_transient());
    }
}
