//! The workflow as a table: who works in a stage, with which tools, how long,
//! what has to hold before it is left, and what follows.
//!
//! | stage | who | edits | leaves when | then | tries |
//! |---|---|---|---|---|---|
//! | UNDERSTAND | model | no | the model says so | PLAN | 3 |
//! | PLAN | model | no | there is a todo | LOCATE | 3 |
//! | LOCATE | model | no | a file was read | MODIFY | 3 |
//! | MODIFY | model | yes | every todo is verified | VALIDATE | 3 |
//! | VALIDATE | daemon | | the checks pass on a changed tree | PR, else DEBUG | 3 |
//! | DEBUG | model | no | the model says so | MODIFY | 3 |
//! | PR | daemon | | committed, proved, published, opened | CI, else DEBUG | 3 |
//! | CI | daemon | | the forge's checks pass | COMPLETE, else ITERATE | 4 |
//! | ITERATE | model | no | the model says so | MODIFY | 3 |
//!
//! Tries are those of the daemon's own work that could not be done, with a wait
//! between; a result that is bad is a result.
//!
//! The tests run on the base commit before the model's first word, whatever the
//! first stage is. Without the pull request ([`WorkflowKind::None`]) a session
//! starts in MODIFY and PR ends with the proof, in COMPLETE.
//!
//! A check blocks when it fails, but for lint and types that were detected, not
//! given, and that failed on the base commit already, and for tests of which
//! nothing fails but what failed there.

use std::time::Duration;

use super::{
    backoff::Backoff,
    checks::{CheckKind, CheckResult},
    proof::known_failures,
    session::{
        options::WorkflowKind,
        state::SessionState,
        work::{BaseRun, Validation},
    },
    stage::Stage,
    todo::Todo,
    tools::Tool,
};

/// Replies without a tool call, in a row, after which a session fails.
pub const SILENT_REPLIES_MAX: u32 = 3;

/// Who works in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    /// The model, until it asks to leave and the gate is open.
    Model {
        /// Replies at most in one attempt, those that only reason left out.
        steps_max: u32,
        /// The stage that follows.
        next: Stage,
    },
    /// The daemon.
    Daemon,
    /// Nobody: the session has ended.
    Nobody,
}

/// How often a piece of the daemon's own work is tried in a stage when it could
/// not be done, and how long it waits between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Tries before a person has to look, above zero.
    pub tries_max: u32,
    /// Waits between.
    pub backoff: Backoff,
}

/// How work of the daemon's is tried again in a stage.
#[must_use]
pub fn retries(stage: Stage) -> Retries {
    let tries = |tries_max, first_s| Retries {
        tries_max,
        backoff: Backoff {
            first: Duration::from_secs(first_s),
            longest: Duration::from_secs(30),
        },
    };
    match stage {
        // The base run, and checks of claims: the workspace is all it takes.
        Stage::Understand
        | Stage::Plan
        | Stage::Locate
        | Stage::Modify
        | Stage::Debug
        | Stage::Iterate
        | Stage::Validate => tries(3, 2),
        // A forge, and a workspace that is made for it.
        Stage::Pr => tries(3, 4),
        Stage::Ci => tries(4, 4),
        Stage::Complete | Stage::Failed => tries(1, 0),
    }
}

/// Who works in a stage.
#[must_use]
pub fn worker(stage: Stage) -> Worker {
    let model = |steps_max, next| Worker::Model { steps_max, next };
    match stage {
        Stage::Understand => model(40, Stage::Plan),
        Stage::Plan => model(20, Stage::Locate),
        Stage::Locate => model(40, Stage::Modify),
        Stage::Modify => model(80, Stage::Validate),
        Stage::Debug => model(30, Stage::Modify),
        Stage::Iterate => model(30, Stage::Modify),
        Stage::Validate | Stage::Pr | Stage::Ci => Worker::Daemon,
        Stage::Complete | Stage::Failed => Worker::Nobody,
    }
}

/// The stage a session starts in.
#[must_use]
pub fn first_stage(workflow: WorkflowKind) -> Stage {
    match workflow {
        WorkflowKind::Swe => Stage::Understand,
        WorkflowKind::None => Stage::Modify,
    }
}

/// Whether a stage begins with a snapshot of the workspace: where edits follow.
/// The one that a session starts with is taken whatever its first stage is.
#[must_use]
pub fn begins_with_snapshot(stage: Stage) -> bool {
    stage == Stage::Modify
}

/// Whether a tool may be used in a stage.
#[must_use]
pub fn allows(stage: Stage, tool: Tool) -> bool {
    match tool {
        Tool::Think
        | Tool::ReadFile
        | Tool::ListDirectory
        | Tool::Glob
        | Tool::Grep
        | Tool::RunCommand
        | Tool::Advance
        | Tool::AskPerson
        | Tool::ReportEnvironmentIssue => matches!(worker(stage), Worker::Model { .. }),
        Tool::WriteFile | Tool::EditFile | Tool::TodoClaim => stage == Stage::Modify,
        Tool::TodoAdd | Tool::TodoStart => {
            stage != Stage::Understand && matches!(worker(stage), Worker::Model { .. })
        }
    }
}

