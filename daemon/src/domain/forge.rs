//! Pull requests and their checks, whatever the forge.

use serde::{Deserialize, Serialize};

/// What a pull request is opened with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequestDraft {
    /// Title, one line, not empty.
    pub title: String,
    /// Description in Markdown.
    pub body: String,
    /// Branch to be merged; already published.
    pub head: String,
    /// Branch to merge into.
    pub base: String,
}

/// A pull request as the forge keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// From 1, within the forge's repository.
    pub number: u64,
    /// Where a person can look at it: a URL, or a path for the local forge.
    pub url: String,
    /// What it was opened with, or last updated to.
    pub draft: PullRequestDraft,
    /// Commit at its head, in hex.
    pub head_commit: String,
    /// Its checks, for that commit.
    pub checks: Vec<ForgeCheck>,
}

/// A check on a pull request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgeCheck {
    /// Unique within the pull request: "tests".
    pub name: String,
    /// Where it is.
    pub state: ForgeCheckState,
    /// A line for people.
    pub summary: String,
}

/// Where a check is. None at all is not "passed".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgeCheckState {
    /// It has not ended.
    Running,
    /// It passed.
    Passed,
    /// It failed, was cancelled or timed out.
    Failed,
}
