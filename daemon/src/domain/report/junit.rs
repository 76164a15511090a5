//! JUnit XML, as pytest and many others write it.

use std::sync::LazyLock;

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};
use regex::Regex;

use super::{Framework, TestOutcome, TestReport, add, pattern};

/// Reads the documents that are printed on lines of their own among other
/// output, as one report.
pub(super) fn printed(framework: Framework, output: &str) -> Option<TestReport> {
    static DOCUMENTS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?ms)^\s*(?:<\?xml[^>]*>\s*)?<testsuites?(?:\s[^>]*)?(?:/>|>.*</testsuites?>)\s*$",
        )
    });
    parse(framework, DOCUMENTS.find(output)?.as_str())
}

/// Reads test cases; `None` when it is no JUnit XML, or is cut short.
pub(super) fn parse(framework: Framework, xml: &str) -> Option<TestReport> {
    let mut reader = Reader::from_str(xml);
    let mut report = TestReport::empty(framework);
    let mut case: Option<(String, TestOutcome)> = None;
    let mut depth = 0_u32;
    let mut is_junit = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => {
                depth += 1;
                match element.name().as_ref() {
                    "testcase" => case = Some((name(&element), TestOutcome::Passed)),
                    other => is_junit |= open(other, &mut case),
                }
            }
            Event::Empty(element) => match element.name().as_ref() {
                "testcase" => count(&mut report, (name(&element), TestOutcome::Passed)),
                other => is_junit |= open(other, &mut case),
            },
            Event::End(element) => {
                depth = depth.checked_sub(1)?;
                if element.name().as_ref() == "testcase" {
                    count(&mut report, case.take()?);
                }
            }
            Event::Eof => return (is_junit && depth == 0).then_some(report),
            _ => {}
        }
    }
}

/// Notes what an element inside a test case says of it; tells whether the
/// element is a mark of JUnit XML.
fn open(element: &str, case: &mut Option<(String, TestOutcome)>) -> bool {
    let said = match element {
        "failure" => TestOutcome::Failed,
        "error" => TestOutcome::Error,
        "skipped" => TestOutcome::Skipped,
        other => return matches!(other, "testsuite" | "testsuites"),
    };
    if let Some((_, outcome)) = case {
        *outcome = (*outcome).max(said);
    }
    false
}

fn count(report: &mut TestReport, (name, outcome): (String, TestOutcome)) {
    match outcome {
        TestOutcome::Passed => add(&mut report.passed, 1),
        TestOutcome::Skipped => add(&mut report.skipped, 1),
        TestOutcome::Failed => add(&mut report.failed, 1),
        TestOutcome::Error => add(&mut report.errors, 1),
    }
    report.note(name, outcome);
}

fn name(case: &BytesStart<'_>) -> String {
    let attribute = |key: &str| {
        let found = case.try_get_attribute(key).ok()??;
        Some(
            found
                .normalized_value(XmlVersion::Implicit1_0)
                .ok()?
                .into_owned(),
        )
    };
    let name = attribute("name").unwrap_or_default();
    match attribute("classname").filter(|class| !class.is_empty()) {
        Some(class) => format!("{class}::{name}"),
        None => name,
    }
}
