//! What is kept of a command on disk: `ID.record`, `ID.stdout`, `ID.stderr`.
//!
//! The record holds the command as it was started, and its end once it has one:
//! two messages, each after its length. Flat files and a single record, because
//! making files is what a short command spends most of its time on.
//!
//! A record without an end after a restart is a command whose fate nobody
//! knows. Nothing here is synced: the spool outlives every process of the
//! container, and a power loss takes the running commands with it anyway.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compyd_proto::agent::{Exec, Exit, Stream};
use prost::Message as _;

/// The directory of all spools.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    root: Arc<Path>,
}

/// The spool of one command.
#[derive(Debug, Clone)]
pub(crate) struct ExecFiles {
    root: Arc<Path>,
    id: Arc<str>,
}

/// The end of a command, as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EndRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) exit: Option<Exit>,
    #[prost(uint64, tag = "2")]
    pub(crate) stdout_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) stderr_bytes: u64,
    /// Bytes that came after `stdout_bytes` and could not be kept.
    #[prost(uint64, tag = "4")]
    pub(crate) stdout_lost: u64,
    /// Bytes that came after `stderr_bytes` and could not be kept.
    #[prost(uint64, tag = "5")]
    pub(crate) stderr_lost: u64,
}

/// A command found on disk at the agent's start.
pub(crate) struct Found {
    pub(crate) files: ExecFiles,
    pub(crate) exec: Exec,
    /// Absent for a command that ran when the last agent ended.
    pub(crate) end: Option<EndRecord>,
}

/// The two streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn suffix(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    pub(crate) fn on_the_wire(self) -> Stream {
        match self {
            Self::Stdout => Stream::Stdout,
            Self::Stderr => Stream::Stderr,
        }
    }
}

impl Spool {
    /// Opens, and makes when missing, the spools below the state directory.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let root = state.join("exec");
        private_dir_all(&root)?;
        Ok(Self { root: root.into() })
    }

    /// Everything that is there, oldest first. Output without a readable record
    /// is removed: nothing was ever started under that id.
    pub(crate) fn load(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((id, suffix)) = name.rsplit_once('.') else {
                continue;
            };
            let files = self.files(id);
            match (suffix, files.read_record()) {
                ("record", Ok((exec, end))) => found.push(Found { files, exec, end }),
                (_, Ok(_)) => {}
                (_, Err(error)) => {
                    eprintln!("compy-agent: removing the spool of {id}: {error}");
                    let _ = files.remove();
                }
            }
        }
        found.sort_by_key(|found| found.exec.started_at_ms);
        Ok(found)
    }

    fn files(&self, id: &str) -> ExecFiles {
        ExecFiles {
            root: Arc::clone(&self.root),
            id: id.into(),
        }
    }

    /// Makes the spool of a new command. The record is on disk before anything
    /// is started, so that a repeated start after a crash finds it.
    pub(crate) fn create(&self, exec: &Exec) -> io::Result<ExecFiles> {
        let files = self.files(&exec.exec_id);
        let options = |options: &mut OpenOptions| {
            options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(files.path("record"))
        };
        let mut record = match options(&mut OpenOptions::new()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a removal that was cut short.
                files.remove()?;
                options(&mut OpenOptions::new())?
            }
            other => other?,
        };
        match record.write_all(&exec.encode_length_delimited_to_vec()) {
            Ok(()) => Ok(files),
            Err(error) => {
                let _ = files.remove();
                Err(error)
            }
        }
    }
}

impl ExecFiles {
    fn path(&self, suffix: &str) -> PathBuf {
        self.root.join(format!("{}.{suffix}", self.id))
    }

    /// The command as it was started.
    pub(crate) fn read_start(&self) -> io::Result<Exec> {
        Ok(self.read_record()?.0)
    }

    fn read_record(&self) -> io::Result<(Exec, Option<EndRecord>)> {
        let bytes = std::fs::read(self.path("record"))?;
        let mut rest = bytes.as_slice();
        let exec = Exec::decode_length_delimited(&mut rest).map_err(io::Error::other)?;
        // One that a power loss has torn is no end.
        let end = EndRecord::decode_length_delimited(rest)
            .ok()
            .filter(|end| end.exit.is_some());
        Ok((exec, end))
    }

    /// Records the end. One small write: a killed agent leaves all or nothing.
    pub(crate) fn write_end(&self, end: &EndRecord) -> io::Result<()> {
        let bytes = end.encode_length_delimited_to_vec();
        OpenOptions::new()
            .append(true)
            .open(self.path("record"))?
            .write_all(&bytes)
    }

