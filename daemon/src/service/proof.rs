//! Proofs and verifications, run by the daemon itself.
//!
//! A proof runs at a [`Site`], which for a session is a clean copy that nobody
//! else works in: the working tree is given other contents for a run and put
//! back afterwards. A mark in the repository says so before the first file
//! changes, so that a crash in between is undone by the next call. The runs have
//! ids made from the step's: a proof that goes on after a restart finds the runs
//! that were made, also one that is under way, and does not touch the files
//! under it.

use std::borrow::Cow;

use serde::Serialize;

use super::{
    artifacts::ArtifactError,
    checks::run::{Ran, run_plain, run_tests},
    commands::{CommandError, Commands},
    git::{FileAt, Git, GitError, RawChange},
    step::StepContext,
};
use crate::domain::{
    artifact::ArtifactKind,
    changes::ChangeKind,
    checks::Site,
    criteria::{Criterion, CriterionResult, Verification},
    ids::{ArtifactId, SnapshotId},
    judges::{
        inside, is_ci_file, is_no_code, is_reported, is_runner_configuration, is_runner_file,
        is_script, is_test_file,
    },
    proof::{
        ChangedJudge, ChangedJudges, Proof, Runs, TestRun, known_failures, needs_new_tests,
        run_name, weigh,
    },
};

mod criteria;

/// What is to be proved.
#[derive(Debug, Clone)]
pub struct ProofPlan {
    /// Commit the session started from.
    pub base: String,
    /// Commit that is to be proved; it must be checked out.
    pub head: String,
    /// Its branch.
    pub branch: String,
    /// The run on the base, from [`Prover::baseline`].
    pub base_run: TestRun,
    /// The test command.
    pub test_argv: Vec<String>,
    /// Whether the task may change tests that exist.
    pub allow_test_changes: bool,
    /// blake3 of the session's log up to now, in hex, for the evidence.
    pub log_hash: String,
    /// The clean copy that it is proved in, for the evidence.
    pub copy: Option<CopyEvidence>,
}

/// What a clean copy is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyEvidence {
    /// The snapshot of the session's workspace that it is a fork of, taken
    /// before the session's first edit.
    pub snapshot: SnapshotId,
    /// Commands of the setup that ran in it again, as what they depend on was
    /// changed.
    pub setup: Vec<String>,
}

/// A run with what the base judges by, for who has no other runs to weigh.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WithBaseTests {
    /// The run.
    pub(crate) run: TestRun,
    /// Start and end of its output.
    pub(crate) view: String,
    /// The files that were put back.
    pub(crate) judges: Judges,
}

/// Changed files that have a say in what passes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Judges {
    /// Their paths, as git has them.
    paths: Vec<Vec<u8>>,
    /// Of these, tests, fixtures and CI.
    tests: Vec<Vec<u8>>,
    /// All paths, for people.
    files: Vec<String>,
    /// Of these, the ones that say how tests are run.
    runners: Vec<String>,
    /// All of them with what became of each.
    changed: Vec<ChangedJudge>,
    /// The files that differ and judge nothing as far as their names go.
    others: Vec<RawChange>,
    /// Of these, scripts.
    scripts: Vec<String>,
}

/// Files that are looked into for what judges inside of them; where more differ,
/// a person is shown that nobody looked.
const LOOKED_INTO: usize = 300;
/// Bytes of a file that is looked into.
const LOOKED_INTO_BYTES: usize = 512 << 10;

impl Judges {
    /// Told by the names of files, and by the tests that the run on the base names.
    fn among(changes: Vec<RawChange>, base_run: &TestRun) -> Self {
        let mut judges = Self::default();
        for change in changes {
            let path = change.shown().path;
            let reported = |report| is_reported(&path, report);
            let tests = is_test_file(&path) || base_run.report.as_ref().is_some_and(reported);
            let runs = is_runner_file(&path, &base_run.argv);
            if runs {
                judges.runners.push(path.clone());
            }
            if tests {
                judges.tests.push(change.path.clone());
            }
            if tests || runs {
                let decides = runs || is_ci_file(&path) || is_runner_configuration(&path);
                let changed = ChangedJudge::new(path.clone(), change.kind, decides);
                judges.changed.push(changed);
                judges.files.push(path);
                judges.paths.push(change.path);
            } else {
                judges.others.push(change);
            }
        }
        judges
    }

