//! Checks of a repository: which commands there are, and what came of them.
//!
//! Finding the commands reads files and is the service's work; deciding what
//! they mean is here and in [`super::report`].

use serde::{Deserialize, Serialize};

use super::{
    exec::Exit,
    ids::{ArtifactId, WorkspaceId},
    report::{RunVerdict, TestReport},
};

/// Where checks and proofs run: a repository's directory in a workspace. The
/// session's own workspace, or a clean one made for the purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The repository's top directory, absolute: "/workspace/app".
    pub directory: String,
}

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Tests: need a report with at least one test that passed.
    Tests,
    /// Lint: judged by exit status.
    Lint,
    /// Types: judged by exit status.
    Types,
}

impl CheckKind {
    /// "tests", "lint", "types".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tests => "tests",
            Self::Lint => "lint",
            Self::Types => "types",
        }
    }
}

/// A command that checks a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCommand {
    /// Unique within a plan, made of `a-z0-9-`: "tests", "lint-ruff".
    pub name: String,
    /// What it looks at.
    pub kind: CheckKind,
    /// Program and arguments; run without a shell in the repository's top
    /// directory. Not empty.
    pub argv: Vec<String>,
    /// Why it is in the plan: "given", "pyproject.toml has [tool.ruff]".
    pub why: String,
}

/// The checks of a repository, in the order in which they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPlan {
    /// Tests; `None` when there is no command for them.
    pub tests: Option<CheckCommand>,
    /// Lint.
    pub lint: Vec<CheckCommand>,
    /// Types.
    pub types: Vec<CheckCommand>,
}

impl CheckPlan {
    /// Every command: lint and types first, they are quick; tests last.
    pub fn commands(&self) -> impl Iterator<Item = &CheckCommand> {
        self.lint.iter().chain(&self.types).chain(&self.tests)
    }
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The command.
    pub command: CheckCommand,
    /// How it ended.
    pub exit: Exit,
    /// The verdict.
    pub verdict: RunVerdict,
    /// The report, for tests whose runner is known.
    pub report: Option<TestReport>,
    /// A line for people: "2 failed, 11 passed".
    pub summary: String,
    /// The end of the output, bounded, for the model.
    pub view: String,
    /// The whole output.
    pub artifact: Option<ArtifactId>,
    /// The report as it was read, and the runner's own file where it left one.
    pub reports: Vec<ArtifactId>,
}

impl CheckResult {
    /// Whether the check passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict.is_pass()
    }
}
