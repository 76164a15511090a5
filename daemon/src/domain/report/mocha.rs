//! mocha's default reporter.

use std::sync::LazyLock;

use regex::Regex;

use super::{
    Framework, TestOutcome, TestReport, number,
    outline::{Outline, indent},
    pattern,
};

pub(super) fn parse(output: &str) -> Option<TestReport> {
    static PASSING: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^  (\d+) passing \([\d.]+\w+\)$"));
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^  (\d+) (failing|pending)$"));
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^ +(✔|✓|-|\d+\)) (.+?)(?: \(\d+ms\))?$"));
    let passing = PASSING.captures_iter(output).last()?;
    let whole = passing.get(0)?;
    let mut report = TestReport::empty(Framework::Mocha);
    report.passed = number(&passing[1]);
    for count in OTHERS.captures_iter(&output[whole.end()..]) {
        match &count[2] {
            "failing" => report.failed = number(&count[1]),
            _ => report.skipped = number(&count[1]),
        }
    }
    let mut outline = Outline::default();
    for line in output[..whole.start()].lines() {
        if let Some(test) = TEST.captures(line) {
            let outcome = match &test[1] {
                "✔" | "✓" => TestOutcome::Passed,
                "-" => TestOutcome::Skipped,
                _ => TestOutcome::Failed,
            };
            let name = outline.name(indent(line), &test[2]);
            report.note(name, outcome);
        } else if line.starts_with("  ") {
            outline.enter(indent(line), line);
        }
    }
    Some(report)
}
