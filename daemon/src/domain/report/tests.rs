//! Reports as the runners really print them: pytest 9.2, unittest of Python
//! 3.11, cargo 1.9x, nextest 0.9, node 20, Perl's Test::More. Those of go, jest,
//! vitest and mocha are written after their documentation.

use super::*;

fn report(framework: Option<Framework>, output: &str, junit: Option<&str>) -> TestReport {
    match read(framework, output.as_bytes(), junit) {
        Reading::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

/// Passed, failed, broken, skipped.
fn counts(report: &TestReport) -> (u32, u32, u32, u32) {
    (report.passed, report.failed, report.errors, report.skipped)
}

fn judged(code: u32, framework: Option<Framework>, output: &str) -> RunVerdict {
    let reading = read(framework, output.as_bytes(), None);
    judge(&ExitStatus::Code(code), &reading)
}

#[test]
fn pytest_is_read_from_its_last_line() {
    for output in [
        include_str!("samples/pytest.txt"),
        include_str!("samples/pytest_quiet.txt"),
        include_str!("samples/pytest_verbose_coloured.txt"),
    ] {
        // xpassed counts as passed, xfailed as skipped.
        let found = report(None, output, None);
        assert_eq!(found.framework, Framework::Pytest);
        assert_eq!(counts(&found), (5, 1, 1, 2), "{output}");
    }
}

#[test]
fn pytest_names_come_from_junit_or_verbose_lines() {
    let output = include_str!("samples/pytest_quiet.txt");
    let found = report(None, output, Some(include_str!("samples/pytest.xml")));
    assert_eq!(found.names.len() as u32, found.total());
    assert_eq!(
        found.names["test_sample.TestClass::test_in_class"],
        TestOutcome::Passed
    );
    assert_eq!(
        found.names["test_sample::test_param[a[b]]"],
        TestOutcome::Passed
    );
    assert_eq!(found.names["test_sample::test_bad"], TestOutcome::Failed);
    assert_eq!(found.names["test_sample::test_error"], TestOutcome::Error);
    assert_eq!(found.names["test_sample::test_xfail"], TestOutcome::Skipped);
    let verbose = report(
        None,
        include_str!("samples/pytest_verbose_coloured.txt"),
        None,
    );
    assert_eq!(verbose.names.len(), 9);
    assert_eq!(
        verbose.names["test_sample.py::test_skip"],
        TestOutcome::Skipped
    );
}

#[test]
fn junit_xml_is_read_where_it_is_printed() {
    let xml = include_str!("samples/pytest.xml");
    let printed = format!("> vitest --reporter=junit\n\n{xml}\nDone in 0.3s\n");
    let found = report(None, &printed, None);
    assert_eq!(found.framework, Framework::Junit);
    assert_eq!(counts(&found), (5, 1, 1, 2));
    assert!(found.names_all);
    assert_eq!(found.names["test_sample::test_bad"], TestOutcome::Failed);
    assert_eq!(judged(1, None, &printed), RunVerdict::Failed);
    // A runner that is known says so in XML as well, also in several documents.
    let twice = format!("{xml}\n{xml}");
    let found = report(Some(Framework::Jest), &twice, None);
    assert_eq!(found.framework, Framework::Jest);
    assert_eq!(counts(&found), (10, 2, 2, 4));
    let none = "<testsuites tests=\"0\"/>\n";
    assert_eq!(judged(0, None, none), RunVerdict::NoTests);
    // Cut short, it is no report, and what another runner says comes first.
    let cut = &xml[..xml.len() - 20];
    assert_eq!(judged(0, None, cut), RunVerdict::PassedByExit);
    let both = format!("{xml}\n==== 9 passed in 0.01s ====\n");
    assert_eq!(report(None, &both, None).framework, Framework::Pytest);
}

#[test]
fn pytest_that_collects_nothing_or_breaks_is_no_pass() {
    let none = include_str!("samples/pytest_none.txt");
    assert_eq!(judged(5, None, none), RunVerdict::NoTests);
    let missing = include_str!("samples/pytest_no_file.txt");
    assert_eq!(judged(4, None, missing), RunVerdict::NoTests);
    let broken = include_str!("samples/pytest_uncollected.txt");
    assert_eq!(judged(2, None, broken), RunVerdict::Failed);
    let junit = report(
        None,
        broken,
        Some(include_str!("samples/pytest_uncollected.xml")),
    );
    assert_eq!(junit.names["test_coll"], TestOutcome::Error);
    let empty = report(None, none, Some(include_str!("samples/pytest_none.xml")));
    assert_eq!(empty.total(), 0);
}

#[test]
fn unittest_is_read_with_and_without_names() {
    let plain = report(None, include_str!("samples/unittest.txt"), None);
    assert_eq!(plain.framework, Framework::Unittest);
    assert_eq!(counts(&plain), (3, 2, 1, 2));
    let failing: Vec<&str> = plain.named(TestOutcome::Failed).collect();
    assert_eq!(
        failing,
        ["unit_sample.Sample.test_bad", "unit_sample.Sample.test_sub"]
    );
    let verbose = report(None, include_str!("samples/unittest_verbose.txt"), None);
    let name = |test: &str| verbose.names[&format!("unit_sample.Sample.{test}")];
    assert_eq!(verbose.names.len(), 8);
    assert_eq!(name("test_ok"), TestOutcome::Passed);
    // It prints between its name and its outcome.
    assert_eq!(name("test_noisy"), TestOutcome::Passed);
    assert_eq!(name("test_skip"), TestOutcome::Skipped);
    assert_eq!(name("test_xfail"), TestOutcome::Skipped);
    assert_eq!(name("test_sub"), TestOutcome::Failed);
    // Python 3.10 does not repeat the method.
    let old = "test_a (m.T) ... ok\n\n---\nRan 1 test in 0.0s\n\nOK\n";
    assert_eq!(
        report(None, old, None).names["m.T.test_a"],
        TestOutcome::Passed
    );
    assert_eq!(
        judged(0, None, include_str!("samples/unittest_none.txt")),
        RunVerdict::NoTests
    );
    let no_import = include_str!("samples/unittest_no_import.txt");
    assert_eq!(judged(1, None, no_import), RunVerdict::Failed);
}

#[test]
fn cargo_sums_its_binaries_and_names_tests() {
    let found = report(None, include_str!("samples/cargo.txt"), None);
    assert_eq!(counts(&found), (3, 1, 0, 2));
    assert_eq!(found.names["tests::panics"], TestOutcome::Passed);
    assert_eq!(found.names["tests::ign2"], TestOutcome::Skipped);
    // The line of a doc-test moves with every edit above it.
    assert_eq!(found.names["src/lib.rs - doc"], TestOutcome::Passed);
    let quiet = report(None, include_str!("samples/cargo_quiet.txt"), None);
    assert_eq!(counts(&quiet), (3, 1, 0, 2));
    assert_eq!(
        judged(101, None, include_str!("samples/cargo_broken.txt")),
        RunVerdict::Failed
    );
    let nextest = report(None, include_str!("samples/nextest.txt"), None);
    assert_eq!(counts(&nextest), (2, 1, 0, 2));
    assert_eq!(nextest.names["sample tests::bad"], TestOutcome::Failed);
    assert_eq!(nextest.names["sample tests::ok"], TestOutcome::Passed);
}

#[test]
fn node_is_read_from_both_reporters() {
    for output in [
        include_str!("samples/node_tap.txt"),
        include_str!("samples/node_spec.txt"),
    ] {
        let found = report(None, output, None);
        assert_eq!(counts(&found), (2, 2, 0, 2), "{output}");
        assert_eq!(found.names["ok one"], TestOutcome::Passed);
        assert_eq!(found.names["suite > inner ok"], TestOutcome::Passed);
        assert_eq!(found.names["suite > inner bad"], TestOutcome::Failed);
        assert_eq!(found.names["skipped"], TestOutcome::Skipped);
        assert_eq!(found.names["todo"], TestOutcome::Skipped);
    }
    assert_eq!(
        judged(0, None, include_str!("samples/node_none.txt")),
        RunVerdict::NoTests
    );
}

#[test]
fn nested_suites_of_node_are_counted_by_their_tests() {
    let output = include_str!("samples/node_tap_nested.txt");
    let found = report(None, output, None);
    assert_eq!(found.framework, Framework::Tap);
    assert_eq!(counts(&found), (4, 1, 0, 2));
    for (name, outcome) in [
        ("sum > adds", TestOutcome::Passed),
        ("sum > carries", TestOutcome::Failed),
        ("sum > later", TestOutcome::Skipped),
        ("sum > rounds", TestOutcome::Skipped),
        ("sum > deep > works", TestOutcome::Passed),
        ("alone > inner", TestOutcome::Passed),
    ] {
        assert_eq!(found.names[name], outcome, "{name}");
    }
}

#[test]
fn tap_of_other_producers_is_read_with_its_directives_and_subtests() {
    let found = report(None, include_str!("samples/perl_tap.txt"), None);
    assert_eq!(found.framework, Framework::Tap);
    assert_eq!(counts(&found), (2, 2, 0, 3));
    for (name, outcome) in [
        ("adds", TestOutcome::Passed),
        ("carries", TestOutcome::Failed),
        ("rounds", TestOutcome::Skipped),
        // A skip without a name is no pass.
        ("test 4", TestOutcome::Skipped),
        ("words > second", TestOutcome::Failed),
        ("test 7", TestOutcome::Passed),
    ] {
        assert_eq!(found.names[name], outcome, "{name}");
    }
    let nothing = "1..0 # SKIP nothing to do\n";
    assert_eq!(judged(0, None, nothing), RunVerdict::NoTests);
    let hash = "1..1\nok 1 - takes the #3 item\n";
    assert_eq!(
        report(None, hash, None).names["takes the #3 item"],
        TestOutcome::Passed
    );
}

#[test]
fn tap_counts_missing_tests_as_broken() {
    let whole = "TAP version 13\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no\n1..3\n";
    let found = report(None, whole, None);
    assert_eq!(counts(&found), (1, 1, 0, 1));
    assert_eq!(found.names["b"], TestOutcome::Failed);
    let cut = "1..5\nok 1 - a\nok 2 - b\n";
    assert_eq!(counts(&report(None, cut, None)), (2, 0, 3, 0));
    let bailed = "1..1\nok 1 - a\nBail out! disk full\n";
    assert!(matches!(judged(0, None, bailed), RunVerdict::Disagree(_)));
}

#[test]
fn go_is_read_plain_verbose_and_as_json() {
    let verbose = "=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/x\n    b_test.go:9: no\n--- FAIL: TestB (0.01s)\n    --- FAIL: TestB/x (0.00s)\n=== RUN   TestC\n--- SKIP: TestC (0.00s)\nFAIL\nFAIL\tex.com/m/p\t0.004s\n?   \tex.com/m/q\t[no test files]\nFAIL\n";
    let found = report(None, verbose, None);
    assert_eq!(counts(&found), (1, 2, 0, 1));
    assert_eq!(found.names["ex.com/m/p.TestA"], TestOutcome::Passed);
    assert!(found.names_all && !found.counts_packages());
    let plain = "ok  \tex.com/m/p\t0.004s\nok  \tex.com/m/q\t(cached)\nFAIL\tex.com/m/r [build failed]\nFAIL\n";
    let found = report(None, plain, None);
    assert_eq!(counts(&found), (2, 0, 1, 0));
    assert_eq!(found.names.keys().collect::<Vec<_>>(), ["ex.com/m/r"]);
    assert!(!found.names_all && found.counts_packages());
    let empty = "?   \tex.com/m\t[no test files]\nok  \tex.com/m/p\t0.1s [no tests to run]\n";
    assert_eq!(judged(0, None, empty), RunVerdict::NoTests);
    let json = "{\"Action\":\"run\",\"Package\":\"p\",\"Test\":\"TestA\"}\n{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"TestA\"}\n{\"Action\":\"pass\",\"Package\":\"p\"}\n";
    let found = report(None, json, None);
    assert_eq!(counts(&found), (1, 0, 0, 0));
    assert!(found.names_all && !found.counts_packages());
}

#[test]
fn packages_of_go_are_no_tests() {
    let plain = "ok  \tex.com/m/p\t0.1s\nFAIL\tex.com/m/q\t0.1s\nFAIL\n";
    let found = report(Some(Framework::Go), plain, None);
    assert_eq!(counts(&found), (1, 1, 0, 0));
    assert!(found.names.is_empty() && found.counts_packages());
    // What was not built says so in every form.
    let unbuilt = "FAIL\tex.com/m/p [build failed]\nFAIL\n";
    let found = report(Some(Framework::Go), unbuilt, None);
    assert_eq!(found.names["ex.com/m/p"], TestOutcome::Error);
    assert!(!found.counts_packages());
    // No test of the package has said that it failed.
    let died = "=== RUN   TestA\nfatal error: all goroutines are asleep - deadlock!\nFAIL\tex.com/m/p\t0.1s\nFAIL\n";
    let found = report(Some(Framework::Go), died, None);
    assert_eq!(counts(&found), (0, 0, 1, 0));
    assert!(!found.counts_packages());
}

#[test]
fn jest_vitest_and_mocha_are_read() {
    let jest = "FAIL ./sum.test.js\n  sum\n    ✓ adds (2 ms)\n    ✕ carries (1 ms)\n    ○ skipped later\n\n  ● sum › carries\n\nTest Suites: 1 failed, 1 total\nTests:       1 failed, 1 skipped, 1 passed, 3 total\nSnapshots:   0 total\nTime:        0.5 s\n";
    let found = report(None, jest, None);
    assert_eq!(
        (found.framework, counts(&found)),
        (Framework::Jest, (1, 1, 0, 1))
    );
    assert_eq!(
        found.names["./sum.test.js > sum > adds"],
        TestOutcome::Passed
    );
    let unloadable = "FAIL ./sum.test.js\n  ● Test suite failed to run\n\nTest Suites: 1 failed, 1 total\nTests:       0 total\n";
    assert_eq!(judged(1, None, unloadable), RunVerdict::Failed);
    let none = "No tests found, exiting with code 1\n";
    assert_eq!(judged(1, None, none), RunVerdict::NoTests);
    let vitest = " ✓ src/a.test.ts > adds 2ms\n × src/a.test.ts > carries 3ms\n\n Test Files  1 failed (1)\n      Tests  1 failed | 1 passed (2)\n";
    assert_eq!(counts(&report(None, vitest, None)), (1, 1, 0, 0));
    let mocha = "\n  sum\n    ✔ adds\n    1) carries\n    - later\n\n\n  1 passing (5ms)\n  1 pending\n  1 failing\n\n  1) sum\n       carries:\n";
    let found = report(None, mocha, None);
    assert_eq!(
        (found.framework, counts(&found)),
        (Framework::Mocha, (1, 1, 0, 1))
    );
    assert_eq!(found.names["sum > carries"], TestOutcome::Failed);
}

#[test]
fn the_document_of_jest_gives_names_and_hides_nothing() {
    let both = include_str!("samples/jest_json.txt");
    let json = both.lines().last().unwrap();
    for output in [both, json] {
        let found = report(None, output, None);
        assert_eq!(found.framework, Framework::Jest);
        assert_eq!(counts(&found), (2, 1, 1, 2), "{output}");
        let file = "/workspace/app/sum.test.js";
        for (name, outcome) in [
            ("sum > adds", TestOutcome::Passed),
            ("sum > of many > adds", TestOutcome::Passed),
            ("sum > carries", TestOutcome::Failed),
            ("sum > is quick", TestOutcome::Skipped),
            ("sum > rounds", TestOutcome::Skipped),
        ] {
            assert_eq!(found.names[&format!("{file} > {name}")], outcome, "{name}");
        }
        assert_eq!(
            found.names["/workspace/app/gone.test.js"],
            TestOutcome::Error
        );
        assert!(found.names_all);
    }
    // What is printed beside it counts as well, and so does its own verdict.
    let passing = json
        .replace("\"numFailedTests\":1", "\"numFailedTests\":0")
        .replace(
            "\"numRuntimeErrorTestSuites\":1",
            "\"numRuntimeErrorTestSuites\":0",
        );
    let beside = format!("Tests:       1 failed, 4 passed, 5 total\n{passing}\n");
    assert!(report(None, &beside, None).failed == 1);
    assert!(matches!(judged(0, None, &passing), RunVerdict::Disagree(_)));
    let none = "{\"numFailedTests\":0,\"numPassedTests\":0,\"numPendingTests\":0,\"numTotalTests\":0,\"success\":false,\"testResults\":[]}\n";
    assert_eq!(judged(1, None, none), RunVerdict::NoTests);
    assert_eq!(judged(0, None, none), RunVerdict::NoTests);
}

#[test]
fn printed_passes_do_not_outweigh_the_exit_status() {
    // What a conftest.py can print.
    let printed = "tests/test_a.py::test_a PASSED\n===== 1 passed in 0.01s =====\n";
    assert!(matches!(judged(1, None, printed), RunVerdict::Disagree(_)));
    let failed = "===== 1 failed, 1 passed in 0.01s =====\n";
    assert!(matches!(judged(0, None, failed), RunVerdict::Disagree(_)));
}

#[test]
fn neither_output_nor_file_can_hide_a_failure_of_the_other() {
    let junit = include_str!("samples/pytest.xml");
    let found = report(None, "==== 9 passed in 0.01s ====\n", Some(junit));
    assert_eq!(counts(&found), (5, 1, 1, 2));
    // A file that is cut short counts for nothing.
    let cut = &junit[..junit.len() / 2];
    let found = report(None, "==== 1 failed in 0.01s ====\n", Some(cut));
    assert_eq!(counts(&found), (0, 1, 0, 0));
}

#[test]
fn an_empty_report_and_skipped_tests_are_no_pass() {
    let pytest = Some(Framework::Pytest);
    assert_eq!(
        judged(0, pytest, "1 skipped in 0.1s\n"),
        RunVerdict::NoTests
    );
    assert!(matches!(judged(0, pytest, ""), RunVerdict::Unreadable(_)));
    assert!(matches!(
        judged(0, pytest, "Ran 3 tests in 0.1s\n\nOK\n"),
        RunVerdict::Unreadable(_)
    ));
}

#[test]
fn the_verdict_is_decided_for_every_exit_and_every_report() {
    let mut made = TestReport::empty(Framework::Pytest);
    let mut with = |passed, failed, errors, skipped| {
        made = TestReport {
            passed,
            failed,
            errors,
            skipped,
            ..made.clone()
        };
        Reading::Report(made.clone())
    };
    let readings = [
        ("passed", with(3, 0, 0, 0)),
        ("passed and skipped", with(3, 0, 0, 2)),
        ("failed", with(3, 1, 0, 0)),
        ("broken", with(0, 0, 1, 0)),
        ("skipped", with(0, 0, 0, 2)),
        ("none", with(0, 0, 0, 0)),
        ("unreadable", Reading::Unreadable(Framework::Pytest)),
        ("unknown", Reading::UnknownRunner),
    ];
    let short = |verdict: RunVerdict| match verdict {
        RunVerdict::Passed => "P",
        RunVerdict::PassedByExit => "E",
        RunVerdict::Failed => "F",
        RunVerdict::NoTests => "N",
        RunVerdict::Disagree(_) => "D",
        RunVerdict::Unreadable(_) => "U",
        RunVerdict::TimedOut => "T",
        RunVerdict::Broken(_) => "B",
    };
    // One letter for each of the readings above.
    let table = [
        (ExitStatus::Code(0), "PPDDNNUE"),
        (ExitStatus::Code(1), "DDFFDNFF"),
        (ExitStatus::Code(5), "DDFFDNFF"),
        (ExitStatus::Signal(11), "FFFFFFFF"),
        (ExitStatus::TimedOut(10), "TTTTTTTT"),
        (ExitStatus::NotStarted("no".to_owned()), "BBBBBBBB"),
        (ExitStatus::Unknown("no".to_owned()), "BBBBBBBB"),
    ];
    for (exit, wanted) in table {
        let found: String = readings
            .iter()
            .map(|(_, reading)| short(judge(&exit, reading)))
            .collect();
        assert_eq!(found, wanted, "{exit}");
        for (name, reading) in &readings {
            let passes = judge(&exit, reading).is_pass();
            let may =
                exit.is_success() && ["passed", "passed and skipped", "unknown"].contains(name);
            assert_eq!(passes, may, "{exit}, {name}");
        }
    }
}

#[test]
fn commands_say_which_runner_they_are() {
    let of = |line: &str| Framework::of(&shell_words::split(line).unwrap());
    for (line, framework) in [
        ("python -m pytest -q", Framework::Pytest),
        ("/usr/bin/python3.11 -X dev -m pytest", Framework::Pytest),
        ("env A=b uv run pytest tests", Framework::Pytest),
        ("python3 -m unittest", Framework::Unittest),
        ("cargo +nightly test", Framework::Cargo),
        ("cargo nextest run", Framework::Cargo),
        ("go test ./...", Framework::Go),
        ("npx jest", Framework::Jest),
        ("node --test", Framework::Tap),
    ] {
        assert_eq!(of(line), Some(framework), "{line}");
    }
    for line in [
        "make test",
        "npm test",
        "cargo build",
        "sh -c 'pytest || true'",
        "python x.py",
    ] {
        assert_eq!(of(line), None, "{line}");
    }
}

#[test]
fn no_output_makes_a_parser_panic() {
    let seeds = [
        include_str!("samples/pytest_verbose_coloured.txt"),
        include_str!("samples/unittest_verbose.txt"),
        include_str!("samples/cargo.txt"),
        include_str!("samples/node_tap.txt"),
        include_str!("samples/pytest.xml"),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..60 {
        let mut bytes = seeds[random.usize(..seeds.len())].as_bytes().to_vec();
        for _ in 0..20 {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..bytes.len()));
        let junit = String::from_utf8_lossy(&bytes).into_owned();
        let _ = read(None, &bytes, Some(&junit));
    }
    let huge = "==== 99999999999999999999 passed, 4294967295 failed in 0.1s ====\n";
    assert!(report(None, huge, None).failed > 0);
}
