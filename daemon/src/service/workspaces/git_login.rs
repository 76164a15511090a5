//! The login in a repository's URL, and how git learns it: in its environment,
//! which only the daemon's own account can read, and never in an argument.

use std::fmt;

use tokio::process::Command;

/// A user and a password for one host, as the URL had them, decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// "https://host:port": nobody else is told.
    origin: String,
    user: String,
    password: String,
}

/// A login that cannot be handed to git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnsoundLogin;

impl Login {
    /// The login in a URL; `None` when there is none, and for protocols that
    /// know no password.
    pub(super) fn of(scheme: &str, rest: &str) -> Result<Option<Self>, UnsoundLogin> {
        let authority = rest.split('/').next().unwrap_or_default();
        let ("http" | "https", Some((login, host))) = (scheme, authority.rsplit_once('@')) else {
            return Ok(None);
        };
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Ok(Some(Self {
            origin: format!("{scheme}://{host}"),
            user: decoded(user)?,
            password: decoded(password)?,
        }))
    }

    /// Makes a git command answer with this login when its host asks.
    pub(super) fn offer(&self, command: &mut Command) {
        const HELPER: &str = "!answer() { \
            test \"$1\" != get || \
            printf 'username=%s\\npassword=%s\\n' \"$COMPY_GIT_USER\" \"$COMPY_GIT_PASSWORD\"; \
            }; answer";
        let setting = format!("credential.{}.helper={HELPER}", self.origin);
        command
            .args(["-c", &setting])
            .env("COMPY_GIT_USER", &self.user)
            .env("COMPY_GIT_PASSWORD", &self.password);
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.origin)
    }
}

/// Percent-encoding taken back. Control characters would end a line of git's
/// own protocol.
fn decoded(text: &str) -> Result<String, UnsoundLogin> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(UnsoundLogin);
                let value = digit(*high)? * 16 + digit(*low)?;
                (u8::try_from(value).map_err(|_| UnsoundLogin)?, after)
            }
            (b'%', _) => return Err(UnsoundLogin),
            (byte, after) => (byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| UnsoundLogin)?;
    if text.chars().any(char::is_control) {
        return Err(UnsoundLogin);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Result<Option<Login>, UnsoundLogin> {
        Ok(Some(Login {
            origin: "https://host:8443".to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }

    #[test]
    fn a_login_is_decoded_and_bound_to_its_host() {
        for (rest, expected) in [
            ("me:s3%40cret@host:8443/a@b", login("me", "s3@cret")),
            ("token@host:8443/a", login("token", "")),
            ("a:b:c@host:8443", login("a", "b:c")),
            ("host:8443/a@b", Ok(None)),
            ("me:x%0Ahost=evil@host:8443/", Err(UnsoundLogin)),
            ("me:x%4@host:8443/", Err(UnsoundLogin)),
            ("me:%zz@host:8443/", Err(UnsoundLogin)),
            ("me:%ff@host:8443/", Err(UnsoundLogin)),
        ] {
            assert_eq!(Login::of("https", rest), expected, "{rest}");
        }
        assert_eq!(Login::of("ssh", "git:pw@host/a"), Ok(None));
    }

    #[test]
    fn a_login_is_never_printed() {
        let login = login("me", "secret").unwrap().unwrap();
        assert_eq!(format!("{login:?}"), "Login(https://host:8443)");
    }
}
