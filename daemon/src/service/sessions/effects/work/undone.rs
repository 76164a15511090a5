//! How a piece of work ends: with a result, or undone and why.

use super::super::{Trouble, command_trouble, git_trouble, proof_trouble};
use crate::{
    domain::{
        ids::ArtifactId,
        recovery::Failure,
        session::work::{Again, WorkResult},
    },
    ports::forge::ForgeError,
    service::{
        checks::CheckError, ci::CiError, commands::CommandError, git::GitError, proof::ProofError,
    },
};

/// A result, what failed, and the artifacts made on the way.
pub(super) struct Done {
    pub(super) result: WorkResult,
    pub(super) failures: Vec<Failure>,
    pub(super) artifacts: Vec<ArtifactId>,
}

/// Why a piece of work has no result.
pub(super) enum Undone {
    Trouble(Trouble),
    Failed { error: String, again: Again },
}

pub(super) fn done(result: WorkResult, artifacts: Vec<ArtifactId>) -> Result<Done, Undone> {
    judged(result, Vec::new(), artifacts)
}

pub(super) fn judged(
    result: WorkResult,
    failures: Vec<Failure>,
    artifacts: Vec<ArtifactId>,
) -> Result<Done, Undone> {
    Ok(Done {
        result,
        failures,
        artifacts,
    })
}

pub(super) fn useless(error: impl Into<String>) -> Undone {
    Undone::Failed {
        error: error.into(),
        again: Again::IsUseless,
    }
}

pub(super) fn again(error: impl Into<String>) -> Undone {
    Undone::Failed {
        error: error.into(),
        again: Again::MayHelp,
    }
}

fn undone(trouble: Option<Trouble>, error: &dyn std::fmt::Display) -> Undone {
    trouble.map_or_else(|| again(error.to_string()), Undone::Trouble)
}

impl From<Trouble> for Undone {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<CommandError> for Undone {
    fn from(error: CommandError) -> Self {
        undone(command_trouble(&error), &error)
    }
}

impl From<GitError> for Undone {
    fn from(error: GitError) -> Self {
        match error {
            GitError::TooMuch { .. } | GitError::BundleTooLarge { .. } => {
                useless(error.to_string())
            }
            GitError::Refused { .. }
            | GitError::Unexpected { .. }
            | GitError::Command(_)
            | GitError::Host { .. } => undone(git_trouble(&error), &error),
        }
    }
}

impl From<ProofError> for Undone {
    fn from(error: ProofError) -> Self {
        undone(proof_trouble(&error), &error)
    }
}

impl From<ForgeError> for Undone {
    fn from(error: ForgeError) -> Self {
        match &error {
            ForgeError::BundleInvalid { .. }
            | ForgeError::HoldsCredential { .. }
            | ForgeError::Missing(_) => useless(error.to_string()),
            ForgeError::PushRejected { .. } => Self::Failed {
                error: error.to_string(),
                again: Again::NeedsPerson,
            },
            ForgeError::Failed { .. } => again(error.to_string()),
        }
    }
}

impl From<CheckError> for Undone {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Command(error) => error.into(),
            CheckError::Git(error) => error.into(),
        }
    }
}

impl From<CiError> for Undone {
    fn from(error: CiError) -> Self {
        match error {
            CiError::Workspace(error) => CommandError::from(error).into(),
            CiError::Forge(error) => error.into(),
            CiError::Command(error) => error.into(),
            CiError::Check(error) => error.into(),
            CiError::Proof(error) => error.into(),
            CiError::Host(_) => again(error.to_string()),
        }
    }
}
