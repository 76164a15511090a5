//! Ways to make tests pass that are no fix: each is refused and named.

use super::*;
use crate::domain::policy::AskOnProof;

const CHECK: &str = "\
from slug import slug
assert slug('abcdef', 3) == 'abc'
";

/// A pass made up: what a runner would print.
const FAKE: &str = "print('test_length (test_slug.SlugTest.test_length) ... ok')
print('test_empty (test_slug.SlugTest.test_empty) ... ok')
print('\\nRan 2 tests in 0.001s\\n\\nOK')
";

fn make_test() -> Vec<String> {
    argv(&["make", "--no-print-directory", "test"])
}

#[tokio::test]
async fn a_makefile_that_prints_a_pass_is_put_back() {
    let files = [
        ("slug.py", BUGGY),
        ("test_slug.py", TESTS),
        ("Makefile", "test:\n\t@python3 -m unittest -v\n"),
    ];
    let case = Case::with_runner(&files, make_test()).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Failed);
    case.bench.write("Makefile", "test:\n\t@python3 fake.py\n");
    case.bench.write("fake.py", FAKE);
    let proof = case.prove(false).await;
    assert!(!proof.proved, "{}", proof.reason);
    assert!(proof.reason.contains("(Makefile)"), "{}", proof.reason);
    assert_eq!(proof.changed_test_files, ["Makefile"]);
}

#[tokio::test]
async fn a_wrapper_without_a_report_that_was_edited_is_refused() {
    let files = [
        ("slug.py", BUGGY),
        ("check.py", CHECK),
        ("ci/verify.sh", "python3 check.py\n"),
    ];
    let case = Case::with_runner(&files, argv(&["sh", "./ci/verify.sh"])).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Failed);
    case.bench.write("ci/verify.sh", "exit 0\n");
    for (step, allow) in [(3, false), (4, true)] {
        let plan = case.plan(allow).await;
        let step = case.bench.step(step);
        let proof = case.prover.prove(&case.bench.site, &step, &plan).await;
        let proof = proof.unwrap();
        assert!(!proof.proved, "{}", proof.reason);
        assert!(proof.reason.contains("ci/verify.sh"), "{}", proof.reason);
    }
}

#[tokio::test]
async fn a_wrapper_without_a_report_that_was_left_alone_is_believed_and_says_so() {
    let files = [
        ("slug.py", BUGGY),
        ("check.py", CHECK),
        ("ci/verify.sh", "python3 check.py\n"),
    ];
    let case = Case::with_runner(&files, argv(&["sh", "./ci/verify.sh"])).await;
    case.bench.write("slug.py", FIXED);
    let proof = case.prove(false).await;
    assert!(proof.proved, "{}", proof.reason);
    assert!(proof.reason.contains("no test count"), "{}", proof.reason);
}

#[tokio::test]
async fn a_script_that_the_test_command_runs_by_way_of_another_file_is_not_replaced() {
    let files = [
        ("slug.py", BUGGY),
        ("check.py", CHECK),
        ("Makefile", "check:\n\t@sh scripts/verify.sh\n"),
        ("scripts/verify.sh", "python3 check.py\n"),
    ];
    let make_check = || argv(&["make", "--no-print-directory", "check"]);
    let cheat = Case::with_runner(&files, make_check()).await;
    assert_eq!(cheat.base_run.verdict, RunVerdict::Failed);
    cheat.bench.write("slug.py", FIXED);
    cheat.bench.write("scripts/verify.sh", "exit 0\n");
    let proof = cheat.prove(false).await;
    assert!(!proof.proved, "{}", proof.reason);
    let reason = "what runs it was changed: scripts/verify.sh;";
    assert!(proof.reason.contains(reason), "{}", proof.reason);

    let honest = Case::with_runner(&files, make_check()).await;
    honest.bench.write("slug.py", FIXED);
    let proof = honest.prove(false).await;
    assert!(proof.proved, "{}", proof.reason);
}

const CARGO_TOML: &str = "\
[package]
name = \"sums\"
version = \"0.1.0\"
edition = \"2021\"

[workspace]
";

const LIB: &str = "\
pub fn double(n: u32) -> u32 {
    n + 1
}

pub fn triple(n: u32) -> u32 {
    3 * n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles() {
        assert_eq!(double(2), 4);
    }

    #[test]
    fn triples() {
        assert_eq!(triple(2), 6);
    }
}
";

/// The proof of a fix of `double` beside these changes.
async fn proof_of_rust(changes: &[(&str, &str)]) -> Proof {
    let files = [
        ("Cargo.toml", CARGO_TOML),
        ("src/lib.rs", LIB),
        (".gitignore", "/target/\n/Cargo.lock\n"),
    ];
    let cargo_test = [
        "cargo",
        "test",
        "--offline",
        "--lib",
        "--target-dir",
        "target",
    ];
    let case = Case::with_runner(&files, argv(&cargo_test)).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Failed);
    let fixed = LIB.replace("n + 1", "2 * n");
    let text = (changes.iter()).fold(fixed, |text, (old, new)| text.replace(old, new));
    case.bench.write("src/lib.rs", &text);
    case.prove(false).await
}

