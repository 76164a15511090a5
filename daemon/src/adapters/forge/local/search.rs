//! Whether commits hold a stored credential: looked for in every object that they
//! bring, in the daemon's own repository, before a branch is moved to them.

use std::{
    io::{Seek as _, SeekFrom},
    path::Path,
    process::{ExitStatus, Stdio},
};

use tokio::io::AsyncReadExt as _;

use super::{TIMEOUT, command, failed, too_late};
use crate::{domain::redaction::Redactor, ports::forge::ForgeError};

/// Bytes that are kept of what was looked through, for a value that lies across two
/// pieces. Of a longer form that is cut only the parts are found that are looked for
/// by themselves.
const EDGE_BYTES: usize = 4 * 1024;
/// A longer head of an object is none of git's.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Bytes of objects that are read at once.
const PIECE_BYTES: usize = 64 * 1024;

const ACTION: &str = "look for credentials";

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundCredential {
    /// The file, or what else of a commit it is.
    pub(super) place: String,
    /// The marker of the credential.
    pub(super) marker: String,
}

/// The first credential in what `head` has and `base` has not: contents, names and
/// messages, of every commit between them.
pub(super) async fn credential_between(
    repository: &Path,
    base: &str,
    head: &str,
    redactor: &Redactor,
) -> Result<Option<FoundCredential>, ForgeError> {
    if redactor.is_empty() {
        return Ok(None);
    }
    tokio::time::timeout(TIMEOUT, look_through(repository, base, head, redactor))
        .await
        .unwrap_or_else(|_| Err(too_late(ACTION)))
}

async fn look_through(
    repository: &Path,
    base: &str,
    head: &str,
    redactor: &Redactor,
) -> Result<Option<FoundCredential>, ForgeError> {
    let io = |error: std::io::Error| failed(ACTION, &error);
    let mut list = tempfile::tempfile().map_err(io)?;
    let without = format!("^{base}");
    let mut git = command(repository, &["rev-list", "--objects", head, &without]);
    git.stdout(list.try_clone().map_err(io)?)
        .stderr(Stdio::null());
    ended_well("rev-list", git.status().await.map_err(io)?)?;
    list.seek(SeekFrom::Start(0)).map_err(io)?;
    let format = "--batch=%(objecttype) %(objectsize) %(objectname) %(rest)";
    let mut git = command(repository, &["cat-file", "--buffer", format]);
    git.stdin(list).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut git = git.spawn().map_err(io)?;
    let mut objects = git.stdout.take().expect("it is piped");
    let mut search = Search::new(redactor);
    let mut piece = vec![0; PIECE_BYTES];
    while search.found.is_none() {
        match objects.read(&mut piece).await.map_err(io)? {
            0 => {
                search.end().map_err(unexpected)?;
                ended_well("cat-file", git.wait().await.map_err(io)?)?;
                return Ok(None);
            }
            length => search.take(&piece[..length]).map_err(unexpected)?,
        }
    }
    // Whatever else there is does not matter: git is killed when it is dropped.
    Ok(search.found)
}

fn ended_well(command: &str, status: ExitStatus) -> Result<(), ForgeError> {
    match status.success() {
        true => Ok(()),
        false => Err(unexpected(format!("git {command} ended with {status}"))),
    }
}

fn unexpected(message: impl Into<String>) -> ForgeError {
    ForgeError::Failed {
        action: ACTION,
        message: message.into(),
    }
}

/// Objects as git prints them, one after the other: a head, the content, a line end.
struct Search<'a> {
    redactor: &'a Redactor,
    state: State,
    /// What was not looked through with what follows it.
    held: Vec<u8>,
    found: Option<FoundCredential>,
}

enum State {
    Head,
    /// Of the object at a place, so many bytes and the line end follow.
    Content {
        place: String,
        left: usize,
    },
}

