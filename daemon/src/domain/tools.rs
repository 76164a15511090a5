//! The tools a model may ask for: what it is told about them ([`definitions`]), and
//! how what it sends is read ([`ToolRequest`]).
//!
//! The definitions are the same bytes for every session, stage and call; what
//! a stage forbids is refused when it is asked for ([`super::workflow`]), never
//! taken off the list. Whatever a model sends is input: it is either a
//! [`ToolRequest`] or a [`ToolMistake`] that tells the model what to change.

mod request;
mod schema;

use serde::{Deserialize, Serialize};

pub use self::{
    request::{
        Advance, AskPerson, EditFile, EditPart, Glob, Grep, ListDirectory, ReadFile,
        ReportEnvironmentIssue, RunCommand, Think, TodoAdd, TodoClaim, TodoItem, TodoStart,
        ToolMistake, ToolRequest, WriteFile, tool_of,
    },
    schema::definitions,
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

    /// Whether it reads the workspace and changes nothing anywhere.
    #[must_use]
    pub fn only_looks(self) -> bool {
        matches!(
            self,
            Self::ReadFile | Self::ListDirectory | Self::Glob | Self::Grep
        )
    }

    /// The tool with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
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
