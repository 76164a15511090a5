//! pytest: its last line gives the counts; `-v` lines and the short summary
//! give names.

use std::sync::LazyLock;

use regex::Regex;

use super::{Framework, TestOutcome, TestReport, add, number, pattern};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    static SUMMARY: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^(?:=+ )?((?:\d+ [a-z][a-z ]*)(?:, \d+ [a-z][a-z ]*)*|no tests (?:ran|collected)) in \d+(?:\.\d+)? ?s(?:econds)?(?: \([\d:, a-z]+\))?(?: =+)?\s*$",
        )
    });
    let summary = SUMMARY.captures_iter(output).last()?;
    let mut report = TestReport::empty(Framework::Pytest);
    for part in summary[1].split(", ") {
        let Some((count, word)) = part.split_once(' ') else {
            continue;
        };
        let count = if count == "no" { 0 } else { number(count) };
        match word {
            "passed" | "xpassed" => add(&mut report.passed, count),
            "failed" => add(&mut report.failed, count),
            "error" | "errors" => add(&mut report.errors, count),
            "skipped" | "xfailed" => add(&mut report.skipped, count),
            // Deselected tests, warnings, subtests: no tests of their own.
            _ => {}
        }
    }
    note_names(output, &mut report);
    Some(report)
}

fn note_names(output: &str, report: &mut TestReport) {
    static VERBOSE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?m)^(\S+::.+?) (PASSED|XPASS|FAILED|ERROR|SKIPPED|XFAIL)(?: .*)?$")
    });
    static SHORT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^(FAILED|ERROR) (\S+?(?:::.+?)?)(?: - .*)?$"));
    for line in VERBOSE.captures_iter(output) {
        let outcome = match &line[2] {
            "PASSED" | "XPASS" => TestOutcome::Passed,
            "FAILED" => TestOutcome::Failed,
            "ERROR" => TestOutcome::Error,
            _ => TestOutcome::Skipped,
        };
        report.note(&line[1], outcome);
    }
    for line in SHORT.captures_iter(output) {
        let outcome = if &line[1] == "FAILED" {
            TestOutcome::Failed
        } else {
            TestOutcome::Error
        };
        report.note(&line[2], outcome);
    }
}
