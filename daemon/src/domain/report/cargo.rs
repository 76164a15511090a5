//! cargo test and cargo nextest.

use std::sync::LazyLock;

use regex::Regex;

use super::{Framework, TestOutcome, TestReport, add, number, pattern};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    static UNBUILT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^error(?:\[E\d+\])?: could not compile `"));
    // nextest shows libtest's own output of failing tests inside its own.
    let mut report = nextest(output).or_else(|| libtest(output));
    if UNBUILT.is_match(output) {
        report
            .get_or_insert_with(|| TestReport::empty(Framework::Cargo))
            .errors += 1;
    }
    report
}

fn libtest(output: &str) -> Option<TestReport> {
    static RESULT: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?m)^test result: (?:ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored;")
    });
    static TEST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?m)^test (.+?)(?: - should panic)? \.\.\. (ok|FAILED|ignored)(?:,.*)?$")
    });
    // Doc-tests are named by line, which moves with every edit above.
    static LINE: LazyLock<Regex> = LazyLock::new(|| pattern(r" \(line \d+\)"));
    let mut report = TestReport::empty(Framework::Cargo);
    let mut found = false;
    for result in RESULT.captures_iter(output) {
        found = true;
        add(&mut report.passed, number(&result[1]));
        add(&mut report.failed, number(&result[2]));
        add(&mut report.skipped, number(&result[3]));
    }
    for test in TEST.captures_iter(output) {
        let outcome = match &test[2] {
            "ok" => TestOutcome::Passed,
            "FAILED" => TestOutcome::Failed,
            _ => TestOutcome::Skipped,
        };
        report.note(LINE.replace_all(&test[1], ""), outcome);
    }
    found.then_some(report)
}

fn nextest(output: &str) -> Option<TestReport> {
    static SUMMARY: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^ +Summary \[ *[\d.]+s\] +\d+(?:/\d+)? tests? run: (.*)$"));
    static COUNT: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(\d+) (passed|failed|timed out|exec failed|skipped)"));
    static TEST: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^ +(?:TRY \d+ )?(PASS|LEAK|FLAKY \d+/\d+|FAIL|ABORT|SIG[A-Z]+|TIMEOUT|XFAIL) \[[^\]]*\] +(?:\( *\d+/\d+\) )?(\S+ \S.*)$",
        )
    });
    let summary = SUMMARY.captures_iter(output).last()?;
    let mut report = TestReport::empty(Framework::Cargo);
    for count in COUNT.captures_iter(&summary[1]) {
        let number = number(&count[1]);
        match &count[2] {
            "passed" => add(&mut report.passed, number),
            "skipped" => add(&mut report.skipped, number),
            _ => add(&mut report.failed, number),
        }
    }
    for test in TEST.captures_iter(output) {
        let outcome = match &test[1] {
            "PASS" | "LEAK" => TestOutcome::Passed,
            flaky if flaky.starts_with("FLAKY") => TestOutcome::Passed,
            _ => TestOutcome::Failed,
        };
        // A later try replaces an earlier one.
        report.names.insert(test[2].to_owned(), outcome);
    }
    Some(report)
}