    /// Looks into the files whose names say nothing.
    async fn look_inside(&mut self, git: &Git, base: &str, head: &str) -> Result<(), GitError> {
        let looked = self.others.len().min(LOOKED_INTO);
        let paths: Vec<&[u8]> = self.others[..looked]
            .iter()
            .map(|each| &each.path[..])
            .collect();
        let before = git.files_at(base, &paths, LOOKED_INTO_BYTES).await?;
        let now = git.files_at(head, &paths, LOOKED_INTO_BYTES).await?;
        for ((change, before), now) in self.others.iter().zip(&before).zip(&now) {
            let path = change.shown().path;
            let is_large = matches!(now, FileAt::TooLarge) && !path.ends_with(".rs");
            let unseen = is_large && !is_data(git, head, &path).await?;
            let (before, now) = (text_of(before), text_of(now));
            let found = inside(&path, before.as_deref(), now.as_deref());
            let found = found
                .iter()
                .map(|each| ChangedJudge::inside(&path, change.kind, each));
            self.changed.extend(found);
            if unseen {
                let path = format!("{path}, which is too large to be looked into");
                self.changed
                    .push(ChangedJudge::new(path, change.kind, true));
            }
            let is_script = |text: &Cow<'_, str>| is_script(&path, text);
            if unseen || [before, now].iter().flatten().any(is_script) {
                self.scripts.push(path);
            }
        }
        let unseen = self.others.len() - looked;
        if unseen > 0 {
            let path = format!("{unseen} more files, which nobody looked into");
            let changed = ChangedJudge::new(path, ChangeKind::Modified, true);
            self.changed.push(changed);
        }
        Ok(())
    }

    /// For the rule.
    pub(crate) fn changed(&self) -> ChangedJudges<'_> {
        ChangedJudges {
            files: &self.files,
            runners: &self.runners,
            scripts: &self.scripts,
        }
    }
}

/// Whether a large file is no code, by its name or because it begins as no text does.
async fn is_data(git: &Git, commit: &str, path: &str) -> Result<bool, GitError> {
    const LOOKED_AT_BYTES: usize = 8_000;
    if is_no_code(path) {
        return Ok(true);
    }
    let start = git.start_of_file_at(commit, path, LOOKED_AT_BYTES).await?;
    Ok(start.is_some_and(|(start, _)| start.contains(&0)))
}

/// The text of a file. What is too large has one that nobody can read.
fn text_of(file: &FileAt) -> Option<Cow<'_, str>> {
    match file {
        FileAt::Nothing => None,
        FileAt::TooLarge => Some("test\0".into()),
        FileAt::Content(content) => Some(String::from_utf8_lossy(content)),
    }
}

/// Proves changes. Cheap to clone.
#[derive(Clone)]
pub struct Prover {
    commands: Commands,
}

/// The whole evidence of a proof, as it is kept.
#[derive(Serialize)]
struct ProofEvidence<'a> {
    kind: &'static str,
    site: &'a Site,
    base: &'a str,
    head: &'a str,
    branch: &'a str,
    test_argv: &'a [String],
    allow_test_changes: bool,
    log_hash: &'a str,
    clean_copy: &'a Option<CopyEvidence>,
    started_at_ms: i64,
    ended_at_ms: i64,
    proof: &'a Proof,
}

impl Prover {
    /// A prover that runs its commands here.
    #[must_use]
    pub fn new(commands: Commands) -> Self {
        Self { commands }
    }

    /// Whether this step has begun the base run: what differs from HEAD is then
    /// its own doing.
    pub async fn has_begun(&self, site: &Site, step: &StepContext) -> Result<bool, ProofError> {
        self.has_started(site, step, run_name::BASE).await
    }

    /// Whether this step has begun the runs of a proof: what is checked out is
    /// under one of them, or was.
    pub async fn has_begun_proof(
        &self,
        site: &Site,
        step: &StepContext,
    ) -> Result<bool, ProofError> {
        self.has_started(site, step, run_name::BRANCH).await
    }

