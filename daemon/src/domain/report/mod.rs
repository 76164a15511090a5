//! Reports of test runners: read from output or JUnit XML, and judged together
//! with the exit status.
//!
//! A report is what the runner says of itself, so it is never believed alone: a
//! file under test can print "5 passed" as well as the runner can. [`judge`]
//! wants exit status and report to agree. Each runner has a file of its own;
//! they read text that is untrusted and may be cut in the middle.

mod cargo;
mod go;
mod jest;
mod junit;
mod mocha;
mod node;
mod outline;
mod pytest;
mod unittest;

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::exec::ExitStatus;

/// A test runner whose reports can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framework {
    /// pytest.
    Pytest,
    /// Python's unittest.
    Unittest,
    /// cargo test and cargo nextest.
    Cargo,
    /// go test.
    Go,
    /// jest, vitest.
    Jest,
    /// mocha's default reporter.
    Mocha,
    /// The Test Anything Protocol, with node's own runner.
    Tap,
    /// Whatever prints JUnit XML.
    Junit,
}

impl Framework {
    /// Every framework, in the order in which output of an unknown command is
    /// tried: those with the most telling marks first.
    pub const ALL: [Self; 8] = [
        Self::Pytest,
        Self::Cargo,
        Self::Tap,
        Self::Unittest,
        Self::Go,
        Self::Jest,
        Self::Mocha,
        Self::Junit,
    ];

    /// The runner that a command is, where the command itself says so;
    /// `None` for wrappers such as `make test` or `npm test`, whose output may
    /// still tell.
    #[must_use]
    pub fn of(argv: &[String]) -> Option<Self> {
        let mut words = argv.iter().map(String::as_str).skip_while(|word| {
            // `env A=b`, `uv run`, `poetry run`, `npx` and the like say nothing.
            word.contains('=')
                || matches!(*word, "env" | "uv" | "poetry" | "pipenv" | "run" | "npx")
        });
        let program = words.next()?.rsplit('/').next()?;
        let next = words.next();
        match program {
            "pytest" | "py.test" => Some(Self::Pytest),
            "cargo" => {
                let is_test = |word: &str| matches!(word, "test" | "t" | "nextest");
                (next.is_some_and(is_test) || words.any(is_test)).then_some(Self::Cargo)
            }
            "go" => (next == Some("test")).then_some(Self::Go),
            "jest" | "vitest" => Some(Self::Jest),
            "mocha" => Some(Self::Mocha),
            "node" => argv
                .iter()
                .any(|word| word == "--test")
                .then_some(Self::Tap),
            python if python.starts_with("python") || python.starts_with("pypy") => {
                let module = argv.iter().skip_while(|word| *word != "-m").nth(1)?;
                match module.as_str() {
                    "pytest" => Some(Self::Pytest),
                    "unittest" => Some(Self::Unittest),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Its name as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pytest => "pytest",
            Self::Unittest => "unittest",
            Self::Cargo => "cargo test",
            Self::Go => "go test",
            Self::Jest => "jest",
            Self::Mocha => "mocha",
            Self::Tap => "TAP",
            Self::Junit => "JUnit XML",
        }
    }

    fn parse(self, output: &str) -> Option<TestReport> {
        match self {
            Self::Pytest => pytest::parse(output),
            Self::Unittest => unittest::parse(output),
            Self::Cargo => cargo::parse(output),
            Self::Go => go::parse(output),
            Self::Jest => jest::parse(output),
            Self::Mocha => mocha::parse(output),
            Self::Tap => node::parse_tap(output),
            Self::Junit => junit::printed(self, output),
        }
    }
}

/// What became of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// It passed.
    Passed,
    /// It was skipped, or failed as it was expected to. Not passed.
    Skipped,
    /// It failed.
    Failed,
    /// It broke outside of its assertions, or was never collected.
    Error,
}

/// What a runner says of its tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// The runner.
    pub framework: Framework,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that broke.
    pub errors: u32,
    /// Tests that were skipped.
    pub skipped: u32,
    /// Outcomes by name, as far as the runner gives names.
    pub names: BTreeMap<String, TestOutcome>,
    /// Whether tests that pass have names too: the runner left a JUnit file, or
    /// named some that passed and as many as it counts.
    pub names_all: bool,
}

