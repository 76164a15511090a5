//! Policy files, for tests that are about something else.

use tempfile::NamedTempFile;

/// Lets a model run any command.
const COMMANDS: &str = r#"
[[rule]]
name = "commands"
decision = "allow"
tools = ["run_command"]
matches = ["env"]
misses = [{ tool = "read_file", path = "notes" }]
"#;

/// A file by which no command asks a person; gone when it is dropped.
///
/// # Panics
/// When the disk refuses.
#[must_use]
pub fn allowing_commands() -> NamedTempFile {
    let file = NamedTempFile::new().expect("there is room for a temporary file");
    std::fs::write(file.path(), COMMANDS).expect("the file can be written");
    file
}
