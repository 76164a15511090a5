//! When a change counts as proved. Pure: the runs are given, the rule is here.

mod known;

use serde::{Deserialize, Serialize};

use super::{
    changes::ChangeKind,
    exec::Exit,
    ids::ArtifactId,
    judges::Inside,
    report::{RunVerdict, TestOutcome, TestReport},
};
pub use known::known_failures;
use known::{is_failure, new_passes, passes_but_for};

/// One run of the test command, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestRun {
    /// "base", "branch", "branch with the base's tests", "base with the
    /// branch's tests".
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// How it ended.
    pub exit: Exit,
    /// The report; `None` when there is none or its runner is unknown.
    pub report: Option<TestReport>,
    /// The verdict.
    pub verdict: RunVerdict,
    /// Git tree of the files that it ran on, in hex.
    pub tree: String,
    /// The whole output.
    pub artifact: Option<ArtifactId>,
    /// The report as it was read, and the runner's own file where it left one.
    pub reports: Vec<ArtifactId>,
}

/// What the daemon saw when it proved a change itself, or failed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Whether all runs agree.
    pub proved: bool,
    /// Why, for a person and for the model; says what to do when not proved.
    pub reason: String,
    /// Each run, in the order base, branch, and so on.
    pub runs: Vec<TestRun>,
    /// Tests that failed on the base and pass now.
    pub fail_to_pass: Vec<String>,
    /// Tests that passed on the base and pass now.
    pub pass_to_pass: Vec<String>,
    /// Tests that failed on the base and fail still.
    #[serde(default)]
    pub known_failures: Vec<String>,
    /// Test, fixture and CI files, and files that say how tests are run, that
    /// differ from the base.
    pub changed_test_files: Vec<String>,
    /// The same with what became of each and what that can hide.
    #[serde(default)]
    pub changed_judges: Vec<ChangedJudge>,
    /// Git tree that was proved, in hex.
    pub tree: String,
    /// Artifact with the whole evidence.
    pub evidence: Option<ArtifactId>,
}

/// How much a changed file that judges can hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// A test that is new: it can only ask for more.
    Low,
    /// A test that was changed: it may ask for less.
    Medium,
    /// A test that is gone, or a file that says how tests run.
    High,
}

/// A changed file that has a say in what passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedJudge {
    /// Relative to the repository.
    pub path: String,
    /// What became of it.
    pub change: ChangeKind,
    /// What that can hide.
    pub risk: Risk,
    /// Whether it says how tests run, or reaches for what runs them: no leave to
    /// change tests covers that.
    #[serde(default)]
    pub runs_tests: bool,
}

impl ChangedJudge {
    /// With the risk that the change has.
    #[must_use]
    pub fn new(path: String, change: ChangeKind, says_how_tests_run: bool) -> Self {
        let risk = match change {
            _ if says_how_tests_run => Risk::High,
            ChangeKind::Deleted => Risk::High,
            ChangeKind::Added => Risk::Low,
            ChangeKind::Modified => Risk::Medium,
        };
        Self {
            path,
            change,
            risk,
            runs_tests: says_how_tests_run,
        }
    }

    /// A file that judges beside its own work: no run can be made without the one
    /// and with the other, so what it hides is shown by nothing.
    #[must_use]
    pub fn inside(path: &str, change: ChangeKind, found: &Inside) -> Self {
        let (risk, runs_tests) = match found {
            Inside::TestsAdded => (Risk::Low, false),
            Inside::TestsChanged => (Risk::High, false),
            Inside::Runner(_) => (Risk::High, true),
        };
        Self {
            path: format!("{path}, {found}"),
            change,
            risk,
            runs_tests,
        }
    }

    /// For people: "tests/test_a.py (modified, medium risk)".
    #[must_use]
    pub fn describe(&self) -> String {
        let change = match self.change {
            ChangeKind::Added => "added",
            ChangeKind::Modified => "modified",
            ChangeKind::Deleted => "deleted",
        };
        let risk = match self.risk {
            Risk::Low => "low",
            Risk::Medium => "medium",
            Risk::High => "high",
        };
        format!("{} ({change}, {risk} risk)", self.path)
    }
}

