//! Proofs over real repositories and real test runners.

use serde_json::json;

use super::*;
use crate::{
    domain::report::{RunVerdict, TestOutcome},
    service::git::BranchName,
    service::testing::{Bench, argv},
};

mod cheats;
mod restarts;

const BUGGY: &str = "def slug(text, n):\n    return text[:n - 1]\n";
const FIXED: &str = "def slug(text, n):\n    return text[:n]\n";
const TESTS: &str = "\
import unittest
from slug import slug

class SlugTest(unittest.TestCase):
    def test_length(self):
        self.assertEqual(slug('abcdef', 3), 'abc')

    def test_empty(self):
        self.assertEqual(slug('', 3), '')
";

/// pytest where this machine has it, otherwise unittest, said aloud.
fn runner() -> Vec<String> {
    let probe = std::process::Command::new("python3")
        .args(["-c", "import pytest"])
        .output()
        .unwrap();
    if probe.status.success() {
        argv(&["python3", "-m", "pytest", "-q"])
    } else {
        eprintln!("python3 has no pytest here: the proof runs unittest instead");
        argv(&["python3", "-m", "unittest", "discover", "-v"])
    }
}

struct Case {
    bench: Bench,
    prover: Prover,
    test_argv: Vec<String>,
    base: String,
    base_run: TestRun,
}

impl Case {
    async fn new(files: &[(&str, &str)]) -> Self {
        Self::with_runner(files, runner()).await
    }

    async fn with_runner(files: &[(&str, &str)], test_argv: Vec<String>) -> Self {
        let bench = Bench::new(files);
        let prover = Prover::new(bench.commands.clone());
        let base = bench.git().head_commit().await.unwrap();
        let base_run = prover
            .baseline(&bench.site, &bench.step(1), &test_argv)
            .await
            .unwrap();
        assert_eq!(bench.status(), "", "the base run leaves nothing behind");
        Self {
            bench,
            prover,
            test_argv,
            base,
            base_run,
        }
    }

    async fn plan(&self, allow_test_changes: bool) -> ProofPlan {
        let (git, step) = (self.bench.git(), self.bench.step(2));
        let branch = git
            .ensure_branch(
                &step,
                &BranchName::of(&self.bench.session, "Fix the slug"),
                1,
            )
            .await
            .unwrap();
        let commit = git.commit_all(&step, "fix: the slug").await.unwrap();
        ProofPlan {
            base: self.base.clone(),
            head: commit.commit().to_owned(),
            branch,
            base_run: self.base_run.clone(),
            test_argv: self.test_argv.clone(),
            allow_test_changes,
            log_hash: "00".repeat(32),
            copy: None,
        }
    }

    /// Commits what there is and proves it; the tree must be clean afterwards.
    async fn prove(&self, allow_test_changes: bool) -> Proof {
        let plan = self.plan(allow_test_changes).await;
        let step = self.bench.step(3);
        let proof = self.prover.prove(&self.bench.site, &step, &plan).await;
        assert_eq!(self.bench.status(), "", "the proof leaves nothing behind");
        assert_eq!(self.bench.git().head_commit().await.unwrap(), plan.head);
        proof.unwrap()
    }
}

fn names(proof: &Proof) -> Vec<&str> {
    proof.runs.iter().map(|run| run.name.as_str()).collect()
}

#[tokio::test]
async fn an_honest_fix_is_proved_with_evidence() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Failed);
    case.bench.write("slug.py", FIXED);
    let proof = case.prove(false).await;
    assert!(proof.proved, "{}", proof.reason);
    assert_eq!(names(&proof), ["base", "branch"]);
    assert_eq!(proof.fail_to_pass.len(), 1);
    assert!(proof.fail_to_pass[0].contains("test_length"));
    assert_eq!(proof.pass_to_pass.len(), 1);
    assert_eq!(proof.changed_test_files, [""; 0]);
    let artifacts = case.bench.commands.artifacts();
    let evidence = proof.evidence.unwrap();
    let (record, content) = artifacts.stream(&evidence).await.unwrap();
    assert_eq!(record.kind, ArtifactKind::Evidence);
    let content: Vec<_> = futures_util::StreamExt::collect(content).await;
    let json: serde_json::Value = serde_json::from_slice(content[0].as_ref().unwrap()).unwrap();
    assert_eq!(json["proof"]["runs"][1]["exit"]["status"]["code"], 0);
    assert_eq!(json["proof"]["tree"], proof.tree);
    assert_eq!(json["log_hash"], "00".repeat(32));
}

#[tokio::test]
async fn no_fix_is_refused() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench.write("README.md", "fixed!\n");
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("do not pass on the branch"),
        "{}",
        proof.reason
    );
    assert!(proof.reason.contains("test_length"), "{}", proof.reason);
}

