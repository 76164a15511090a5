//! Running one check: the command as it is given, surrounded by what makes its
//! result readable and fresh.

use crate::domain::{
    artifact::ArtifactKind,
    checks::Site,
    credential::CommandTool,
    exec::{ExecSpec, Exit, ExitStatus, Leftovers},
    ids::ArtifactId,
    report::{self, Framework, Reading, RunVerdict, TestReport},
};

use super::super::{
    commands::{CommandError, CommandOutcome, CommandRequest, Commands, ViewBounds},
    git::SCRATCH,
    step::StepContext,
};

/// How long bringing a report may take, in milliseconds.
const REPORT_TIMEOUT_MS: u64 = 30_000;
/// Bytes of a JUnit file at most; a larger one is not read.
const JUNIT_MAX_BYTES: usize = 64 << 20;

/// What came of a command that checks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) verdict: RunVerdict,
    pub(crate) report: Option<TestReport>,
    pub(crate) view: String,
    pub(crate) output: Vec<u8>,
    pub(crate) artifact: Option<ArtifactId>,
    pub(crate) reports: Vec<ArtifactId>,
}

impl Ran {
    /// One line: the counts where there are some, and the verdict where it says
    /// more.
    pub(crate) fn summary(&self) -> String {
        match (&self.report, &self.verdict) {
            (Some(report), RunVerdict::Passed | RunVerdict::Failed) => report.counts(),
            (_, RunVerdict::Failed) => format!("failed ({})", self.exit),
            (_, verdict) => verdict.to_string(),
        }
    }
}

/// Runs a test command. `name` is unique within the step, of `a-z0-9-`.
///
/// The command itself is not changed. Variables are set: pytest is asked for a
/// JUnit file, which names tests even when it prints counts only; jest's and
/// mocha's JUnit reporters, where a project uses them, are told where to leave
/// theirs; and Python keeps its bytecode elsewhere, so that none that was
/// compiled from other sources, by accident or not, is used. Other programs do
/// not know them.
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
        ("PYTEST_ADDOPTS", format!("--junitxml={scratch}/pytest.xml")),
        ("JEST_JUNIT_OUTPUT_FILE", format!("{scratch}/jest.xml")),
        ("MOCHA_FILE", format!("{scratch}/mocha.xml")),
        ("PYTHONPYCACHEPREFIX", format!("{scratch}/bytecode")),
    ];
    let environment = variables
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into_bytes()))
        .collect();
    let outcome = run(commands, site, step, name, title, argv, environment).await?;
    let junit = take_report(commands, site, step, name, &scratch).await?;
    let reading = report::read(Framework::of(argv), &outcome.output, junit.as_deref());
    let mut ran = judged(outcome, reading);
    ran.reports = keep_reports(commands, step, title, &ran, junit).await?;
    Ok(ran)
}

/// Keeps a run's report as it was read, and the JUnit file that it left.
async fn keep_reports(
    commands: &Commands,
    step: &StepContext,
    title: &str,
    ran: &Ran,
    junit: Option<String>,
) -> Result<Vec<ArtifactId>, CommandError> {
    let Some(report) = &ran.report else {
        return Ok(Vec::new());
    };
    let json = serde_json::to_vec_pretty(report).expect("a report has text keys only");
    let about = step.about(ArtifactKind::TestReport, format!("report of {title}"));
    let mut kept = vec![commands.artifacts().put(about, json.into()).await?.id];
    if let Some(junit) = junit {
        let mut about = step.about(ArtifactKind::TestReport, format!("JUnit file of {title}"));
        about.media_type = "application/xml".to_owned();
        kept.push(commands.artifacts().put(about, junit.into()).await?.id);
    }
    Ok(kept)
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
        reports: Vec::new(),
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
    let mut spec = ExecSpec::new(argv).by(CommandTool::Check);
    spec.cwd = Some(site.directory.clone());
    spec.environment = environment;
    let timeout = commands.check_timeout().as_millis();
    spec.timeout_ms = Some(u64::try_from(timeout).unwrap_or(u64::MAX));
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
    let outcome = commands.run(request, &step.cancel).await?;
    known(outcome, &shell_words::join(argv))
}

/// An outcome that says something of the change: that of a workspace which was
/// stopped meanwhile does not.
fn known(outcome: CommandOutcome, command: &str) -> Result<CommandOutcome, CommandError> {
    match &outcome.exit.status {
        ExitStatus::Unknown(why) => Err(CommandError::Lost {
            command: command.to_owned(),
            why: why.clone(),
        }),
        ExitStatus::Code(_)
        | ExitStatus::Signal(_)
        | ExitStatus::TimedOut(_)
        | ExitStatus::NotStarted(_) => Ok(outcome),
    }
}

/// The JUnit files of a run, one after the other, where it left any; its scratch
/// directory goes.
async fn take_report(
    commands: &Commands,
    site: &Site,
    step: &StepContext,
    name: &str,
    scratch: &str,
) -> Result<Option<String>, CommandError> {
    // The run chose what lies there: anything but a file is not opened.
    let script = r#"
for name in pytest jest mocha; do
  [ -f "$1/$name.xml" ] && cat "$1/$name.xml" && echo
done
rm -rf "$1""#;
    let mut spec = ExecSpec::new(["sh", "-c", script, "sh", scratch]);
    spec.timeout_ms = Some(REPORT_TIMEOUT_MS);
    spec.leftovers = Leftovers::Kill;
    let request = CommandRequest {
        workspace: site.workspace.clone(),
        exec: step.exec(&format!("{name}.report")),
        spec,
        about: None,
        bounds: ViewBounds::default(),
        apart: Some(JUNIT_MAX_BYTES),
        progress: None,
    };
    let outcome = known(
        commands.run(request, &step.cancel).await?,
        "bringing the report",
    )?;
    let text = outcome
        .stdout
        .and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.filter(|text| !text.is_empty()))
}
