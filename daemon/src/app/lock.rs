//! One daemon per data directory.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The right to use a data directory, until dropped. The kernel gives it back
/// when the process dies, so a lock is never stale.
#[derive(Debug)]
pub struct DataDirLock {
    /// Holds the lock; the file says who.
    _file: File,
}

/// Why a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon uses it.
    #[error(
        "the data directory {} is used by the daemon with {holder}; stop that one, or give this one another data_dir",
        dir.display()
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who: "pid 12, started at …".
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}: {source}", file.display())]
    Io {
        /// The lock file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl DataDirLock {
    /// Takes the directory, or says who has it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("daemon.lock");
        let io_failure = |source: io::Error| LockError::Io {
            file: path.clone(),
            source,
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_failure)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whatever can be read is better than nothing.
                let _ = file.take(200).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "an unknown pid".to_owned(),
                    holder => holder.to_owned(),
                };
                let dir = dir.to_owned();
                return Err(LockError::Held { dir, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io_failure(source)),
        }
        let started = humantime::format_rfc3339_seconds(SystemTime::now());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "pid {}, started at {started}", std::process::id()))
            .map_err(io_failure)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DataDirLock::take(dir.path()).unwrap();
        let refused = DataDirLock::take(dir.path()).unwrap_err().to_string();
        let pid = format!("pid {}, started at 20", std::process::id());
        assert!(refused.contains(&pid), "{refused}");
        assert!(refused.contains(&dir.path().display().to_string()));
        drop(lock);
        DataDirLock::take(dir.path()).expect("the directory is free again");
    }
}
