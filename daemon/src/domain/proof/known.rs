//! Failures that were there before.

use crate::domain::report::{RunVerdict, TestOutcome, TestReport};

use super::TestRun;

/// Tests that fail in a run and failed on the base, where nothing else fails in
/// it and something passes that did not pass on the base; `None` otherwise, and
/// where a report does not name every test.
///
/// Without something that passes now a change has done nothing for the tests.
#[must_use]
pub fn known_failures(
    base: &TestRun,
    verdict: &RunVerdict,
    report: Option<&TestReport>,
) -> Option<Vec<String>> {
    let before = (base.verdict == RunVerdict::Failed).then_some(base.report.as_ref()?)?;
    let now = report.filter(|_| *verdict == RunVerdict::Failed)?;
    if !before.names_all || !now.names_all {
        return None;
    }
    let failing = named_failures(now)?;
    let failed_before = |name: &String| before.names.get(name).is_some_and(|was| is_failure(*was));
    let all_known = failing.iter().all(failed_before);
    (all_known && !new_passes(before, now).is_empty()).then_some(failing)
}

/// Whether a run passes but for these tests.
pub(super) fn passes_but_for(run: &TestRun, known: &[String]) -> bool {
    if run.verdict != RunVerdict::Failed {
        return run.verdict.is_pass();
    }
    let failing = run.report.as_ref().and_then(named_failures);
    failing.is_some_and(|failing| failing.iter().all(|name| known.contains(name)))
}

/// Tests that pass now and did not before.
pub(super) fn new_passes(before: &TestReport, now: &TestReport) -> Vec<String> {
    now.named(TestOutcome::Passed)
        .filter(|name| before.names.get(*name) != Some(&TestOutcome::Passed))
        .map(str::to_owned)
        .collect()
}

/// The tests that fail; `None` where some have no name of their own.
fn named_failures(report: &TestReport) -> Option<Vec<String>> {
    let failing = report.names.iter();
    let failing: Vec<String> = failing
        .filter(|(_, outcome)| is_failure(**outcome))
        .map(|(name, _)| name.clone())
        .collect();
    (failing.len() as u32 == report.broken()).then_some(failing)
}

pub(super) fn is_failure(outcome: TestOutcome) -> bool {
    matches!(outcome, TestOutcome::Failed | TestOutcome::Error)
}
