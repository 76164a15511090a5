//! The refusals of the agent: one closed list of reasons, and the way each one
//! looks on the wire.
//!
//! Everything below the service speaks [`AgentError`]; only this file knows
//! which gRPC code belongs to a reason.

use std::path::Path;

use compyd_proto::link::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Why a call was refused. The names on the wire are documented at the methods
/// of `agent.proto` and `tree.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    AlreadyExists,
    BinaryFile,
    ConnectionUnknown,
    ChunkDamaged,
    CwdMissing,
    DiskFull,
    ExecConflict,
    ExecRunning,
    ExecUnknown,
    FileTooLarge,
    HashMismatch,
    Io,
    ManyMatches,
    NoMatch,
    NoPty,
    NotADirectory,
    NotAFile,
    NotFound,
    OffsetOutOfRange,
    PathInvalid,
    PathLinked,
    PathOutsideRoots,
    PatternInvalid,
    Permission,
    PortClosed,
    ShuttingDown,
    SignalInvalid,
    SpecInvalid,
    SpoolFull,
    StdinClosed,
    StdinGap,
    UserUnknown,
}

impl Reason {
    /// The stable name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::BinaryFile => "BINARY_FILE",
            Self::ConnectionUnknown => "CONNECTION_UNKNOWN",
            Self::ChunkDamaged => "CHUNK_DAMAGED",
            Self::CwdMissing => "CWD_MISSING",
            Self::DiskFull => "DISK_FULL",
            Self::ExecConflict => "EXEC_CONFLICT",
            Self::ExecRunning => "EXEC_RUNNING",
            Self::ExecUnknown => "EXEC_UNKNOWN",
            Self::FileTooLarge => "FILE_TOO_LARGE",
            Self::HashMismatch => "HASH_MISMATCH",
            Self::Io => "IO",
            Self::ManyMatches => "MANY_MATCHES",
            Self::NoMatch => "NO_MATCH",
            Self::NoPty => "NO_PTY",
            Self::NotADirectory => "NOT_A_DIRECTORY",
            Self::NotAFile => "NOT_A_FILE",
            Self::NotFound => "NOT_FOUND",
            Self::OffsetOutOfRange => "OFFSET_OUT_OF_RANGE",
            Self::PathInvalid => "PATH_INVALID",
            Self::PathLinked => "PATH_LINKED",
            Self::PathOutsideRoots => "PATH_OUTSIDE_ROOTS",
            Self::PatternInvalid => "PATTERN_INVALID",
            Self::Permission => "PERMISSION",
            Self::PortClosed => "PORT_CLOSED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::SignalInvalid => "SIGNAL_INVALID",
            Self::SpecInvalid => "SPEC_INVALID",
            Self::SpoolFull => "SPOOL_FULL",
            Self::StdinClosed => "STDIN_CLOSED",
            Self::StdinGap => "STDIN_GAP",
            Self::UserUnknown => "USER_UNKNOWN",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::AlreadyExists | Self::ExecConflict => Code::AlreadyExists,
            Self::BinaryFile
            | Self::CwdMissing
            | Self::ExecRunning
            | Self::FileTooLarge
            | Self::HashMismatch
            | Self::ManyMatches
            | Self::NoMatch
            | Self::NoPty
            | Self::NotADirectory
            | Self::NotAFile
            | Self::PathLinked
            | Self::PortClosed
            | Self::StdinClosed => Code::FailedPrecondition,
            Self::ChunkDamaged => Code::DataLoss,
            Self::DiskFull | Self::SpoolFull => Code::ResourceExhausted,
            Self::ConnectionUnknown | Self::ExecUnknown | Self::NotFound => Code::NotFound,
            Self::Io => Code::Internal,
            Self::OffsetOutOfRange | Self::StdinGap => Code::OutOfRange,
            Self::PathInvalid
            | Self::PatternInvalid
            | Self::SignalInvalid
            | Self::SpecInvalid
            | Self::UserUnknown => Code::InvalidArgument,
            Self::PathOutsideRoots | Self::Permission => Code::PermissionDenied,
            Self::ShuttingDown => Code::Unavailable,
        }
    }
}

/// A refusal: its reason, a message for a person (what failed, on what, what
/// to do next) and facts for a program.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct AgentError {
    reason: Reason,
    message: String,
    facts: Vec<(&'static str, String)>,
}

impl AgentError {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            facts: Vec::new(),
        }
    }

    /// Adds a fact that a program may read from the error's metadata.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.push((name, value.to_string()));
        self
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    /// What an I/O error on a path means to the caller.
    pub(crate) fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.display();
        match error.kind() {
            ErrorKind::NotFound => Self::new(
                Reason::NotFound,
                format!("could not {doing} {path}: there is no such file or directory"),
            ),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::new(
                Reason::Permission,
                format!(
                    "could not {doing} {path}: {error}; the file tools act as the workspace's default user"
                ),
            ),
            ErrorKind::NotADirectory => Self::new(
                Reason::NotADirectory,
                format!("could not {doing} {path}: a part of the path is not a directory"),
            ),
            ErrorKind::IsADirectory => Self::new(
                Reason::NotAFile,
                format!("could not {doing} {path}: it is a directory"),
            ),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::new(
                Reason::DiskFull,
                format!(
                    "could not {doing} {path}: the disk is full; free some space and try again"
                ),
            ),
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput => Self::new(
                Reason::PathInvalid,
                format!("could not {doing} {path}: {error}"),
            ),
            _ => Self::new(Reason::Io, format!("could not {doing} {path}: {error}")),
        }
    }

    /// The agent's own blocking task ended without an answer.
    pub(crate) fn lost_task(doing: &str) -> Self {
        Self::new(
            Reason::Io,
            format!(
                "could not {doing}: the agent's worker ended early; look at the container's log"
            ),
        )
    }
}

impl From<AgentError> for Status {
    fn from(error: AgentError) -> Self {
        let facts: std::collections::HashMap<String, String> = error
            .facts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let details = ErrorDetails::with_error_info(error.reason.name(), ERROR_DOMAIN, facts);
        Self::with_error_details(error.reason.code(), error.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_domain_reason_and_facts() {
        let status =
            Status::from(AgentError::new(Reason::HashMismatch, "changed").with("hash", "ab"));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "changed");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, "agent.compy");
        assert_eq!(info.reason, "HASH_MISMATCH");
        assert_eq!(info.metadata["hash"], "ab");
    }

    #[test]
    fn a_full_disk_is_told_apart_from_other_io_errors() {
        let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert_eq!(
            AgentError::io("write", Path::new("/f"), &full).reason(),
            Reason::DiskFull
        );
        let other = std::io::Error::from_raw_os_error(nix::libc::EIO);
        assert_eq!(
            AgentError::io("write", Path::new("/f"), &other).reason(),
            Reason::Io
        );
    }
}
