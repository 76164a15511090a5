//! What the daemon itself does in a session, and what comes of it.

use serde::{Deserialize, Serialize};

use crate::domain::{
    checks::{CheckPlan, CheckResult},
    cognition::Libraries,
    criteria::CriterionResult,
    forge::PullRequest,
    ids::{ArtifactId, SnapshotId},
    proof::{Proof, TestRun},
    stage::Stage,
};

/// A piece of the daemon's own work. Each can be begun again under the same
/// step without being done twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Find the checks and run the tests on the commit the session starts from.
    BaseRun,
    /// Take the snapshot that the proof's clean copy is made from.
    SnapshotStart,
    /// Take a snapshot of what a stage begins with, to be rolled back to.
    SnapshotStage,
    /// Take a snapshot before an act of high risk that a person has approved.
    SnapshotAct,
    /// Put the workspace back to such a snapshot.
    RollBack {
        /// The stage that began with it.
        stage: Stage,
        /// The attempt at it.
        attempt: u32,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Run tests, lint and types on the working copy.
    Validate,
    /// Check a todo's criteria.
    VerifyTodo {
        /// Its number.
        todo: u32,
    },
    /// Commit the working copy on the session's branch.
    Commit,
    /// Prove the commit.
    Prove,
    /// Publish the branch to the forge.
    Publish,
    /// Open the pull request, or update it.
    OpenPullRequest,
    /// Run the forge's checks on the published branch.
    RunCi,
}

impl Work {
    /// What it is, for people: "tests on the base commit".
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::BaseRun => "tests on the base commit".into(),
            Self::SnapshotStart => "snapshot of the start".into(),
            Self::SnapshotStage => "snapshot of the stage".into(),
            Self::SnapshotAct => "snapshot before an approved act".into(),
            Self::RollBack { stage, attempt, .. } => format!("rollback to {stage}#{attempt}"),
            Self::Validate => "tests, lint and types".into(),
            Self::VerifyTodo { todo } => format!("criteria of todo {todo}"),
            Self::Commit => "commit".into(),
            Self::Prove => "proof".into(),
            Self::Publish => "publication of the branch".into(),
            Self::OpenPullRequest => "pull request".into(),
            Self::RunCi => "CI".into(),
        }
    }
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkResult {
    /// Of [`Work::BaseRun`].
    BaseRun(Box<BaseRun>),
    /// Of [`Work::SnapshotStart`].
    StartSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Of [`Work::SnapshotStage`].
    StageSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Of [`Work::SnapshotAct`].
    ActSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Of [`Work::RollBack`].
    RolledBack {
        /// The snapshot that the workspace is at.
        to: SnapshotId,
        /// What it was before.
        kept: SnapshotId,
    },
    /// Of [`Work::Validate`].
    Validated(Validation),
    /// Of [`Work::VerifyTodo`].
    TodoChecked(TodoCheck),
    /// Of [`Work::Commit`].
    Committed(Commit),
    /// Of [`Work::Prove`].
    Proved(Box<Proof>),
    /// Of [`Work::Publish`].
    Published {
        /// Commit at the end of the branch on the forge.
        commit: String,
    },
    /// Of [`Work::OpenPullRequest`].
    PullRequestOpened(OpenedPullRequest),
    /// Of [`Work::RunCi`].
    CiEnded(CiResult),
    /// It could not be done; says nothing about the change itself.
    Failed {
        /// What failed, on what, and what to do.
        error: String,
        /// Whether the same again can help.
        again: Again,
    },
}

/// Whether the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// It can, later.
    MayHelp,
    /// It can, once a person has done something.
    NeedsPerson,
    /// It cannot.
    IsUseless,
}

/// What the session starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseRun {
    /// Commit the session starts from, in hex.
    pub commit: String,
    /// Branch that was checked out, the pull request's base.
    pub branch: String,
    /// Tree of the working copy, in hex.
    pub tree: String,
    /// The checks there are.
    pub plan: CheckPlan,
    /// The tests on that commit.
    pub tests: TestRun,
    /// Lint and types on that commit: a check that failed here does not block.
    pub others: Vec<CheckResult>,
    /// A line for people: "1 failed, 11 passed".
    pub summary: String,
    /// What the repository's setup file wants the model to know, as it is told;
    /// `None` when that is nothing.
    #[serde(default)]
    pub knowledge: Option<String>,
    /// What the project declares that it needs.
    #[serde(default)]
    pub libraries: Libraries,
}

/// What the daemon's checks said of the working copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Tree that was checked, in hex.
    pub tree: String,
    /// Files that differ from the base.
    pub changed_files: Vec<String>,
    /// Each check.
    pub checks: Vec<CheckResult>,
}

/// What the daemon found when it checked a todo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TodoCheck {
    /// The todo's number.
    pub todo: u32,
    /// Tree that was checked, in hex.
    pub tree: String,
    /// Whether there is a criterion and every one holds.
    pub holds: bool,
    /// Each criterion in order.
    pub results: Vec<CriterionResult>,
    /// The evidence.
    pub artifact: Option<ArtifactId>,
}

/// A commit of the session's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Branch.
    pub branch: String,
    /// Commit, in hex.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Files that differ from the base.
    pub changed_files: Vec<String>,
}

/// A pull request with what the session knows beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedPullRequest {
    /// As the forge has it.
    pub pull_request: PullRequest,
    /// Its diff.
    pub diff: Option<ArtifactId>,
}

/// What the forge's checks said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CiResult {
    /// The pull request with its checks.
    pub pull_request: PullRequest,
    /// Whether every check passed.
    pub passed: bool,
    /// The failed checks' output, bounded, for the model.
    pub view: String,
    /// Whole output, one artifact a check, by the check's name.
    pub artifacts: Vec<(String, ArtifactId)>,
}
