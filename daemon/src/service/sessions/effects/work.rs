//! The daemon's own work in a session: base run, validation, verification,
//! commit, proof, publication, pull request, CI.
//!
//! Every piece can be begun again under its step: commands join the ones that
//! run, a commit that is there is found, branches and pull requests are looked
//! up by name before they are made.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

mod clean_copy;
mod failures;
mod merge;
mod stage_snapshot;
mod undone;

use self::undone::{Done, Undone, again, done, judged, useless};
use super::{EffectContext, Trouble, setup_file, site, with_output};
use crate::{
    domain::{
        artifact::ArtifactKind,
        audit::Kind,
        checks::{CheckPlan, CheckResult},
        cognition::Libraries,
        exec::ExitStatus,
        forge::PullRequestDraft,
        ids::ArtifactId,
        proof::{Proof, TestRun, run_name, unseen_tests},
        redaction::Redactor,
        report::RunVerdict,
        session::{
            outcome::Outcome,
            pull_request,
            work::{
                BaseRun, CiResult, Commit, OpenedPullRequest, TodoCheck, Validation, Work,
                WorkResult,
            },
        },
        workflow::{self, is_excused},
    },
    ports::forge::{ForgeRepository, Publication},
    service::{
        checks::{self, GivenChecks},
        ci::CiRequest,
        commands::CommandError,
        git::{BranchName, FileAt, Git, GitError},
        proof::{ProofError, ProofPlan},
    },
};