/// Names of the runs of a proof.
pub mod run_name {
    /// The test command on the base commit.
    pub const BASE: &str = "base";
    /// On the branch as it is committed.
    pub const BRANCH: &str = "branch";
    /// On the branch with every test file, and every file that says how tests
    /// are run, as it was on the base.
    pub const BRANCH_WITH_BASE_TESTS: &str = "branch with the base's tests";
    /// On the base with the branch's test files: shows what new tests show.
    pub const BASE_WITH_BRANCH_TESTS: &str = "base with the branch's tests";
}

/// The runs that a proof is weighed from. The later ones are absent when an
/// earlier one has already settled it.
#[derive(Debug, Clone, Copy)]
pub struct Runs<'a> {
    /// On the base commit.
    pub base: &'a TestRun,
    /// On the branch.
    pub branch: &'a TestRun,
    /// On the branch with the base's tests; absent as well when these are the
    /// branch's.
    pub restored: Option<&'a TestRun>,
    /// On the base with the branch's tests.
    pub transplanted: Option<&'a TestRun>,
}

/// Files that differ from the base and have a say in what passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangedJudges<'a> {
    /// All of them: tests, fixtures, CI, and those that say how tests are run.
    pub files: &'a [String],
    /// Of these, those that say how tests are run.
    pub runners: &'a [String],
    /// Other scripts that differ: what runs the tests may run one of them.
    pub scripts: &'a [String],
}

/// What a run without the change says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseState {
    /// The tests to be fixed fail there.
    Failing,
    /// Its tests pass: only new tests can show the change.
    Passing,
    /// It has no tests: only new tests can show the change.
    WithoutTests,
    /// The run says nothing; the text says why.
    Unusable(String),
}

impl BaseState {
    /// What a run on the base says.
    #[must_use]
    pub fn of(base: &TestRun) -> Self {
        if let Some(why) = unseen_tests(base) {
            return Self::Unusable(why);
        }
        match &base.verdict {
            RunVerdict::Passed | RunVerdict::PassedByExit => Self::Passing,
            RunVerdict::NoTests => Self::WithoutTests,
            // A hang or a crash can be what is to be fixed.
            RunVerdict::Failed | RunVerdict::TimedOut => Self::Failing,
            RunVerdict::Disagree(_) if !base.exit.status.is_success() => Self::Failing,
            RunVerdict::Disagree(_) | RunVerdict::Unreadable(_) | RunVerdict::Broken(_) => {
                Self::Unusable(base.verdict.to_string())
            }
        }
    }

    /// Whether only new tests can show the change.
    #[must_use]
    pub fn needs_new_tests(&self) -> bool {
        matches!(self, Self::Passing | Self::WithoutTests)
    }
}

/// The outcome of weighing runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    /// Whether the change is proved.
    pub proved: bool,
    /// Why; says what to do when not proved.
    pub reason: String,
    /// Tests that failed without the change and pass with it.
    pub fail_to_pass: Vec<String>,
    /// Tests that passed on the base and pass now.
    pub pass_to_pass: Vec<String>,
    /// Tests that failed on the base and fail still.
    pub known_failures: Vec<String>,
}

impl Weighed {
    fn refused(reason: String) -> Self {
        Self {
            proved: false,
            reason,
            fail_to_pass: Vec::new(),
            pass_to_pass: Vec::new(),
            known_failures: Vec::new(),
        }
    }
}

