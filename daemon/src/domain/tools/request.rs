//! What a model sends, read.

use serde::Deserialize;
use serde_json::Value;

use super::{COMMAND_TIMEOUT_MAX_S, Tool};
use crate::domain::{
    conversation::{Arguments, ToolCall},
    criteria::Criterion,
    edits::{self, Block, Change, FileChange},
};

/// A tool call whose name and arguments make sense.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolRequest {
    /// Reasoning for the log alone.
    Think(Think),
    /// Lines of a text file.
    ReadFile(ReadFile),
    /// A whole file.
    WriteFile(WriteFile),
    /// Exact text for other text.
    EditFile(EditFile),
    /// Entries of a directory.
    ListDirectory(ListDirectory),
    /// Files by name.
    Glob(Glob),
    /// Lines by regular expression.
    Grep(Grep),
    /// A shell command.
    RunCommand(RunCommand),
    /// New todos.
    TodoAdd(TodoAdd),
    /// Work on a todo begins.
    TodoStart(TodoStart),
    /// A todo is said to be done.
    TodoClaim(TodoClaim),
    /// The stage is said to be done.
    Advance(Advance),
    /// A question to a person.
    AskPerson(AskPerson),
    /// Something of the machine that is broken.
    ReportEnvironmentIssue(ReportEnvironmentIssue),
}

/// Arguments of `think`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Think {
    /// The reasoning, not empty.
    pub content: String,
}

/// Arguments of `read_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadFile {
    /// The file.
    pub path: String,
    /// From 1.
    pub first_line: Option<u32>,
    /// Lines at most.
    pub line_count: Option<u32>,
}

/// Arguments of `write_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// The file.
    pub path: String,
    /// Its new content.
    pub content: String,
}

/// Arguments of `edit_file`: in one of the formats, whichever the tool was
/// described in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditFile {
    /// The file, with `replacements`.
    pub path: Option<String>,
    /// All or none.
    pub replacements: Option<Vec<EditPart>>,
    /// Search-and-replace blocks.
    pub blocks: Option<String>,
    /// A unified diff.
    pub diff: Option<String>,
    /// An `apply_patch` envelope.
    pub patch: Option<String>,
}

/// One replacement of `edit_file`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditPart {
    /// Text to find, not empty.
    pub old_text: String,
    /// Text to put there.
    pub new_text: String,
    /// Every match rather than the only one.
    #[serde(default)]
    pub all: bool,
}

impl EditFile {
    /// What it asks for, file by file.
    ///
    /// # Errors
    /// What is wrong with it as an edit in its format.
    pub fn changes(&self) -> Result<Vec<FileChange>, String> {
        let said = |refusal: edits::EditRefusal| refusal.message;
        match (&self.replacements, &self.blocks, &self.diff, &self.patch) {
            (Some(parts), None, None, None) => self.replaced(parts),
            (None, Some(blocks), None, None) => edits::parse_blocks(blocks).map_err(said),
            (None, None, Some(diff), None) => edits::parse_unified(diff).map_err(said),
            (None, None, None, Some(patch)) => edits::parse_envelope(patch).map_err(said),
            (None, None, None, None) => {
                Err("it says nothing to change: give `path` and `replacements`, or the edit in the format of the tool's description".into())
            }
            _ => Err("it is in several formats; send one".into()),
        }
    }

    /// The file that it names, or what it says in its format.
    #[must_use]
    pub fn named(&self) -> &str {
        [&self.path, &self.blocks, &self.diff, &self.patch]
            .into_iter()
            .flatten()
            .next()
            .map_or("", String::as_str)
    }