/// Does a piece of work; a try after a failed one waits first.
pub(super) async fn run(
    context: &EffectContext,
    work: &Work,
    attempt: u32,
) -> Result<Outcome, Trouble> {
    if attempt > 1 {
        let backoff = workflow::retries(context.state.stage).backoff;
        let wait = backoff.wait(attempt - 1, fastrand::f64()) / context.patience.haste;
        tokio::select! {
            () = context.cancel.cancelled() => return Err(Trouble::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
    let done = with_output(&context.progress, async |output| match work {
        Work::BaseRun => base_run(context, output).await,
        Work::SnapshotStart => stage_snapshot::start(context).await,
        Work::SnapshotStage => stage_snapshot::stage(context).await,
        Work::SnapshotAct => stage_snapshot::act(context).await,
        Work::RollBack { snapshot, .. } => stage_snapshot::roll_back(context, snapshot).await,
        Work::Validate => validate(context, output).await,
        Work::VerifyTodo { todo } => verify_todo(context, output, *todo).await,
        Work::Commit => commit(context, output, attempt).await,
        Work::Prove => prove(context, output).await,
        Work::Publish => publish(context).await,
        Work::OpenPullRequest => open_pull_request(context, output).await,
        Work::RunCi => run_ci(context, output).await,
    })
    .await;
    match done {
        Ok(done) => Ok(Outcome::Work {
            result: done.result,
            failures: done.failures,
            artifacts: done.artifacts,
        }),
        Err(Undone::Trouble(trouble)) => Err(trouble),
        Err(Undone::Failed { error, again }) => Ok(Outcome::Work {
            failures: vec![failures::of_error(&context.world.catalogue, work, &error)],
            result: WorkResult::Failed { error, again },
            artifacts: Vec::new(),
        }),
    }
}

async fn base_run(context: &EffectContext, output: mpsc::Sender<Bytes>) -> Result<Done, Undone> {
    let created = &context.state.created;
    let site = site(&context.state);
    let given = given(context);
    let directory = &site.directory;
    let given_checks = &given;
    let mut plan = context
        .with_agent(
            |agent| async move { checks::detect(agent.as_ref(), directory, given_checks).await },
        )
        .await?
        .map_err(|error| useless(error.to_string()))?;
    let git = context.git();
    let commit = git.head_commit().await?;
    let options = &created.options;
    let setup = match setup_file::read(&git, &commit).await? {
        Some(Ok(file)) => {
            setup_file::apply(&file, options, &mut plan);
            Some(file)
        }
        Some(Err(error)) if options.test_command.is_none() => {
            return Err(useless(format!(
                "{error}; mend and commit it, or give the test command with --test"
            )));
        }
        Some(Err(error)) => {
            tracing::warn!(session_id = %created.session, %error, "a setup file is left aside");
            None
        }
        None => None,
    };
    let knowledge = setup_file::knowledge(&git, &commit, setup.as_ref(), options).await?;
    let libraries = libraries(&git, &commit).await?;
    let Some(tests) = plan.tests.clone() else {
        return Err(useless(
            "the repository shows no test command, and without one nothing can be proved; \
             give one with --test, or in its compy.toml",
        ));
    };
    let branch = match git.current_branch().await? {
        Some(branch) => branch,
        None => checked_out_at_first(context).await?,
    };
    let step = context.step(output);
    let prover = &context.world.prover;
    let dirty = match prover.has_begun(&site, &step).await? {
        // What a run that was cut off has left is taken back after it.
        true => Vec::new(),
        false => git.dirty().await?,
    };
    if !dirty.is_empty() {
        let files: Vec<&str> = dirty
            .iter()
            .map(|file| file.path.as_str())
            .take(5)
            .collect();
        return Err(useless(format!(
            "the working copy of {} has changes that are in no commit ({}{}); commit or remove them",
            created.repository,
            files.join(", "),
            if dirty.len() > files.len() {
                ", …"
            } else {
                ""
            },
        )));
    }
    let tree = git.tree_of("HEAD").await?;
    let tests = prover.baseline(&site, &step, &tests.argv).await?;
    if let ExitStatus::NotStarted(why) = &tests.exit.status {
        return Err(useless(format!(
            "the test command `{}` cannot be started: {why}; install its program in the \
             workspace, or give another command with --test",
            shell_words::join(&tests.argv)
        )));
    }
    if let Some(why) = unseen_tests(&tests) {
        return Err(useless(format!(
            "the test command `{}` can prove nothing: {why}; give it with --test, or in compy.toml",
            shell_words::join(&tests.argv)
        )));
    }
    let others = CheckPlan {
        tests: None,
        ..plan.clone()
    };
    let others = checks::validate(&context.world.commands, &site, &step, &others).await;
    // Linters that mend what they find have no say in what the session starts
    // from.
    let tidied = git.tidy().await;
    let others = others?;
    tidied?;
    let mut artifacts = artifacts_of_run(&tests);
    artifacts.extend(artifacts_of(&others));
    let summary = run_summary(&tests);
    let base = BaseRun {
        commit,
        branch,
        tree,
        plan,
        tests,
        others,
        summary,
        knowledge,
        libraries,
    };
    done(WorkResult::BaseRun(Box::new(base)), artifacts)
}

/// What the project declares at a commit.
async fn libraries(git: &Git, commit: &str) -> Result<Libraries, GitError> {
    /// Bytes of paths; of a project with more nothing is told.
    const PATHS_MAX_BYTES: usize = 256 << 10;
    /// Manifests that are read, those nearest to the top first.
    const MANIFESTS_MAX: usize = 64;
    const MANIFEST_MAX_BYTES: usize = 256 << 10;
    let pattern = Libraries::files();
    let Some(mut paths) = git.paths_like(commit, &pattern, PATHS_MAX_BYTES).await? else {
        return Ok(Libraries::default());
    };
    let is_manifest = |path: &&String| Libraries::is_manifest(path);
    let mut manifests: Vec<String> = paths.iter().filter(is_manifest).cloned().collect();
    manifests.sort_by_key(|path| path.matches('/').count());
    let (read, unread) = manifests.split_at(manifests.len().min(MANIFESTS_MAX));
    let mut directories = BTreeSet::from(["src/".to_owned()]);
    for (directory, _) in read.iter().filter_map(|path| path.rsplit_once('/')) {
        directories.extend([format!("{directory}/"), format!("{directory}/src/")]);
    }
    let directories: Vec<String> = directories.into_iter().collect();
    paths.extend(git.paths_in(commit, &directories).await?);
    let asked: Vec<&[u8]> = read.iter().map(|path| path.as_bytes()).collect();
    let files = git.files_at(commit, &asked, MANIFEST_MAX_BYTES).await?;
    let texts = files.iter().map(|file| match file {
        FileAt::Content(text) => Some(String::from_utf8_lossy(text).into_owned()),
        // A link, perhaps.
        FileAt::TooLarge | FileAt::Nothing => None,
    });
    let mut manifests: Vec<(String, Option<String>)> = read.iter().cloned().zip(texts).collect();
    manifests.extend(unread.iter().map(|path| (path.clone(), None)));
    Ok(Libraries::of(&paths, &manifests))
}

/// The branch that the workspace was made with, for a detached head.
async fn checked_out_at_first(context: &EffectContext) -> Result<String, Undone> {
    let created = &context.state.created;
    let workspace = context
        .world
        .commands
        .workspaces()
        .get(&created.workspace)
        .await
        .map_err(CommandError::from)?;
    workspace
        .repositories
        .into_iter()
        .find(|repository| repository.name == created.repository)
        .map(|repository| repository.branch)
        .filter(|branch| !branch.is_empty())
        .ok_or_else(|| {
            let name = &created.repository;
            useless(format!("no branch of {name} is checked out; check one out"))
        })
}

async fn validate(context: &EffectContext, output: mpsc::Sender<Bytes>) -> Result<Done, Undone> {
    let base = base(context)?;
    let git = context.git();
    let tree = git.worktree_tree().await?;
    let changed_files = paths(git.changed_files(&base.commit).await?);
    // What the base run found is what counts: a session cannot change what it
    // is checked with.
    let step = context.step(output);
    let site = site(&context.state);
    let mut checks = checks::validate(&context.world.commands, &site, &step, &base.plan).await?;
    checks.extend(merge::unmerged(git.unmerged().await?));
    let artifacts = artifacts_of(&checks);
    let validation = Validation {
        tree,
        changed_files,
        checks,
    };
    let failed = workflow::blocking(base, &validation);
    let failures = failures::of_checks(&context.world.catalogue, failed);
    judged(WorkResult::Validated(validation), failures, artifacts)
}

async fn verify_todo(
    context: &EffectContext,
    output: mpsc::Sender<Bytes>,
    id: u32,
) -> Result<Done, Undone> {
    let base = base(context)?;
    let Some(todo) = context.state.todo(id) else {
        return Err(useless(format!("there is no todo {id}")));
    };
    let tree = context.git().worktree_tree().await?;
    let step = context.step(output);
    let verification = context
        .world
        .prover
        .verify(
            &site(&context.state),
            &step,
            &todo.criteria,
            Some(&base.tests),
        )
        .await?;
    let artifact = verification.artifact;
    let check = TodoCheck {
        todo: id,
        tree,
        holds: verification.holds,
        results: verification.results,
        artifact: Some(artifact.clone()),
    };
    let failures = failures::of_todo(&context.world.catalogue, &check);
    judged(WorkResult::TodoChecked(check), failures, vec![artifact])
}

async fn commit(
    context: &EffectContext,
    output: mpsc::Sender<Bytes>,
    attempt: u32,
) -> Result<Done, Undone> {
    let base = base(context)?;
    let git = context.git();
    let step = context.step(output);
    let created = &context.state.created;
    // What a task says was written before the credentials of now were stored.
    let redactor = redactor(context);
    let name = match &context.state.commit {
        Some(commit) => BranchName::known(&commit.branch),
        None => BranchName::of(&created.session, &redactor.text(&created.task)),
    };
    let branch = git.ensure_branch(&step, &name, attempt).await?;
    let message = pull_request::commit_message(&context.state);
    let outcome = git.commit_all(&step, &redactor.text(&message)).await?;
    let changed_files = paths(git.changed_files(&base.commit).await?);
    let about = step.about(ArtifactKind::Diff, format!("changes on {branch}"));
    let diff = git.keep_diff(&base.commit, about).await?;
    let commit = Commit {
        branch,
        commit: outcome.commit().to_owned(),
        subject: pull_request::subject(&redactor.text(&created.task)),
        changed_files,
    };
    done(WorkResult::Committed(commit), vec![diff])
}

async fn prove(context: &EffectContext, output: mpsc::Sender<Bytes>) -> Result<Done, Undone> {
    let base = base(context)?;
    let commit = committed(context)?;
    let log_hash = crate::service::sessions::log::hash(
        context.world.store.as_ref(),
        context.state.id(),
        context.open.intent,
    )
    .await
    .map_err(|error| again(error.to_string()))?;
    let step = context.step(output);
    let proof = match clean_copy::open(context, &step, base, commit).await {
        Ok(Ok(copy)) => {
            let plan = ProofPlan {
                base: base.commit.clone(),
                head: commit.commit.clone(),
                branch: commit.branch.clone(),
                base_run: base.tests.clone(),
                test_argv: base.tests.argv.clone(),
                allow_test_changes: context.state.created.options.allow_test_changes,
                log_hash,
                copy: Some(copy.evidence),
            };
            match context.world.prover.prove(&copy.site, &step, &plan).await {
                // What is checked out is not what was committed: a filter of the
                // repository's, which the model can mend.
                Err(error @ ProofError::NotClean { .. }) => Ok(not_proved(error.to_string())),
                proof => proof.map_err(Undone::from),
            }
        }
        Ok(Err(setup)) => Ok(not_proved(setup.0)),
        Err(undone) => Err(undone),
    };
    clean_copy::close(context).await;
    let mut proof = proof?;
    if fails_in_the_copy_alone(&proof) {
        proof.reason.push_str(clean_copy::WHAT_IS_NOT_THERE);
    }
    let mut artifacts: Vec<ArtifactId> = proof.runs.iter().flat_map(artifacts_of_run).collect();
    artifacts.extend(proof.evidence.clone());
    let failures = failures::of_proof(context, &proof).await;
    judged(WorkResult::Proved(Box::new(proof)), failures, artifacts)
}

/// A proof that says no before anything ran.
fn not_proved(reason: String) -> Proof {
    Proof {
        proved: false,
        reason,
        runs: Vec::new(),
        fail_to_pass: Vec::new(),
        pass_to_pass: Vec::new(),
        known_failures: Vec::new(),
        changed_test_files: Vec::new(),
        changed_judges: Vec::new(),
        tree: String::new(),
        evidence: None,
    }
}

/// Whether the branch as it is fails: it got this far because it passes in the
/// session's workspace.
fn fails_in_the_copy_alone(proof: &Proof) -> bool {
    let mut branch = proof.runs.iter().filter(|run| run.name == run_name::BRANCH);
    !proof.proved && branch.any(|run| !run.verdict.is_pass())
}

async fn publish(context: &EffectContext) -> Result<Done, Undone> {
    let (base, commit) = (base(context)?, committed(context)?);
    let bundles = &context.world.bundles;
    let directory = bundles
        .directory()
        .map_err(|error| again(format!("no temporary directory on the host: {error}")))?;
    let bundle = directory.path().join("branch.bundle");
    // The base goes along: a forge that starts empty needs it for the diff. It
    // is the commit that the session began from, wherever its branch is by now.
    context
        .git()
        .bundle(
            &commit.branch,
            &base.commit,
            &bundle,
            bundles.max_bytes,
            &context.cancel,
        )
        .await?;
    let publication = Publication {
        branch: commit.branch.clone(),
        commit: commit.commit.clone(),
        base_branch: base.branch.clone(),
        base_commit: base.commit.clone(),
    };
    let push = context.audit_entry(Kind::Push).with("event", "begins");
    let push = push
        .with("branch", publication.branch.clone())
        .with("commit", publication.commit.clone())
        .with("base_branch", publication.base_branch.clone());
    context.record_first(push).await?;
    let (forge, redactor) = (&context.world.forge, redactor(context));
    forge
        .publish(&forge_repository(context), &publication, &bundle, &redactor)
        .await?;
    let commit = commit.commit.clone();
    done(WorkResult::Published { commit }, Vec::new())
}

async fn open_pull_request(
    context: &EffectContext,
    output: mpsc::Sender<Bytes>,
) -> Result<Done, Undone> {
    let base = base(context)?;
    let Some(draft) = pull_request::draft(&context.state) else {
        return Err(useless("a pull request needs a commit first"));
    };
    let redactor = redactor(context);
    let draft = PullRequestDraft {
        title: redactor.text(&draft.title).into_owned(),
        body: redactor.text(&draft.body).into_owned(),
        ..draft
    };
    let step = context.step(output);
    let about = step.about(ArtifactKind::Diff, format!("diff of {}", draft.head));
    let diff = context.git().keep_diff(&base.commit, about).await?;
    let pull_request = context
        .world
        .forge
        .open_pull_request(&forge_repository(context), &draft)
        .await?;
    let opened = OpenedPullRequest {
        pull_request,
        diff: Some(diff.clone()),
    };
    done(WorkResult::PullRequestOpened(opened), vec![diff])
}

async fn run_ci(context: &EffectContext, output: mpsc::Sender<Bytes>) -> Result<Done, Undone> {
    let base = base(context)?;
    let Some(opened) = &context.state.pull_request else {
        return Err(useless("CI needs a pull request first"));
    };
    let request = CiRequest {
        like: context.state.created.workspace.clone(),
        repository: forge_repository(context),
        pull_request: opened.pull_request.clone(),
        given: GivenChecks {
            tests: Some(base.tests.argv.clone()),
            lint: (context.state.created.options.lint_command.clone())
                .or_else(|| lint_of_setup_file(&base.plan)),
        },
        base: base.clone(),
        allow_test_changes: context.state.created.options.allow_test_changes,
    };
    let step = context.step(output);
    let outcome = context.world.ci.run(&step, &request).await?;
    let failed = || {
        let results = outcome.results.iter();
        results.filter(|check| !check.passed() && !is_excused(base, check))
    };
    let failures = match outcome.passed {
        true => Vec::new(),
        false => failures::of_ci(&context.world.catalogue, failed()),
    };
    let view: Vec<String> = failed()
        .map(|check| {
            let argv = check.command.argv.join(" ");
            format!("$ {argv}\n{}\n({})", check.view, check.summary)
        })
        .collect();
    let artifacts = artifacts_of(&outcome.results);
    let result = CiResult {
        pull_request: outcome.pull_request,
        passed: outcome.passed,
        view: crate::domain::prompts::bounded(&view.join("\n\n")),
        artifacts: outcome
            .results
            .iter()
            .filter_map(|check| Some((check.command.name.clone(), check.artifact.clone()?)))
            .collect(),
    };
    judged(WorkResult::CiEnded(result), failures, artifacts)
}

/// The lint command that the base's setup file names, where one does: the
/// branch's own file has no say.
fn lint_of_setup_file(plan: &CheckPlan) -> Option<Vec<String>> {
    let mut named = plan
        .lint
        .iter()
        .filter(|check| check.why == setup_file::FROM_SETUP_FILE);
    named.next().map(|check| check.argv.clone())
}

fn given(context: &EffectContext) -> GivenChecks {
    let options = &context.state.created.options;
    GivenChecks {
        tests: options.test_command.clone(),
        lint: options.lint_command.clone(),
    }
}

fn base(context: &EffectContext) -> Result<&BaseRun, Undone> {
    context
        .state
        .base
        .as_deref()
        .ok_or_else(|| useless("the tests have not run on the base commit"))
}

fn committed(context: &EffectContext) -> Result<&Commit, Undone> {
    context
        .state
        .commit
        .as_ref()
        .ok_or_else(|| useless("nothing is committed"))
}

/// What finds the credentials of now.
fn redactor(context: &EffectContext) -> Arc<Redactor> {
    context.world.commands.redactions().current()
}

fn forge_repository(context: &EffectContext) -> ForgeRepository {
    ForgeRepository {
        workspace: context.state.created.workspace.clone(),
        repository: context.state.created.repository.clone(),
    }
}

fn paths(files: Vec<crate::service::git::ChangedFile>) -> Vec<String> {
    files.into_iter().map(|file| file.path).collect()
}

fn artifacts_of(checks: &[CheckResult]) -> Vec<ArtifactId> {
    checks
        .iter()
        .flat_map(|check| check.artifact.iter().chain(&check.reports))
        .cloned()
        .collect()
}

fn artifacts_of_run(run: &TestRun) -> Vec<ArtifactId> {
    run.artifact.iter().chain(&run.reports).cloned().collect()
}

/// A run in a line: "2 failed, 11 passed".
fn run_summary(run: &TestRun) -> String {
    match (&run.report, &run.verdict) {
        (Some(report), RunVerdict::Passed | RunVerdict::Failed) => report.counts(),
        (
            Some(_) | None,
            verdict @ (RunVerdict::Passed
            | RunVerdict::PassedByExit
            | RunVerdict::Failed
            | RunVerdict::NoTests
            | RunVerdict::Disagree(_)
            | RunVerdict::Unreadable(_)
            | RunVerdict::TimedOut
            | RunVerdict::Broken(_)),
        ) => verdict.to_string(),
    }
}
