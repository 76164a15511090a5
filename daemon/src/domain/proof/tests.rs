//! The rule over runs that are made up; real ones are in the service's tests.

use super::*;
use crate::domain::{
    exec::ExitStatus,
    report::{Framework, Reading, judge, read},
};

/// A run with these named tests, and this many more without names.
fn run(name: &str, code: u32, tests: &[(&str, TestOutcome)], unnamed: u32) -> TestRun {
    let count = |wanted| {
        tests
            .iter()
            .filter(|(_, outcome)| *outcome == wanted)
            .count() as u32
    };
    let report = TestReport {
        framework: Framework::Pytest,
        passed: count(Passed) + unnamed,
        failed: count(Failed),
        errors: count(Error),
        skipped: count(Skipped),
        names: tests
            .iter()
            .map(|(name, outcome)| ((*name).to_owned(), *outcome))
            .collect(),
        names_all: unnamed == 0 && !tests.is_empty(),
    };
    with(name, ExitStatus::Code(code), Reading::Report(report))
}

fn with(name: &str, status: ExitStatus, reading: Reading) -> TestRun {
    TestRun {
        name: name.to_owned(),
        argv: vec!["check".to_owned()],
        cwd: "/workspace/app".to_owned(),
        verdict: judge(&status, &reading),
        exit: Exit {
            status,
            duration_ms: 1,
            leftover_processes: 0,
            out_of_memory: false,
        },
        report: reading.into_report(),
        tree: "0".repeat(40),
        artifact: None,
        reports: Vec::new(),
    }
}

use TestOutcome::{Error, Failed, Passed, Skipped};

fn base(code: u32, tests: &[(&str, TestOutcome)]) -> TestRun {
    run(run_name::BASE, code, tests, 0)
}

/// Weighs a branch whose run with the base's tests is the same.
fn weighed(base: &TestRun, branch: &TestRun, allow: bool) -> Weighed {
    let runs = Runs {
        base,
        branch,
        restored: Some(branch),
        transplanted: None,
    };
    weigh(runs, ChangedJudges::default(), allow)
}

fn branch(tests: &[(&str, TestOutcome)]) -> TestRun {
    run(run_name::BRANCH, 0, tests, 0)
}

