//! The master key in a file, from the environment, or printed by a command.

use std::{
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{process::Command, time::timeout};

use super::disk_space;
use crate::{
    domain::{
        credential::seal::{KEY_BYTES, MasterKey},
        secret::Secret,
    },
    ports::master_key::{KeysFound, MasterKeyError, MasterKeyPort},
};

/// How long a command may take; some ask a person on another screen.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterKeySource {
    /// In a file that only the daemon's account can read; made at first use.
    File(PathBuf),
    /// In this text.
    Given(Secret),
    /// In what this program prints, with its arguments.
    Command(Vec<String>),
}

/// The keeper of the key.
#[derive(Debug, Clone)]
pub struct SystemMasterKey {
    source: MasterKeySource,
}

impl SystemMasterKey {
    /// A keeper over a source, which is read when it is asked for.
    #[must_use]
    pub fn new(source: MasterKeySource) -> Self {
        Self { source }
    }
}

#[async_trait]
impl MasterKeyPort for SystemMasterKey {
    async fn load(&self) -> Result<KeysFound, MasterKeyError> {
        let (current, next) = match &self.source {
            MasterKeySource::File(file) => (read(file)?, read(&beside(file))?),
            MasterKeySource::Given(text) => {
                let name = "COMPY_CREDENTIALS_KEY";
                (Some(parse(text.expose(), name)?), None)
            }
            MasterKeySource::Command(argv) => (Some(print(argv).await?), None),
        };
        Ok(KeysFound { current, next })
    }

    async fn create(&self) -> Result<MasterKey, MasterKeyError> {
        match &self.source {
            MasterKeySource::File(file) => {
                let key = random(file)?;
                write(file, &key)?;
                Ok(key)
            }
            // They have one, or have failed to say it.
            MasterKeySource::Given(_) | MasterKeySource::Command(_) => Err(
                MasterKeyError::Missing("the configuration names none".to_owned()),
            ),
        }
    }

    async fn next(&self) -> Result<MasterKey, MasterKeyError> {
        match &self.source {
            MasterKeySource::File(file) => {
                let key = random(file)?;
                write(&beside(file), &key)?;
                Ok(key)
            }
            MasterKeySource::Given(_) => Err(MasterKeyError::CannotRotate(
                "the master key comes from COMPY_CREDENTIALS_KEY, and the environment of a running program does not change; let credentials.key_command print it, then have that print another key and rotate again".to_owned(),
            )),
            MasterKeySource::Command(argv) => print(argv).await,
        }
    }

    async fn commit_next(&self) -> Result<(), MasterKeyError> {
        let MasterKeySource::File(file) = &self.source else {
            return Ok(());
        };
        let next = beside(file);
        let renamed =
            std::fs::rename(&next, file).and_then(|()| disk_space::sync_dir(parent(file)));
        renamed.map_err(|error| io_error("put in force", file, &error))
    }

