//! Detection over small trees, and validation over a real one.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    domain::{changes::ChangeKind, report::RunVerdict},
    ports::agent::AgentPort,
    service::testing::{Bench, argv},
};

/// What is detected in a repository with these files when the workspace has
/// nothing but these programs: a directory of fakes is all that a script sees.
async fn plan(files: &[(&str, &str)], programs: &[&str]) -> Vec<(String, String)> {
    let bench = Bench::new(files);
    let bin = bench.app.parent().unwrap().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in programs {
        let (name, exit) = match *program {
            "python-with-pytest" => ("python", 0),
            "python" => ("python", 1),
            other => (other, 0),
        };
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nexit {exit}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let agent = bench.agent();
    agent.only_programs_of("/workspace/bin");
    let given = GivenChecks::default();
    let plan = detect(agent.as_ref(), "/workspace/app", &given)
        .await
        .unwrap();
    assert_eq!(
        agent.list(false).await.unwrap(),
        [],
        "nothing is left of asking"
    );
    let commands = plan.commands();
    commands
        .map(|command| (command.name.clone(), command.argv.join(" ")))
        .collect()
}

const ALL: [&str; 9] = [
    "python-with-pytest",
    "ruff",
    "mypy",
    "cargo",
    "cargo-clippy",
    "go",
    "npm",
    "make",
    "tsc",
];

/// A tree, and the checks that it has.
struct Fixture {
    files: &'static [(&'static str, &'static str)],
    checks: &'static [(&'static str, &'static str)],
}

const FIXTURES: [Fixture; 12] = [
    Fixture {
        files: &[("pyproject.toml", "[tool.pytest.ini_options]\n")],
        checks: &[("tests", "python -m pytest -q")],
    },
    Fixture {
        files: &[("tests/test_a.py", "def test_a(): pass\n")],
        checks: &[("tests", "python -m pytest -q")],
    },
    Fixture {
        files: &[("Cargo.toml", "[package]\nname = \"a\"\n")],
        checks: &[("tests", "cargo test")],
    },
    Fixture {
        files: &[("Cargo.toml", "[package]\n[lints.clippy]\nall = \"warn\"\n")],
        checks: &[
            ("lint-clippy", "cargo clippy --all-targets"),
            ("tests", "cargo test"),
        ],
    },
    Fixture {
        files: &[("go.mod", "module a\n")],
        checks: &[("tests", "go test -v ./...")],
    },
    Fixture {
        files: &[(
            "package.json",
            r#"{"scripts": {"test": "jest", "lint": "eslint ."}}"#,
        )],
        checks: &[("lint-npm", "npm run lint"), ("tests", "npm test")],
    },
    Fixture {
        files: &[(
            "package.json",
            r#"{"scripts": {"test": "echo \"Error: no test specified\" && exit 1"}}"#,
        )],
        checks: &[],
    },
    Fixture {
        files: &[("Makefile", "all:\n\ttrue\ntest: all\n\t./run\n")],
        checks: &[("tests", "make test")],
    },
    Fixture {
        files: &[("pyproject.toml", "[tool.ruff]\nline-length = 100\n")],
        checks: &[("lint-ruff", "ruff check .")],
    },
    Fixture {
        files: &[("mypy.ini", "[mypy]\n")],
        checks: &[("types-mypy", "mypy .")],
    },
    Fixture {
        files: &[("pyproject.toml", "[tool.mypy]\nfiles = [\"src\"]\n")],
        checks: &[("types-mypy", "mypy")],
    },
    Fixture {
        files: &[("tsconfig.json", "{}")],
        checks: &[("types-tsc", "tsc --noEmit")],
    },
];

#[tokio::test]
async fn each_tool_is_found_by_its_configuration() {
    for fixture in FIXTURES {
        let found = plan(fixture.files, &ALL).await;
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(found, fixture.checks, "{:?}", fixture.files);
    }
}

#[tokio::test]
async fn a_tool_that_the_workspace_lacks_is_not_used() {
    for fixture in FIXTURES {
        assert_eq!(plan(fixture.files, &[]).await, [], "{:?}", fixture.files);
    }
    assert_eq!(plan(&[("README.md", "")], &ALL).await, []);
}

#[tokio::test]
async fn unittest_is_used_where_there_is_no_pytest() {
    let below = plan(&[("tests/test_a.py", "")], &["python"]).await;
    let wanted = "python -m unittest discover -s tests -t .";
    assert_eq!(below, [("tests".to_owned(), wanted.to_owned())]);
    let beside = plan(&[("test_a.py", "")], &["python"]).await;
    let wanted = "python -m unittest discover";
    assert_eq!(beside, [("tests".to_owned(), wanted.to_owned())]);
}

#[tokio::test]
async fn what_a_person_gave_wins() {
    let bench = Bench::new(&[("Cargo.toml", ""), ("pyproject.toml", "[tool.ruff]\n")]);
    let given = GivenChecks {
        tests: Some(argv(&["./check", "-q"])),
        lint: Some(argv(&["./lint"])),
    };
    let plan = detect(bench.agent().as_ref(), "/workspace/app", &given)
        .await
        .unwrap();
    assert_eq!(plan.tests.unwrap().argv, ["./check", "-q"]);
    assert_eq!(plan.lint.len(), 1);
    assert_eq!(
        (plan.lint[0].argv.join(" "), plan.lint[0].why.as_str()),
        ("./lint".to_owned(), "given")
    );
}

#[tokio::test]
async fn validation_runs_every_check_and_leaves_nothing_behind() {
    let bench = Bench::new(&[
        ("a.py", "x = 1\n"),
        (
            "test_a.py",
            "import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n        open('left.txt', 'w').close()\n",
        ),
    ]);
    bench.write("mine.txt", "work under way\n");
    let check = |kind: CheckKind, words: &[&str]| crate::domain::checks::CheckCommand {
        name: kind.name().to_owned(),
        kind,
        argv: argv(words),
        why: "given".to_owned(),
    };
    let plan = CheckPlan {
        tests: Some(check(
            CheckKind::Tests,
            &["python3", "-m", "unittest", "discover"],
        )),
        lint: vec![check(
            CheckKind::Lint,
            &["sh", "-c", "echo a.py:1: bad; exit 1"],
        )],
        types: vec![check(CheckKind::Types, &["no-such-checker"])],
    };
    let results = validate(&bench.commands, &bench.site, &bench.step(1), &plan)
        .await
        .unwrap();
    let found: Vec<(&str, bool, &str)> = results
        .iter()
        .map(|each| {
            (
                each.command.name.as_str(),
                each.passed(),
                each.summary.as_str(),
            )
        })
        .collect();
    assert_eq!(found[0], ("lint", false, "failed (exit 1)"));
    assert_eq!((found[1].0, found[1].1), ("types", false));
    assert!(matches!(results[1].verdict, RunVerdict::Broken(_)));
    assert_eq!(found[2], ("tests", true, "1 passed"));
    assert_eq!(results[0].view, "a.py:1: bad\n");
    let dirty = bench.git().dirty().await.unwrap();
    assert_eq!(dirty.len(), 1, "{dirty:?}");
    assert_eq!(
        (dirty[0].path.as_str(), dirty[0].kind),
        ("mine.txt", ChangeKind::Added)
    );
}

#[tokio::test]
async fn a_report_that_is_no_file_holds_nothing_up() {
    let bench = Bench::new(&[]);
    let script = "report=${PYTEST_ADDOPTS#--junitxml=}; mkdir -p ${report%/*}; mkfifo $report";
    let (step, argv) = (bench.step(1), argv(&["sh", "-c", script]));
    let ran = run::run_tests(&bench.commands, &bench.site, &step, "tests", "tests", &argv);
    let ran = tokio::time::timeout(std::time::Duration::from_secs(20), ran).await;
    let ran = ran.expect("a pipe is not read").unwrap();
    assert_eq!(ran.verdict, RunVerdict::PassedByExit);
}
