//! What is kept of a command on disk: its record in the log of [`Records`], and
//! its output in `ID.stdout` and `ID.stderr`, made at the first byte. What is
//! dropped of a stream is a hole in its file; a file that is missing was
//! dropped whole. Of a command that is forgotten [`Forgotten`] keeps how it ended.
//!
//! A record without an end after a restart is a command whose fate nobody
//! knows. Nothing here is synced: the spool outlives every process of the
//! container, and a power loss takes the running commands with it anyway.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compyd_proto::agent::{Exec, Stream};

use super::extent::Extent;
use super::forgotten::Forgotten;
use super::holes;
use super::records::{EndRecord, Kept, Records};

/// All spools.
#[derive(Clone)]
pub(crate) struct Spool {
    root: Arc<Path>,
    records: Records,
    forgotten: Arc<Mutex<Forgotten>>,
}

/// The spool of one command.
#[derive(Clone)]
pub(crate) struct ExecFiles {
    root: Arc<Path>,
    id: Arc<str>,
    records: Records,
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
    /// Opens, and makes when missing, the spools below the state directory, and
    /// says what is in them, oldest first. Output without a record is removed:
    /// nobody can ask for it.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, Vec<Found>)> {
        let root = state.join("exec");
        private_dir_all(&root)?;
        let (records, kept) = Records::open(&state.join("records"))?;
        let forgotten = Forgotten::open(&state.join("forgotten"))?;
        let spool = Self {
            root: root.into(),
            records,
            forgotten: Arc::new(Mutex::new(forgotten)),
        };
        let mut found: Vec<Found> = kept
            .into_iter()
            .map(|Kept { exec, end }| Found {
                files: spool.files(&exec.exec_id),
                exec,
                end,
            })
            .collect();
        found.sort_by_key(|found| found.exec.started_at_ms);
        spool.remove_unknown(&found)?;
        Ok((spool, found))
    }

    fn remove_unknown(&self, found: &[Found]) -> io::Result<()> {
        let known: HashSet<&str> = found.iter().map(|found| &*found.files.id).collect();
        for entry in std::fs::read_dir(&self.root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.rsplit_once('.').map(|(id, _)| id);
            if !id.is_some_and(|id| known.contains(id)) {
                eprintln!("compy-agent: removing {name}, the output of no command");
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// What is left of commands that were forgotten. Held for a look or one
    /// small write.
    pub(super) fn forgotten(&self) -> MutexGuard<'_, Forgotten> {
        (self.forgotten.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of a command; whether there are any, its record says.
    pub(super) fn files(&self, id: &str) -> ExecFiles {
        ExecFiles {
            root: Arc::clone(&self.root),
            id: id.into(),
            records: self.records.clone(),
        }
    }

    /// Records a new command, before anything is started.
    pub(crate) fn create(&self, exec: &Exec) -> io::Result<ExecFiles> {
        self.records.start(exec)?;
        Ok(self.files(&exec.exec_id))
    }
}

impl ExecFiles {
    fn path(&self, output: Output) -> PathBuf {
        self.root.join(format!("{}.{}", self.id, output.suffix()))
    }

    /// The command as it was started.
    pub(crate) fn read_start(&self) -> io::Result<Exec> {
        self.records.read_start(&self.id)
    }

    /// Records the end.
    pub(crate) fn write_end(&self, end: &EndRecord) -> io::Result<()> {
        self.records.end(&self.id, end)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Opens a stream for writing; made at the first byte, because most
    /// commands never write to both.
    pub(crate) fn writer(&self, output: Output) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(output))
    }

    /// Opens a stream that has at least one byte.
    pub(crate) fn reader(&self, output: Output) -> io::Result<File> {
        File::open(self.path(output))
    }

    /// A stream as its file tells it, when nothing else does.
    pub(crate) fn found(&self, output: Output) -> Extent {
        self.reader(output)
            .and_then(|file| holes::extent_of(&file))
            .unwrap_or_default()
    }

    /// Whether anything of a stream is on disk.
    pub(crate) fn has(&self, output: Output) -> bool {
        self.path(output).exists()
    }

    /// Frees the output; the record stays.
    pub(crate) fn remove_output(&self) -> io::Result<()> {
        for output in [Output::Stdout, Output::Stderr] {
            match std::fs::remove_file(self.path(output)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Frees everything; the record last, so that a removal cut short is made
    /// again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.remove_output()?;
        self.records.forget(&self.id)
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
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
    use std::io::Write as _;

    use super::*;
    use compyd_proto::agent::{Exit, exit::How};

    fn exec(id: &str, at: i64) -> Exec {
        Exec {
            exec_id: id.into(),
            started_at_ms: at,
            ..Exec::default()
        }
    }

    fn write(files: &ExecFiles, output: Output, text: &str) {
        let mut file = files.writer(output).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn what_was_created_is_found_oldest_first_and_output_of_nobody_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(state.path()).unwrap();
        let second = spool.create(&exec("..", 2)).unwrap();
        spool.create(&exec("a", 1)).unwrap();
        // An id may look like the name of another one's file.
        spool.create(&exec("a.stdout", 3)).unwrap();
        let end = EndRecord {
            exit: Some(Exit {
                how: Some(How::Code(3)),
                ..Exit::default()
            }),
            stdout_bytes: 5,
            ..EndRecord::default()
        };
        second.write_end(&end).unwrap();
        write(&second, Output::Stdout, "hello");
        let directory = state.path().join("exec");
        std::fs::write(directory.join("alone.stderr"), "x").unwrap();

        let (_, found) = Spool::open(state.path()).unwrap();
        let ids: Vec<_> = found
            .iter()
            .map(|found| found.exec.exec_id.as_str())
            .collect();
        assert_eq!(ids, ["a", "..", "a.stdout"]);
        assert_eq!(found[0].end, None);
        assert_eq!(found[1].end, Some(end));
        assert_eq!(found[1].files.found(Output::Stdout), Extent::whole(5));
        assert!(!found[1].files.has(Output::Stderr));
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1);
    }

    #[test]
    fn a_removed_command_leaves_nothing_and_removing_twice_is_fine() {
        let state = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(state.path()).unwrap();
        let first = spool.create(&exec("a", 1)).unwrap();
        write(&first, Output::Stderr, "old");
        first.remove().unwrap();
        first.remove().unwrap();
        let again = spool.create(&exec("a", 2)).unwrap();
        assert!(!again.has(Output::Stderr));
        again.remove().unwrap();
        assert!(Spool::open(state.path()).unwrap().1.is_empty());
    }
}