#[tokio::test]
async fn an_edited_test_is_refused_and_passes_where_the_task_allows_it() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench
        .write("test_slug.py", &TESTS.replace("'abc')", "'ab')"));
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("put back (test_slug.py)"),
        "{}",
        proof.reason
    );
    assert_eq!(proof.changed_test_files, ["test_slug.py"]);
    assert!(case.bench.read("test_slug.py").contains("'ab')"));

    let plan = case.plan(true).await;
    let step = case.bench.step(4);
    let proof = case
        .prover
        .prove(&case.bench.site, &step, &plan)
        .await
        .unwrap();
    assert!(proof.proved, "{}", proof.reason);
    assert_eq!(proof.changed_test_files, ["test_slug.py"]);
}

#[tokio::test]
async fn a_deleted_test_is_refused() {
    let case = Case::new(&[
        ("slug.py", BUGGY),
        ("tests/__init__.py", ""),
        ("tests/test_slug.py", TESTS),
        (
            "tests/test_other.py",
            "import unittest\nclass Other(unittest.TestCase):\n    def test_other(self): pass\n",
        ),
    ])
    .await;
    case.bench.remove("tests/test_slug.py");
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("tests/test_slug.py"),
        "{}",
        proof.reason
    );
    assert!(!case.bench.app.join("tests/test_slug.py").exists());
}

#[tokio::test]
async fn a_fix_that_also_drops_a_passing_test_is_refused() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench.write("slug.py", FIXED);
    let shorter = TESTS.replace("test_empty", "empty");
    case.bench.write("test_slug.py", &shorter);
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("did not run on the branch"),
        "{}",
        proof.reason
    );
}

#[tokio::test]
async fn an_added_skip_is_refused() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    let skipped = TESTS.replace(
        "    def test_length",
        "    @unittest.skip('later')\n    def test_length",
    );
    case.bench.write("test_slug.py", &skipped);
    let proof = case.prove(false).await;
    assert!(!proof.proved, "{}", proof.reason);
}

#[tokio::test]
async fn a_skip_made_by_the_code_is_refused() {
    // The base's own tests skip when the code says so: no test file changes.
    let tests = TESTS.replace(
        "    def test_length(self):\n",
        "    def test_length(self):\n        if not hasattr(slug, '__code__'): self.skipTest('x')\n",
    );
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", &tests)]).await;
    let hidden = format!("{BUGGY}\nimport functools\nslug = functools.partial(slug)\n");
    case.bench.write("slug.py", &hidden);
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(proof.reason.contains("was skipped"), "{}", proof.reason);
}

#[tokio::test]
async fn a_conftest_that_turns_failures_away_is_put_back() {
    let test_argv = runner();
    if !test_argv.contains(&"pytest".to_owned()) {
        return;
    }
    let case = Case::with_runner(&[("slug.py", BUGGY), ("test_slug.py", TESTS)], test_argv).await;
    case.bench.write(
        "conftest.py",
        "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n\
         def pytest_runtest_call(item):\n    item.runtest = lambda: None\n",
    );
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(proof.reason.contains("conftest.py"), "{}", proof.reason);
}

#[tokio::test]
async fn a_passing_base_needs_a_test_that_shows_the_change() {
    let easy = TESTS.replace("slug('abcdef', 3), 'abc'", "slug('', 3), ''");
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", &easy)]).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Passed);
    case.bench.write("slug.py", FIXED);
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("add a test that fails without"),
        "{}",
        proof.reason
    );

    // A new test that passes without the change as well shows nothing.
    let idle = easy.replace("test_length", "test_idle");
    case.bench.write("test_new.py", &idle);
    let plan = case.plan_again(5).await;
    let proof = case
        .prover
        .prove(&case.bench.site, &case.bench.step(6), &plan)
        .await
        .unwrap();
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("without the change"),
        "{}",
        proof.reason
    );

    case.bench.write("test_new.py", TESTS);
    let plan = case.plan_again(7).await;
    let proof = case
        .prover
        .prove(&case.bench.site, &case.bench.step(8), &plan)
        .await
        .unwrap();
    assert!(proof.proved, "{}", proof.reason);
    assert_eq!(proof.fail_to_pass.len(), 1, "{:?}", proof.fail_to_pass);
    assert!(proof.fail_to_pass[0].contains("test_new"));
    assert_eq!(proof.runs.len(), 4);
    assert_eq!(proof.changed_test_files, ["test_new.py"]);
    assert_eq!(case.bench.status(), "");
    assert_eq!(case.bench.read("slug.py"), FIXED);
}

#[tokio::test]
async fn tests_for_a_repository_without_any_prove_a_new_feature() {
    let case = Case::new(&[("README.md", "a library\n")]).await;
    assert_eq!(case.base_run.verdict, RunVerdict::NoTests);
    case.bench.write("slug.py", FIXED);
    case.bench.write("test_slug.py", TESTS);
    let proof = case.prove(false).await;
    assert!(proof.proved, "{}", proof.reason);
    assert!(!proof.fail_to_pass.is_empty());
}

