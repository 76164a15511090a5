//! Credentials of a command: variables that nobody keeps, and files on a tmpfs
//! that only its account can read.
//!
//! Nothing of it goes to the spool, to the records or to any disk. Where there is
//! no tmpfs, there are no files.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use compyd_proto::agent::{CommandSecrets, SecretFile};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::spec::check_id;
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};

const MAX_BYTES: usize = 64 << 10;

/// Variables as a launch takes them.
pub(super) type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// Puts the files of an account in place below `dir`, and gives every variable
/// that tells a command of its credentials.
pub(super) fn place(
    dir: &Path,
    account: &Account,
    secrets: &CommandSecrets,
) -> Result<Variables, AgentError> {
    let mut variables = Variables::new();
    for variable in &secrets.env {
        check_variable(&variable.name, &variable.value)?;
        variables.push((variable.name.clone().into_bytes(), variable.value.to_vec()));
    }
    let own = dir.join(account.uid.to_string());
    for file in &secrets.files {
        let path = check_file(&own, file)?;
        if !file.variable.is_empty() {
            let value = path.into_os_string().into_encoded_bytes();
            check_variable(&file.variable, &value)?;
            variables.push((file.variable.clone().into_bytes(), value));
        }
    }
    let failed = |error: io::Error| AgentError::io("put credentials into", &own, &error);
    if !secrets.files.is_empty() {
        make_dir(dir, &own, account).map_err(failed)?;
        for file in &secrets.files {
            write(&own, account, file).map_err(failed)?;
        }
    }
    remove_others(&own, secrets).map_err(failed)?;
    Ok(variables)
}

fn check_variable(name: &str, value: &[u8]) -> Result<(), AgentError> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
        return Err(AgentError::new(
            Reason::SpecInvalid,
            format!(
                "the variable {name:?} of a credential is not valid: its name is empty or holds '=', or name or value hold a NUL byte"
            ),
        ));
    }
    Ok(())
}

fn check_file(own: &Path, file: &SecretFile) -> Result<PathBuf, AgentError> {
    check_id("the name of a credential's file", &file.name)?;
    if file.name.starts_with('.') || file.content.len() > MAX_BYTES {
        return Err(AgentError::new(
            Reason::SpecInvalid,
            format!(
                "the file {:?} of a credential is not valid: its name starts with a dot, or it has more than {MAX_BYTES} bytes",
                file.name
            ),
        ));
    }
    Ok(own.join(&file.name))
}

/// The directory of an account below the common one, which everybody may walk
/// through. Fails where that would be on a disk.
fn make_dir(dir: &Path, own: &Path, account: &Account) -> io::Result<()> {
    let mut make = fs::DirBuilder::new();
    for (path, mode) in [(dir, 0o711), (own, 0o700)] {
        match make.mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if fs::symlink_metadata(path)?.is_symlink() {
            return Err(io::Error::other("it is a symbolic link"));
        }
    }
    if statfs(own)?.filesystem_type() != TMPFS_MAGIC {
        return Err(io::Error::other("it is not on a tmpfs"));
    }
    give(own, account)
}

/// Only root can give files away; others have their own alone.
fn give(path: &Path, account: &Account) -> io::Result<()> {
    match nix::unistd::Uid::effective().is_root() {
        true => chown(path, Some(account.uid), Some(account.gid)),
        false => Ok(()),
    }
}

/// Replaces a file as a whole, unless it is the same.
fn write(own: &Path, account: &Account, file: &SecretFile) -> io::Result<()> {
    let path = own.join(&file.name);
    let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    if is_file && fs::read(&path).is_ok_and(|found| found == file.content) {
        return Ok(());
    }
    // The account owns the directory: what it puts there in the way goes, and is
    // never followed.
    let unready = own.join(format!(".{}", file.name));
    let _ = fs::remove_file(&unready);
    let mut open = fs::OpenOptions::new();
    let mut opened = open
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unready)?;
    opened.write_all(&file.content)?;
    opened.set_permissions(fs::Permissions::from_mode(0o400))?;
    if nix::unistd::Uid::effective().is_root() {
        std::os::unix::fs::fchown(&opened, Some(account.uid), Some(account.gid))?;
    }
    fs::rename(&unready, &path)
}

fn remove_others(own: &Path, secrets: &CommandSecrets) -> io::Result<()> {
    let found = match fs::read_dir(own) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    for entry in found {
        let entry = entry?;
        let given = secrets.files.iter().map(|file| &file.name);
        let mut known = given.chain(&secrets.kept_files);
        if !known.any(|name| entry.file_name() == name.as_str()) && !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use compyd_proto::agent::EnvVar;

    use super::*;

    fn account() -> Account {
        Account {
            name: "dev".into(),
            uid: nix::unistd::Uid::effective().as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
            home: "/".into(),
            shell: "/bin/sh".into(),
            groups: Vec::new(),
        }
    }

    fn file(name: &str, content: &'static str, variable: &str) -> SecretFile {
        SecretFile {
            name: name.into(),
            content: Bytes::from_static(content.as_bytes()),
            variable: variable.into(),
        }
    }

    fn files(files: Vec<SecretFile>) -> CommandSecrets {
        CommandSecrets {
            files,
            ..CommandSecrets::default()
        }
    }

    /// A directory on a tmpfs, as every Linux has one.
    fn tmpfs() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn files_are_the_accounts_alone_and_those_of_before_go() {
        let (dir, account) = (tmpfs(), account());
        let own = dir.path().join(account.uid.to_string());
        let two = files(vec![file("a", "one", "A_FILE"), file("b", "two", "")]);
        let variables = place(dir.path(), &account, &two).unwrap();
        let path = own.join("a");
        let value = path.as_os_str().as_encoded_bytes().to_vec();
        assert_eq!(variables, [(b"A_FILE".to_vec(), value)]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&own)), (0o400, 0o700));

        let other = files(vec![file("a", "changed", "")]);
        place(dir.path(), &account, &other).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "changed");
        assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
        let kept = CommandSecrets {
            kept_files: vec!["a".into(), "b".into()],
            ..CommandSecrets::default()
        };
        assert_eq!(place(dir.path(), &account, &kept).unwrap(), []);
        assert_eq!(fs::read_to_string(&path).unwrap(), "changed");
        place(dir.path(), &account, &files(Vec::new())).unwrap();
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_is_no_place_for_them() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let refused = place(dir.path(), &account(), &files(vec![file("a", "one", "")]));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("tmpfs"), "{message}");
    }

    #[test]
    fn what_an_account_puts_in_the_way_is_not_followed() {
        let (dir, account) = (tmpfs(), account());
        place(dir.path(), &account, &files(vec![file("a", "one", "")])).unwrap();
        let own = dir.path().join(account.uid.to_string());
        let outside = dir.path().join("outside");
        for name in ["b", ".b"] {
            std::os::unix::fs::symlink(&outside, own.join(name)).unwrap();
        }
        place(dir.path(), &account, &files(vec![file("b", "two", "")])).unwrap();
        assert!(!outside.exists());
        assert_eq!(fs::read_to_string(own.join("b")).unwrap(), "two");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = tmpfs();
        for name in ["", "..", ".a", "a/b"] {
            let wrong = files(vec![file(name, "one", "")]);
            assert!(place(dir.path(), &account(), &wrong).is_err(), "{name}");
        }
        let wrong = CommandSecrets {
            env: vec![EnvVar {
                name: "A=B".into(),
                value: Bytes::new(),
            }],
            ..CommandSecrets::default()
        };
        assert!(place(dir.path(), &account(), &wrong).is_err());
    }
}