    /// Opens a stream for appending; made at the first byte, because most
    /// commands never write to both.
    pub(crate) fn writer(&self, output: Output) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path(output.suffix()))
    }

    /// Opens a stream that has at least one byte.
    pub(crate) fn reader(&self, output: Output) -> io::Result<File> {
        File::open(self.path(output.suffix()))
    }

    /// Bytes of a stream on disk.
    pub(crate) fn length(&self, output: Output) -> u64 {
        std::fs::metadata(self.path(output.suffix())).map_or(0, |meta| meta.len())
    }

    /// Frees everything; the record last, so that a removal cut short is made
    /// again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for suffix in ["stdout", "stderr", "record"] {
            match std::fs::remove_file(self.path(suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes a directory that only the agent may enter.
pub(crate) fn private_dir_all(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use compyd_proto::agent::exit::How;

    fn exec(id: &str, at: i64) -> Exec {
        Exec {
            exec_id: id.into(),
            started_at_ms: at,
            ..Exec::default()
        }
    }

    #[test]
    fn what_was_created_is_loaded_oldest_first() {
        let state = tempfile::tempdir().unwrap();
        let spool = Spool::open(state.path()).unwrap();
        let second = spool.create(&exec("..", 2)).unwrap();
        spool.create(&exec("a", 1)).unwrap();
        let end = EndRecord {
            exit: Some(Exit {
                how: Some(How::Code(3)),
                ..Exit::default()
            }),
            stdout_bytes: 5,
            ..EndRecord::default()
        };
        second.write_end(&end).unwrap();
        second
            .writer(Output::Stdout)
            .unwrap()
            .write_all(b"hello")
            .unwrap();

        let found = spool.load().unwrap();
        let ids: Vec<_> = found
            .iter()
            .map(|found| found.exec.exec_id.as_str())
            .collect();
        assert_eq!(ids, ["a", ".."]);
        assert_eq!(found[0].end, None);
        assert_eq!(found[1].end, Some(end));
        assert_eq!(found[1].files.length(Output::Stdout), 5);
        assert_eq!(found[1].files.length(Output::Stderr), 0);
    }

    #[test]
    fn an_unreadable_start_is_dropped_and_a_torn_end_is_no_end() {
        let state = tempfile::tempdir().unwrap();
        let spool = Spool::open(state.path()).unwrap();
        let exec_dir = state.path().join("exec");
        std::fs::write(exec_dir.join("cut.record"), [200, 1, 2]).unwrap();
        std::fs::write(exec_dir.join("cut.stdout"), "x").unwrap();
        std::fs::write(exec_dir.join("alone.stderr"), "x").unwrap();
        // An id may look like the name of another one's file.
        spool.create(&exec("kept.stdout", 2)).unwrap();
        let kept = spool.create(&exec("kept", 1)).unwrap();
        let whole = EndRecord {
            exit: Some(Exit {
                how: Some(How::Signal(9)),
                duration_ms: 5,
                ..Exit::default()
            }),
            ..EndRecord::default()
        }
        .encode_length_delimited_to_vec();
        let mut record = File::options()
            .append(true)
            .open(exec_dir.join("kept.record"))
            .unwrap();
        record.write_all(&whole[..whole.len() - 1]).unwrap();
        kept.writer(Output::Stdout)
            .unwrap()
            .write_all(b"out")
            .unwrap();
        let found = spool.load().unwrap();
        let brief: Vec<_> = found
            .iter()
            .map(|found| (found.exec.exec_id.as_str(), found.end.is_some()))
            .collect();
        assert_eq!(brief, [("kept", false), ("kept.stdout", false)]);
        assert_eq!(std::fs::read_dir(&exec_dir).unwrap().count(), 3);
    }

    #[test]
    fn creating_again_starts_from_nothing_and_removing_twice_is_fine() {
        let state = tempfile::tempdir().unwrap();
        let spool = Spool::open(state.path()).unwrap();
        let first = spool.create(&exec("a", 1)).unwrap();
        first
            .writer(Output::Stderr)
            .unwrap()
            .write_all(b"old")
            .unwrap();
        let again = spool.create(&exec("a", 2)).unwrap();
        assert_eq!(again.length(Output::Stderr), 0);
        again.remove().unwrap();
        again.remove().unwrap();
        assert!(spool.load().unwrap().is_empty());
    }
}