    /// Runs the test command on the base commit, before the session's first
    /// edit. The working tree must be as HEAD is, and is so again afterwards.
    pub async fn baseline(
        &self,
        site: &Site,
        step: &StepContext,
        test_argv: &[String],
    ) -> Result<TestRun, ProofError> {
        let git = self.git(site);
        let tree = git.tree_of("HEAD").await?;
        let ran = self.run(site, step, run_name::BASE, test_argv, tree).await;
        let tidied = git.tidy().await;
        let (run, _) = ran?;
        tidied?;
        Ok(run)
    }

    /// Runs the test command on what is checked out, a clean copy of the branch,
    /// with everything that judges it as it was on the base; `None` where
    /// nothing of that differs.
    pub(crate) async fn with_base_tests(
        &self,
        site: &Site,
        step: &StepContext,
        base: &str,
        base_run: &TestRun,
    ) -> Result<Option<WithBaseTests>, ProofError> {
        let git = self.git(site);
        let test_argv = &base_run.argv;
        let head = git.head_commit().await?;
        let judges = Judges::among(git.changes(base, &head).await?, base_run);
        if judges.paths.is_empty() {
            return Ok(None);
        }
        let tree = git.mixed_tree(&head, base, &judges.paths).await?;
        let name = run_name::BRANCH_WITH_BASE_TESTS;
        let (run, view) = self
            .run_arranged(&git, site, step, name, test_argv, tree)
            .await?;
        Ok(Some(WithBaseTests { run, view, judges }))
    }

    /// Proves a commit, or says why it is not proved. The working tree must be
    /// as the commit is, and is so again afterwards.
    ///
    /// # Errors
    /// [`ProofError::NotClean`] when the working tree is not as the commit;
    /// the rest when nothing can be said either way. Cancelled or failed, it
    /// puts the working tree back as well.
    pub async fn prove(
        &self,
        site: &Site,
        step: &StepContext,
        plan: &ProofPlan,
    ) -> Result<Proof, ProofError> {
        let git = self.git(site);
        let started_at_ms = self.commands.artifacts().now_ms();
        let proof = self.weigh_runs(&git, site, step, plan).await;
        let restored = git.disarrange().await;
        let mut proof = proof?;
        restored?;
        git.tidy().await?;
        let evidence = ProofEvidence {
            kind: "proof",
            site,
            base: &plan.base,
            head: &plan.head,
            branch: &plan.branch,
            test_argv: &plan.test_argv,
            allow_test_changes: plan.allow_test_changes,
            log_hash: &plan.log_hash,
            clean_copy: &plan.copy,
            started_at_ms,
            ended_at_ms: self.commands.artifacts().now_ms(),
            proof: &proof,
        };
        let title = if proof.proved {
            "proof"
        } else {
            "proof refused"
        };
        proof.evidence = Some(self.keep(step, title, &evidence).await?);
        Ok(proof)
    }

    async fn weigh_runs(
        &self,
        git: &Git,
        site: &Site,
        step: &StepContext,
        plan: &ProofPlan,
    ) -> Result<Proof, ProofError> {
        let argv = &plan.test_argv;
        let base_run = &plan.base_run;
        let head_tree = git.tree_of(&plan.head).await?;
        let changes = git.changes(&plan.base, &plan.head).await?;
        let mut judges = Judges::among(changes, base_run);
        judges.look_inside(git, &plan.base, &plan.head).await?;

        if !self.has_started(site, step, run_name::BRANCH).await? {
            git.disarrange().await?;
            self.require_clean(git, plan).await?;
        }
        let (branch, _) = self
            .run(site, step, run_name::BRANCH, argv, head_tree.clone())
            .await?;
        let (mut restored, mut transplanted) = (None, None);
        // Without a changed judge that run would be the same one again.
        let known = known_failures(base_run, &branch.verdict, branch.report.as_ref());
        let passes = branch.verdict.is_pass() || known.is_some();
        if passes && !judges.paths.is_empty() {
            let tree = git
                .mixed_tree(&plan.head, &plan.base, &judges.paths)
                .await?;
            let name = run_name::BRANCH_WITH_BASE_TESTS;
            let ran = self.run_arranged(git, site, step, name, argv, tree).await?;
            restored = Some(ran.0);
            if needs_new_tests(base_run, &branch) && !judges.tests.is_empty() {
                let tree = git
                    .mixed_tree(&plan.base, &plan.head, &judges.tests)
                    .await?;
                let name = run_name::BASE_WITH_BRANCH_TESTS;
                let ran = self.run_arranged(git, site, step, name, argv, tree).await?;
                transplanted = Some(ran.0);
            }
        }
        let runs = Runs {
            base: base_run,
            branch: &branch,
            restored: restored.as_ref(),
            transplanted: transplanted.as_ref(),
        };
        let weighed = weigh(runs, judges.changed(), plan.allow_test_changes);
        let runs = [Some(base_run.clone()), Some(branch), restored, transplanted];
        Ok(Proof {
            proved: weighed.proved,
            reason: weighed.reason,
            runs: runs.into_iter().flatten().collect(),
            fail_to_pass: weighed.fail_to_pass,
            pass_to_pass: weighed.pass_to_pass,
            known_failures: weighed.known_failures,
            changed_test_files: judges.files,
            changed_judges: judges.changed,
            tree: head_tree,
            evidence: None,
        })
    }

