//! Python's unittest: `Ran N tests` and the line after it; names with `-v`, and
//! of those that failed always.

use std::sync::LazyLock;

use regex::Regex;

use super::{Framework, TestOutcome, TestReport, add, number, pattern};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    static SUMMARY: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^Ran (\d+) tests? in [\d.]+s\n+(?:OK|FAILED|NO TESTS RAN)(?: \(([^)\n]*)\))?[ \t]*$",
        )
    });
    static COUNT: LazyLock<Regex> = LazyLock::new(|| pattern(r"([a-z ]+)=(\d+)"));
    let mut report = TestReport::empty(Framework::Unittest);
    let mut found = false;
    for summary in SUMMARY.captures_iter(output) {
        found = true;
        let mut rest = number(&summary[1]);
        for count in COUNT.captures_iter(summary.get(2).map_or("", |m| m.as_str())) {
            let number = number(&count[2]);
            match count[1].trim() {
                "failures" | "unexpected successes" => add(&mut report.failed, number),
                "errors" => add(&mut report.errors, number),
                "skipped" | "expected failures" => add(&mut report.skipped, number),
                _ => continue,
            }
            // Failures of subtests count each, so the rest may come out lower
            // than it is; never higher.
            rest = rest.saturating_sub(number);
        }
        add(&mut report.passed, rest);
    }
    note_names(output, &mut report);
    found.then_some(report)
}

fn note_names(output: &str, report: &mut TestReport) {
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(\w+) \(([\w.]+)\)(?: \[.*?\]| \(.*?\))*(?: \.\.\. ?(.*))?$"));
    static HEADING: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(FAIL|ERROR): (\w+) \(([\w.]+)\)"));
    let mut open: Option<String> = None;
    for line in output.lines() {
        if let Some(heading) = HEADING.captures(line) {
            let outcome = if &heading[1] == "FAIL" {
                TestOutcome::Failed
            } else {
                TestOutcome::Error
            };
            report.note(full_name(&heading[2], &heading[3]), outcome);
            open = None;
        } else if let Some(test) = TEST.captures(line) {
            let name = full_name(&test[1], &test[2]);
            match outcome(test.get(3).map_or("", |m| m.as_str())) {
                Some(outcome) => report.note(name, outcome),
                // The outcome follows the docstring, or what the test prints.
                None => open = Some(name),
            }
        } else if open.is_some() {
            let said = line.rsplit(" ... ").next().unwrap_or(line);
            if let (Some(outcome), Some(name)) = (outcome(said), open.as_ref()) {
                report.note(name.clone(), outcome);
                open = None;
            }
        }
    }
}

/// Python 3.11 and newer repeat the method in the parentheses, older ones do
/// not: one name for both.
fn full_name(method: &str, place: &str) -> String {
    if place.rsplit('.').next() == Some(method) {
        place.to_owned()
    } else {
        format!("{place}.{method}")
    }
}

fn outcome(said: &str) -> Option<TestOutcome> {
    match said.trim_end() {
        "ok" => Some(TestOutcome::Passed),
        "FAIL" | "unexpected success" => Some(TestOutcome::Failed),
        "ERROR" => Some(TestOutcome::Error),
        "expected failure" => Some(TestOutcome::Skipped),
        said => said.starts_with("skipped").then_some(TestOutcome::Skipped),
    }
}
