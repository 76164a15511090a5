//! The forge: where branches are published and pull requests live.

use std::path::Path;

use async_trait::async_trait;

use crate::domain::{
    forge::{ForgeCheck, PullRequest, PullRequestDraft},
    ids::{RepositoryName, WorkspaceId},
    redaction::Redactor,
};

/// Which repository of the forge: the counterpart of one in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForgeRepository {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The repository in it.
    pub repository: RepositoryName,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The branch.
    pub branch: String,
    /// The commit that it ends at, in hex.
    pub commit: String,
    /// The branch that it is to be merged into.
    pub base_branch: String,
    /// The commit of that branch that it began from, in hex.
    pub base_commit: String,
}

/// Reference of a bundle that holds the commit that its branch began from.
pub const BUNDLED_BASE: &str = "refs/compy/base";

/// A forge.
#[async_trait]
pub trait ForgePort: Send + Sync {
    /// Publishes a branch from a git bundle on the host, which has it and
    /// [`BUNDLED_BASE`], each at the commit that the publication names; nothing
    /// else of the bundle is taken. The base branch is made, or moved forwards
    /// to the base commit where that loses nothing. Publishing the same commit
    /// again is accepted; a branch that would lose commits is refused, and one
    /// in whose commits since the base the redactor finds something, of which
    /// nothing stays on the forge.
    async fn publish(
        &self,
        repository: &ForgeRepository,
        publication: &Publication,
        bundle: &Path,
        redactor: &Redactor,
    ) -> Result<(), ForgeError>;

    /// Opens a pull request, or updates the open one with the same head.
    async fn open_pull_request(
        &self,
        repository: &ForgeRepository,
        draft: &PullRequestDraft,
    ) -> Result<PullRequest, ForgeError>;

    /// The open pull request with this head branch.
    async fn find_pull_request(
        &self,
        repository: &ForgeRepository,
        head: &str,
    ) -> Result<Option<PullRequest>, ForgeError>;

    /// Sets a check of a pull request, by name.
    async fn report_check(
        &self,
        repository: &ForgeRepository,
        number: u64,
        check: &ForgeCheck,
    ) -> Result<PullRequest, ForgeError>;

    /// Writes a bundle with one branch and its history to a file on the host.
    async fn bundle(
        &self,
        repository: &ForgeRepository,
        branch: &str,
        target: &Path,
    ) -> Result<(), ForgeError>;
}

/// Why a forge did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgeError {
    /// The bundle is broken or lacks the commit.
    #[error("the branch {branch} cannot be published: {message}")]
    BundleInvalid {
        /// The branch.
        branch: String,
        /// What is wrong.
        message: String,
    },
    /// The branch on the forge has commits that would be lost.
    #[error(
        "the forge rejects the push of {branch}: the branch has commits there that this would \
         lose (non-fast-forward)"
    )]
    PushRejected {
        /// The branch.
        branch: String,
    },
    /// A commit holds a stored credential.
    #[error(
        "the branch {branch} is not published: {place} holds the credential {marker}; take it \
         out of every commit since {base} and let the credential be changed, as it has been \
         written down"
    )]
    HoldsCredential {
        /// The branch.
        branch: String,
        /// The file, or what else of a commit.
        place: String,
        /// What stands for the credential.
        marker: String,
        /// The commit that the branch began from.
        base: String,
    },
    /// No such branch or pull request.
    #[error("the forge has no {0}")]
    Missing(String),
    /// The forge cannot be reached or failed; asking again may help.
    #[error("the forge failed to {action}: {message}")]
    Failed {
        /// What was asked.
        action: &'static str,
        /// The cause.
        message: String,
    },
}
