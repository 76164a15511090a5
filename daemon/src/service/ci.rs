//! CI of the local forge: the checks, run in a clean workspace made from the
//! branch.
//!
//! The clean workspace is found again by its key, session and commit, so that a
//! run that was cut off goes on in it, and it is deleted however the run ends.

use std::sync::Arc;

use super::{
    checks::{CheckError, GivenChecks, detect, validate},
    commands::{CommandError, Commands},
    git::BundleSpace,
    step::StepContext,
};
use crate::{
    domain::{
        checks::{CheckCommand, CheckPlan, CheckResult, Site},
        forge::{ForgeCheck, ForgeCheckState, PullRequest},
        ids::WorkspaceId,
    },
    ports::{
        forge::{ForgeError, ForgePort, ForgeRepository},
        workspaces::WorkspaceAccessError,
    },
};

/// Runs CI for a forge that has none of its own.
#[derive(Clone)]
pub struct LocalCi {
    commands: Commands,
    forge: Arc<dyn ForgePort>,
    bundles: BundleSpace,
}

/// What CI is run on.
#[derive(Debug, Clone)]
pub struct CiRequest {
    /// Workspace that the clean one is made like.
    pub like: WorkspaceId,
    /// Repository of the forge.
    pub repository: ForgeRepository,
    /// The open pull request.
    pub pull_request: PullRequest,
    /// Commands that a person gave.
    pub given: GivenChecks,
}

/// What CI came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CiOutcome {
    /// Whether there was at least one check and all passed.
    pub passed: bool,
    /// A line for people.
    pub summary: String,
    /// Each check.
    pub results: Vec<CheckResult>,
    /// The pull request with its checks.
    pub pull_request: PullRequest,
}

impl LocalCi {
    /// CI for this forge.
    #[must_use]
    pub fn new(commands: Commands, forge: Arc<dyn ForgePort>, bundles: BundleSpace) -> Self {
        Self {
            commands,
            forge,
            bundles,
        }
    }

    /// Runs the checks of a pull request's head in a clean workspace, which is
    /// deleted afterwards. The same step again, after a restart, goes on where
    /// the first one was.
    pub async fn run(&self, step: &StepContext, request: &CiRequest) -> Result<CiOutcome, CiError> {
        let workspace = self.make_workspace(step, request).await?;
        let outcome = self.run_in(&workspace, step, request).await;
        // It has nothing that anybody needs, and nobody else deletes it.
        if let Err(error) = self.commands.workspaces().delete_clean(&workspace).await {
            tracing::warn!(workspace_id = %workspace, %error, "a clean workspace was left behind");
        }
        outcome
    }

    async fn make_workspace(
        &self,
        step: &StepContext,
        request: &CiRequest,
    ) -> Result<WorkspaceId, CiError> {
        let host = |error: std::io::Error| CiError::Host(error.to_string());
        let directory = self.bundles.directory().map_err(host)?;
        let bundle = directory.path().join("branch.bundle");
        let branch = &request.pull_request.draft.head;
        self.forge
            .bundle(&request.repository, branch, &bundle)
            .await?;
        let key = format!("ci-{}-{}", step.session, request.pull_request.head_commit);
        let workspace = self
            .commands
            .workspaces()
            .create_clean(
                &request.like,
                &key,
                &request.repository.repository,
                &bundle,
                branch,
            )
            .await?;
        Ok(workspace)
    }

    async fn run_in(
        &self,
        workspace: &WorkspaceId,
        step: &StepContext,
        request: &CiRequest,
    ) -> Result<CiOutcome, CiError> {
        let site = Site {
            workspace: workspace.clone(),
            directory: format!("/workspace/{}", request.repository.repository),
        };
        let agent = self.commands.workspaces().agent(workspace).await?;
        let plan = detect(agent.as_ref(), &site.directory, &request.given)
            .await
            .map_err(CommandError::from)?;
        for command in plan.commands() {
            let check = ForgeCheck {
                name: command.name.clone(),
                state: ForgeCheckState::Running,
                summary: shell_words::join(&command.argv),
            };
            self.report(request, &check).await?;
        }
        let results = validate(&self.commands, &site, step, &plan).await?;
        let mut pull_request = request.pull_request.clone();
        for result in &results {
            pull_request = self.report(request, &outcome_of(result)).await?;
        }
        Ok(CiOutcome {
            passed: plan.tests.is_some() && results.iter().all(CheckResult::passed),
            summary: summary(&plan, &results),
            results,
            pull_request,
        })
    }

    async fn report(
        &self,
        request: &CiRequest,
        check: &ForgeCheck,
    ) -> Result<PullRequest, ForgeError> {
        let number = request.pull_request.number;
        self.forge
            .report_check(&request.repository, number, check)
            .await
    }
}

fn outcome_of(result: &CheckResult) -> ForgeCheck {
    ForgeCheck {
        name: result.command.name.clone(),
        state: if result.passed() {
            ForgeCheckState::Passed
        } else {
            ForgeCheckState::Failed
        },
        summary: result.summary.clone(),
    }
}

fn summary(plan: &CheckPlan, results: &[CheckResult]) -> String {
    if plan.tests.is_none() {
        return "there is no test command; name one with --test".to_owned();
    }
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.passed())
        .map(|result| {
            let CheckCommand { name, .. } = &result.command;
            format!("{name}: {}", result.summary)
        })
        .collect();
    if failed.is_empty() {
        format!("all {} checks passed", results.len())
    } else {
        failed.join("; ")
    }
}

/// Why CI has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CiError {
    /// The clean workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceAccessError),
    /// The forge.
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The checks.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A file on the host.
    #[error("cannot keep the branch's bundle on the host: {0}")]
    Host(String),
}

impl CiError {
    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Command(error) => *error == CommandError::Cancelled,
            Self::Check(error) => error.is_cancelled(),
            Self::Workspace(_) | Self::Forge(_) | Self::Host(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
