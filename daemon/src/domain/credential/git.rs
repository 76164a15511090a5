//! Git's smart HTTP protocol, as far as a login is lent to it.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The user of a value that is a token alone, as forges want it beside one.
const TOKEN_USER: &str = "x-access-token";

/// A request that a login is added to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRequest {
    /// The path of the repository, for the record.
    pub repository: String,
}

/// Why a request gets no login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GitRefused {
    /// It would change the repository.
    #[error(
        "pushing is not lent this login: what a session makes is published by the daemon when it is verified"
    )]
    Push,
    /// It is nothing that clone and fetch ask for.
    #[error("only what `git clone` and `git fetch` ask for is lent this login")]
    Other,
}

/// Whether a request only reads a repository: `GET R/info/refs` for the service
/// `git-upload-pack`, and `POST R/git-upload-pack`.
///
/// # Errors
/// [`GitRefused`].
pub fn admit(method: &str, path: &str, query: Option<&str>) -> Result<GitRequest, GitRefused> {
    let found = match (method, query) {
        ("GET", Some("service=git-receive-pack")) if path.ends_with("/info/refs") => {
            return Err(GitRefused::Push);
        }
        ("POST", None) if path.ends_with("/git-receive-pack") => return Err(GitRefused::Push),
        ("GET", Some("service=git-upload-pack")) => path.strip_suffix("/info/refs"),
        ("POST", None) => path.strip_suffix("/git-upload-pack"),
        _ => None,
    };
    let repository = found.ok_or(GitRefused::Other)?;
    // A server may take these for other paths.
    let sound = repository.len() > 1
        && repository.starts_with('/')
        && !repository.contains(['%', '\\', ';'])
        && !repository
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."));
    match sound {
        true => Ok(GitRequest {
            repository: repository.to_owned(),
        }),
        false => Err(GitRefused::Other),
    }
}

/// The header of a login: `USER:PASSWORD`, or a token alone.
#[must_use]
pub fn authorization(login: &[u8]) -> String {
    let pair = match login.contains(&b':') {
        true => login.to_vec(),
        false => [TOKEN_USER.as_bytes(), b":", login].concat(),
    };
    format!("Basic {}", STANDARD.encode(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_a_repository_passes_and_nothing_else() {
        let read = Some("service=git-upload-pack");
        for (method, path, query) in [
            ("GET", "/me/it.git/info/refs", read),
            ("POST", "/me/it/git-upload-pack", None),
        ] {
            assert!(admit(method, path, query).is_ok(), "{path}");
        }
        let push = Some("service=git-receive-pack");
        for (method, path, query, expected) in [
            ("GET", "/me/it/info/refs", push, GitRefused::Push),
            ("POST", "/me/it/git-receive-pack", None, GitRefused::Push),
            ("GET", "/me/it/info/refs", None, GitRefused::Other),
            ("GET", "/user/keys", read, GitRefused::Other),
            ("GET", "/info/refs", read, GitRefused::Other),
            ("HEAD", "/me/it/info/refs", read, GitRefused::Other),
            ("POST", "/me/it/git-upload-pack", read, GitRefused::Other),
            ("DELETE", "/me/it/git-upload-pack", None, GitRefused::Other),
            (
                "POST",
                "/api/../me/git-upload-pack",
                None,
                GitRefused::Other,
            ),
            (
                "POST",
                "/a%2f..%2fb/git-upload-pack",
                None,
                GitRefused::Other,
            ),
            ("POST", "//a/git-upload-pack", None, GitRefused::Other),
            ("POST", "/a\\b/git-upload-pack", None, GitRefused::Other),
            (
                "GET",
                "/me/it/info/refs",
                Some("service=git-upload-pack&service=git-receive-pack"),
                GitRefused::Other,
            ),
        ] {
            assert_eq!(admit(method, path, query), Err(expected), "{method} {path}");
        }
    }

    #[test]
    fn a_token_alone_gets_a_user() {
        assert_eq!(authorization(b"me:it"), "Basic bWU6aXQ=");
        let token = STANDARD.encode("x-access-token:t0ken");
        assert_eq!(authorization(b"t0ken"), format!("Basic {token}"));
    }
}
