//! CI of the local forge: the checks, run in a clean workspace made from the
//! branch; and the tests once more with everything that judges the branch as it
//! was on the base, as nothing that a session installed or hid is there.
//!
//! The clean workspace is found again by its key, session and commit, so that a
//! run that was cut off goes on in it, and it is deleted however the run ends.

use std::sync::Arc;

use super::{
    checks::{CheckError, GivenChecks, detect, validate},
    commands::{CommandError, Commands},
    git::BundleSpace,
    proof::{ProofError, Prover},
    step::StepContext,
};
use crate::{
    domain::{
        checks::{CheckCommand, CheckKind, CheckPlan, CheckResult, Site},
        exec::{Exit, ExitStatus},
        forge::{ForgeCheck, ForgeCheckState, PullRequest},
        ids::{SessionId, WorkspaceId},
        proof::{BaseState, bears_out, known_failures},
        report::{RunVerdict, TestReport},
        session::work::BaseRun,
        setup::SetupState,
        setup_file::SETUP_FILE,
        workflow::is_excused,
    },
    ports::{
        forge::{ForgeError, ForgePort, ForgeRepository},
        workspaces::{CleanRepository, WorkspaceAccessError},
    },
};

/// Runs CI for a forge that has none of its own.
#[derive(Clone)]
pub struct LocalCi {
    commands: Commands,
    forge: Arc<dyn ForgePort>,
    prover: Prover,
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
    /// What the session started from: lint and types that failed there do not
    /// block, and tests are weighed against it.
    pub base: BaseRun,
    /// Whether the task may change tests that exist.
    pub allow_test_changes: bool,
}

/// What CI came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CiOutcome {
    /// Whether there were tests, and no check failed that counts.
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
        let prover = Prover::new(commands.clone());
        Self {
            commands,
            forge,
            prover,
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

    /// Key of the clean workspace that a pull request's checks run in.
    #[must_use]
    pub fn key(session: &SessionId, pull_request: &PullRequest) -> String {
        format!("ci-{session}-{}", pull_request.head_commit)
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
        let key = Self::key(&step.session, &request.pull_request);
        let workspace = self
            .commands
            .workspaces()
            .create_clean(
                &request.like,
                &key,
                &CleanRepository {
                    name: &request.repository.repository,
                    bundle: &bundle,
                    branch,
                    setup_at: &request.base.commit,
                },
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
        let mut results = validate(&self.commands, &site, step, &plan).await?;
        let (base, tests) = (&request.base.tests, results.iter());
        let known = (tests.filter(|check| check.command.kind == CheckKind::Tests))
            .find_map(|tests| known_failures(base, &tests.verdict, tests.report.as_ref()))
            .unwrap_or_default();
        let with_base_tests = self.with_base_tests(&site, step, request, &plan, &known);
        results.extend(with_base_tests.await?);
        results.extend(self.failed_setup(workspace, request).await?);
        let results = results;
        let mut pull_request = request.pull_request.clone();
        for result in &results {
            pull_request = self.report(request, &outcome_of(request, result)).await?;
        }
        Ok(CiOutcome {
            passed: plan.tests.is_some() && blocking(&request.base, &results).next().is_none(),
            summary: summary(&plan, &request.base, &results),
            results,
            pull_request,
        })
    }

    /// The setup of the clean workspace, where it failed: a check like any other.
    async fn failed_setup(
        &self,
        workspace: &WorkspaceId,
        request: &CiRequest,
    ) -> Result<Option<CheckResult>, CiError> {
        let record = self.commands.workspaces().get(workspace).await?;
        let name = &request.repository.repository;
        let state = (record.setup.repositories.get(name)).map(|setup| &setup.state);
        let Some(SetupState::Failed { problem }) = state else {
            return Ok(None);
        };
        let status = ExitStatus::Unknown("the setup failed".to_owned());
        Ok(Some(CheckResult {
            command: CheckCommand {
                name: "setup".to_owned(),
                kind: CheckKind::Lint,
                argv: vec![SETUP_FILE.to_owned()],
                why: "the base's compy.toml".to_owned(),
            },
            exit: Exit {
                status,
                duration_ms: 0,
                leftover_processes: 0,
                out_of_memory: false,
            },
            verdict: RunVerdict::Failed,
            report: None,
            summary: format!("the setup failed: {problem}"),
            view: problem.clone(),
            artifact: None,
            reports: Vec::new(),
        }))
    }

    /// The tests with what judges them put back, weighed against the base run;
    /// `None` where that can say nothing more than the branch's own.
    async fn with_base_tests(
        &self,
        site: &Site,
        step: &StepContext,
        request: &CiRequest,
        plan: &CheckPlan,
        known: &[String],
    ) -> Result<Option<CheckResult>, ProofError> {
        let base = &request.base;
        let Some(tests) = plan.tests.as_ref().filter(|_| !request.allow_test_changes) else {
            return Ok(None);
        };
        if BaseState::of(&base.tests) == BaseState::WithoutTests {
            return Ok(None);
        }
        let found = self
            .prover
            .with_base_tests(site, step, &base.commit, &base.tests)
            .await?;
        Ok(found.map(|found| {
            let borne_out = bears_out(&base.tests, &found.run, found.judges.changed(), known);
            let (verdict, report, summary) = match borne_out {
                Ok(()) => {
                    let counts = found.run.report.as_ref().map(TestReport::counts);
                    let summary = counts.unwrap_or_else(|| found.run.verdict.to_string());
                    (found.run.verdict, found.run.report, summary)
                }
                // Nothing in its report excuses it.
                Err(problem) => (RunVerdict::Failed, None, problem),
            };
            CheckResult {
                command: CheckCommand {
                    name: "tests-of-the-base".to_owned(),
                    why: "test files changed".to_owned(),
                    ..tests.clone()
                },
                exit: found.run.exit,
                verdict,
                report,
                summary,
                view: found.view,
                artifact: found.run.artifact,
                reports: found.run.reports,
            }
        }))
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

/// The failed checks that count: not those that failed on the base already.
fn blocking<'a>(
    base: &'a BaseRun,
    results: &'a [CheckResult],
) -> impl Iterator<Item = &'a CheckResult> {
    results
        .iter()
        .filter(|result| !result.passed() && !is_excused(base, result))
}

fn outcome_of(request: &CiRequest, result: &CheckResult) -> ForgeCheck {
    let excuse = if !result.passed() && is_excused(&request.base, result) {
        "; it failed on the base as well"
    } else {
        ""
    };
    ForgeCheck {
        name: result.command.name.clone(),
        state: if result.passed() {
            ForgeCheckState::Passed
        } else {
            ForgeCheckState::Failed
        },
        summary: format!("{}{excuse}", result.summary),
    }
}

fn summary(plan: &CheckPlan, base: &BaseRun, results: &[CheckResult]) -> String {
    if plan.tests.is_none() {
        return "there is no test command; name one with --test".to_owned();
    }
    let failed: Vec<String> = blocking(base, results)
        .map(|result| {
            let CheckCommand { name, .. } = &result.command;
            format!("{name}: {}", result.summary)
        })
        .collect();
    let passed = results.iter().filter(|result| result.passed()).count();
    match (failed.is_empty(), results.len() - passed) {
        (false, _) => failed.join("; "),
        (true, 0) => format!("all {passed} checks passed"),
        (true, excused) => {
            format!("{passed} checks passed, {excused} failed as on the base")
        }
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
    /// The run with the base's tests.
    #[error(transparent)]
    Proof(#[from] ProofError),
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
            Self::Proof(error) => error.is_cancelled(),
            Self::Workspace(_) | Self::Forge(_) | Self::Host(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
