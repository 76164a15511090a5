//! jest and vitest: what they print, and the document that `--json` has.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::{
    Framework, TestOutcome, TestReport, add, combine, number,
    outline::{Outline, indent},
    pattern,
};

/// Both, where both are there: neither hides what the other says.
pub(super) fn parse(output: &str) -> Option<TestReport> {
    match (parse_text(output), parse_json(output)) {
        (Some(text), Some(json)) => Some(combine(text, json)),
        (text, json) => json.or(text),
    }
}

/// The document of `jest --json` and of vitest's `json` reporter: one line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    num_passed_tests: u32,
    num_failed_tests: u32,
    num_pending_tests: u32,
    #[serde(default)]
    num_todo_tests: u32,
    /// Files that could not be loaded; vitest counts them as failed suites.
    #[serde(default)]
    num_runtime_error_test_suites: u32,
    num_total_tests: u32,
    success: bool,
    test_results: Vec<FileResults>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileResults {
    /// The file's path.
    name: String,
    status: String,
    assertion_results: Vec<TestResult>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestResult {
    ancestor_titles: Vec<String>,
    title: String,
    status: String,
}

fn parse_json(output: &str) -> Option<TestReport> {
    let documents = output.lines().filter(|line| line.starts_with('{'));
    let results = documents
        .rev()
        .find_map(|line| serde_json::from_str::<Results>(line).ok())?;
    let mut report = TestReport::empty(Framework::Jest);
    report.passed = results.num_passed_tests;
    report.failed = results.num_failed_tests;
    report.skipped = (results.num_pending_tests).saturating_add(results.num_todo_tests);
    report.errors = results.num_runtime_error_test_suites;
    for file in &results.test_results {
        for test in &file.assertion_results {
            let outcome = match test.status.as_str() {
                "passed" => TestOutcome::Passed,
                "failed" => TestOutcome::Failed,
                _ => TestOutcome::Skipped,
            };
            let mut name = vec![file.name.as_str()];
            name.extend(test.ancestor_titles.iter().map(String::as_str));
            name.push(&test.title);
            report.note(name.join(" > "), outcome);
        }
        if file.status == "failed" && file.assertion_results.is_empty() {
            report.note(file.name.clone(), TestOutcome::Error);
        }
    }
    // Counts that do not add up, or a failure that none of them has.
    let missing = results.num_total_tests.saturating_sub(report.total());
    add(&mut report.errors, missing);
    if !results.success && report.broken() == 0 && report.total() > 0 {
        add(&mut report.errors, 1);
    }
    Some(report)
}

/// jest's `Tests: ...` line, or vitest's.
fn parse_text(output: &str) -> Option<TestReport> {
    static TESTS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^ *Tests:? +((?:\d+ \w+(?:, | \| )?)+)(?: ?\(\d+\))?$"));
    static SUITES: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^ *Test (?:Suites|Files):? +(\d+) failed"));
    static NONE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^No tests? (?:files )?found, exiting with code \d"));
    let mut report = TestReport::empty(Framework::Jest);
    let tests = TESTS.captures_iter(output).last();
    let suites = SUITES.captures_iter(output).last();
    if tests.is_none() && suites.is_none() && !NONE.is_match(output) {
        return None;
    }
    let counts = tests.map(|found| found[1].to_owned()).unwrap_or_default();
    for part in counts.split([',', '|']) {
        let Some((count, word)) = part.trim().split_once(' ') else {
            continue;
        };
        match word {
            "passed" => add(&mut report.passed, number(count)),
            "failed" => add(&mut report.failed, number(count)),
            "skipped" | "todo" => add(&mut report.skipped, number(count)),
            _ => {}
        }
    }
    // A file that cannot be loaded fails as a suite and has no tests.
    if report.failed == 0 {
        report.errors = suites.map_or(0, |found| number(&found[1]));
    }
    note_names(output, &mut report);
    Some(report)
}

fn note_names(output: &str, report: &mut TestReport) {
    static FILE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:PASS|FAIL) +(\S+)"));
    static TEST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"^ +(✓|✕|×|○|✎|↓) (?:skipped |todo )?(.+?)(?: \(?\d+(?:\.\d+)? ?m?s\)?)?$")
    });
    let mut outline = Outline::default();
    for line in output.lines() {
        if let Some(file) = FILE.captures(line) {
            outline.enter(0, &file[1]);
        } else if let Some(test) = TEST.captures(line) {
            let outcome = match &test[1] {
                "✓" => TestOutcome::Passed,
                "✕" | "×" => TestOutcome::Failed,
                _ => TestOutcome::Skipped,
            };
            let name = outline.name(indent(line), &test[2]);
            report.note(name, outcome);
        } else if line.starts_with("  ") && !line.contains('●') {
            outline.enter(indent(line), line);
        }
    }
}
