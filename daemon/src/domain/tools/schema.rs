//! What a model is told about the tools.

use serde_json::{Value, json};

use super::{TODOS_MAX, Tool};
use crate::domain::{
    conversation::ToolDefinition,
    edits::{self, EditFormat},
};

const PATH: &str = "Path, relative to the repository or absolute.";

/// Every tool as a model sees it that writes edits in this format.
#[must_use]
pub fn definitions(format: EditFormat) -> Vec<ToolDefinition> {
    Tool::ALL
        .into_iter()
        .filter(|tool| !(*tool == Tool::EditFile && format == EditFormat::Whole))
        .map(|tool| ToolDefinition {
            name: tool.name().to_owned(),
            description: tool.description(format).to_owned(),
            parameters: tool.parameters(format),
        })
        .collect()
}

impl Tool {
    fn description(self, format: EditFormat) -> &'static str {
        match self {
            Self::Think => {
                "Reason for yourself. Nobody but the log sees it, it costs none of the stage's steps and \
                 it is allowed everywhere. Name the files, tests or commands you reason about."
            }
            Self::ReadFile => {
                "Read lines of a text file. Each line comes with its number and a tab, which are not part \
                 of the file. Long files come in pieces: ask for the next lines."
            }
            Self::WriteFile if format == EditFormat::Whole => {
                "Write a whole file, replacing what was there. Every line is written out: nothing may stand \
                 for code that is left out. A file that exists must have been read in this session before."
            }
            Self::WriteFile => {
                "Write a whole file, replacing what was there. For a small change use edit_file. A file \
                 that exists must have been read in this session before."
            }
            Self::EditFile => edit_description(format),
            Self::ListDirectory => "List a directory.",
            Self::Glob => {
                "Find files by a glob such as `**/*.py`, newest first. Ignored files are left out."
            }
            Self::Grep => {
                "Find lines by a regular expression (Rust's syntax) in a file or directory. Ignored files \
                 are left out."
            }
            Self::RunCommand => {
                "Run a shell command in the repository and wait for it. Standard input is closed; what it \
                 leaves running is ended. You see the start and the end of long output. Do not commit, push \
                 or change branches: the daemon does that."
            }
            Self::TodoAdd => {
                "Add todos. Each says what is to be done and carries acceptance criteria that the daemon \
                 checks itself when you claim the todo."
            }
            Self::TodoStart => "Say that you begin to work on a todo.",
            Self::TodoClaim => {
                "Say that a todo is done. The daemon checks its criteria at once and answers with what it saw."
            }
            Self::Advance => {
                "Ask to leave this stage. The daemon checks the stage's conditions and answers with what is \
                 missing. Nothing else may follow it in the same reply."
            }
            Self::AskPerson => {
                "Ask a person and wait for the answer, when only a person can decide. Not for what you can \
                 find out yourself."
            }
            Self::ReportEnvironmentIssue => {
                "Say that something of this machine is broken or missing and cannot be mended from here: a \
                 host that is not reached, credentials, a full disk, a tool that cannot be installed. It is \
                 shown to a person. With `blocking` the session waits for one. Do not work around such a \
                 thing silently."
            }
        }
    }

    /// The schema of its arguments.
    pub(super) fn parameters(self, format: EditFormat) -> Value {
        match self {
            Self::Think => object(json!({"content": text("Your reasoning.")}), &["content"]),
            Self::ReadFile => object(
                json!({
                    "first_line": integer("First line wanted, from 1; the first when absent.", 1),
                    "line_count": integer("Lines wanted, at most 2000.", 1),
                    "path": text(PATH),
                }),
                &["path"],
            ),
            Self::WriteFile => object(
                json!({"content": text("The whole new content."), "path": text(PATH)}),
                &["path", "content"],
            ),
            Self::EditFile => edit_parameters(format),
            Self::ListDirectory => object(json!({"path": text(PATH)}), &[]),
            Self::Glob => object(
                json!({"path": text("Directory to look in; the repository when absent."), "pattern": text("The glob.")}),
                &["pattern"],
            ),
            Self::Grep => object(
                json!({
                    "context": integer("Lines of context before and after, 0 to 20.", 0),
                    "glob": text("Only files that match this glob."),
                    "ignore_case": {"type": "boolean", "description": "Ignore upper and lower case; false when absent."},
                    "path": text("File or directory to look in; the repository when absent."),
                    "pattern": text("The regular expression."),
                }),
                &["pattern"],
            ),
            Self::RunCommand => object(
                json!({
                    "command": text("The command, for bash (sh where there is no bash)."),
                    "cwd": text("Working directory; the repository when absent."),
                    "timeout_s": integer("Seconds it may take, 300 when absent, at most 3600.", 1),
                }),
                &["command"],
            ),
            Self::TodoAdd => object(
                json!({
                    "items": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": TODOS_MAX,
                        "items": object(
                            json!({
                                "criteria": {
                                    "type": "array",
                                    "description": "What must hold. Without any, the session's tests must pass.",
                                    "items": criterion_schema(),
                                },
                                "text": text("What is to be done."),
                            }),
                            &["text"],
                        ),
                    },
                }),
                &["items"],
            ),
            Self::TodoStart => object(json!({"id": integer("Number of the todo.", 1)}), &["id"]),
            Self::TodoClaim => object(
                json!({
                    "evidence": text("What you did and saw, in a sentence or two."),
                    "id": integer("Number of the todo.", 1),
                }),
                &["id"],
            ),
            Self::Advance => object(
                json!({"summary": text("What this stage found or did, for the record.")}),
                &["summary"],
            ),
            Self::ReportEnvironmentIssue => object(
                json!({
                    "blocking": {"type": "boolean", "description": "Whether the task cannot go on without it; false when absent."},
                    "issue": text("What is broken or missing, with what you saw."),
                    "tried": text("What you tried."),
                }),
                &["issue"],
            ),
            Self::AskPerson => object(
                json!({"question": text("The question, with what you need to know to go on.")}),
                &["question"],
            ),
        }
    }
}

