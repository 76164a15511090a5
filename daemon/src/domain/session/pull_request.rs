//! What the daemon writes about a change: the commit's message and the pull
//! request's text, made from the session's state.

use std::fmt::Write as _;

use super::{briefing::result_line, decide::first_line, state::SessionState, work::WorkResult};
use crate::domain::{forge::PullRequestDraft, todo::Judge};

/// Longest first line of a commit's message, in characters.
const SUBJECT_MAX: usize = 72;

/// The first line of a commit's message and of a pull request: the task's.
#[must_use]
pub fn subject(task: &str) -> String {
    let line = first_line(task);
    let line = line.trim_end_matches(['.', ';', ',', ' ']);
    if line.chars().count() <= SUBJECT_MAX {
        return line.to_owned();
    }
    let cut: String = line.chars().take(SUBJECT_MAX - 1).collect();
    let whole_words = match cut.rsplit_once(' ') {
        // A word that fills the line is cut rather than the line emptied.
        Some((start, _)) if start.chars().count() > SUBJECT_MAX / 2 => start,
        Some(_) | None => &cut,
    };
    format!("{}…", whole_words.trim_end_matches(['.', ';', ',', ' ']))
}

/// The message of the session's commit.
#[must_use]
pub fn commit_message(state: &SessionState) -> String {
    let mut text = format!("{}\n", subject(&state.created.task));
    if !state.todos.is_empty() {
        text.push('\n');
        for todo in &state.todos {
            let _ = writeln!(text, "- {}", first_line(&todo.text));
        }
    }
    if let (Some(base), Some(validation)) = (&state.base, &state.validation) {
        let _ = write!(
            text,
            "\nBefore: {}.\nChecked: {}.\n",
            base.summary,
            result_line(&WorkResult::Validated(validation.clone()))
        );
    }
    let _ = write!(text, "\nCompy-Session: {}\n", state.id());
    text
}

/// The pull request for the session's branch.
#[must_use]
pub fn draft(state: &SessionState) -> Option<PullRequestDraft> {
    let (base, commit) = (state.base.as_ref()?, state.commit.as_ref()?);
    Some(PullRequestDraft {
        title: subject(&state.created.task),
        body: body(state),
        head: commit.branch.clone(),
        base: base.branch.clone(),
    })
}

fn body(state: &SessionState) -> String {
    let mut text = String::from("## Task\n\n");
    for line in state.created.task.trim().lines() {
        let _ = writeln!(text, "> {line}");
    }
    if !state.todos.is_empty() {
        text.push_str("\n## What was done\n\n");
        for todo in &state.todos {
            let (mark, how) = match todo.evidence() {
                Some(evidence) => {
                    let judge = match evidence.judge {
                        Judge::Daemon => "checked by the daemon",
                        Judge::Person => "accepted by a person",
                    };
                    ('x', format!("{}, {judge}", evidence.summary))
                }
                None => (' ', todo.state.name().to_owned()),
            };
            let _ = writeln!(text, "- [{mark}] {} ({how})", first_line(&todo.text));
        }
    }
    if let Some(proof) = &state.proof {
        let _ = write!(text, "\n## Evidence\n\n{}\n\n", proof.reason);
        text.push_str(
            "| run | command | ended | passed | failed | skipped |\n|---|---|---|---|---|---|\n",
        );
        for run in &proof.runs {
            let counts =
                run.report
                    .as_ref()
                    .map_or(("-".into(), "-".into(), "-".into()), |report| {
                        let failed = report.failed + report.errors;
                        (
                            report.passed.to_string(),
                            failed.to_string(),
                            report.skipped.to_string(),
                        )
                    });
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {} | {} | {} |",
                run.name,
                run.argv.join(" ").replace('|', "\\|"),
                run.exit.status,
                counts.0,
                counts.1,
                counts.2
            );
        }
        list(
            &mut text,
            "Failed on the base and pass now",
            &proof.fail_to_pass,
        );
        list(
            &mut text,
            "Test files that differ from the base",
            &proof.changed_test_files,
        );
        let _ = write!(text, "\nProved tree: `{}`\n", proof.tree);
    }
    list(
        &mut text,
        "Of medium risk, and nobody was asked: look at it before you merge",
        &state.risks,
    );
    if let Some(commit) = &state.commit {
        list(&mut text, "Changed files", &commit.changed_files);
    }
    let _ = write!(text, "\nSession `{}`\n", state.id());
    text
}

fn list(text: &mut String, title: &str, entries: &[String]) {
    const SHOWN: usize = 50;
    if entries.is_empty() {
        return;
    }
    let _ = write!(text, "\n{title}:\n");
    for entry in entries.iter().take(SHOWN) {
        let _ = writeln!(text, "- `{entry}`");
    }
    if entries.len() > SHOWN {
        let _ = writeln!(text, "- and {} more", entries.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_one_line_of_at_most_72_characters() {
        for (task, expected) in [
            ("fix it", "fix it"),
            ("fix it.\n\nmore words", "fix it"),
            (
                "slugify drops the last word when max_length equals its length; fix it and do so well",
                "slugify drops the last word when max_length equals its length; fix it…",
            ),
        ] {
            assert_eq!(subject(task), expected);
        }
        let long = subject(&"x".repeat(500));
        assert_eq!(long.chars().count(), 72);
    }
}