/// Weighs the runs of a proof.
///
/// A change is proved when the tests fail without it and pass with it, by runs
/// that agree: on the branch, and where tests or what runs them were changed, on
/// the branch with the base's. Where the base passes already, or none of its
/// failing tests passes now, tests that the branch brings must fail on the base.
/// Tests that failed on the base may fail still, where others show the change.
/// No test that passed on the base may be gone, skipped or failing. An exit
/// status without a report is believed only where nothing that says how the
/// tests are run has changed. Where the task allows test changes, the run with
/// the base's tests decides nothing and tests may go.
#[must_use]
pub fn weigh(runs: Runs<'_>, changed: ChangedJudges<'_>, allow_test_changes: bool) -> Weighed {
    let base_state = BaseState::of(runs.base);
    if let BaseState::Unusable(why) = &base_state {
        return Weighed::refused(format!(
            "the test command cannot be judged on the base commit: {why}; give a test command \
             whose exit status and report can be trusted"
        ));
    }
    let branch = runs.branch;
    if let Some(why) = unseen_tests(branch) {
        return Weighed::refused(format!(
            "the test command cannot be judged on the branch: {why}"
        ));
    }
    let known = known_failures(runs.base, &branch.verdict, branch.report.as_ref());
    if !branch.verdict.is_pass() && known.is_none() {
        return Weighed::refused(format!(
            "the tests do not pass on the branch: {}",
            describe(branch)
        ));
    }
    let known = known.unwrap_or_default();
    let says_how = [changed.runners, changed.scripts].concat();
    if runs.branch.verdict == RunVerdict::PassedByExit && !says_how.is_empty() {
        return Weighed::refused(format!(
            "the test command passes by exit status alone, with no test count, and what runs it \
             was changed: {}; leave these files as they were on the base, or give a test command \
             whose report can be read",
            some_of(&says_how)
        ));
    }
    let mut problems = Vec::new();
    if !allow_test_changes {
        match runs.restored {
            None if base_state == BaseState::WithoutTests || changed.files.is_empty() => {}
            None => problems.push("the run with the base's tests is missing".to_owned()),
            Some(restored) => {
                if let Err(problem) = bears_out(runs.base, restored, changed, &known) {
                    if !passes_but_for(restored, &known) {
                        return Weighed::refused(problem);
                    }
                    problems.push(problem);
                }
            }
        }
    }
    let with_branch = compare(runs.base, branch, allow_test_changes, &known);
    problems.extend(with_branch.problems);
    let mut fail_to_pass = with_branch.fail_to_pass;
    if needs_new_tests(runs.base, branch) {
        match shown_by_new_tests(runs, changed.files, &known) {
            Ok(shown) => fail_to_pass = shown,
            Err(problem) => problems.push(problem),
        }
    }
    problems.dedup();
    if !problems.is_empty() {
        return Weighed::refused(problems.join("; "));
    }
    Weighed {
        proved: true,
        reason: praise(runs, &fail_to_pass, &with_branch.pass_to_pass, &known),
        fail_to_pass,
        pass_to_pass: with_branch.pass_to_pass,
        known_failures: known,
    }
}

/// Whether only new tests can show a change: the base passes, or what failed
/// there fails still.
#[must_use]
pub fn needs_new_tests(base: &TestRun, branch: &TestRun) -> bool {
    let known = known_failures(base, &branch.verdict, branch.report.as_ref());
    BaseState::of(base).needs_new_tests()
        || known.is_some_and(|known| compare(base, branch, true, &known).fail_to_pass.is_empty())
}

/// Whether a run on the branch with the base's tests bears the change out, as
/// far as the base's tests can: all but the [`known_failures`] of the branch
/// must pass.
///
/// # Errors
/// What speaks against it.
pub fn bears_out(
    base: &TestRun,
    restored: &TestRun,
    changed: ChangedJudges<'_>,
    known: &[String],
) -> Result<(), String> {
    if BaseState::of(base) == BaseState::WithoutTests {
        return Ok(());
    }
    if let Some(why) = unseen_tests(restored) {
        return Err(format!(
            "the test command cannot be judged on the {}: {why}",
            restored.name
        ));
    }
    if !passes_but_for(restored, known) {
        let way_out = match changed.runners {
            [] => String::new(),
            runners => format!(
                "; where the change needs another {}, the task has to allow test changes",
                some_of(runners)
            ),
        };
        return Err(format!(
            "with the test files of the base put back ({}) the tests do not pass: {}; change the \
             code until the tests as they were pass{way_out}",
            some_of(changed.files),
            describe(restored)
        ));
    }
    let problems = compare(base, restored, false, known).problems;
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}

/// Why nobody can tell from a run what became of single tests; `None` where that
/// can be told, or where there is no report at all.
#[must_use]
pub fn unseen_tests(run: &TestRun) -> Option<String> {
    let report = run.report.as_ref()?;
    report.counts_packages().then(|| {
        format!(
            "{} names packages and not their tests, among which one can be skipped unseen; \
             run it with -v or -json",
            report.framework.name()
        )
    })
}