impl<'a> Search<'a> {
    fn new(redactor: &'a Redactor) -> Self {
        Self {
            redactor,
            state: State::Head,
            held: Vec::new(),
            found: None,
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        while !data.is_empty() {
            match &mut self.state {
                State::Head => {
                    let end = data.iter().position(|byte| *byte == b'\n');
                    let (head, rest) = data.split_at(end.unwrap_or(data.len()));
                    self.held.extend_from_slice(head);
                    if self.held.len() > MAX_HEAD_BYTES {
                        return Err("an object has no end of its head");
                    }
                    data = rest;
                    if end.is_some() {
                        data = &data[1..];
                        let (place, length) = parsed(&self.held).ok_or("a head is none")?;
                        self.look(&place);
                        self.held.clear();
                        self.state = State::Content {
                            place,
                            left: length + 1,
                        };
                    }
                }
                State::Content { place, left } => {
                    let (content, rest) = data.split_at(data.len().min(*left));
                    *left -= content.len();
                    data = rest;
                    self.held.extend_from_slice(content);
                    let (place, ended) = (place.clone(), *left == 0);
                    self.look(&place);
                    match ended {
                        true => {
                            self.held.clear();
                            self.state = State::Head;
                        }
                        false => {
                            let seen = self.held.len().saturating_sub(EDGE_BYTES);
                            self.held.drain(..seen);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn look(&mut self, place: &str) {
        if self.found.is_none()
            && let Some((_, marker)) = self.redactor.first(&self.held)
        {
            self.found = Some(FoundCredential {
                place: self.redactor.text(place).into_owned(),
                marker: marker.to_owned(),
            });
        }
    }

    fn end(&self) -> Result<(), &'static str> {
        match (&self.state, self.held.is_empty()) {
            (State::Head, true) => Ok(()),
            (State::Head | State::Content { .. }, _) => Err("an object has no end"),
        }
    }
}

/// What an object is, for a person, and its bytes.
fn parsed(head: &[u8]) -> Option<(String, usize)> {
    let head = String::from_utf8_lossy(head);
    let mut words = head.splitn(4, ' ');
    let (kind, length) = (words.next()?, words.next()?.parse().ok()?);
    let (id, path) = (words.next()?, words.next()?);
    let place = match (kind, path) {
        ("blob" | "tree", "") => "the names of files".to_owned(),
        ("blob", path) => path.to_owned(),
        ("tree", path) => format!("the names of files in {path}"),
        _ => format!("the message of commit {id}"),
    };
    Some((place, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pieces: &[&str]) -> Result<Option<(String, String)>, &'static str> {
        let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
        let mut search = Search::new(&redactor);
        for piece in pieces {
            search.take(piece.as_bytes())?;
        }
        search.end()?;
        Ok(search.found.map(|found| (found.place, found.marker)))
    }

    #[test]
    fn a_credential_is_found_in_any_object_however_it_is_cut() {
        let here = |place: &str| Ok(Some((place.to_owned(), "[redacted:npm]".to_owned())));
        let clean = "commit 3 id1 \nabc\nblob 2 id2 a\nxy\n";
        assert_eq!(found(&[clean]), Ok(None));
        assert_eq!(found(&[]), Ok(None));
        let blob = "blob 15 id3 src/.npmrc\nx=t0ken-of-npm\n\n";
        assert_eq!(found(&[clean, blob]), here("src/.npmrc"));
        let bytes: Vec<String> = blob.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(found(&bytes), here("src/.npmrc"));
        let message = "commit 12 id4 \nt0ken-of-npm\n";
        assert_eq!(found(&[message]), here("the message of commit id4"));
        let named = "blob 1 id5 t0ken-of-npm\nx\n";
        assert_eq!(found(&[named]), here("[redacted:npm]"));
        // Two objects side by side are two.
        let two = "blob 5 id6 a\nt0ken\nblob 7 id7 b\n-of-npm\n";
        assert_eq!(found(&[two]), Ok(None));
    }

    #[test]
    fn what_git_does_not_print_is_no_answer() {
        for pieces in [
            &["what"][..],
            &["what\n"],
            &["id missing\n"],
            &["blob x id a\n"],
            &["blob 5 id a\nab"],
        ] {
            assert!(found(pieces).is_err(), "{pieces:?}");
        }
        assert!(found(&[&"x".repeat(MAX_HEAD_BYTES + 1)]).is_err());
    }
}
