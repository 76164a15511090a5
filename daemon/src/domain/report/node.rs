//! TAP, and node's own runner.

use std::sync::LazyLock;

use regex::Regex;

use super::{
    Framework, TestOutcome, TestReport, add, number,
    outline::{Outline, indent},
    pattern,
};

/// TAP by its test lines; node's runner by its own totals, in both of its
/// reporters.
pub(super) fn parse_tap(output: &str) -> Option<TestReport> {
    static TOTAL: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?m)^(?:#|ℹ) (tests|pass|fail|cancelled|skipped|todo) (\d+)$"));
    let mut report = TestReport::empty(Framework::Tap);
    let is_tap = read_tap_lines(output, &mut report);
    let mut totals = 0;
    let mut node = TestReport::empty(Framework::Tap);
    for total in TOTAL.captures_iter(output) {
        totals += 1;
        let count = number(&total[2]);
        match &total[1] {
            "pass" => node.passed = count,
            "fail" => node.failed = count,
            "cancelled" => node.errors = count,
            "skipped" | "todo" => add(&mut node.skipped, count),
            _ => {}
        }
    }
    // node prints six of them; other programs print some of the words.
    if totals >= 6 {
        if !is_tap {
            read_spec_lines(output, &mut report);
        }
        node.names = report.names;
        return Some(node);
    }
    is_tap.then_some(report)
}

fn read_tap_lines(output: &str, report: &mut TestReport) -> bool {
    static PLAN: LazyLock<Regex> = LazyLock::new(|| pattern(r"^1\.\.(\d+)(?: *#.*)?$"));
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^( *)(ok|not ok)\b(?: +(\d+))?(?: +-)?(?: (.*))?$"));
    static DIRECTIVE: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"(?i)(?:^|\s+)#\s*(?:skip|todo)"));
    let mut outline = Outline::default();
    let mut planned = None;
    let (mut seen, mut bailed, mut version) = (0_u32, false, false);
    for line in output.lines() {
        let trimmed = line.trim_start();
        if let Some(title) = trimmed.strip_prefix("# Subtest: ") {
            outline.enter(indent(line), title);
        } else if line.starts_with("TAP version ") {
            version = true;
        } else if line.starts_with("Bail out!") {
            bailed = true;
        } else if let Some(plan) = PLAN.captures(line) {
            planned = Some(number(&plan[1]));
        } else if let Some(test) = TEST.captures(line) {
            let said = test.get(4).map_or("", |said| said.as_str());
            let directive = DIRECTIVE.find(said);
            let outcome = match (&test[2], directive) {
                (_, Some(_)) => TestOutcome::Skipped,
                ("ok", None) => TestOutcome::Passed,
                (_, None) => TestOutcome::Failed,
            };
            let title = match said[..directive.map_or(said.len(), |found| found.start())].trim() {
                "" => format!("test {}", test.get(3).map_or("?", |m| m.as_str())),
                title => title.to_owned(),
            };
            let name = outline.name(indent(line), &title);
            report.note(name, outcome);
            if indent(line) == 0 {
                seen += 1;
                match outcome {
                    TestOutcome::Passed => add(&mut report.passed, 1),
                    TestOutcome::Skipped => add(&mut report.skipped, 1),
                    TestOutcome::Failed | TestOutcome::Error => add(&mut report.failed, 1),
                }
            }
        }
    }
    add(
        &mut report.errors,
        u32::from(bailed) + planned.unwrap_or(seen).saturating_sub(seen),
    );
    planned.is_some() && (version || seen > 0 || planned == Some(0))
}

fn read_spec_lines(output: &str, report: &mut TestReport) {
    static TEST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^ *(✔|✖|﹣) (.+?) \([\d.]+ms\)(?: # ?(?:SKIP|TODO).*)?$"));
    let mut outline = Outline::default();
    for line in output.lines() {
        if line.starts_with("✖ failing tests:") {
            break;
        }
        if let Some(suite) = line.trim_start().strip_prefix("▶ ") {
            outline.enter(indent(line), suite);
        } else if let Some(test) = TEST.captures(line) {
            let outcome = match &test[1] {
                _ if line.contains(") # ") => TestOutcome::Skipped,
                "✔" => TestOutcome::Passed,
                "✖" => TestOutcome::Failed,
                _ => TestOutcome::Skipped,
            };
            let name = outline.name(indent(line), &test[2]);
            report.note(name, outcome);
        }
    }
}