/// What the branch's own tests show where the base passes; or why nothing.
fn shown_by_new_tests(
    runs: Runs<'_>,
    changed_tests: &[String],
    known: &[String],
) -> Result<Vec<String>, String> {
    let what_to_do = "add a test that fails without the change and passes with it";
    let base = match BaseState::of(runs.base) {
        BaseState::WithoutTests => "no tests run on the base commit",
        BaseState::Failing => "no test that failed on the base commit passes",
        BaseState::Passing | BaseState::Unusable(_) => "the tests pass on the base commit already",
    };
    let Some(transplanted) = runs.transplanted else {
        return Err(format!(
            "{base}, and no test file was changed, so nothing shows the change: {what_to_do}"
        ));
    };
    match BaseState::of(transplanted) {
        BaseState::Failing => {
            let shown = compare(transplanted, runs.branch, false, known);
            let problems = shown.problems.join("; ");
            if problems.is_empty() && shown.fail_to_pass.is_empty() {
                Err(format!(
                    "{base}, and the branch's tests ({}) show no more of it: {what_to_do}",
                    some_of(changed_tests)
                ))
            } else if problems.is_empty() {
                Ok(shown.fail_to_pass)
            } else {
                Err(problems)
            }
        }
        BaseState::Passing => Err(format!(
            "{base}, and so do the branch's tests ({}) without the change: {what_to_do}",
            some_of(changed_tests)
        )),
        BaseState::WithoutTests | BaseState::Unusable(_) => Err(format!(
            "{base}, and the branch's tests ({}) say nothing there ({}): {what_to_do}",
            some_of(changed_tests),
            transplanted.verdict
        )),
    }
}

#[derive(Debug, Default)]
struct Comparison {
    fail_to_pass: Vec<String>,
    pass_to_pass: Vec<String>,
    problems: Vec<String>,
}

/// Compares a run that passes but for the `known` failures with an earlier one,
/// by the names of tests as far as the runner gives them and by counts for the
/// rest. With `tests_may_go`, a test that passed before may be gone or skipped.
fn compare(before: &TestRun, now: &TestRun, tests_may_go: bool, known: &[String]) -> Comparison {
    let mut found = Comparison::default();
    let (Some(old), Some(new)) = (&before.report, &now.report) else {
        if before.report.is_some() {
            found.problems.push(format!(
                "the run on the {} has no report, the one on the {} has",
                now.name, before.name
            ));
        } else if let (BaseState::Failing, Some(new)) = (BaseState::of(before), &now.report) {
            found.fail_to_pass = new.named(TestOutcome::Passed).map(str::to_owned).collect();
        }
        return found;
    };
    if old.names_all && !new.names_all {
        found.problems.push(format!(
            "the report on the {} does not name its tests, the one on the {} does; leave how the \
             tests are run as it was",
            now.name, before.name
        ));
        return found;
    }
    let all_named = new.names_all || new.names.len() as u32 >= new.total();
    let mut gone = Vec::new();
    for (name, outcome) in &old.names {
        let is_now = new.names.get(name);
        let changed = |was: &str| {
            let how = is_now.map_or("did not run", |_| "was skipped");
            format!(
                "{name} {was} on the {} and {how} on the {}",
                before.name, now.name
            )
        };
        match (outcome, is_now) {
            (TestOutcome::Passed, Some(TestOutcome::Passed)) => {
                found.pass_to_pass.push(name.clone());
            }
            (TestOutcome::Passed, _) if all_named && !tests_may_go => gone.push(changed("passed")),
            (TestOutcome::Failed | TestOutcome::Error, Some(TestOutcome::Passed)) => {
                found.fail_to_pass.push(name.clone());
            }
            // Without names, a test that is gone and one that passes look the same.
            (TestOutcome::Failed | TestOutcome::Error, None)
                if !all_named
                    && (!tests_may_go || new.passed > old.passed && new.skipped <= old.skipped) =>
            {
                found.fail_to_pass.push(name.clone());
            }
            (TestOutcome::Failed | TestOutcome::Error, Some(is_now))
                if is_failure(*is_now) && known.contains(name) => {}
            (TestOutcome::Error, None) => {
                // A file that could not be loaded: its tests have names now.
                let own = tests_of(name, old, new);
                if own.is_empty() && !tests_may_go {
                    gone.push(changed("broke"));
                }
                found.fail_to_pass.extend(own);
            }
            (TestOutcome::Failed, None) if tests_may_go => {}
            (TestOutcome::Failed | TestOutcome::Error, _) => gone.push(changed("failed")),
            (TestOutcome::Passed | TestOutcome::Skipped, _) => {}
        }
    }
    if !gone.is_empty() {
        found.problems.push(some_of(&gone));
    }
    if old.broken() > 0
        && known.is_empty()
        && found.fail_to_pass.is_empty()
        && found.problems.is_empty()
    {
        // The runner named no failing test, or the task let it go: what passes
        // now and did not before has to show the change.
        found.fail_to_pass = new_passes(old, new);
        if found.fail_to_pass.is_empty() && new.passed <= old.passed {
            found.problems.push(format!(
                "no test that failed on the {} passes on the {}",
                before.name, now.name
            ));
        }
    }
    // What failed has to pass now, also where the runner no longer names it.
    // Subtests fail many times under one name.
    let broken =
        [TestOutcome::Failed, TestOutcome::Error].map(|outcome| old.named(outcome).count() as u32);
    let expected = old.passed.saturating_add(broken.iter().sum());
    let expected = expected.saturating_sub(known.len() as u32);
    if !all_named && !tests_may_go && (new.passed < expected || new.skipped > old.skipped) {
        found.problems.push(format!(
            "fewer tests pass or more are skipped on the {} ({}) than on the {} ({})",
            now.name,
            new.counts(),
            before.name,
            old.counts()
        ));
    }
    found
}

