//! Checking acceptance criteria at a site.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Criterion, CriterionResult, ProofError, Prover, Ran, Site, StepContext, Verification,
    run_plain, run_tests,
};
use crate::{
    domain::{
        criteria::{SyntaxCheck, compile},
        exec::ExitStatus,
        files::{GrepQuery, ReadRange},
        proof::{TestRun, known_failures, some_of},
    },
    ports::agent::{AgentError, AgentPort},
    service::commands::CommandError,
};

/// The evidence of a verification, as it is kept.
#[derive(Serialize)]
struct VerificationEvidence<'a> {
    kind: &'static str,
    site: &'a Site,
    tree: &'a str,
    at_ms: i64,
    holds: bool,
    results: &'a [CriterionResult],
}

/// Whether a criterion holds, and what was found.
type Found = (bool, String);

impl Prover {
    /// Checks a todo's criteria, each by the daemon itself. `base` is the run of
    /// the session's test command before its first edit. No criterion at all does
    /// not hold.
    pub async fn verify(
        &self,
        site: &Site,
        step: &StepContext,
        criteria: &[Criterion],
        base: Option<&TestRun>,
    ) -> Result<Verification, ProofError> {
        let tree = self.git(site).worktree_tree().await?;
        let mut results = Vec::new();
        for (number, criterion) in criteria.iter().enumerate() {
            let name = format!("criterion-{}", number + 1);
            let (holds, found) = self.check(site, step, &name, criterion, base).await?;
            results.push(CriterionResult {
                criterion: criterion.clone(),
                holds,
                found,
            });
        }
        let holds = !results.is_empty() && results.iter().all(|result| result.holds);
        let evidence = VerificationEvidence {
            kind: "verification",
            site,
            tree: &tree,
            at_ms: self.commands.artifacts().now_ms(),
            holds,
            results: &results,
        };
        let title = if holds {
            "criteria hold"
        } else {
            "criteria do not hold"
        };
        let artifact = self.keep(step, title, &evidence).await?;
        Ok(Verification {
            holds,
            results,
            artifact,
        })
    }

    async fn check(
        &self,
        site: &Site,
        step: &StepContext,
        name: &str,
        criterion: &Criterion,
        base: Option<&TestRun>,
    ) -> Result<Found, ProofError> {
        match criterion {
            Criterion::FileExists { path } => self.file_exists(site, path).await,
            Criterion::FileMatches { path, pattern } => {
                self.file_matches(site, path, pattern).await
            }
            Criterion::CommandExits { argv, code } => {
                let ran = self.command(site, step, name, argv).await?;
                let holds = ran.exit.status == ExitStatus::Code(*code);
                Ok((holds, with_output(&ran, holds)))
            }
            Criterion::CommandOutputMatches { argv, pattern } => {
                let ran = self.command(site, step, name, argv).await?;
                Ok(output_matches(&ran, pattern))
            }
            Criterion::TestsPass { argv } => {
                let given = argv.as_deref();
                let base = base.filter(|base| given.is_none_or(|given| given == base.argv));
                let Some(argv) = given.or(base.map(|base| base.argv.as_slice())) else {
                    let text = "no test command is known; name one in the criterion's argv";
                    return Ok((false, text.to_owned()));
                };
                let title = shell_words::join(argv);
                let ran = run_tests(&self.commands, site, step, name, &title, argv).await?;
                let known =
                    base.and_then(|base| known_failures(base, &ran.verdict, ran.report.as_ref()));
                let summary = format!("{}: {}", ran.verdict, ran.summary());
                Ok(match known {
                    Some(known) => {
                        let known = some_of(&known);
                        (true, format!("{summary}; failed before as well: {known}"))
                    }
                    None if ran.verdict.is_pass() => (true, summary),
                    None => (false, format!("{summary}\n{}", end_of(&ran))),
                })
            }
            Criterion::SyntaxValid { path } => self.syntax(site, step, name, path).await,
        }
    }

    async fn command(
        &self,
        site: &Site,
        step: &StepContext,
        name: &str,
        argv: &[String],
    ) -> Result<Ran, ProofError> {
        let title = shell_words::join(argv);
        Ok(run_plain(&self.commands, site, step, name, &title, argv).await?)
    }

