//! CI over the local forge and real clean workspaces.

use super::*;
use crate::{
    adapters::forge::local::LocalForge,
    domain::{checks::CheckKind, forge::PullRequestDraft, redaction::Redactor},
    ports::forge::Publication,
    service::git::BranchName,
    service::testing::{Bench, argv},
};

const TEST: &str = "import unittest\nfrom answer import answer\n\nclass A(unittest.TestCase):\n    def test_a(self): self.assertEqual(answer(), 42)\n";

fn runner() -> Vec<String> {
    argv(&["python3", "-m", "unittest", "discover", "-v"])
}

/// What the base run would have found.
async fn base(bench: &Bench) -> BaseRun {
    let prover = Prover::new(bench.commands.clone());
    let step = bench.step(9);
    let baseline = prover.baseline(&bench.site, &step, &runner()).await;
    let run = baseline.unwrap();
    BaseRun {
        commit: bench.git().head_commit().await.unwrap(),
        branch: "main".to_owned(),
        tree: run.tree.clone(),
        plan: CheckPlan::default(),
        tests: run,
        others: Vec::new(),
        summary: String::new(),
        knowledge: None,
        libraries: crate::domain::cognition::Libraries::default(),
    }
}

/// Publishes the branch as it is and opens its pull request.
async fn publish(
    bench: &Bench,
    forge: &LocalForge,
    repository: &ForgeRepository,
    base: &BaseRun,
    head: &str,
) -> PullRequest {
    let git = bench.git();
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("out.bundle");
    let never = tokio_util::sync::CancellationToken::new();
    git.bundle(head, &base.commit, &bundle, 1 << 20, &never)
        .await
        .unwrap();
    let publication = Publication {
        branch: head.to_owned(),
        commit: git.head_commit().await.unwrap(),
        base_branch: "main".to_owned(),
        base_commit: base.commit.clone(),
    };
    forge
        .publish(repository, &publication, &bundle, &Redactor::new([]))
        .await
        .unwrap();
    let draft = PullRequestDraft {
        title: "answer".to_owned(),
        body: String::new(),
        head: head.to_owned(),
        base: "main".to_owned(),
    };
    forge.open_pull_request(repository, &draft).await.unwrap()
}

struct Fixture {
    bench: Bench,
    ci: LocalCi,
    request: CiRequest,
    forge: Arc<LocalForge>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// A pull request with this source; `ignored` is in the workspace only.
    async fn new(source: &str, ignored: Option<&str>) -> Self {
        let bench = Bench::new(&[("test_a.py", TEST), (".gitignore", "hidden.py\n")]);
        let directory = tempfile::tempdir().unwrap();
        let forge = Arc::new(LocalForge::new(
            directory.path().join("forge"),
            bench.store.clone(),
        ));
        let bundles = BundleSpace {
            parent: directory.path().join("scratch"),
            max_bytes: 1 << 20,
        };
        let (git, step) = (bench.git(), bench.step(1));
        let base = base(&bench).await;
        let head = git
            .ensure_branch(&step, &BranchName::of(&bench.session, "answer"), 1)
            .await
            .unwrap();
        bench.write("answer.py", source);
        if let Some(ignored) = ignored {
            bench.write("hidden.py", ignored);
        }
        git.commit_all(&step, "answer").await.unwrap();
        let repository = ForgeRepository {
            workspace: bench.workspace().clone(),
            repository: "app".parse().unwrap(),
        };
        let pull_request = publish(&bench, &forge, &repository, &base, &head).await;
        Self {
            ci: LocalCi::new(bench.commands.clone(), forge.clone(), bundles),
            request: CiRequest {
                like: bench.workspace().clone(),
                repository,
                pull_request,
                given: GivenChecks {
                    tests: Some(runner()),
                    lint: Some(argv(&["true"])),
                },
                base,
                allow_test_changes: false,
            },
            bench,
            forge,
            _directory: directory,
        }
    }
}