impl TestReport {
    /// A report with nothing in it.
    fn empty(framework: Framework) -> Self {
        Self {
            framework,
            passed: 0,
            failed: 0,
            errors: 0,
            skipped: 0,
            names: BTreeMap::new(),
            names_all: false,
        }
    }

    /// Notes whether passing tests have names too.
    fn see_whether_names_all(mut self) -> Self {
        let counted = self.names.len() as u32 >= self.total();
        self.names_all = counted && self.named(TestOutcome::Passed).next().is_some();
        self
    }

    /// Notes what became of a test; of several outcomes the worst counts.
    fn note(&mut self, name: impl Into<String>, outcome: TestOutcome) {
        let known = self.names.entry(name.into()).or_insert(outcome);
        *known = (*known).max(outcome);
    }

    /// Sets the counts to those of the names.
    fn count_names(&mut self) {
        let count = |wanted| {
            self.names
                .values()
                .filter(|outcome| **outcome == wanted)
                .count() as u32
        };
        self.passed = count(TestOutcome::Passed);
        self.failed = count(TestOutcome::Failed);
        self.errors = count(TestOutcome::Error);
        self.skipped = count(TestOutcome::Skipped);
    }

    /// Tests that were collected.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.passed
            .saturating_add(self.skipped)
            .saturating_add(self.broken())
    }

    /// Tests that failed or broke.
    #[must_use]
    pub fn broken(&self) -> u32 {
        self.failed.saturating_add(self.errors)
    }

    /// Whether it counts packages and not their tests, as `go test` does without
    /// `-v` or `-json`: a test that is skipped or newly fails is not seen in it.
    #[must_use]
    pub fn counts_packages(&self) -> bool {
        let is_named = self.names_all || self.names.len() as u32 >= self.total();
        self.framework == Framework::Go && !is_named
    }

    /// Names of the tests with this outcome, in order.
    pub fn named(&self, wanted: TestOutcome) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .filter(move |(_, outcome)| **outcome == wanted)
            .map(|(name, _)| name.as_str())
    }

    /// Counts for people: "2 failed, 11 passed, 1 skipped".
    #[must_use]
    pub fn counts(&self) -> String {
        let parts: Vec<String> = [
            (self.failed, "failed"),
            (self.errors, "broken"),
            (self.passed, "passed"),
            (self.skipped, "skipped"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
        if parts.is_empty() {
            "no tests".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

/// What could be read of a run's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A report.
    Report(TestReport),
    /// The runner is known and its report is not there.
    Unreadable(Framework),
    /// Nobody knows the runner.
    UnknownRunner,
}

impl Reading {
    /// The report, where there is one.
    #[must_use]
    pub fn into_report(self) -> Option<TestReport> {
        match self {
            Self::Report(report) => Some(report),
            Self::Unreadable(_) | Self::UnknownRunner => None,
        }
    }
}

/// Reads what a run says of its tests. `framework` is what the command says it
/// is; `junit` is the JUnit XML that the run left, if any, which gives names
/// where the output gives counts only.
#[must_use]
pub fn read(framework: Option<Framework>, output: &[u8], junit: Option<&str>) -> Reading {
    let output = plain_text(output);
    // A runner that is known is read as such alone: what else is in its output
    // comes from what it runs.
    let printed = match framework {
        // Most can be told to print JUnit XML in place of their own.
        Some(framework) => framework
            .parse(&output)
            .or_else(|| junit::printed(framework, &output)),
        None => Framework::ALL
            .into_iter()
            .find_map(|each| each.parse(&output)),
    }
    .map(TestReport::see_whether_names_all);
    let filed = junit.and_then(|xml| {
        let framework = framework
            .or(printed.as_ref().map(|report| report.framework))
            .unwrap_or(Framework::Pytest);
        let report = junit::parse(framework, xml)?;
        Some(TestReport {
            names_all: true,
            ..report
        })
    });
    match (printed, filed, framework) {
        (Some(printed), Some(filed), _) => Reading::Report(combine(printed, filed)),
        (Some(report), None, _) | (None, Some(report), _) => Reading::Report(report),
        (None, None, Some(framework)) => Reading::Unreadable(framework),
        (None, None, None) => Reading::UnknownRunner,
    }
}

/// One report of two: names from the file, and of each bad count the higher,
/// of the good one the lower, so that neither can hide what the other saw.
fn combine(printed: TestReport, filed: TestReport) -> TestReport {
    TestReport {
        framework: printed.framework,
        passed: printed.passed.min(filed.passed),
        failed: printed.failed.max(filed.failed),
        errors: printed.errors.max(filed.errors),
        skipped: printed.skipped.max(filed.skipped),
        names: filed.names,
        names_all: true,
    }
}

/// Judges a run by exit status and report together.
///
/// - Both must agree: failures beside exit status 0, or none beside another,
///   are a disagreement, which is no pass.
/// - No test, or nothing but skipped ones, is no pass.
/// - A known runner without a report is no pass, whatever its exit status.
/// - An unknown runner is judged by its exit status alone, and the verdict says
///   so: commands such as `make check` would otherwise be of no use.
#[must_use]
pub fn judge(exit: &ExitStatus, reading: &Reading) -> RunVerdict {
    let code = match exit {
        ExitStatus::Code(code) => *code,
        ExitStatus::Signal(_) => return RunVerdict::Failed,
        ExitStatus::TimedOut(_) => return RunVerdict::TimedOut,
        ExitStatus::NotStarted(why) | ExitStatus::Unknown(why) => {
            return RunVerdict::Broken(why.clone());
        }
    };
    let report = match reading {
        Reading::Report(report) => report,
        Reading::Unreadable(framework) if code == 0 => {
            let name = framework.name();
            return RunVerdict::Unreadable(format!("exit 0 without a report of {name}"));
        }
        Reading::UnknownRunner if code == 0 => return RunVerdict::PassedByExit,
        Reading::Unreadable(_) | Reading::UnknownRunner => return RunVerdict::Failed,
    };
    let counts = report.counts();
    match (code, report.broken()) {
        (0, 0) if report.passed > 0 => RunVerdict::Passed,
        (0, 0) => RunVerdict::NoTests,
        (0, _) => RunVerdict::Disagree(format!("exit 0, but the report says {counts}")),
        (_, 0) if report.total() == 0 => RunVerdict::NoTests,
        (code, 0) => RunVerdict::Disagree(format!("exit {code}, but the report says {counts}")),
        (_, _) => RunVerdict::Failed,
    }
}

/// Output as text without terminal colours, line ends made `\n`.
fn plain_text(output: &[u8]) -> String {
    static ESCAPES: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\))"));
    let text = String::from_utf8_lossy(output);
    ESCAPES.replace_all(&text, "").replace("\r\n", "\n")
}

/// A regular expression that is part of this program.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("patterns are constants and tested")
}

