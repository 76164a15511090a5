//! One line for people on each event: what happened and why, from the event
//! alone.

use super::{
    decide::first_line,
    event::{AfterModelFailure, EventBody, QuestionAbout, Speaker, ToolOutcome},
    spending::{Mark, of_what},
    work::{Again, WorkResult},
};
use crate::domain::{
    compaction::Cause,
    conversation::{Arguments, ToolCall},
    forge::ForgeCheckState,
    todo::TodoState,
};

/// The line for an event; never empty, never more than one line.
#[must_use]
pub fn line(body: &EventBody) -> String {
    first_line(&text(body))
}

fn text(body: &EventBody) -> String {
    match body {
        EventBody::Created(created) => {
            format!(
                "session created in {}: {}",
                created.workspace_name,
                first_line(&created.task)
            )
        }
        EventBody::StageEntered { to, attempt, why } => match attempt {
            1 => format!("{to}: {why}"),
            _ => format!("{to} (attempt {attempt}): {why}"),
        },
        EventBody::StageLeft {
            from, next, why, ..
        } => format!("{from} -> {next}: {why}"),
        EventBody::MessageAdded { text, from } => match from {
            Speaker::Daemon => format!("told the model: {}", first_line(text)),
            Speaker::Person => format!("a person says: {}", first_line(text)),
        },
        EventBody::BudgetReserved(reserved) => {
            let tokens = reserved.amounts.tokens;
            format!("the next call may take {tokens} tokens at most")
        }
        EventBody::BudgetNoted {
            scope,
            quantity,
            mark,
            used,
            limit,
        } => {
            let of = of_what(*scope, *quantity);
            let (used, limit) = (quantity.show(*used), quantity.show(*limit));
            match mark {
                Mark::Warning | Mark::Pause => format!("{used} of {limit}, {of}, are used"),
                Mark::Overrun => {
                    format!("the provider took {used} for a call that was bounded to {limit}")
                }
            }
        }
        EventBody::Compacted {
            cause, left_out, ..
        } => {
            let why = match cause {
                Cause::Share { tokens, window } => {
                    format!("about {tokens} of {window} tokens are used")
                }
                Cause::Overflow => "the provider found it too long".to_owned(),
            };
            format!("the conversation is compacted, {left_out} messages are left out: {why}")
        }
        EventBody::ModelAsked => "asking the model".into(),
        EventBody::ModelAnswered(answer) => {
            let tools: Vec<&str> = answer
                .turn
                .tool_calls
                .iter()
                .map(|call| call.name.as_str())
                .collect();
            match (answer.turn.text.trim(), tools.as_slice()) {
                ("", []) => "the model said nothing".into(),
                ("", tools) => format!("the model asks for {}", tools.join(", ")),
                (words, _) => format!("the model: {}", first_line(words)),
            }
        }
        EventBody::ModelFailed { error, then, .. } => {
            let then = match then {
                AfterModelFailure::AskAgain => "asking again",
                AfterModelFailure::Compact => "compacting the conversation",
                AfterModelFailure::Pause => "pausing",
                AfterModelFailure::Fail => "giving up",
            };
            format!("no answer from the model, {then}: {error}")
        }
        EventBody::ToolStarted { call, .. } => call_line(call),
        EventBody::ToolEnded(ended) => {
            let content = first_line(&ended.content);
            match ended.outcome {
                ToolOutcome::Ok => format!("{}: {content}", ended.name),
                ToolOutcome::Error => match &ended.failure {
                    Some(failure) => {
                        format!("{} failed ({}): {content}", ended.name, failure.kind.name())
                    }
                    None => format!("{} failed: {content}", ended.name),
                },
                ToolOutcome::Refused => format!("{} refused: {content}", ended.name),
            }
        }
        EventBody::Cognition(cognitive) => cognitive.line(),
        EventBody::TodoChanged { todo } => {
            let what = first_line(&todo.text);
            let (id, state) = (todo.id, todo.state.name());
            match &todo.state {
                TodoState::Rejected { reason, .. } => {
                    format!("todo {id} {state}: {what}: {}", flat(reason))
                }
                TodoState::Verified(evidence) => {
                    format!("todo {id} {state}: {what}: {}", evidence.summary)
                }
                TodoState::Claimed { claim } if !claim.trim().is_empty() => {
                    format!("todo {id} {state}: {what}: {}", first_line(claim))
                }
                TodoState::Pending
                | TodoState::InProgress
                | TodoState::Claimed { .. }
                | TodoState::Verifying { .. } => format!("todo {id} {state}: {what}"),
            }
        }
        EventBody::WorkStarted {
            work,
            attempt,
            argv,
        } => {
            let tries = match attempt {
                1 => String::new(),
                _ => format!(" (try {attempt})"),
            };
            match argv.as_slice() {
                [] => format!("begins: {}{tries}", work.name()),
                argv => format!("begins: {}{tries}: {}", work.name(), argv.join(" ")),
            }
        }
        EventBody::WorkEnded {
            work,
            result,
            failures,
            ..
        } => {
            let kinds: Vec<&str> = failures.iter().map(|failure| failure.kind.name()).collect();
            let (name, line) = (work.name(), result_line(result));
            match kinds.as_slice() {
                [] => format!("{name}: {line}"),
                kinds => format!("{name} ({}): {line}", kinds.join(", ")),
            }
        }
        EventBody::CircleFound(found) => format!("turns in circles: {}", first_line(&found.text)),
        EventBody::StateChanged { to, reason } => match reason.trim() {
            "" => to.name().into(),
            reason => format!("{}: {}", to.name(), flat(reason)),
        },
        EventBody::QuestionAsked { question } => match question.about {
            QuestionAbout::Model | QuestionAbout::Circle => {
                format!("asks a person: {}", first_line(&question.text))
            }
            QuestionAbout::Approval(ref approval) => format!(
                "asks a person to approve ({} risk): {}",
                approval.tier.name(),
                first_line(&approval.act)
            ),
            QuestionAbout::Proof { .. } => {
                format!("asks a person to accept: {}", flat(&question.text))
            }
            QuestionAbout::Todo { id, .. } => {
                format!(
                    "asks a person to accept todo {id}: {}",
                    first_line(&question.text)
                )
            }
        },
        EventBody::QuestionAnswered {
            text,
            verdict: Some(verdict),
            ..
        } => match text.trim() {
            "" => format!("the approval is {}", verdict.name()),
            words => format!("the approval is {}: {}", verdict.name(), first_line(words)),
        },
        EventBody::QuestionAnswered { accepted, text, .. } => {
            let verdict = if *accepted { "yes" } else { "no" };
            match text.trim() {
                "" => format!("a person answers {verdict}"),
                words => format!("a person answers {verdict}: {}", first_line(words)),
            }
        }
    }
}