    fn replaced(&self, parts: &[EditPart]) -> Result<Vec<FileChange>, String> {
        let path = self.path.as_deref().unwrap_or_default();
        if path.trim().is_empty() {
            return Err("`path` is empty".into());
        }
        if parts.is_empty() {
            return Err("`replacements` is empty".into());
        }
        if parts.len() > edits::BLOCKS_MAX {
            return Err(format!(
                "`replacements` has more than {} entries",
                edits::BLOCKS_MAX
            ));
        }
        for (index, part) in parts.iter().enumerate() {
            if part.old_text.is_empty() {
                return Err(format!(
                    "`replacements[{index}].old_text` is empty; use write_file for a new file"
                ));
            }
            if part.old_text == part.new_text {
                return Err(format!("`replacements[{index}]` changes nothing"));
            }
        }
        let blocks = parts.iter().map(|part| Block {
            all: part.all,
            ..Block::text(part.old_text.as_str(), part.new_text.as_str())
        });
        Ok(vec![FileChange {
            path: path.to_owned(),
            change: Change::Modify {
                blocks: blocks.collect(),
                move_to: None,
            },
        }])
    }
}

/// Arguments of `list_directory`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListDirectory {
    /// The directory; the repository when absent.
    pub path: Option<String>,
}

/// Arguments of `glob`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Glob {
    /// The glob.
    pub pattern: String,
    /// Where to look; the repository when absent.
    pub path: Option<String>,
}

/// Arguments of `grep`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grep {
    /// The regular expression.
    pub pattern: String,
    /// Where to look; the repository when absent.
    pub path: Option<String>,
    /// Only files that match.
    pub glob: Option<String>,
    /// Whether upper and lower case are the same.
    #[serde(default)]
    pub ignore_case: bool,
    /// Lines around a match.
    #[serde(default)]
    pub context: u32,
}

/// Arguments of `run_command`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// For the shell.
    pub command: String,
    /// The repository when absent.
    pub cwd: Option<String>,
    /// Seconds.
    pub timeout_s: Option<u64>,
}

/// Arguments of `todo_add`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TodoAdd {
    /// At least one.
    pub items: Vec<TodoItem>,
}

/// One item of `todo_add`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TodoItem {
    /// What is to be done, not empty.
    pub text: String,
    /// What must hold.
    #[serde(default)]
    pub criteria: Vec<Criterion>,
}

/// Arguments of `todo_start`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TodoStart {
    /// Number of the todo.
    pub id: u32,
}

/// Arguments of `todo_claim`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TodoClaim {
    /// Number of the todo.
    pub id: u32,
    /// The model's words.
    #[serde(default)]
    pub evidence: String,
}

/// Arguments of `advance`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance {
    /// What the stage found or did.
    #[serde(default)]
    pub summary: String,
}

/// Arguments of `ask_person`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskPerson {
    /// The question, not empty.
    pub question: String,
}

/// Arguments of `report_environment_issue`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportEnvironmentIssue {
    /// What is broken, not empty.
    pub issue: String,
    /// What the model tried.
    #[serde(default)]
    pub tried: String,
    /// Whether a person has to mend it before the session goes on.
    #[serde(default)]
    pub blocking: bool,
}

impl ReportEnvironmentIssue {
    /// What a person is asked.
    #[must_use]
    pub fn question(&self) -> String {
        let tried = match self.tried.trim() {
            "" => String::new(),
            tried => format!("\nIt tried: {tried}"),
        };
        format!(
            "The machine stands in the way: {}{tried}\nMend it and answer, or say how to go on without.",
            self.issue.trim()
        )
    }
}

/// A tool call that makes no sense; the text tells the model what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolMistake {
    /// No such tool.
    #[error("there is no tool `{name}`; the tools are: {}", tool_names())]
    Unknown {
        /// What the model said.
        name: String,
    },
    /// The arguments are not a JSON object.
    #[error(
        "the arguments of `{tool}` are not a JSON object: {error}; send the call again with one"
    )]
    Malformed {
        /// The tool.
        tool: &'static str,
        /// Why.
        error: String,
    },
    /// The arguments do not fit the tool.
    #[error(
        "the arguments of `{tool}` do not fit: {error}; send the call again with every required field"
    )]
    Misfit {
        /// The tool.
        tool: &'static str,
        /// Which field, and why.
        error: String,
    },
}

/// Which tool a call asks for.
///
/// # Errors
/// [`ToolMistake::Unknown`].
pub fn tool_of(call: &ToolCall) -> Result<Tool, ToolMistake> {
    Tool::named(&call.name).ok_or_else(|| ToolMistake::Unknown {
        name: call.name.chars().take(80).collect(),
    })
}