    async fn discard_next(&self) -> Result<(), MasterKeyError> {
        let MasterKeySource::File(file) = &self.source else {
            return Ok(());
        };
        let next = beside(file);
        match std::fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("removed", &next, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The file of a key that is not in force yet.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

fn parent(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

fn io_error(action: &'static str, file: &Path, error: &io::Error) -> MasterKeyError {
    MasterKeyError::Io {
        action,
        source_name: file.display().to_string(),
        message: error.to_string(),
    }
}

fn read(file: &Path) -> Result<Option<MasterKey>, MasterKeyError> {
    let failed = |error: io::Error| io_error("read", file, &error);
    let metadata = match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(failed)?,
    };
    let mode = metadata.permissions().mode() & 0o777;
    let name = file.display().to_string();
    if mode & 0o077 != 0 {
        return Err(MasterKeyError::Exposed { file: name, mode });
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    parse(&text, &name).map(Some)
}

fn parse(text: &str, name: &str) -> Result<MasterKey, MasterKeyError> {
    MasterKey::parse(text).map_err(|_| MasterKeyError::Malformed(name.to_owned()))
}

fn random(file: &Path) -> Result<MasterKey, MasterKeyError> {
    let mut bytes = [0; KEY_BYTES];
    let failed = |_| io_error("made", file, &io::Error::other("no random numbers"));
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(MasterKey::new(bytes))
}

/// Durable when it returns, and whole at any time.
fn write(file: &Path, key: &MasterKey) -> Result<(), MasterKeyError> {
    let mut unready = file.as_os_str().to_owned();
    unready.push(".tmp");
    let unready = PathBuf::from(unready);
    let written = (|| {
        match std::fs::remove_file(&unready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut open = std::fs::OpenOptions::new();
        let mut opened = open
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unready)?;
        writeln!(opened, "{}", key.expose())?;
        opened.sync_all()?;
        std::fs::rename(&unready, file)?;
        disk_space::sync_dir(parent(file))
    })();
    written.map_err(|error: io::Error| io_error("written", file, &error))
}

/// What a command prints.
async fn print(argv: &[String]) -> Result<MasterKey, MasterKeyError> {
    let (program, arguments) = argv.split_first().expect("the configuration has a program");
    let failed = |message: String| MasterKeyError::Command {
        command: program.clone(),
        message,
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match timeout(COMMAND_TIMEOUT, output).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no end within {COMMAND_TIMEOUT:?}"))),
    };
    if !output.status.success() {
        // Standard error alone: the key is on standard output.
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(500).collect();
        return Err(failed(format!("{}: {said}", output.status)));
    }
    parse(&String::from_utf8_lossy(&output.stdout), program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dir(dir: &tempfile::TempDir) -> (PathBuf, SystemMasterKey) {
        let file = dir.path().join("credentials.key");
        (
            file.clone(),
            SystemMasterKey::new(MasterKeySource::File(file)),
        )
    }

    async fn ids(keys: &SystemMasterKey) -> (Option<String>, Option<String>) {
        let found = keys.load().await.expect("the keys can be read");
        let id = |key: MasterKey| key.id();
        (found.current.map(id), found.next.map(id))
    }

    async fn refused(keys: &SystemMasterKey) -> String {
        match keys.load().await {
            Ok(_) => panic!("the key was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn a_key_is_made_for_this_account_alone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, keys) = in_dir(&dir);
        assert_eq!(ids(&keys).await, (None, None));
        let made = keys.create().await.ok().unwrap().id();
        assert_eq!(ids(&keys).await, (Some(made), None));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_rotation_is_put_in_force_or_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (_, keys) = in_dir(&dir);
        let first = keys.create().await.ok().unwrap().id();
        let next = keys.next().await.ok().unwrap().id();
        assert_eq!(ids(&keys).await, (Some(first.clone()), Some(next)));
        keys.discard_next().await.unwrap();
        keys.discard_next().await.expect("none is accepted");
        assert_eq!(ids(&keys).await, (Some(first), None));
        let next = keys.next().await.ok().unwrap().id();
        keys.commit_next().await.unwrap();
        assert_eq!(ids(&keys).await, (Some(next), None));
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let (file, keys) = in_dir(&dir);
        keys.create().await.ok().unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let said = refused(&keys).await;
        assert!(
            said.contains(&format!("chmod 600 {}", file.display())),
            "{said}"
        );
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "not a key").unwrap();
        let said = refused(&keys).await;
        assert!(said.contains("64 hex digits"), "{said}");
        assert!(!said.contains("not a key"), "{said}");
    }

    #[tokio::test]
    async fn a_command_prints_the_key_and_tells_why_it_does_not() {
        let key = MasterKey::new([3; KEY_BYTES]);
        let print = |script: String| {
            let argv = ["sh".to_owned(), "-c".to_owned(), script];
            SystemMasterKey::new(MasterKeySource::Command(argv.to_vec()))
        };
        let keys = print(format!("echo {}", key.expose()));
        assert_eq!(ids(&keys).await, (Some(key.id()), None));
        let said = refused(&print("echo seen >&2; echo hidden; exit 3".to_owned())).await;
        assert!(
            said.contains("seen") && said.contains("exit status: 3"),
            "{said}"
        );
        assert!(!said.contains("hidden"), "{said}");
    }

    #[tokio::test]
    async fn a_given_key_is_used_and_cannot_be_rotated() {
        let key = MasterKey::new([4; KEY_BYTES]);
        let given = MasterKeySource::Given(Secret::new(&key.expose()));
        let keys = SystemMasterKey::new(given);
        assert_eq!(ids(&keys).await, (Some(key.id()), None));
        let Err(error) = keys.next().await else {
            panic!("it has no other key");
        };
        assert!(error.to_string().contains("key_command"), "{error}");
    }
}
