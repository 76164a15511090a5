//! The task's text: from the command line, standard input or a file.

use std::io::Read as _;
use std::path::Path;

use crate::exit::Failure;

/// Largest task the daemon takes.
const MAX_BYTES: usize = 64 * 1024;

/// Reads and checks the task.
pub(crate) fn read(argument: Option<&str>, file: Option<&Path>) -> Result<String, Failure> {
    let text = match (argument, file) {
        (Some("-"), _) => read_bounded(std::io::stdin().lock(), "standard input")?,
        (Some(text), _) => text.to_owned(),
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = std::fs::File::open(path).map_err(|error| {
                Failure::usage(
                    format!("the task file {name} cannot be read: {error}"),
                    "--task-file FILE, or write the task on the command line",
                )
            })?;
            read_bounded(file, &name)?
        }
        (None, None) => String::new(),
    };
    check(&text)?;
    Ok(text)
}

/// Reads a little more than is allowed, so that [`check`] can refuse it
/// without all of it in memory.
fn read_bounded(reader: impl std::io::Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader
        .take(2 * MAX_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Failure::local(format!("the task cannot be read from {name}: {error}"), "")
        })?;
    if bytes.len() > MAX_BYTES {
        return Err(too_long());
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            format!("the task from {name} is not UTF-8 text"),
            "save it as UTF-8",
        )
    })
}

fn check(text: &str) -> Result<(), Failure> {
    if text.trim().is_empty() {
        return Err(Failure::usage(
            "the task is empty",
            "say what is to be done: compyctl run \"fix the failing test\" --repo PATH_OR_URL",
        ));
    }
    if text.trim().len() > MAX_BYTES {
        return Err(too_long());
    }
    Ok(())
}

fn too_long() -> Failure {
    Failure::usage(
        "the task is longer than 64 KiB",
        "put the material into a file of the repository and name the file in the task",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_huge_tasks_are_refused_before_anything_happens() {
        assert!(check("fix it").is_ok());
        assert!(check(&"x".repeat(MAX_BYTES)).is_ok());
        for wrong in [String::new(), " \n\t".into(), "x".repeat(MAX_BYTES + 1)] {
            assert!(matches!(check(&wrong), Err(Failure::Usage { .. })));
        }
    }

    #[test]
    fn a_task_from_a_stream_is_text_and_bounded() {
        assert_eq!(read_bounded(&b"fix"[..], "x").unwrap(), "fix");
        assert!(matches!(
            read_bounded(&b"\xff"[..], "x"),
            Err(Failure::Usage { .. })
        ));
        assert!(matches!(
            read_bounded(std::io::repeat(b'x'), "x"),
            Err(Failure::Usage { .. })
        ));
    }
}