/// What the model is told when a stage forbids a tool.
#[must_use]
pub fn mask_refusal(stage: Stage, tool: Tool) -> String {
    let way_out = match tool {
        Tool::WriteFile | Tool::EditFile => {
            "files are changed in MODIFY; finish what this stage is for, then call `advance`"
        }
        Tool::TodoClaim => "todos are claimed in MODIFY, where their work is done",
        Tool::TodoAdd | Tool::TodoStart => {
            "todos are written in PLAN; call `advance` when you understand the task"
        }
        Tool::Think
        | Tool::ReadFile
        | Tool::ListDirectory
        | Tool::Glob
        | Tool::Grep
        | Tool::RunCommand
        | Tool::Advance
        | Tool::AskPerson
        | Tool::ReportEnvironmentIssue => "wait for the next stage",
    };
    format!("`{}` is not available in {stage}: {way_out}", tool.name())
}

/// Whether the model may leave its stage.
///
/// # Errors
/// What is missing, for the model to read.
pub fn gate(state: &SessionState) -> Result<(), String> {
    match state.stage {
        Stage::Understand | Stage::Debug | Stage::Iterate => Ok(()),
        Stage::Plan => {
            if state.todos.is_empty() {
                return Err("PLAN needs at least one todo: add it with `todo_add`".into());
            }
            Ok(())
        }
        Stage::Locate => {
            if state.files.is_empty() {
                return Err(
                    "LOCATE needs at least one file read: read the places you mean to change with `read_file`"
                        .into(),
                );
            }
            Ok(())
        }
        Stage::Modify => {
            let open: Vec<String> = state
                .todos
                .iter()
                .filter(|todo| !todo.is_verified())
                .map(|todo| format!("todo {} is {}", todo.id, todo.state.name()))
                .collect();
            if open.is_empty() {
                return Ok(());
            }
            Err(format!(
                "MODIFY needs every todo verified: {}; claim each with `todo_claim` once it is done",
                open.join(", ")
            ))
        }
        Stage::Validate | Stage::Pr | Stage::Ci | Stage::Complete | Stage::Failed => {
            Err(format!("{} is not yours to leave", state.stage))
        }
    }
}

/// The checks that keep a change from going on.
pub fn blocking<'a>(
    base: &'a BaseRun,
    validation: &'a Validation,
) -> impl Iterator<Item = &'a CheckResult> {
    validation
        .checks
        .iter()
        .filter(|check| !check.passed() && !is_excused(base, check))
}

/// Whether a failed check failed on the base already: tests with nothing else
/// than [there](known_failures), another check that nobody asked for. Who asked
/// for it is what the base's plan says: CI is given the command of the base's
/// setup file as if a person had named it.
#[must_use]
pub fn is_excused(base: &BaseRun, check: &CheckResult) -> bool {
    match check.command.kind {
        CheckKind::Tests => {
            known_failures(&base.tests, &check.verdict, check.report.as_ref()).is_some()
        }
        CheckKind::Lint | CheckKind::Types => base.others.iter().any(|before| {
            before.command.name == check.command.name
                && before.command.why != "given"
                && !before.passed()
        }),
    }
}

/// Todos whose evidence is about another tree than the one that was checked,
/// and which have not been checked again since the stage was entered.
pub fn stale<'a>(
    state: &'a SessionState,
    validation: &'a Validation,
) -> impl Iterator<Item = &'a Todo> {
    state.todos.iter().filter(|todo| {
        !state.attempt.rechecked.contains(&todo.id)
            && todo
                .evidence()
                .is_none_or(|evidence| evidence.tree != validation.tree)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_worker_and_every_model_stage_leads_on() {
        for stage in Stage::ALL {
            match worker(stage) {
                Worker::Model { steps_max, next } => {
                    assert!(steps_max > 0 && next != stage, "{stage}");
                    assert!(allows(stage, Tool::Think) && allows(stage, Tool::Advance));
                }
                Worker::Daemon | Worker::Nobody => {
                    assert!(
                        Tool::ALL.into_iter().all(|tool| !allows(stage, tool)),
                        "{stage}"
                    );
                }
            }
        }
    }

    #[test]
    fn files_change_in_modify_alone() {
        for stage in Stage::ALL {
            for tool in [Tool::WriteFile, Tool::EditFile, Tool::TodoClaim] {
                assert_eq!(
                    allows(stage, tool),
                    stage == Stage::Modify,
                    "{stage} {tool:?}"
                );
            }
        }
        let refusal = mask_refusal(Stage::Locate, Tool::EditFile);
        assert!(
            refusal.contains("LOCATE") && refusal.contains("`advance`"),
            "{refusal}"
        );
    }
}