/// A count from a capture; one that no number can hold is the highest number.
fn number(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}

/// Adds to a count; output that lies about numbers only gets so far.
fn add(count: &mut u32, more: u32) {
    *count = count.saturating_add(more);
}

/// The verdict on a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunVerdict {
    /// Exit status and report agree that at least one test passed and none
    /// failed.
    Passed,
    /// Exit status 0 of a command that gives no report the daemon can read:
    /// passed by exit status alone.
    PassedByExit,
    /// It failed.
    Failed,
    /// No test ran, or all were skipped.
    NoTests,
    /// Exit status and report contradict each other; the text says how.
    Disagree(String),
    /// A known runner left no report that can be read.
    Unreadable(String),
    /// It did not end in time.
    TimedOut,
    /// The command could not be run, or nobody knows how it ended.
    Broken(String),
}

impl RunVerdict {
    /// Whether it is a pass.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        matches!(self, Self::Passed | Self::PassedByExit)
    }
}

impl std::fmt::Display for RunVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::PassedByExit => f.write_str("passed by exit status alone"),
            Self::Failed => f.write_str("failed"),
            Self::NoTests => f.write_str("no tests ran"),
            Self::Disagree(how) => write!(f, "exit status and report disagree: {how}"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Broken(why) => write!(f, "could not be run: {why}"),
        }
    }
}

#[cfg(test)]
mod tests;
