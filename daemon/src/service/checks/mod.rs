//! Which checks a repository has, and running them.

mod detect;
pub(crate) mod run;

use super::{
    commands::{CommandError, Commands},
    git::{ChangeKind, Git, GitError},
    step::StepContext,
};
use crate::domain::checks::{CheckKind, CheckPlan, CheckResult, Site};

pub use self::detect::{GivenChecks, detect};

/// Runs every check of a plan on the working tree as it is, one after the
/// other; a failure does not keep the rest from running. New files that the
/// checks leave in the repository are taken away again, so that no commit picks
/// them up.
pub async fn validate(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    plan: &CheckPlan,
) -> Result<Vec<CheckResult>, CheckError> {
    let git = Git::new(commands.clone(), site.clone());
    let tree = git.worktree_tree().await?;
    let mut results = Vec::new();
    for command in plan.commands() {
        let title = shell_words::join(&command.argv);
        let (name, argv) = (format!("check-{}", command.name), &command.argv);
        let ran = match command.kind {
            CheckKind::Tests => run::run_tests(commands, site, step, &name, &title, argv).await?,
            CheckKind::Lint | CheckKind::Types => {
                run::run_plain(commands, site, step, &name, &title, argv).await?
            }
        };
        results.push(CheckResult {
            command: command.clone(),
            summary: ran.summary(),
            exit: ran.exit,
            verdict: ran.verdict,
            report: ran.report,
            view: ran.view,
            artifact: ran.artifact,
            reports: ran.reports,
        });
    }
    let after = git.worktree_tree().await?;
    let mut left_behind = git.changes(&tree, &after).await?;
    left_behind.retain(|change| change.kind == ChangeKind::Added);
    git.take_back(&left_behind).await?;
    Ok(results)
}

/// Why checks have no results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Git.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl CheckError {
    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Command(CommandError::Cancelled)
                | Self::Git(GitError::Command(CommandError::Cancelled))
        )
    }
}

#[cfg(test)]
mod tests;
