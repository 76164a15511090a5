//! go test: plain, `-v` and `-json`.
//!
//! Without `-v` it names packages only (and the tests that failed, but not
//! those that passed), so there a package counts as one test.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use super::{Framework, TestOutcome, TestReport, pattern};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    let mut packages = BTreeMap::new();
    let mut tests = TestReport::empty(Framework::Go);
    if output.lines().any(|line| event(line).is_some()) {
        read_events(output, &mut packages, &mut tests);
    } else {
        read_lines(output, &mut packages, &mut tests);
    }
    if packages.is_empty() {
        return None;
    }
    let verbose = !tests.names.is_empty();
    for (package, outcome) in packages {
        // With `-v`, a package that failed although none of its tests did
        // could not be built, or broke outside of them.
        let own = format!("{package}.");
        let explained = tests
            .names
            .iter()
            .any(|(name, found)| name.starts_with(&own) && *found == TestOutcome::Failed);
        match outcome {
            TestOutcome::Passed | TestOutcome::Skipped if verbose => {}
            TestOutcome::Failed if verbose && explained => {}
            TestOutcome::Failed if verbose => tests.note(package, TestOutcome::Error),
            outcome => tests.note(package, outcome),
        }
    }
    tests.names.retain(|name, _| !name.is_empty());
    tests.count_names();
    Some(tests)
}

fn read_lines(output: &str, packages: &mut BTreeMap<String, TestOutcome>, tests: &mut TestReport) {
    static PACKAGE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(ok  |FAIL|\?   )\t(\S+)(?:[\t ]+(.*))?$"));
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^ *--- (PASS|FAIL|SKIP): (\S+) \([\d.]+s\)$"));
    let verbose = output.lines().any(|line| line.starts_with("=== RUN "));
    let mut pending = Vec::new();
    for line in output.lines() {
        if let Some(test) = TEST.captures(line).filter(|_| verbose) {
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
