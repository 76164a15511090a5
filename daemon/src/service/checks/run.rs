//! Running one check: the command as it is given, surrounded by what makes its
//! result readable and fresh.

use crate::domain::{
    artifact::ArtifactKind,
    checks::Site,
    exec::{ExecSpec, Exit, Leftovers},
    ids::ArtifactId,
    report::{self, Framework, Reading, RunVerdict, TestReport},
};

use super::super::{
    commands::{CommandError, CommandOutcome, CommandRequest, Commands, ViewBounds},
    git::SCRATCH,
    step::StepContext,
};

/// How long a check may take, in milliseconds.
const CHECK_TIMEOUT_MS: u64 = 30 * 60 * 1_000;

/// What came of a command that checks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) verdict: RunVerdict,
    pub(crate) report: Option<TestReport>,
    pub(crate) view: String,
    pub(crate) output: Vec<u8>,
    pub(crate) artifact: Option<ArtifactId>,
}

impl Ran {
    /// One line: the counts where there are some, and the verdict where it says
    /// more.
    pub(crate) fn summary(&self) -> String {
        match (&self.report, &self.verdict) {
            (Some(report), RunVerdict::Passed | RunVerdict::Failed) => report.counts(),
            (_, RunVerdict::Failed) => format!("failed ({})", self.exit.status),
            (_, verdict) => verdict.to_string(),
        }
    }
}

/// Runs a test command. `name` is unique within the step, of `a-z0-9-`.
///
/// The command itself is not changed. Two variables are set: pytest is asked
/// for a JUnit file, which names tests even when it prints counts only, and
/// Python keeps its bytecode elsewhere, so that none that was compiled from
/// other sources, by accident or not, is used. Other programs do not know them.
pub(crate) async fn run_tests(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    name: &str,
    title: &str,
    argv: &[String],
) -> Result<Ran, CommandError> {
    let exec = step.exec(name);
    let scratch = format!("{SCRATCH}/{exec}");
    let variables = [
        ("PYTEST_ADDOPTS", format!("--junitxml={scratch}/junit.xml")),
        ("PYTHONPYCACHEPREFIX", format!("{scratch}/bytecode")),
    ];
    let environment = variables
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into_bytes()))
        .collect();
    let outcome = run(commands, site, step, name, title, argv, environment).await?;
    let junit = take_report(commands, site, step, name, &scratch).await?;
    let reading = report::read(Framework::of(argv), &outcome.output, junit.as_deref());
    Ok(judged(outcome, reading))
}

/// Runs a command that is judged by its exit status.
pub(crate) async fn run_plain(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    name: &str,
    title: &str,
    argv: &[String],
) -> Result<Ran, CommandError> {
    let outcome = run(commands, site, step, name, title, argv, Vec::new()).await?;
    Ok(judged(outcome, Reading::UnknownRunner))
}

fn judged(outcome: CommandOutcome, reading: Reading) -> Ran {
    Ran {
        verdict: report::judge(&outcome.exit.status, &reading),
        report: reading.into_report(),
        exit: outcome.exit,
        view: outcome.view,
        output: outcome.output,
        artifact: outcome.artifact.map(|artifact| artifact.id),
    }
}

async fn run(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    name: &str,
    title: &str,
    argv: &[String],
    environment: Vec<(String, Vec<u8>)>,
) -> Result<CommandOutcome, CommandError> {
    let mut spec = ExecSpec::new(argv);
    spec.cwd = Some(site.directory.clone());
    spec.environment = environment;
    spec.timeout_ms = Some(CHECK_TIMEOUT_MS);
    // A background child must not touch the files of the next run.
    spec.leftovers = Leftovers::Kill;
    let request = CommandRequest {
        workspace: site.workspace.clone(),
        exec: step.exec(name),
        spec,
        about: Some(step.about(ArtifactKind::Output, title)),
        bounds: ViewBounds::default(),
        apart: None,
        progress: step.progress.clone(),
    };
    commands.run(request, &step.cancel).await
}

/// The JUnit file of a run, where it left one; its scratch directory goes.
async fn take_report(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    name: &str,
    scratch: &str,
) -> Result<Option<String>, CommandError> {
    let script = r#"cat "$1/junit.xml" 2>/dev/null; rm -rf "$1""#;
    let request = CommandRequest {
        workspace: site.workspace.clone(),
        exec: step.exec(&format!("{name}.report")),
        spec: ExecSpec::new(["sh", "-c", script, "sh", scratch]),
        about: None,
        bounds: ViewBounds::default(),
        apart: None,
        progress: None,
    };
    let outcome = commands.run(request, &step.cancel).await?;
    // Cut in the middle it is no XML any more, and is not read as such.
    Ok(String::from_utf8(outcome.output)
        .ok()
        .filter(|text| !text.is_empty()))
}