#[tokio::test]
async fn ci_passes_in_a_clean_workspace_and_reports() {
    let fixture = Fixture::new("def answer(): return 42\n", None).await;
    let outcome = fixture
        .ci
        .run(&fixture.bench.step(2), &fixture.request)
        .await
        .unwrap();
    assert!(outcome.passed, "{}", outcome.summary);
    assert_eq!(outcome.summary, "all 2 checks passed");
    let checks: Vec<_> = outcome
        .pull_request
        .checks
        .iter()
        .map(|check| (check.name.as_str(), check.state))
        .collect();
    assert_eq!(
        checks,
        [
            ("lint", ForgeCheckState::Passed),
            ("tests", ForgeCheckState::Passed)
        ]
    );
    assert!(
        outcome
            .results
            .iter()
            .all(|result| result.artifact.is_some())
    );
    let machine = &fixture.bench.machine;
    assert_eq!(
        (
            machine.clean_workspaces(),
            machine.clean_workspaces_deleted()
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn a_fix_that_lives_in_an_ignored_file_fails_in_ci() {
    let fixture = Fixture::new(
        "from hidden import answer\n",
        Some("def answer(): return 42\n"),
    )
    .await;
    // In the session's own workspace the tests pass.
    let prover = Prover::new(fixture.bench.commands.clone());
    let here = prover
        .baseline(
            &fixture.bench.site,
            &fixture.bench.step(3),
            fixture.request.given.tests.as_ref().unwrap(),
        )
        .await
        .unwrap();
    assert!(here.verdict.is_pass());
    let outcome = fixture
        .ci
        .run(&fixture.bench.step(2), &fixture.request)
        .await
        .unwrap();
    assert!(!outcome.passed);
    assert!(
        outcome.summary.starts_with("tests: "),
        "{}",
        outcome.summary
    );
    let machine = &fixture.bench.machine;
    assert_eq!(
        (
            machine.clean_workspaces(),
            machine.clean_workspaces_deleted()
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn a_cancelled_run_leaves_no_workspace_behind() {
    let fixture = Fixture::new("def answer(): return 42\n", None).await;
    let step = fixture.bench.step(4);
    step.cancel.cancel();
    let cancelled = fixture.ci.run(&step, &fixture.request).await.unwrap_err();
    assert!(cancelled.is_cancelled(), "{cancelled}");
    let machine = &fixture.bench.machine;
    assert_eq!(
        (
            machine.clean_workspaces(),
            machine.clean_workspaces_deleted()
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn a_test_bent_by_what_the_workspace_has_alone_fails_in_ci() {
    // The branch bends its test; the session's proof was led astray somehow.
    let fixture = Fixture::new("def answer(): return 41\n", None).await;
    let bench = &fixture.bench;
    bench.write("test_a.py", &TEST.replace("42", "41"));
    bench
        .git()
        .commit_all(&bench.step(5), "bend")
        .await
        .unwrap();
    let CiRequest {
        repository,
        base,
        pull_request,
        ..
    } = &fixture.request;
    let head = &pull_request.draft.head;
    let request = CiRequest {
        pull_request: publish(bench, &fixture.forge, repository, base, head).await,
        ..fixture.request.clone()
    };
    let outcome = fixture.ci.run(&bench.step(2), &request).await.unwrap();
    assert!(!outcome.passed);
    let names: Vec<_> = outcome
        .results
        .iter()
        .map(|each| (each.command.name.as_str(), each.passed()))
        .collect();
    assert_eq!(
        names,
        [
            ("lint", true),
            ("tests", true),
            ("tests-of-the-base", false)
        ]
    );
    assert!(
        outcome.summary.contains("put back (test_a.py)"),
        "{}",
        outcome.summary
    );
    let allowed = CiRequest {
        allow_test_changes: true,
        ..request
    };
    let outcome = fixture.ci.run(&bench.step(3), &allowed).await.unwrap();
    assert!(outcome.passed, "{}", outcome.summary);
}

#[tokio::test]
async fn what_failed_on_the_base_already_does_not_block() {
    let mut fixture = Fixture::new("def answer(): return 42\n", None).await;
    let check = |name: &str, kind, why: &str| CheckResult {
        command: CheckCommand {
            name: name.to_owned(),
            kind,
            argv: Vec::new(),
            why: why.to_owned(),
        },
        exit: fixture.request.base.tests.exit.clone(),
        verdict: RunVerdict::Failed,
        report: None,
        summary: "failed (exit 1)".to_owned(),
        view: String::new(),
        artifact: None,
        reports: Vec::new(),
    };
    let old = check("types-mypy", CheckKind::Types, "there is a mypy.ini");
    let new = check("lint-ruff", CheckKind::Lint, "there is a ruff.toml");
    let tests = check("tests", CheckKind::Tests, "given");
    // CI is given the lint command of the base's setup file.
    let named = check("lint", CheckKind::Lint, "compy.toml says so");
    let again = check("lint", CheckKind::Lint, "given");
    fixture.request.base.others = vec![old.clone(), named];
    let (request, base) = (&fixture.request, &fixture.request.base);
    let counts =
        [&old, &new, &tests, &again].map(|each| blocking(base, std::slice::from_ref(each)).count());
    assert_eq!(counts, [0, 1, 1, 0]);
    let asked_for = BaseRun {
        others: vec![again.clone()],
        ..base.clone()
    };
    assert_eq!(blocking(&asked_for, &[again]).count(), 1);
    let outcome = outcome_of(request, &old);
    assert_eq!(
        (outcome.state, outcome.summary.as_str()),
        (
            ForgeCheckState::Failed,
            "failed (exit 1); it failed on the base as well"
        )
    );
}

#[tokio::test]
async fn no_test_command_is_said() {
    let bench = Bench::new(&[]);
    let said = summary(&CheckPlan::default(), &base(&bench).await, &[]);
    assert_eq!(said, "there is no test command; name one with --test");
}
