//! CI over the local forge and real clean workspaces.

use super::*;
use crate::{
    adapters::forge::local::LocalForge,
    domain::forge::PullRequestDraft,
    ports::forge::Publication,
    service::{
        proof::Prover,
        testing::{Bench, argv},
    },
};

const TEST: &str = "import unittest\nfrom answer import answer\n\nclass A(unittest.TestCase):\n    def test_a(self): self.assertEqual(answer(), 42)\n";

struct Fixture {
    bench: Bench,
    ci: LocalCi,
    request: CiRequest,
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
        let head = git
            .ensure_branch(&step, &bench.session, "answer")
            .await
            .unwrap();
        bench.write("answer.py", source);
        if let Some(ignored) = ignored {
            bench.write("hidden.py", ignored);
        }
        let commit = git.commit_all(&step, "answer").await.unwrap();
        let bundle = directory.path().join("out.bundle");
        let base_commit = bench.host_git(&["rev-parse", "main"]);
        let never = tokio_util::sync::CancellationToken::new();
        git.bundle(&head, &base_commit, &bundle, 1 << 20, &never)
            .await
            .unwrap();
        let repository = ForgeRepository {
            workspace: bench.workspace().clone(),
            repository: "app".parse().unwrap(),
        };
        let publication = Publication {
            branch: head.clone(),
            commit: commit.commit().to_owned(),
            base_branch: "main".to_owned(),
            base_commit,
        };
        forge
            .publish(&repository, &publication, &bundle)
            .await
            .unwrap();
        let draft = PullRequestDraft {
            title: "answer".to_owned(),
            body: String::new(),
            head,
            base: "main".to_owned(),
        };
        let pull_request = forge.open_pull_request(&repository, &draft).await.unwrap();
        Self {
            ci: LocalCi::new(bench.commands.clone(), forge, bundles),
            request: CiRequest {
                like: bench.workspace().clone(),
                repository,
                pull_request,
                given: GivenChecks {
                    tests: Some(argv(&["python3", "-m", "unittest", "discover"])),
                    lint: Some(argv(&["true"])),
                },
            },
            bench,
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
    assert!(here.run.verdict.is_pass());
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

#[test]
fn no_test_command_is_said() {
    let said = summary(&CheckPlan::default(), &[]);
    assert_eq!(said, "there is no test command; name one with --test");
}