#[test]
fn failing_tests_must_pass_and_passing_ones_still() {
    let base = base(1, &[("a", Failed), ("b", Passed), ("c", Skipped)]);
    let good = weighed(
        &base,
        &branch(&[("a", Passed), ("b", Passed), ("c", Skipped)]),
        false,
    );
    assert!(good.proved, "{}", good.reason);
    assert_eq!(
        (good.fail_to_pass, good.pass_to_pass),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
    assert_eq!(
        good.reason,
        "a fails without the change and passes with it; 1 other passes as before"
    );
    for (tests, wanted) in [
        (
            vec![("a", Skipped), ("b", Passed)],
            "a failed on the base and was skipped on the branch",
        ),
        (
            vec![("b", Passed)],
            "a failed on the base and did not run on the branch",
        ),
        (
            vec![("a", Passed), ("b", Skipped)],
            "b passed on the base and was skipped on the branch",
        ),
        (
            vec![("a", Passed)],
            "b passed on the base and did not run on the branch",
        ),
    ] {
        let bad = weighed(&base, &branch(&tests), false);
        assert!(!bad.proved);
        assert!(bad.reason.contains(wanted), "{}", bad.reason);
    }
}

/// A branch on which tests fail.
fn failing(tests: &[(&str, TestOutcome)]) -> TestRun {
    run(run_name::BRANCH, 1, tests, 0)
}

#[test]
fn what_failed_before_may_fail_still_and_is_named() {
    let base = base(1, &[("a", Failed), ("b", Failed), ("c", Passed)]);
    let good = weighed(
        &base,
        &failing(&[("a", Passed), ("b", Failed), ("c", Passed)]),
        false,
    );
    assert!(good.proved, "{}", good.reason);
    assert_eq!(good.fail_to_pass, ["a"]);
    assert_eq!(good.pass_to_pass, ["c"]);
    assert_eq!(good.known_failures, ["b"]);
    assert!(
        good.reason.ends_with("failed before and fails still: b"),
        "{}",
        good.reason
    );
    for (branch, why) in [
        // Nothing is better.
        (
            vec![("a", Failed), ("b", Failed), ("c", Passed)],
            "do not pass",
        ),
        // Something is worse.
        (
            vec![("a", Passed), ("b", Failed), ("c", Failed)],
            "do not pass",
        ),
        // A new test fails.
        (
            vec![("a", Passed), ("b", Failed), ("c", Passed), ("d", Failed)],
            "do not pass",
        ),
        (vec![("a", Passed), ("b", Failed)], "c passed on the base"),
        (
            vec![("a", Passed), ("b", Failed), ("c", Skipped)],
            "c passed on the base",
        ),
    ] {
        let bad = weighed(&base, &failing(&branch), false);
        assert!(!bad.proved, "{branch:?}");
        assert!(bad.reason.contains(why), "{branch:?}: {}", bad.reason);
    }
    // By counts alone nobody can tell which they are.
    let unnamed = run(run_name::BRANCH, 1, &[("b", Failed)], 2);
    assert!(!weighed(&base, &unnamed, false).proved);
    let unnamed = run(run_name::BASE, 1, &[("a", Failed), ("b", Failed)], 1);
    let branch = failing(&[("a", Passed), ("b", Failed), ("c", Passed)]);
    assert!(!weighed(&unnamed, &branch, false).proved);
}

#[test]
fn what_passes_with_other_tests_alone_is_no_known_failure() {
    let base = base(1, &[("a", Failed), ("b", Failed), ("c", Passed)]);
    let branch = branch(&[("a", Passed), ("b", Passed), ("c", Passed)]);
    let files = ["test_b.py".to_owned()];
    let changed = ChangedJudges {
        files: &files,
        runners: &[],
        scripts: &[],
    };
    let restored = failing(&[("a", Passed), ("b", Failed), ("c", Passed)]);
    let runs = Runs {
        base: &base,
        branch: &branch,
        restored: Some(&restored),
        transplanted: None,
    };
    let bad = weigh(runs, changed, false);
    assert!(!bad.proved);
    assert!(bad.reason.contains("put back"), "{}", bad.reason);
}

#[test]
fn where_all_that_failed_fails_still_new_tests_show_the_change() {
    let base = base(1, &[("old", Failed), ("c", Passed)]);
    let tests = [("old", Failed), ("c", Passed), ("new", Passed)];
    let branch = failing(&tests);
    assert!(needs_new_tests(&base, &branch));
    let files = ["test_new.py".to_owned()];
    let changed = ChangedJudges {
        files: &files,
        runners: &[],
        scripts: &[],
    };
    let restored = failing(&[("old", Failed), ("c", Passed)]);
    let weigh_with = |transplanted: Option<&TestRun>| {
        let runs = Runs {
            base: &base,
            branch: &branch,
            restored: Some(&restored),
            transplanted,
        };
        weigh(runs, changed, false)
    };
    let fails_there = failing(&[("old", Failed), ("c", Passed), ("new", Failed)]);
    let good = weigh_with(Some(&fails_there));
    assert!(good.proved, "{}", good.reason);
    assert_eq!(good.fail_to_pass, ["new"]);
    assert_eq!(good.known_failures, ["old"]);
    for transplanted in [None, Some(&branch)] {
        let bad = weigh_with(transplanted);
        assert!(!bad.proved);
        assert!(bad.reason.contains("add a test"), "{}", bad.reason);
    }
}

#[test]
fn where_tests_may_change_they_may_go_but_something_must_pass_now() {
    let base = base(1, &[("a", Failed), ("b", Passed)]);
    assert!(weighed(&base, &branch(&[("a", Passed)]), true).proved);
    assert!(weighed(&base, &branch(&[("b", Passed), ("new", Passed)]), true).proved);
    assert!(!weighed(&base, &branch(&[("b", Passed)]), true).proved);
}

#[test]
fn a_file_that_could_not_be_loaded_gives_its_tests_when_it_can() {
    let base = base(2, &[("tests.test_new", Error)]);
    let fixed = branch(&[
        ("tests.test_new::test_x", Passed),
        ("tests.test_old::test_y", Passed),
    ]);
    let good = weighed(&base, &fixed, false);
    assert!(good.proved, "{}", good.reason);
    assert_eq!(good.fail_to_pass, ["tests.test_new::test_x"]);
    let dropped = branch(&[("tests.test_old::test_y", Passed)]);
    assert!(!weighed(&base, &dropped, false).proved);
}

#[test]
fn without_names_the_counts_decide() {
    let base = run(run_name::BASE, 1, &[("a", Failed)], 5);
    let all = run(run_name::BRANCH, 0, &[], 6);
    let good = weighed(&base, &all, false);
    assert!(good.proved, "{}", good.reason);
    assert_eq!(good.fail_to_pass, ["a"]);
    let fewer = run(run_name::BRANCH, 0, &[], 4);
    assert!(!weighed(&base, &fewer, false).proved);
    let skipped = run(run_name::BRANCH, 0, &[("a", Skipped)], 5);
    assert!(!weighed(&base, &skipped, false).proved);
}

#[test]
fn an_unknown_runner_is_believed_by_exit_status_and_says_so() {
    let exit = |name: &str, code| with(name, ExitStatus::Code(code), Reading::UnknownRunner);
    let good = weighed(&exit("base", 2), &exit("branch", 0), false);
    assert!(good.proved);
    assert!(
        good.reason.contains("by exit status alone"),
        "{}",
        good.reason
    );
    assert!(good.reason.contains("no test count"), "{}", good.reason);
    assert!(!weighed(&exit("base", 0), &exit("branch", 0), false).proved);
    // Not where the base had a report, nor where what runs it was changed.
    let report = base(1, &[("a", Failed)]);
    assert!(!weighed(&report, &exit("branch", 0), true).proved);
    let (base, branch) = (exit("base", 2), exit("branch", 0));
    let runs = Runs {
        base: &base,
        branch: &branch,
        restored: Some(&branch),
        transplanted: None,
    };
    let files = ["check.sh".to_owned()];
    let changed = ChangedJudges {
        files: &files,
        runners: &files,
        scripts: &[],
    };
    for allow in [false, true] {
        let bad = weigh(runs, changed, allow);
        assert!(!bad.proved);
        assert!(bad.reason.contains("check.sh"), "{}", bad.reason);
    }
}

#[test]
fn a_hang_or_a_crash_on_the_base_can_be_what_is_fixed() {
    for status in [ExitStatus::TimedOut(1_000), ExitStatus::Signal(11)] {
        let base = with("base", status, Reading::Unreadable(Framework::Pytest));
        let good = weighed(&base, &branch(&[("a", Passed)]), false);
        assert!(good.proved, "{}", good.reason);
        assert_eq!(good.fail_to_pass, ["a"]);
    }
}

#[test]
fn a_base_that_cannot_be_judged_proves_nothing() {
    let fixed = branch(&[("a", Passed)]);
    for base in [
        with(
            "base",
            ExitStatus::Code(0),
            Reading::Unreadable(Framework::Pytest),
        ),
        with(
            "base",
            ExitStatus::NotStarted("no".to_owned()),
            Reading::UnknownRunner,
        ),
        with(
            "base",
            ExitStatus::Unknown("gone".to_owned()),
            Reading::UnknownRunner,
        ),
        base(0, &[("a", Failed)]),
    ] {
        let bad = weighed(&base, &fixed, true);
        assert!(!bad.proved);
        assert!(bad.reason.contains("give a test command"), "{}", bad.reason);
    }
}

#[test]
fn no_run_but_a_pass_on_the_branch_proves_anything() {
    let base = base(1, &[("a", Failed)]);
    let unknown = Reading::UnknownRunner;
    for bad in [
        run("branch", 0, &[], 0),
        run("branch", 0, &[("a", Skipped)], 0),
        run("branch", 1, &[("a", Passed)], 0),
        run("branch", 0, &[("a", Failed)], 0),
        run("branch", 1, &[("a", Failed)], 0),
        with("branch", ExitStatus::TimedOut(5), unknown.clone()),
        with("branch", ExitStatus::Signal(9), unknown.clone()),
        with("branch", ExitStatus::Unknown("gone".to_owned()), unknown),
        with(
            "branch",
            ExitStatus::Code(0),
            Reading::Unreadable(Framework::Pytest),
        ),
    ] {
        for allow in [false, true] {
            let weighed = weighed(&base, &bad, allow);
            assert!(!weighed.proved, "{bad:?}");
            assert!(
                weighed.reason.contains("do not pass on the branch"),
                "{}",
                weighed.reason
            );
        }
    }
}

#[test]
fn a_report_that_no_longer_names_its_tests_is_refused() {
    let base = base(1, &[("a", Failed), ("b", Passed)]);
    let fake = run(run_name::BRANCH, 0, &[], 4);
    for allow in [false, true] {
        let bad = weighed(&base, &fake, allow);
        assert!(!bad.proved, "{}", bad.reason);
        assert!(bad.reason.contains("does not name"), "{}", bad.reason);
    }
}

#[test]
fn a_failing_test_that_vanished_without_a_name_is_missed() {
    let base = run(run_name::BASE, 1, &[("a", Failed)], 5);
    let without = run(run_name::BRANCH, 0, &[], 5);
    let bad = weighed(&base, &without, false);
    assert!(!bad.proved, "{}", bad.reason);
    assert!(bad.reason.contains("fewer tests pass"), "{}", bad.reason);
}

/// A run of `go test` that prints this.
fn go(name: &str, code: u32, output: &str) -> TestRun {
    let reading = read(Some(Framework::Go), output.as_bytes(), None);
    with(name, ExitStatus::Code(code), reading)
}

#[test]
fn packages_of_go_prove_nothing() {
    let of = |a: &str, b: &str| format!("{a}\tex.com/m/a\t0.1s\n{b}\tex.com/m/b\t0.1s\n");
    let (ok, fail) = ("ok  ", "FAIL");
    for (base, branch, code) in [
        // The test that failed may be skipped now.
        (of(fail, ok), of(ok, ok), 0),
        // In `a` something else may fail now.
        (of(fail, fail), of(fail, ok), 1),
    ] {
        let (base, branch) = (go("base", 1, &base), go("branch", code, &branch));
        for allow in [false, true] {
            let bad = weighed(&base, &branch, allow);
            assert!(!bad.proved, "{}", bad.reason);
            assert!(bad.reason.contains("on the base commit"), "{}", bad.reason);
            assert!(bad.reason.contains("with -v or -json"), "{}", bad.reason);
        }
    }
    // Nothing was built, so nothing tells how it is run, until it is run.
    let base = go("base", 1, "FAIL\tex.com/m/a [build failed]\nFAIL\n");
    let plain = go("branch", 0, "ok  \tex.com/m/a\t0.1s\n");
    let bad = weighed(&base, &plain, false);
    assert!(!bad.proved, "{}", bad.reason);
    assert!(bad.reason.contains("with -v or -json"), "{}", bad.reason);
    let verbose = "=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\nok  \tex.com/m/a\t0.1s\n";
    let good = weighed(&base, &go("branch", 0, verbose), false);
    assert!(good.proved, "{}", good.reason);
    assert_eq!(good.fail_to_pass, ["ex.com/m/a.TestA"]);
}
