//! The tools a model may ask for: what it is told about them, and how what it
//! sends is read.
//!
//! The definitions are the same bytes for every session, stage and call; what
//! a stage forbids is refused when it is asked for ([`super::workflow`]), never
//! taken off the list. Whatever a model sends is input: it is either a
//! [`ToolRequest`] or a [`ToolMistake`] that tells the model what to change.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    conversation::{Arguments, ToolCall, ToolDefinition},
    criteria::Criterion,
    edits::{self, Block, Change, EditFormat, FileChange},
};

/// Longest time a command of the model's may take, in seconds.
pub const COMMAND_TIMEOUT_MAX_S: u64 = 3_600;
/// Time a command of the model's may take when it does not say, in seconds.
pub const COMMAND_TIMEOUT_DEFAULT_S: u64 = 300;
/// Todos a session can have.
pub const TODOS_MAX: usize = 50;

/// A tool, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Reasoning for the log alone.
    Think,
    /// Lines of a text file.
    ReadFile,
    /// A whole file.
    WriteFile,
    /// Exact text for other text.
    EditFile,
    /// Entries of a directory.
    ListDirectory,
    /// Files by name.
    Glob,
    /// Lines by regular expression.
    Grep,
    /// A shell command.
    RunCommand,
    /// New todos.
    TodoAdd,
    /// Work on a todo begins.
    TodoStart,
    /// A todo is said to be done.
    TodoClaim,
    /// The stage is said to be done.
    Advance,
    /// A question to a person.
    AskPerson,
    /// Something of the machine that is broken.
    ReportEnvironmentIssue,
}

impl Tool {
    /// Every tool, in the order the model sees them.
    pub const ALL: [Self; 14] = [
        Self::Think,
        Self::ReadFile,
        Self::WriteFile,
        Self::EditFile,
        Self::ListDirectory,
        Self::Glob,
        Self::Grep,
        Self::RunCommand,
        Self::TodoAdd,
        Self::TodoStart,
        Self::TodoClaim,
        Self::Advance,
        Self::AskPerson,
        Self::ReportEnvironmentIssue,
    ];

    /// Its name as the model says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Think => "think",
            Self::ReadFile => "read_file",
            Self::WriteFile => "write_file",
            Self::EditFile => "edit_file",
            Self::ListDirectory => "list_directory",
            Self::Glob => "glob",
            Self::Grep => "grep",
            Self::RunCommand => "run_command",
            Self::TodoAdd => "todo_add",
            Self::TodoStart => "todo_start",
            Self::TodoClaim => "todo_claim",
            Self::Advance => "advance",
            Self::AskPerson => "ask_person",
            Self::ReportEnvironmentIssue => "report_environment_issue",
        }
    }

    /// The tool with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

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

    fn parameters(self, format: EditFormat) -> Value {
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

const PATH: &str = "Path, relative to the repository or absolute.";

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

/// What a model is told about [`Criterion`]. One flat object rather than a
/// choice of six: providers differ in which schemas of choices they accept, and
/// reading is strict anyway.
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

fn tool_names() -> String {
    Tool::ALL.map(Tool::name).join(", ")
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

/// A path of the model's as the agent wants it: relative ones are the
/// repository's. Whether it is inside the workspace is the agent's to judge.
#[must_use]
pub fn workspace_path(repository_dir: &str, path: &str) -> String {
    let path = path.trim();
    if path.starts_with('/') {
        return path.to_owned();
    }
    let relative = path.trim_start_matches("./");
    if relative.is_empty() || relative == "." {
        return repository_dir.to_owned();
    }
    format!("{repository_dir}/{relative}")
}

/// The same path without `.` and `..`, to know a file again. Never sent to the
/// agent: with links in the way it can be another file.
#[must_use]
pub fn path_key(absolute: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in absolute.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn relative_paths_are_the_repositorys() {
        for (path, expected) in [
            ("src/a.py", "/workspace/r/src/a.py"),
            ("./a", "/workspace/r/a"),
            (".", "/workspace/r"),
            ("", "/workspace/r"),
            ("/etc/passwd", "/etc/passwd"),
            ("../x", "/workspace/r/../x"),
        ] {
            assert_eq!(workspace_path("/workspace/r", path), expected);
        }
    }
}
