//! The signing key: 32 random bytes in a file of this account alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    adapters::disk_space::sync_dir, domain::audit::checkpoint::SigningKey, ports::audit::AuditError,
};

/// Reads the key, or makes one for a log that has no records yet.
pub(super) fn open(file: &Path, log_is_new: bool) -> Result<SigningKey, AuditError> {
    let wrong = |message: String| AuditError::Key {
        file: file.display().to_string(),
        message,
    };
    match File::open(file) {
        Ok(mut found) => {
            let mut text = String::new();
            let mode = found
                .metadata()
                .and_then(|found_meta| {
                    found.read_to_string(&mut text)?;
                    Ok(found_meta.permissions().mode() & 0o777)
                })
                .map_err(|error| wrong(format!("cannot read the audit log's key: {error}")))?;
            if mode & 0o077 != 0 {
                return Err(wrong(format!(
                    "others may read the audit log's key (mode {mode:o}); set the mode to 600, and begin a new log if somebody did"
                )));
            }
            SigningKey::parse(&text).map_err(|error| {
                wrong(format!(
                    "{error}; restore the file, or move the audit log and its key away to begin a new log"
                ))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && log_is_new => {
            make(file).map_err(|error| wrong(format!("cannot make the audit log's key: {error}")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(wrong(
            "the audit log's key is missing; restore the file, or move the audit log away to begin a new one".to_owned(),
        )),
        Err(error) => Err(wrong(format!("cannot read the audit log's key: {error}"))),
    }
}

fn make(file: &Path) -> io::Result<SigningKey> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| io::Error::other("no random bytes are to be had"))?;
    let key = SigningKey::from_seed(&seed).map_err(io::Error::other)?;
    let unready = file.with_extension("new");
    // What a kill left of an earlier try.
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unready)?;
    for byte in seed {
        write!(made, "{byte:02x}")?;
    }
    writeln!(made)?;
    made.sync_all()?;
    fs::rename(&unready, file)?;
    sync_dir(file.parent().unwrap_or(Path::new("/")))?;
    Ok(key)
}