fn tool_names() -> String {
    Tool::ALL.map(Tool::name).join(", ")
}

impl ToolRequest {
    /// Reads a call.
    ///
    /// # Errors
    /// What the model has to change.
    pub fn parse(call: &ToolCall) -> Result<Self, ToolMistake> {
        let tool = tool_of(call)?;
        let object = match &call.arguments {
            Arguments::Object(object) => Value::Object(object.clone()),
            Arguments::Malformed { raw: _, error } => {
                return Err(ToolMistake::Malformed {
                    tool: tool.name(),
                    error: error.clone(),
                });
            }
        };
        Self::from_object(tool, object).map_err(|error| ToolMistake::Misfit {
            tool: tool.name(),
            error,
        })
    }

    fn from_object(tool: Tool, object: Value) -> Result<Self, String> {
        fn read<T: serde::de::DeserializeOwned>(object: Value) -> Result<T, String> {
            serde_json::from_value(object).map_err(|error| error.to_string())
        }
        let request = match tool {
            Tool::Think => Self::Think(read(object)?),
            Tool::ReadFile => Self::ReadFile(read(object)?),
            Tool::WriteFile => Self::WriteFile(read(object)?),
            Tool::EditFile => Self::EditFile(read(object)?),
            Tool::ListDirectory => Self::ListDirectory(read(object)?),
            Tool::Glob => Self::Glob(read(object)?),
            Tool::Grep => Self::Grep(read(object)?),
            Tool::RunCommand => Self::RunCommand(read(object)?),
            Tool::TodoAdd => Self::TodoAdd(read(object)?),
            Tool::TodoStart => Self::TodoStart(read(object)?),
            Tool::TodoClaim => Self::TodoClaim(read(object)?),
            Tool::Advance => Self::Advance(read(object)?),
            Tool::AskPerson => Self::AskPerson(read(object)?),
            Tool::ReportEnvironmentIssue => Self::ReportEnvironmentIssue(read(object)?),
        };
        request.check()?;
        Ok(request)
    }

    /// What a schema cannot say.
    fn check(&self) -> Result<(), String> {
        let filled = |field: &str, value: &str| {
            if value.trim().is_empty() {
                Err(format!("`{field}` is empty"))
            } else {
                Ok(())
            }
        };
        match self {
            Self::Think(think) => filled("content", &think.content),
            Self::ReadFile(read) => {
                if read.first_line == Some(0) {
                    return Err("`first_line` counts from 1".into());
                }
                filled("path", &read.path)
            }
            Self::WriteFile(write) => filled("path", &write.path),
            Self::EditFile(edit) => edit.changes().map(drop),
            Self::ListDirectory(_) => Ok(()),
            Self::Glob(glob) => filled("pattern", &glob.pattern),
            Self::Grep(grep) => {
                if grep.context > 20 {
                    return Err("`context` is more than 20".into());
                }
                filled("pattern", &grep.pattern)
            }
            Self::RunCommand(run) => {
                if run
                    .timeout_s
                    .is_some_and(|s| s == 0 || s > COMMAND_TIMEOUT_MAX_S)
                {
                    return Err(format!(
                        "`timeout_s` is not in 1 to {COMMAND_TIMEOUT_MAX_S}"
                    ));
                }
                if run.command.contains('\0') {
                    return Err("`command` contains a NUL character".into());
                }
                filled("command", &run.command)
            }
            Self::TodoAdd(add) => {
                if add.items.is_empty() {
                    return Err("`items` is empty".into());
                }
                add.items.iter().enumerate().try_for_each(|(index, item)| {
                    filled(&format!("items[{index}].text"), &item.text)
                })
            }
            Self::TodoStart(_) | Self::TodoClaim(_) | Self::Advance(_) => Ok(()),
            Self::AskPerson(ask) => filled("question", &ask.question),
            Self::ReportEnvironmentIssue(report) => filled("issue", &report.issue),
        }
    }

