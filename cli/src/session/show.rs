//! `compyctl session show`.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::session::{
    CallView, SessionView, calls_table, proof_table, spending_line, stage_table, todo_lines,
    tokens_line,
};
use crate::output::table::Table;
use crate::output::{Format, print, print_json};
use crate::terminal::{Lines, printable};

/// `compyctl session show ID`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// Session id.
    session: String,
}

impl ShowArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let session = SessionView::from(super::get(&daemon, &self.session).await?);
        let calls = super::model_calls(&daemon, &self.session).await?;
        let calls: Vec<CallView> = calls.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&Shown { session, calls })?,
            Format::Table => {
                let mut text = detail(&session);
                let table = (!calls.is_empty()).then(|| calls_table(&calls).to_string());
                section(&mut text, "model calls", table);
                print(&text)?;
            }
        }
        Ok(Exit::OK)
    }
}

/// What `session show -o json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    session: SessionView,
    /// The model's answers in order.
    calls: Vec<CallView>,
}

/// Everything about a session, for people.
fn detail(session: &SessionView) -> String {
    let mut facts = Table::plain();
    facts.row(["session", &session.id]);
    facts.row([
        "state",
        &match session.state_reason.as_str() {
            "" => session.state.clone(),
            reason => format!("{} ({reason})", session.state),
        },
    ]);
    facts.row(["stage", &session.stage]);
    facts.row([
        "model",
        &match session.scripted {
            true => format!(
                "{}  (SCRIPTED: written answers, no language model)",
                session.model
            ),
            false => session.model.clone(),
        },
    ]);
    facts.row([
        "workflow",
        &format!("{}, verified {}", session.workflow, session.verify),
    ]);
    facts.row(["workspace", &session.workspace]);
    facts.row(["repository", &format!("/workspace/{}", session.repository)]);
    facts.row(["test command", &session.test_command]);
    facts.row(["lint command", &session.lint_command]);
    facts.row(["base commit", &session.base_commit]);
    facts.row(["branch", &session.branch]);
    facts.row(["head commit", &session.head_commit]);
    facts.row([
        "calls",
        &format!(
            "{} of the model, {} of tools",
            session.model_calls, session.tool_calls
        ),
    ]);
    facts.row(["tokens", &tokens_line(&session.tokens)]);
    facts.row(["spent", &spending_line(&session.spending)]);
    facts.row(["started", session.started_at.as_deref().unwrap_or_default()]);
    facts.row([
        "last event",
        session.updated_at.as_deref().unwrap_or_default(),
    ]);
    let mut text = facts.to_string();
    section(&mut text, "task", [session.task.clone()]);
    section(&mut text, "todos", todo_lines(&session.todos));
    if !session.stages.is_empty() {
        section(
            &mut text,
            "stages",
            [stage_table(&session.stages).to_string()],
        );
    }
    section(&mut text, "proof", proof_lines(session));
    section(&mut text, "pull request", pull_request_lines(session));
    if let Some(question) = &session.question {
        section(
            &mut text,
            "waits for a person",
            [
                question.text.clone(),
                format!("answer: {}", question.answered_by(&session.id)),
            ],
        );
    }
    text
}

/// The proof: verdict, runs, tests.
pub(crate) fn proof_lines(session: &SessionView) -> Vec<String> {
    let Some(proof) = &session.proof else {
        return Vec::new();
    };
    let verdict = if proof.proved { "PROVED" } else { "NOT PROVED" };
    let mut lines = vec![format!("{verdict}: {}", proof.reason)];
    if !proof.runs.is_empty() {
        lines.push(proof_table(proof).to_string());
    }
    if !proof.fail_to_pass.is_empty() {
        lines.push(format!(
            "failed before, pass now: {}",
            proof.fail_to_pass.join(", ")
        ));
    }
    if !proof.changed_test_files.is_empty() {
        lines.push(format!(
            "changed test files: {}",
            proof.changed_test_files.join(", ")
        ));
    }
    if !proof.tree.is_empty() {
        lines.push(format!("tree: {}", proof.tree));
    }
    if !proof.evidence_artifact_id.is_empty() {
        lines.push(format!(
            "evidence: compyctl artifact get {}",
            proof.evidence_artifact_id
        ));
    }
    lines
}

/// The pull request with its checks.
pub(crate) fn pull_request_lines(session: &SessionView) -> Vec<String> {
    let Some(pull_request) = &session.pull_request else {
        return Vec::new();
    };
    let mut lines = vec![
        format!("#{} {}", pull_request.number, pull_request.title),
        format!(
            "{} -> {}  {}",
            pull_request.head, pull_request.base, pull_request.url
        ),
    ];
    lines.extend(
        pull_request
            .checks
            .iter()
            .map(|check| format!("check {}: {} {}", check.name, check.state, check.summary)),
    );
    if !pull_request.diff_artifact_id.is_empty() {
        lines.push(format!(
            "diff: compyctl artifact get {}",
            pull_request.diff_artifact_id
        ));
    }
    lines
}

/// A heading and indented lines; nothing at all without lines.
fn section(text: &mut String, heading: &str, lines: impl IntoIterator<Item = String>) {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "\n{heading}");
    for line in lines.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()) {
        let _ = writeln!(text, "  {}", printable(&line, Lines::Join));
    }
}