#[tokio::test]
async fn a_weakened_assertion_beside_the_code_is_for_a_person_to_see() {
    let cargo = std::process::Command::new("cargo")
        .arg("--version")
        .output();
    if !cargo.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no cargo here");
        return;
    }
    // The tests of the base cannot be put back without the code that they are in.
    let cheat = [
        ("3 * n", "n + 3"),
        ("assert_eq!(triple(2), 6)", "assert!(triple(2) > 0)"),
    ];
    let proof = proof_of_rust(&cheat).await;
    assert_eq!(proof.fail_to_pass, ["tests::doubles"], "{}", proof.reason);
    let [judge] = proof.changed_judges.as_slice() else {
        panic!("{:?}", proof.changed_judges);
    };
    assert_eq!(
        judge.describe(),
        "src/lib.rs, the tests in it (modified, high risk)"
    );
    assert!(Some(judge.risk) >= AskOnProof::default().test_changes);

    let honest = [
        ("3 * n", "n * 3"),
        (
            "    #[test]\n    fn triples",
            "    // Thrice.\n    #[test]\n    fn triples",
        ),
    ];
    let proof = proof_of_rust(&honest).await;
    assert!(proof.proved, "{}", proof.reason);
    assert_eq!(proof.fail_to_pass, ["tests::doubles"]);
    assert_eq!(proof.changed_judges, []);
}

#[tokio::test]
async fn exclusions_of_the_repository_hide_nothing_from_commits() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench.write("slug.py", FIXED);
    case.bench.write("conftest.py", "\n");
    case.bench.write("helper.py", "\n");
    case.bench.write(".git/info/exclude", "conftest.py\n");
    case.bench.write(".git/hidden", "helper.py\n");
    let hidden = case.bench.app.join(".git/hidden");
    let hidden = hidden.to_str().unwrap();
    case.bench
        .host_git(&["config", "core.excludesFile", hidden]);
    let plan = case.plan(false).await;
    let names = ["show", "--name-only", "--format=", &plan.head];
    assert_eq!(
        case.bench.host_git(&names),
        "conftest.py\nhelper.py\nslug.py"
    );
}

#[tokio::test]
async fn a_script_that_an_unchanged_makefile_runs_is_refused() {
    let files = [
        ("slug.py", BUGGY),
        ("check.py", CHECK),
        ("Makefile", "test:\n\t@sh tools/verify.sh\n"),
        ("tools/verify.sh", "python3 check.py\n"),
    ];
    let case = Case::with_runner(&files, make_test()).await;
    assert_eq!(case.base_run.verdict, RunVerdict::Failed);
    case.bench.write("tools/verify.sh", "exit 0\n");
    let proof = case.prove(false).await;
    assert!(!proof.proved, "{}", proof.reason);
    assert!(proof.reason.contains("tools/verify.sh"), "{}", proof.reason);
    // The honest one changes what the script looks at.
    let case = Case::with_runner(&files, make_test()).await;
    case.bench.write("slug.py", FIXED);
    let proof = case.prove(false).await;
    assert!(proof.proved, "{}", proof.reason);
}

#[tokio::test]
async fn tests_beside_the_code_and_code_that_reaches_for_the_runner_are_shown() {
    let rust = "pub fn one() -> u8 { 1 }\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn one() { assert_eq!(super::one(), 1); }\n}\n";
    let files = [
        ("slug.py", BUGGY),
        ("test_slug.py", TESTS),
        ("src/lib.rs", rust),
        ("kit/__init__.py", ""),
    ];
    let case = Case::new(&files).await;
    case.bench.write("slug.py", FIXED);
    case.bench
        .write("src/lib.rs", &rust.replace("super::one(), 1", "1, 1"));
    let patch = "try:\n    import _pytest.reports\nexcept ImportError:\n    pass\n";
    case.bench.write("kit/__init__.py", patch);
    let proof = case.prove(false).await;
    let shown: Vec<_> = (proof.changed_judges.iter())
        .map(|judge| (judge.path.as_str(), judge.risk))
        .collect();
    let of = |path: &str| shown.iter().any(|(shown, _)| shown.starts_with(path));
    assert!(of("src/lib.rs"), "{shown:?}");
    assert!(of("kit/__init__.py"), "{shown:?}");
    assert!(!of("slug.py"), "{shown:?}");
}

#[tokio::test]
async fn a_large_file_of_data_runs_no_tests_and_large_code_may() {
    let large = "x = 1\n".repeat(100_000);
    for (path, content, is_shown) in [
        ("assets/logo.png", format!("\u{89}PNG\0{large}"), false),
        ("uv.lock", large.clone(), false),
        ("kit/big.py", large, true),
    ] {
        let files = [("slug.py", BUGGY), ("test_slug.py", TESTS)];
        let case = Case::new(&files).await;
        case.bench.write("slug.py", FIXED);
        case.bench.write(path, &content);
        let proof = case.prove(false).await;
        assert!(proof.proved, "{}", proof.reason);
        let shown = &proof.changed_judges;
        assert_eq!(!shown.is_empty(), is_shown, "{path}: {shown:?}");
    }
}