    /// Which tool it asks for.
    #[must_use]
    pub fn tool(&self) -> Tool {
        match self {
            Self::Think(_) => Tool::Think,
            Self::ReadFile(_) => Tool::ReadFile,
            Self::WriteFile(_) => Tool::WriteFile,
            Self::EditFile(_) => Tool::EditFile,
            Self::ListDirectory(_) => Tool::ListDirectory,
            Self::Glob(_) => Tool::Glob,
            Self::Grep(_) => Tool::Grep,
            Self::RunCommand(_) => Tool::RunCommand,
            Self::TodoAdd(_) => Tool::TodoAdd,
            Self::TodoStart(_) => Tool::TodoStart,
            Self::TodoClaim(_) => Tool::TodoClaim,
            Self::Advance(_) => Tool::Advance,
            Self::AskPerson(_) => Tool::AskPerson,
            Self::ReportEnvironmentIssue(_) => Tool::ReportEnvironmentIssue,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::edits::EditFormat;

    fn call(name: &str, arguments: Value) -> ToolCall {
        let Value::Object(object) = arguments else {
            panic!("an object")
        };
        ToolCall {
            id: "call_1".into(),
            name: name.into(),
            arguments: Arguments::Object(object),
        }
    }

    #[test]
    fn every_tool_is_found_by_its_name_and_every_required_field_is_required() {
        for tool in Tool::ALL {
            assert_eq!(Tool::named(tool.name()), Some(tool));
            let required = tool.parameters(EditFormat::Replace)["required"]
                .as_array()
                .unwrap()
                .len();
            let empty = ToolRequest::parse(&call(tool.name(), json!({})));
            // `advance` is the one tool whose words may be left out.
            let lenient = matches!(tool, Tool::ListDirectory | Tool::Advance);
            assert_eq!(
                empty.is_err(),
                required > 0 && !lenient,
                "{tool:?}: {empty:?}"
            );
        }
    }

    #[test]
    fn an_unknown_tool_is_answered_with_the_ones_there_are() {
        let error = ToolRequest::parse(&call("bash", json!({})))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`bash`") && error.contains("run_command"),
            "{error}"
        );
    }

    #[test]
    fn malformed_arguments_are_answered_with_the_reason() {
        let broken = ToolCall {
            id: "c".into(),
            name: "grep".into(),
            arguments: Arguments::Malformed {
                raw: "{\"pattern\":".into(),
                error: "EOF while parsing a value".into(),
            },
        };
        let error = ToolRequest::parse(&broken).unwrap_err().to_string();
        assert!(
            error.contains("EOF while parsing") && error.contains("`grep`"),
            "{error}"
        );
    }

    #[test]
    fn arguments_out_of_their_ranges_name_the_field() {
        for (name, arguments, field) in [
            (
                "read_file",
                json!({"path": "a", "first_line": 0}),
                "first_line",
            ),
            ("read_file", json!({"path": " "}), "path"),
            ("read_file", json!({"path": "a", "lines": 3}), "lines"),
            (
                "edit_file",
                json!({"path": "a", "replacements": []}),
                "replacements",
            ),
            (
                "edit_file",
                json!({"path": "a", "replacements": [{"old_text": "", "new_text": "x"}]}),
                "old_text",
            ),
            (
                "edit_file",
                json!({"path": "a", "replacements": [{"old_text": "x", "new_text": "x"}]}),
                "replacements[0]",
            ),
            (
                "run_command",
                json!({"command": "true", "timeout_s": 0}),
                "timeout_s",
            ),
            ("run_command", json!({"command": "\u{0}"}), "command"),
            ("edit_file", json!({"path": "a"}), "nothing to change"),
            (
                "edit_file",
                json!({"diff": "x", "patch": "y"}),
                "several formats",
            ),
            ("edit_file", json!({"patch": "x"}), "*** Begin Patch"),
            ("grep", json!({"pattern": "x", "context": 21}), "context"),
            ("todo_add", json!({"items": []}), "items"),
            (
                "todo_add",
                json!({"items": [{"text": ""}]}),
                "items[0].text",
            ),
            ("todo_start", json!({"id": "one"}), "u32"),
            ("ask_person", json!({"question": ""}), "question"),
        ] {
            let error = ToolRequest::parse(&call(name, arguments))
                .unwrap_err()
                .to_string();
            assert!(error.contains(field), "{name}: {error}");
        }
    }
}
