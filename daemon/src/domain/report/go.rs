//! go test: plain, `-v` and `-json`.
//!
//! Plain it names packages only. They are counted as tests, so that what failed
//! and what passed is known, but have no names: what becomes of a test in a
//! package that passes, or that failed before, is not seen.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use super::{Framework, TestOutcome, TestReport, add, pattern};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    let mut packages = BTreeMap::new();
    let mut tests = TestReport::empty(Framework::Go);
    let is_json = output.lines().any(|line| event(line).is_some());
    let names_tests = is_json || output.lines().any(|line| line.starts_with("=== RUN "));
    if is_json {
        read_events(output, &mut packages, &mut tests);
    } else {
        read_lines(output, names_tests, &mut packages, &mut tests);
    }
    if packages.is_empty() {
        return None;
    }
    let (mut passed, mut failed) = (0, 0);
    for (package, outcome) in packages {
        let own = format!("{package}.");
        let explained = tests
            .names
            .iter()
            .any(|(name, found)| name.starts_with(&own) && *found == TestOutcome::Failed);
        match outcome {
            TestOutcome::Error => tests.note(package, TestOutcome::Error),
            TestOutcome::Skipped => {}
            TestOutcome::Passed if names_tests => {}
            TestOutcome::Failed if names_tests && explained => {}
            // None of its tests failed: it broke outside of them.
            TestOutcome::Failed if names_tests => tests.note(package, TestOutcome::Error),
            TestOutcome::Passed => add(&mut passed, 1),
            TestOutcome::Failed => add(&mut failed, 1),
        }
    }
    tests.names.retain(|name, _| !name.is_empty());
    tests.count_names();
    add(&mut tests.passed, passed);
    add(&mut tests.failed, failed);
    Some(tests)
}

fn read_lines(
    output: &str,
    names_tests: bool,
    packages: &mut BTreeMap<String, TestOutcome>,
    tests: &mut TestReport,
) {
    static PACKAGE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(ok  |FAIL|\?   )\t(\S+)(?:[\t ]+(.*))?$"));
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^ *--- (PASS|FAIL|SKIP): (\S+) \([\d.]+s\)$"));
    let mut pending = Vec::new();
    for line in output.lines() {
        if let Some(test) = TEST.captures(line).filter(|_| names_tests) {
            pending.push((test[2].to_owned(), outcome(&test[1].to_lowercase())));
        } else if let Some(package) = PACKAGE.captures(line) {
            let name = package[2].to_owned();
            let rest = package.get(3).map_or("", |m| m.as_str());
            for (test, outcome) in pending.drain(..) {
                tests.note(format!("{name}.{test}"), outcome);
            }
            let found = match &package[1] {
                "FAIL" if rest.contains(" failed]") || rest.starts_with('[') => TestOutcome::Error,
                "FAIL" => TestOutcome::Failed,
                "ok  " if !rest.contains("[no tests to run]") => TestOutcome::Passed,
                _ => {
                    // No tests: the package is known, and counts for nothing.
                    packages
                        .entry(String::new())
                        .or_insert(TestOutcome::Skipped);
                    continue;
                }
            };
            packages.insert(name, found);
        }
    }
}

fn read_events(output: &str, packages: &mut BTreeMap<String, TestOutcome>, tests: &mut TestReport) {
    for line in output.lines() {
        let Some((action, package, test)) = event(line) else {
            continue;
        };
        if !matches!(action.as_str(), "pass" | "fail" | "skip") {
            continue;
        }
        match test {
            Some(test) => tests.note(format!("{package}.{test}"), outcome(&action)),
            // A package without tests is skipped.
            None if action == "skip" => {
                packages
                    .entry(String::new())
                    .or_insert(TestOutcome::Skipped);
            }
            None => {
                packages.insert(package, outcome(&action));
            }
        }
    }
}

fn event(line: &str) -> Option<(String, String, Option<String>)> {
    if !line.starts_with('{') || !line.contains("\"Action\"") {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
    Some((text("Action")?, text("Package")?, text("Test")))
}

fn outcome(word: &str) -> TestOutcome {
    match word {
        "pass" => TestOutcome::Passed,
        "skip" => TestOutcome::Skipped,
        _ => TestOutcome::Failed,
    }
}
