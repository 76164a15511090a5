//! Content that goes to standard output or into a file.

use std::io::Write as _;
use std::path::PathBuf;

use crate::exit::Failure;

/// Who may read a file that is made, as far as the account's mask lets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everybody.
    All,
    /// This account.
    Owner,
}

/// Where the content goes. A file appears under its name only when whole.
#[derive(Debug)]
pub(crate) enum Sink {
    Stdout,
    File {
        file: tempfile::NamedTempFile,
        path: PathBuf,
    },
}

impl Sink {
    /// Standard output, or a file.
    pub(crate) fn open(path: Option<PathBuf>, readers: Readers) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Sink::Stdout);
        };
        let mode = match readers {
            Readers::All => 0o666,
            Readers::Owner => 0o600,
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".compyctl-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
            .tempfile_in(&directory)
            .map_err(|error| {
                Failure::usage(
                    format!("no file can be made in {}: {error}", directory.display()),
                    "name a file in a directory that exists and can be written",
                )
            })?;
        Ok(Sink::File { file, path })
    }

    /// Whether more is wanted.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<bool, Failure> {
        let result = match self {
            Sink::Stdout => std::io::stdout().lock().write_all(data),
            Sink::File { file, .. } => file.write_all(data),
        };
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::local(
                format!("the content cannot be written: {error}"),
                "",
            )),
        }
    }

    /// Makes the file appear.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self {
            Sink::Stdout => std::io::stdout().lock().flush().map_err(|error| {
                Failure::local(format!("the content cannot be written: {error}"), "")
            }),
            Sink::File { file, path } => file.persist(&path).map(drop).map_err(|error| {
                Failure::local(
                    format!("{} cannot be written: {}", path.display(), error.error),
                    "",
                )
            }),
        }
    }
}