#[tokio::test]
async fn uncommitted_work_is_named_and_not_touched() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench.write("slug.py", FIXED);
    let plan = case.plan(false).await;
    case.bench.write("notes.txt", "mine\n");
    // Hidden from git's own eyes, not from the proof's.
    case.bench
        .host_git(&["update-index", "--assume-unchanged", "slug.py"]);
    case.bench.write("slug.py", "hidden\n");
    let error = case
        .prover
        .prove(&case.bench.site, &case.bench.step(3), &plan)
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ProofError::NotClean {
            head: plan.head,
            files: "notes.txt, slug.py".to_owned()
        }
    );
    assert_eq!(case.bench.read("notes.txt"), "mine\n");
    assert_eq!(case.bench.read("slug.py"), "hidden\n");
}

#[tokio::test]
async fn a_swallowed_exit_status_proves_nothing() {
    let swallowed = argv(&["sh", "-c", "python3 -m unittest discover -v || true"]);
    let case = Case::with_runner(&[("slug.py", BUGGY), ("test_slug.py", TESTS)], swallowed).await;
    assert!(matches!(case.base_run.verdict, RunVerdict::Disagree(_)));
    let report = case.base_run.report.as_ref().unwrap();
    assert_eq!(report.named(TestOutcome::Failed).count(), 1);
    case.bench.write("slug.py", FIXED);
    let proof = case.prove(false).await;
    assert!(!proof.proved);
    assert!(
        proof.reason.contains("cannot be judged on the base"),
        "{}",
        proof.reason
    );
}

#[tokio::test]
async fn criteria_are_checked_by_the_daemon() {
    let case = Case::new(&[
        ("slug.py", FIXED),
        ("test_slug.py", TESTS),
        ("bad.json", "{"),
    ])
    .await;
    let criterion = |value| Criterion::parse(&value).unwrap();
    let cases = [
        (json!({"type": "file_exists", "path": "slug.py"}), true),
        (json!({"type": "file_exists", "path": "gone.py"}), false),
        (
            json!({"type": "file_matches", "path": "slug.py", "pattern": "^def slug"}),
            true,
        ),
        (
            json!({"type": "file_matches", "path": "slug.py", "pattern": "^class"}),
            false,
        ),
        (
            json!({"type": "file_matches", "path": "gone.py", "pattern": "x"}),
            false,
        ),
        (
            json!({"type": "command_exits", "argv": ["false"], "code": 1}),
            true,
        ),
        (json!({"type": "command_exits", "argv": ["false"]}), false),
        (
            json!({"type": "command_exits", "argv": ["no-such-program"]}),
            false,
        ),
        (
            json!({"type": "command_output_matches", "argv": ["echo", "a\nb"], "pattern": "^b$"}),
            true,
        ),
        (
            json!({"type": "command_output_matches", "argv": ["sh", "-c", "echo b; exit 1"], "pattern": "b"}),
            false,
        ),
        (json!({"type": "tests_pass"}), true),
        (
            json!({"type": "tests_pass", "argv": ["python3", "-m", "unittest", "gone"]}),
            false,
        ),
        (json!({"type": "syntax_valid", "path": "slug.py"}), true),
        (json!({"type": "syntax_valid", "path": "bad.json"}), false),
        (
            json!({"type": "syntax_valid", "path": "picture.png"}),
            false,
        ),
    ];
    let criteria: Vec<Criterion> = cases
        .iter()
        .map(|(value, _)| criterion(value.clone()))
        .collect();
    let found = case
        .prover
        .verify(
            &case.bench.site,
            &case.bench.step(9),
            &criteria,
            Some(&case.base_run),
        )
        .await
        .unwrap();
    assert!(!found.holds);
    for ((value, wanted), result) in cases.iter().zip(&found.results) {
        assert_eq!(result.holds, *wanted, "{value}: {}", result.found);
        assert!(!result.found.is_empty());
    }
    let none = case
        .prover
        .verify(&case.bench.site, &case.bench.step(10), &[], None)
        .await
        .unwrap();
    assert!(!none.holds, "no criterion at all does not hold");
}

impl Case {
    /// Commits once more, as another step.
    async fn plan_again(&self, sequence: u64) -> ProofPlan {
        let (git, step) = (self.bench.git(), self.bench.step(sequence));
        let commit = git.commit_all(&step, "more").await.unwrap();
        ProofPlan {
            head: commit.commit().to_owned(),
            ..self.plan_fields()
        }
    }

    fn plan_fields(&self) -> ProofPlan {
        ProofPlan {
            base: self.base.clone(),
            head: String::new(),
            branch: "compy/fix".to_owned(),
            base_run: self.base_run.clone(),
            test_argv: self.test_argv.clone(),
            allow_test_changes: false,
            log_hash: String::new(),
            copy: None,
        }
    }
}