fn edit_description(format: EditFormat) -> &'static str {
    match format {
        EditFormat::Replace | EditFormat::Whole => {
            "Replace text in a file. `old_text` must fit one place, unless `all` is true; give enough lines \
             around it, copied from the file as it is. Every replacement is matched against the file as it \
             is now, not against what another one makes of it; all are applied, or none. Read the file first."
        }
        EditFormat::Blocks => {
            "Change files with search-and-replace blocks: the file's path on a line, then `<<<<<<< SEARCH`, \
             the lines as they are, `=======`, the lines as they shall be, `>>>>>>> REPLACE`. The lines to \
             search for must fit one place; a block without any makes a new file. Several blocks and files \
             are applied together, or none is. Read the files first."
        }
        EditFormat::Diff => {
            "Change files with a unified diff (`--- a/PATH`, `+++ b/PATH`, hunks that begin with `@@`). A \
             hunk goes where its lines are, whatever its numbers say: they must fit one place, so give three \
             lines of context. /dev/null makes or deletes a file. All hunks of all files are applied, or \
             none. Read the files first."
        }
        EditFormat::Patch => {
            "Change files with a patch in the apply_patch format: `*** Begin Patch`, then for each file \
             `*** Update File: PATH` with hunks (`@@` and a line of the file that the place is below, context \
             lines with a space, `-` and `+`), `*** Add File: PATH` with `+` lines, or `*** Delete File: PATH`; \
             `*** Move to: PATH` after an update's first line renames; `*** End Patch`. Each hunk must fit one \
             place. All are applied, or none. Read the files first."
        }
    }
}

fn edit_parameters(format: EditFormat) -> Value {
    match format {
        EditFormat::Replace | EditFormat::Whole => object(
            json!({
                "path": text(PATH),
                "replacements": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": edits::BLOCKS_MAX,
                    "items": object(
                        json!({
                            "all": {"type": "boolean", "description": "Replace every match; false when absent."},
                            "new_text": text("Text to put there."),
                            "old_text": text("Text to find, as it is in the file."),
                        }),
                        &["old_text", "new_text"],
                    ),
                },
            }),
            &["path", "replacements"],
        ),
        EditFormat::Blocks => object(
            json!({"blocks": text("Paths and search-and-replace blocks.")}),
            &["blocks"],
        ),
        EditFormat::Diff => object(json!({"diff": text("The unified diff.")}), &["diff"]),
        EditFormat::Patch => object(
            json!({"patch": text("The patch, from `*** Begin Patch` to `*** End Patch`.")}),
            &["patch"],
        ),
    }
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn integer(description: &str, minimum: u32) -> Value {
    json!({"type": "integer", "minimum": minimum, "description": description})
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// What a model is told about [`Criterion`](crate::domain::criteria::Criterion). One
/// flat object rather than a choice of six: providers differ in which schemas of
/// choices they accept, and reading is strict anyway.
fn criterion_schema() -> Value {
    object(
        json!({
            "argv": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Program and arguments, no shell: for command_exits, command_output_matches, and tests_pass where it is not the session's own test command.",
            },
            "code": integer("Exit status wanted by command_exits; 0 when absent.", 0),
            "path": text("For file_exists, file_matches, syntax_valid: relative to the repository."),
            "pattern": text("Regular expression (Rust's syntax): a line of the file (file_matches) or of the output (command_output_matches) must match."),
            "type": {
                "type": "string",
                "enum": ["file_exists", "file_matches", "command_exits", "command_output_matches", "tests_pass", "syntax_valid"],
                "description": "What must hold.",
            },
        }),
        &["type"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_the_same_bytes_each_time_and_their_keys_are_ordered() {
        fn ordered(value: &Value) -> bool {
            match value {
                Value::Object(map) => map.keys().is_sorted() && map.values().all(ordered),
                Value::Array(values) => values.iter().all(ordered),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
            }
        }
        for format in EditFormat::ALL {
            let once = serde_json::to_string(&definitions(format)).unwrap();
            assert_eq!(once, serde_json::to_string(&definitions(format)).unwrap());
            for definition in definitions(format) {
                assert!(ordered(&definition.parameters), "{}", definition.name);
            }
        }
    }
}
