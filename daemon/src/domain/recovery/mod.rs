//! Failures: what they are, and what follows.
//!
//! [`Catalogue`] knows failures by the tool, the exit status and the output
//! together; [`stuck`] knows a session that turns in circles by its log. Both are
//! pure.

mod catalogue;
mod literals;
pub mod stuck;

pub use self::catalogue::{Catalogue, CatalogueError, End, FoundIn, Signs};

use serde::{Deserialize, Serialize};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureType {
    /// Its time was used up.
    Timeout,
    /// A server failed, or refused for another reason than those below.
    ApiError,
    /// Asked too often, or beyond a quota.
    RateLimit,
    /// Credentials are missing or refused.
    AuthError,
    /// No connection, or it broke.
    NetworkError,
    /// Code cannot be parsed or compiled.
    SyntaxError,
    /// A module, crate, header or library is not found.
    ImportError,
    /// Types do not fit.
    TypeError,
    /// A program failed while it ran.
    RuntimeError,
    /// Tests failed, or none ran.
    TestFailure,
    /// An assertion does not hold.
    AssertionError,
    /// What a test is given could not be made.
    FixtureError,
    /// A linter found errors.
    LintError,
    /// The format differs from the formatter's.
    FormatError,
    /// Both sides changed the same lines.
    MergeConflict,
    /// The forge refuses a push.
    PushRejected,
    /// A branch of that name is there.
    BranchExists,
    /// A check of CI did not end in time.
    CiTimeout,
    /// A check of CI could not run.
    CiBuildFailed,
    /// Tests failed in CI.
    CiTestFailed,
    /// Lint or format failed in CI.
    CiLintFailed,
    /// No space, or a quota is used up.
    DiskFull,
    /// No memory, or too many processes.
    OutOfMemory,
    /// Versions exclude each other.
    DependencyConflict,
    /// Not allowed to this user.
    PermissionDenied,
    /// A program is not there.
    CommandNotFound,
    /// Another process listens there.
    PortInUse,
    /// Nothing is known of it.
    Unknown,
}

impl FailureType {
    /// Every type.
    pub const ALL: [Self; 28] = [
        Self::Timeout,
        Self::ApiError,
        Self::RateLimit,
        Self::AuthError,
        Self::NetworkError,
        Self::SyntaxError,
        Self::ImportError,
        Self::TypeError,
        Self::RuntimeError,
        Self::TestFailure,
        Self::AssertionError,
        Self::FixtureError,
        Self::LintError,
        Self::FormatError,
        Self::MergeConflict,
        Self::PushRejected,
        Self::BranchExists,
        Self::CiTimeout,
        Self::CiBuildFailed,
        Self::CiTestFailed,
        Self::CiLintFailed,
        Self::DiskFull,
        Self::OutOfMemory,
        Self::DependencyConflict,
        Self::PermissionDenied,
        Self::CommandNotFound,
        Self::PortInUse,
        Self::Unknown,
    ];

    /// Its name: "DISK_FULL".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "TIMEOUT",
            Self::ApiError => "API_ERROR",
            Self::RateLimit => "RATE_LIMIT",
            Self::AuthError => "AUTH_ERROR",
            Self::NetworkError => "NETWORK_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::ImportError => "IMPORT_ERROR",
            Self::TypeError => "TYPE_ERROR",
            Self::RuntimeError => "RUNTIME_ERROR",
            Self::TestFailure => "TEST_FAILURE",
            Self::AssertionError => "ASSERTION_ERROR",
            Self::FixtureError => "FIXTURE_ERROR",
            Self::LintError => "LINT_ERROR",
            Self::FormatError => "FORMAT_ERROR",
            Self::MergeConflict => "MERGE_CONFLICT",
            Self::PushRejected => "PUSH_REJECTED",
            Self::BranchExists => "BRANCH_EXISTS",
            Self::CiTimeout => "CI_TIMEOUT",
            Self::CiBuildFailed => "CI_BUILD_FAILED",
            Self::CiTestFailed => "CI_TEST_FAILED",
            Self::CiLintFailed => "CI_LINT_FAILED",
            Self::DiskFull => "DISK_FULL",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::DependencyConflict => "DEPENDENCY_CONFLICT",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::CommandNotFound => "COMMAND_NOT_FOUND",
            Self::PortInUse => "PORT_IN_USE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAction {
    /// The same again may help.
    Retry,
    /// Something has to be changed first.
    Fix,
    /// Go on without.
    Skip,
    /// A person is needed.
    Escalate,
}

impl RecoveryAction {
    /// What it comes to, as a sentence.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Retry => "The same again may help.",
            Self::Fix => "Change something before you try it again.",
            Self::Skip => "Go on without it.",
            Self::Escalate => "Only a person can mend this.",
        }
    }
}

/// A failure with its type, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The entry of the catalogue: "python.import"; empty where none fits.
    pub id: String,
    /// What kind it is.
    pub kind: FailureType,
    /// What follows.
    pub action: RecoveryAction,
    /// What to do, for a model; empty where nothing is known.
    pub advice: String,
}

impl Failure {
    /// One that no entry of the catalogue fits.
    #[must_use]
    pub fn of(kind: FailureType) -> Self {
        Self {
            id: String::new(),
            kind,
            action: RecoveryAction::Fix,
            advice: String::new(),
        }
    }

    /// Whether only a person can mend it.
    #[must_use]
    pub fn is_for_a_person(&self) -> bool {
        self.action == RecoveryAction::Escalate
    }

    /// As it is told: "[DISK_FULL: The disk is full. ... Change something before
    /// you try it again.]".
    #[must_use]
    pub fn told(&self) -> String {
        match self.advice.trim() {
            "" => format!("[{}]", self.kind.name()),
            advice => format!("[{}: {advice} {}]", self.kind.name(), self.action.advice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_told_with_the_advice() {
        let told = |action| {
            let failure = Failure {
                action,
                advice: "Ask for the licence server.".into(),
                ..Failure::of(FailureType::NetworkError)
            };
            failure.told()
        };
        assert_eq!(
            told(RecoveryAction::Escalate),
            "[NETWORK_ERROR: Ask for the licence server. Only a person can mend this.]"
        );
        assert!(told(RecoveryAction::Retry).contains("again may help"));
        assert!(told(RecoveryAction::Skip).contains("without it"));
    }
}