/// The new passing tests of a file that could not be loaded before: those whose
/// names have the last part of the file's.
fn tests_of(file: &str, old: &TestReport, new: &TestReport) -> Vec<String> {
    let file = file.strip_suffix(".py").unwrap_or(file);
    let last = file.rsplit(['.', '/', ':']).next().unwrap_or(file);
    let mut own = new_passes(old, new);
    own.retain(|name| name.split(['.', '/', ':']).any(|part| part == last));
    own
}

/// A failing run in a line: the verdict and the first names.
fn describe(run: &TestRun) -> String {
    let names: Vec<String> = run.report.as_ref().map_or_else(Vec::new, |report| {
        [TestOutcome::Failed, TestOutcome::Error]
            .into_iter()
            .flat_map(|outcome| report.named(outcome))
            .map(str::to_owned)
            .collect()
    });
    let counts = match &run.report {
        Some(report) if run.verdict == RunVerdict::Failed => format!(", {}", report.counts()),
        _ => String::new(),
    };
    let mut text = format!("{} ({}{counts})", run.verdict, run.exit.status);
    if !names.is_empty() {
        text.push_str(&format!(": {}", some_of(&names)));
    }
    text
}

fn praise(
    runs: Runs<'_>,
    fail_to_pass: &[String],
    pass_to_pass: &[String],
    known: &[String],
) -> String {
    if runs.branch.verdict == RunVerdict::PassedByExit {
        return "the test command fails without the change and passes with it, by exit status \
                alone: no test count, as its output has no report that can be read"
            .to_owned();
    }
    let fixed = match fail_to_pass {
        [] => "the tests fail without the change and pass with it".to_owned(),
        [one] => format!("{one} fails without the change and passes with it"),
        many => format!(
            "{} tests fail without the change and pass with it",
            many.len()
        ),
    };
    let others = match pass_to_pass.len() {
        0 => String::new(),
        1 => "; 1 other passes as before".to_owned(),
        count => format!("; {count} others pass as before"),
    };
    let still = match known {
        [] => String::new(),
        known => format!("; failed before and fails still: {}", some_of(known)),
    };
    format!("{fixed}{others}{still}")
}

/// The first few of a list, and how many more there are.
pub(crate) fn some_of(items: &[String]) -> String {
    const SHOWN: usize = 5;
    if items.is_empty() {
        return "none".to_owned();
    }
    let shown = items[..items.len().min(SHOWN)].join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