    async fn file_exists(&self, site: &Site, path: &str) -> Result<Found, ProofError> {
        match self.agent(site).await?.stat(&at(site, path)).await {
            Ok(Some(info)) => Ok((true, format!("{path} is there, {} bytes", info.size_bytes))),
            Ok(None) => Ok((false, format!("there is no {path}"))),
            Err(error) => refusal(error),
        }
    }

    async fn file_matches(
        &self,
        site: &Site,
        path: &str,
        pattern: &str,
    ) -> Result<Found, ProofError> {
        let query = GrepQuery {
            pattern: pattern.to_owned(),
            path: Some(at(site, path)),
            max_matches: Some(1),
            include_ignored: true,
            ..GrepQuery::default()
        };
        match self.agent(site).await?.grep(&query).await {
            Ok(lines) => Ok(lines.entries.iter().find(|line| line.matched).map_or_else(
                || (false, format!("no line of {path} matches")),
                |line| (true, format!("line {}: {}", line.line, shorten(&line.text))),
            )),
            Err(error) => refusal(error),
        }
    }

    async fn syntax(
        &self,
        site: &Site,
        step: &StepContext,
        name: &str,
        path: &str,
    ) -> Result<Found, ProofError> {
        let parse: fn(&str) -> Result<(), String> = match SyntaxCheck::of(path) {
            SyntaxCheck::Unsupported => {
                let text = format!("the syntax of {path} cannot be checked; use command_exits");
                return Ok((false, text));
            }
            SyntaxCheck::Command(command) => {
                let mut argv: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
                argv.push(at(site, path));
                let ran = self.command(site, step, name, &argv).await?;
                let holds = ran.exit.status.is_success();
                return Ok((holds, with_output(&ran, holds)));
            }
            SyntaxCheck::Json => |text| {
                serde_json::from_str::<serde::de::IgnoredAny>(text)
                    .map(|_| ())
                    .map_err(|error| error.to_string())
            },
            SyntaxCheck::Toml => |text| {
                toml::from_str::<toml::Table>(text)
                    .map(|_| ())
                    .map_err(|error| error.message().to_owned())
            },
        };
        let range = ReadRange {
            first_line: None,
            line_count: Some(u32::MAX),
            max_bytes: Some(8 << 20),
        };
        match self
            .agent(site)
            .await?
            .read_file(&at(site, path), &range)
            .await
        {
            Ok(file) if file.truncated => Ok((false, format!("{path} is too large to check"))),
            Ok(file) => Ok(match parse(&file.content) {
                Ok(()) => (true, format!("{path} parses")),
                Err(error) => (false, error),
            }),
            Err(error) => refusal(error),
        }
    }

    async fn agent(&self, site: &Site) -> Result<Arc<dyn AgentPort>, ProofError> {
        let agent = self.commands.workspaces().agent(&site.workspace).await;
        Ok(agent.map_err(CommandError::from)?)
    }
}

fn output_matches(ran: &Ran, pattern: &str) -> Found {
    let pattern = match compile(pattern) {
        Ok(pattern) => pattern,
        Err(error) => return (false, error.to_string()),
    };
    let text = String::from_utf8_lossy(&ran.output);
    match pattern.find(&text) {
        Some(found) if ran.exit.status.is_success() => {
            (true, format!("found `{}`", shorten(found.as_str())))
        }
        Some(_) => (false, with_output(ran, false)),
        None => (false, format!("no match; {}", with_output(ran, false))),
    }
}

/// A path of a criterion as one of the workspace.
fn at(site: &Site, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{}/{path}", site.directory)
    }
}

/// What the agent refuses does not hold; what it cannot answer is an error.
fn refusal(error: AgentError) -> Result<Found, ProofError> {
    match error {
        AgentError::Refused { message, .. } => Ok((false, message)),
        error => Err(CommandError::from(error).into()),
    }
}

/// How a command ended, with the end of its output where that helps.
fn with_output(ran: &Ran, holds: bool) -> String {
    let output = end_of(ran);
    if holds || output.is_empty() {
        ran.exit.status.to_string()
    } else {
        format!("{}\n{output}", ran.exit.status)
    }
}

/// The end of an output, at most 2 KiB.
fn end_of(ran: &Ran) -> String {
    const SHOWN: usize = 2 << 10;
    let text = ran.view.trim_end();
    let start = (text.len().saturating_sub(SHOWN)..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text[start..].to_owned()
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 200;
    let text = text.trim();
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
