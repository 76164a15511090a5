//! Whether commits hold a stored credential: looked for in every object that they
//! bring, before a branch leaves the workspace.

use futures_util::{StreamExt as _, stream::BoxStream};

use super::{Git, GitError, SCRATCH, environment, new_exec};
use crate::{
    domain::{
        exec::{ExecEvent, ExecSpec, OutputStream},
        redaction::Redactor,
    },
    ports::agent::AgentError,
    service::commands::CommandError,
};

/// Bytes that are kept of what was looked through, for a value that lies across two
/// pieces. Of a longer form that is cut only the parts are found that are looked for
/// by themselves.
const EDGE_BYTES: usize = 4 * 1024;
/// A longer head of an object is none of git's.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundCredential {
    /// The file, or what else of a commit it is.
    pub(crate) place: String,
    /// The marker of the credential.
    pub(crate) marker: String,
}

impl Git {
    /// The first credential in what a branch has and a commit has not: contents,
    /// names and messages, of every commit between them.
    pub(crate) async fn credential_since(
        &self,
        base_commit: &str,
        branch: &str,
        redactor: &Redactor,
    ) -> Result<Option<FoundCredential>, GitError> {
        if redactor.is_empty() {
            return Ok(None);
        }
        let script = r#"set -e
mkdir -p "${3%/*}"
git rev-list --objects "$1" "^$2" > "$3"
git cat-file --buffer --batch='%(objecttype) %(objectsize) %(rest)' < "$3"
rm -f "$3""#;
        let exec = new_exec();
        let list = format!("{SCRATCH}/{exec}");
        let branch = format!("refs/heads/{branch}");
        let argv = ["sh", "-c", script, "sh", &branch, base_commit, &list];
        let mut spec = ExecSpec::new(argv);
        spec.cwd = Some(self.site.directory.clone());
        spec.environment = environment();
        spec.timeout_ms = Some(300_000);
        let agent = self.commands.workspaces().agent(&self.site.workspace).await;
        let agent = agent.map_err(CommandError::from)?;
        // Not as other commands: their output comes without the credentials.
        let found = looked_through(agent.run(&exec, &spec), Search::new(redactor)).await;
        // Only tidiness: the agent forgets it in time by itself.
        let _ = agent.remove(&exec).await;
        found
    }
}

async fn looked_through(
    mut events: BoxStream<'static, Result<ExecEvent, AgentError>>,
    mut search: Search<'_>,
) -> Result<Option<FoundCredential>, GitError> {
    while let Some(event) = events.next().await {
        match event.map_err(CommandError::from)? {
            ExecEvent::Output {
                stream: OutputStream::Stdout,
                data,
                ..
            } => search.take(&data).map_err(unexpected)?,
            ExecEvent::Exited(exit) if exit.status.is_success() => {
                search.end().map_err(unexpected)?;
                return Ok(search.found);
            }
            ExecEvent::Exited(exit) => return Err(unexpected(exit.status.to_string())),
            ExecEvent::Gap(_) => return Err(unexpected("not all of its output was kept")),
            ExecEvent::Attached(_)
            | ExecEvent::Output {
                stream: OutputStream::Stderr,
                ..
            } => {}
        }
    }
    Err(unexpected("its output has no end"))
}

fn unexpected(message: impl Into<String>) -> GitError {
    GitError::Unexpected {
        action: "cat-file",
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
    let mut words = head.splitn(3, ' ');
    let (kind, length) = (words.next()?, words.next()?.parse().ok()?);
    let path = words.next().unwrap_or_default();
    let place = match (kind, path) {
        ("blob" | "tree", "") => "the names of files".to_owned(),
        ("blob", path) => path.to_owned(),
        ("tree", path) => format!("the names of files in {path}"),
        _ => "a commit's message".to_owned(),
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
        let clean = "commit 3 \nabc\nblob 2 a\nxy\n";
        assert_eq!(found(&[clean]), Ok(None));
        assert_eq!(found(&[]), Ok(None));
        let blob = "blob 15 src/.npmrc\nx=t0ken-of-npm\n\n";
        assert_eq!(found(&[clean, blob]), here("src/.npmrc"));
        let bytes: Vec<String> = blob.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(found(&bytes), here("src/.npmrc"));
        let message = "commit 12 \nt0ken-of-npm\n";
        assert_eq!(found(&[message]), here("a commit's message"));
        let named = "blob 1 t0ken-of-npm\nx\n";
        assert_eq!(found(&[named]), here("[redacted:npm]"));
        // Two objects side by side are two.
        assert_eq!(found(&["blob 5 a\nt0ken\nblob 7 b\n-of-npm\n"]), Ok(None));
    }

    #[test]
    fn what_git_does_not_print_is_no_answer() {
        for pieces in [
            &["what"][..],
            &["what\n"],
            &["blob x a\n"],
            &["blob 5 a\nab"],
        ] {
            assert!(found(pieces).is_err(), "{pieces:?}");
        }
        assert!(found(&[&"x".repeat(MAX_HEAD_BYTES + 1)]).is_err());
    }
}