/// What came of a piece of work, in a line.
#[must_use]
pub fn result_line(result: &WorkResult) -> String {
    match result {
        WorkResult::BaseRun(base) => base.summary.clone(),
        WorkResult::StartSnapshot { snapshot }
        | WorkResult::StageSnapshot { snapshot }
        | WorkResult::ActSnapshot { snapshot } => {
            format!("kept as {snapshot}")
        }
        WorkResult::RolledBack { to, kept } => {
            format!("the workspace is at {to}; what it was is kept as {kept}")
        }
        WorkResult::Validated(validation) => {
            let checks: Vec<String> = validation
                .checks
                .iter()
                .map(|check| {
                    let verdict = if check.passed() { "passed" } else { "failed" };
                    format!("{} {verdict} ({})", check.command.name, check.summary)
                })
                .collect();
            let files = validation.changed_files.len();
            format!("{}; {files} changed files", checks.join(", "))
        }
        WorkResult::TodoChecked(check) => {
            let holding = check.results.iter().filter(|result| result.holds).count();
            format!("{holding} of {} hold", check.results.len())
        }
        WorkResult::Committed(commit) => {
            format!(
                "{} on {}: {}",
                short(&commit.commit),
                commit.branch,
                commit.subject
            )
        }
        WorkResult::Proved(proof) => {
            let verdict = if proof.proved { "proved" } else { "not proved" };
            format!("{verdict}: {}", flat(&proof.reason))
        }
        WorkResult::Published { commit } => format!("{} is on the forge", short(commit)),
        WorkResult::PullRequestOpened(opened) => {
            let pull_request = &opened.pull_request;
            format!("{} at {}", pull_request.number, pull_request.url)
        }
        WorkResult::CiEnded(ci) => {
            let checks: Vec<String> = ci
                .pull_request
                .checks
                .iter()
                .map(|check| {
                    let state = match check.state {
                        ForgeCheckState::Running => "running",
                        ForgeCheckState::Passed => "passed",
                        ForgeCheckState::Failed => "failed",
                    };
                    format!("{} {state}", check.name)
                })
                .collect();
            let verdict = if ci.passed { "passed" } else { "failed" };
            format!("{verdict}: {}", checks.join(", "))
        }
        WorkResult::Failed { error, again } => match again {
            Again::MayHelp => format!("could not be done: {}", flat(error)),
            Again::NeedsPerson => format!("needs a person: {}", flat(error)),
            Again::IsUseless => format!("cannot be done: {}", flat(error)),
        },
    }
}

/// A call with the argument that says most.
fn call_line(call: &ToolCall) -> String {
    let Arguments::Object(arguments) = &call.arguments else {
        return call.name.clone();
    };
    let telling = [
        "command", "path", "pattern", "question", "summary", "content",
    ];
    let argument = telling
        .into_iter()
        .find_map(|key| arguments.get(key).and_then(|value| value.as_str()));
    match argument {
        Some(argument) => format!("{} {}", call.name, first_line(argument)),
        None => call.name.clone(),
    }
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
