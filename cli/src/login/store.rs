//! Logins on disk: one file for each endpoint, for this account alone.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::connection::DaemonEndpoint;
use crate::exit::Failure;

/// Whom an endpoint is trusted to be, and what this account is known by there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The endpoint.
    pub(crate) endpoint: String,
    /// Its certificate authority, in PEM; none without TLS.
    pub(crate) ca: Option<String>,
    /// The token.
    pub(crate) token: String,
}

/// Keeps a login, in place of an earlier one; gives its file.
pub(crate) fn keep(login: &Login) -> Result<PathBuf, Failure> {
    let file = file_of(&login.endpoint)?;
    let failed = |error: io::Error| {
        Failure::local(
            format!("the login cannot be written to {}: {error}", file.display()),
            "see that this account may write there, or set XDG_CONFIG_HOME to where it may",
        )
    };
    let directory = file.parent().unwrap_or(Path::new("/"));
    let written = (|| {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
        // Temporary files are for this account alone from the begin.
        let mut unready = tempfile::NamedTempFile::new_in(directory)?;
        unready.write_all(&serde_json::to_vec_pretty(login)?)?;
        unready.as_file().sync_all()?;
        unready.persist(&file)?;
        Ok(())
    })();
    written.map_err(failed)?;
    Ok(file)
}

/// The login at an endpoint, if there is one.
pub(crate) fn find(endpoint: &DaemonEndpoint) -> Result<Option<Login>, Failure> {
    // Where there is no place for logins there are none.
    let Ok(file) = file_of(&endpoint.to_string()) else {
        return Ok(None);
    };
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| {
            Failure::local(
                format!("the login in {} cannot be read: {error}", file.display()),
                "log in again: `compyctl login`",
            )
        })?,
    };
    private(&file)?;
    let login = serde_json::from_str(&text).map_err(|error| {
        Failure::local(
            format!("{} holds no login: {error}", file.display()),
            "delete it and log in again: `compyctl login`",
        )
    })?;
    Ok(Some(login))
}

/// Forgets the login at an endpoint; whether there was one.
pub(crate) fn forget(endpoint: &DaemonEndpoint) -> Result<bool, Failure> {
    let file = file_of(&endpoint.to_string())?;
    match fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::local(
            format!("{} cannot be removed: {error}", file.display()),
            "",
        )),
    }
}

/// The token in a file of a person's own.
pub(crate) fn token_in(file: &Path) -> Result<String, Failure> {
    let opened = fs::File::open(file).map_err(|error| {
        Failure::local(
            format!(
                "the token file {} cannot be opened: {error}",
                file.display()
            ),
            "name a file that holds what `compyctl token create` printed",
        )
    })?;
    private(file)?;
    super::read_token(opened, file)
}

/// Refuses a file that others may read, unless it is a pipe or the like.
fn private(file: &Path) -> Result<(), Failure> {
    let Ok(found) = fs::metadata(file) else {
        return Ok(());
    };
    let mode = found.permissions().mode() & 0o777;
    if found.is_file() && mode & 0o077 != 0 {
        return Err(Failure::local(
            format!(
                "others may read {} (mode {mode:o}), which holds a token",
                file.display()
            ),
            format!(
                "`chmod 600 {}`; if they may have read it, revoke the token",
                file.display()
            ),
        ));
    }
    Ok(())
}

/// The file of an endpoint's login: its scheme, host and port with nothing in them
/// that a file's name could not have.
fn file_of(endpoint: &str) -> Result<PathBuf, Failure> {
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name: String = (endpoint.chars())
        .map(|c| if usable(c) { c } else { '_' })
        .collect();
    let set = |name: &str| std::env::var(name).ok().filter(|dir| dir.starts_with('/'));
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(Path::new(&set("HOME")?).join(".config")));
    let config = config.ok_or_else(|| {
        Failure::usage(
            "there is no directory to keep logins in: HOME is not set",
            "set HOME or XDG_CONFIG_HOME to an absolute path",
        )
    })?;
    Ok(config.join("compy/logins").join(format!("{name}.json")))
}
