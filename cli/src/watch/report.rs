//! What is said when following ends, and the exit code.

use compyd_proto::v1::SessionState;

use super::Outcome;
use crate::exit::{Exit, Failure};
use crate::output::session::{RunResult, SessionView, spending_line, todo_lines, tokens_line};
use crate::output::{Format, print, print_json};
use crate::session::{proof_lines, pull_request_lines};
use crate::terminal::{Lines, printable};

/// Ended by the person's own Ctrl-C, as a shell counts it.
const DETACHED: Exit = Exit(130);

/// Prints the end of a followed session.
pub(crate) fn report(format: Format, outcome: &Outcome) -> Result<Exit, Failure> {
    let (session, exit) = match outcome {
        Outcome::Settled(session) => {
            let unanswered = session.approvals_expired > 0;
            (session, exit_of(session.state(), unanswered))
        }
        Outcome::Detached(session) => (session, DETACHED),
    };
    let view = SessionView::from(session.clone());
    if exit == DETACHED {
        eprintln!("left; the session goes on");
    }
    for line in next_steps(&view, exit) {
        eprintln!("{}", printable(&line, Lines::Join));
    }
    match format {
        Format::Json => print_json(&RunResult {
            verdict: view.state.clone(),
            exit_code: exit.0,
            session: view,
        })?,
        Format::Table if exit == DETACHED => {}
        Format::Table => print(&summary(&view))?,
    }
    Ok(exit)
}

/// The exit code of a session that was followed to where it stands. One that
/// ended unverified after nobody had answered an approval needed a person.
fn exit_of(state: SessionState, unanswered: bool) -> Exit {
    match state {
        SessionState::Failed if unanswered => Exit::PERSON_NEEDED,
        SessionState::Verified => Exit::OK,
        SessionState::Failed | SessionState::Cancelled => Exit::UNVERIFIED,
        SessionState::Waiting | SessionState::Paused | SessionState::Interrupted => {
            Exit::PERSON_NEEDED
        }
        // Following does not end here; if it did, nothing is proved.
        SessionState::Running | SessionState::Unspecified => Exit::ERROR,
    }
}

/// Commands to look further or to go on, for standard error.
fn next_steps(session: &SessionView, exit: Exit) -> Vec<String> {
    let id = &session.id;
    let mut lines = Vec::new();
    match session.state.as_str() {
        "waiting" => {
            if let Some(question) = &session.question {
                lines.push(format!("it asks: {}", question.text));
                lines.push(format!("  answer:  {}", question.answered_by(id)));
            }
        }
        "paused" | "interrupted" => lines.push(format!("  go on:   compyctl session resume {id}")),
        _ => {}
    }
    if matches!(
        session.state.as_str(),
        "running" | "waiting" | "paused" | "interrupted"
    ) {
        lines.push(format!("  watch:   compyctl session watch {id}"));
        lines.push(format!("  cancel:  compyctl session cancel {id}"));
    }
    if exit != DETACHED {
        lines.push(format!("  details: compyctl session show {id}"));
        lines.push(format!("  records: compyctl artifact list {id}"));
        lines.push(format!(
            "  shell:   compyctl workspace shell {}",
            session.workspace
        ));
    }
    lines
}

/// Verdict, todos, proof and pull request, for standard output.
fn summary(session: &SessionView) -> String {
    let mut lines = vec![match session.state_reason.as_str() {
        "" => format!("{}: {}", session.state.to_uppercase(), session.id),
        reason => format!(
            "{}: {} ({reason})",
            session.state.to_uppercase(),
            session.id
        ),
    }];
    if session.scripted {
        lines.push("THE MODEL WAS SCRIPTED: written replies, no language model.".into());
    }
    let mut section = |heading: &str, body: Vec<String>| {
        if !body.is_empty() {
            lines.push(String::new());
            lines.push(heading.to_owned());
            lines.extend(
                body.iter()
                    .flat_map(|block| block.lines())
                    .map(|line| format!("  {line}")),
            );
        }
    };
    section("todos", todo_lines(&session.todos));
    section("proof", proof_lines(session));
    section("pull request", pull_request_lines(session));
    section("tokens", vec![tokens_line(&session.tokens)]);
    section("spent", vec![spending_line(&session.spending)]);
    lines
        .iter()
        .map(|line| format!("{}\n", printable(line, Lines::Join)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verified_session_exits_0() {
        let table = [
            (SessionState::Verified, 0),
            (SessionState::Failed, 3),
            (SessionState::Cancelled, 3),
            (SessionState::Waiting, 4),
            (SessionState::Paused, 4),
            (SessionState::Interrupted, 4),
            (SessionState::Running, 1),
            (SessionState::Unspecified, 1),
        ];
        for (state, code) in table {
            assert_eq!(exit_of(state, false), Exit(code), "{state:?}");
        }
    }
}