    /// Runs the test command with another tree in the working tree.
    async fn run_arranged(
        &self,
        git: &Git,
        site: &Site,
        step: &StepContext,
        name: &str,
        argv: &[String],
        tree: String,
    ) -> Result<(TestRun, String), ProofError> {
        // A run that was begun before a restart had its files: leave them.
        if !self.has_started(site, step, name).await? {
            git.disarrange().await?;
            git.tidy().await?;
            git.arrange(&tree).await?;
        }
        let ran = self.run(site, step, name, argv, tree.clone()).await?;
        // A run that ended before a restart has left the files to a later one.
        git.disarrange_tree(&tree).await?;
        Ok(ran)
    }

    async fn require_clean(&self, git: &Git, plan: &ProofPlan) -> Result<(), ProofError> {
        let tree = git.worktree_tree().await?;
        let changes = git.changes(&plan.head, &tree).await?;
        if changes.is_empty() && git.head_commit().await? == plan.head {
            return Ok(());
        }
        let files: Vec<String> = changes
            .iter()
            .take(5)
            .map(|change| change.shown().path)
            .collect();
        Err(ProofError::NotClean {
            head: plan.head.clone(),
            files: if files.is_empty() {
                "HEAD".to_owned()
            } else {
                files.join(", ")
            },
        })
    }

    async fn has_started(
        &self,
        site: &Site,
        step: &StepContext,
        name: &str,
    ) -> Result<bool, ProofError> {
        let exec = step.exec(&exec_name(name));
        Ok(self.commands.is_known(&site.workspace, &exec).await?)
    }

    /// Runs the test command; returns the run, and start and end of its output.
    async fn run(
        &self,
        site: &Site,
        step: &StepContext,
        name: &str,
        argv: &[String],
        tree: String,
    ) -> Result<(TestRun, String), ProofError> {
        let title = format!("{} on the {name}", shell_words::join(argv));
        let exec = exec_name(name);
        let ran = run_tests(&self.commands, site, step, &exec, &title, argv).await?;
        let run = TestRun {
            name: name.to_owned(),
            argv: argv.to_vec(),
            cwd: site.directory.clone(),
            exit: ran.exit,
            report: ran.report,
            verdict: ran.verdict,
            tree,
            artifact: ran.artifact,
            reports: ran.reports,
        };
        Ok((run, ran.view))
    }

    async fn keep(
        &self,
        step: &StepContext,
        title: &str,
        evidence: &impl Serialize,
    ) -> Result<ArtifactId, ProofError> {
        let json = serde_json::to_vec_pretty(evidence).expect("evidence has text keys only");
        let about = step.about(ArtifactKind::Evidence, title);
        Ok(self.commands.artifacts().put(about, json.into()).await?.id)
    }

    fn git(&self, site: &Site) -> Git {
        Git::new(self.commands.clone(), site.clone())
    }
}

/// A run's name as part of a command's id.
fn exec_name(run: &str) -> String {
    format!("test-{}", run.replace(' ', "-").replace('\'', ""))
}

/// Why there is no proof and no refusal either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The working tree has changes that are in no commit.
    #[error("the working tree differs from {head}: {files}; commit or remove these changes first")]
    NotClean {
        /// The commit.
        head: String,
        /// Some of the files.
        files: String,
    },
    /// Git.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The evidence.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl ProofError {
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
