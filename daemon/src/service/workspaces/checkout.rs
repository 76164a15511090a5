//! A repository's way into a workspace, and what can be told of one that is
//! there. Everything is done by the workspace's own git, as its own user; what
//! comes back is untrusted.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

use super::{
    GitSourceError, WorkspacesError,
    git_source::{FetchedBundle, without_credentials},
};
use crate::{
    domain::{
        exec::{
            ExecEvent, ExecSpec, ExitStatus, Leftovers, OutputOffsets, OutputStream, Reading,
            SignalTarget,
        },
        files::FileKind,
        ids::{ExecId, RepositoryName},
        workspace::{Provenance, Repository},
    },
    ports::agent::{AgentError, AgentPort},
};

/// Where each import has a directory of its own for a moment, inside.
pub(super) const IMPORT_DIR: &str = "/workspace/.compy/import";
/// What the ids of an import's commands begin with; a UUID follows.
const IMPORT_COMMAND: &str = "compy-import";
/// Directories of imports that are cleared away at a time.
const CLEARED: u32 = 100;
/// What the ids of commands begin with that only look.
const LOOK_COMMAND: &str = "repository";
/// Time that a command of an import which was cut off may take to end.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// Time that one git command of an import may take inside.
const IMPORT_TIMEOUT_MS: u64 = 15 * 60 * 1000;
/// Time that a question about a repository may take inside.
const LOOK_TIMEOUT_MS: u64 = 20 * 1000;
/// Directories below `/workspace` that are looked at.
const LOOKED_AT: u32 = 1_000;
/// Who signs commits where nobody else says so.
const COMMITTER: [&str; 2] = ["user.name=Compy", "user.email=compy@localhost"];
/// Setting of a repository: where it came from, for people.
const SOURCE: &str = "compy.source";
/// Setting of a repository: the key of the request that brought it.
const IMPORT: &str = "compy.import";

/// A repository to be checked out.
pub(super) struct Import<'a> {
    pub(super) name: &'a RepositoryName,
    /// The request's key, kept beside the source in the repository's settings.
    pub(super) key: &'a str,
    pub(super) source: &'a str,
    /// What `origin` points to, without credentials; `None` for a client's
    /// path: there is nothing to fetch from in here.
    pub(super) origin: Option<&'a str>,
}

/// A repository that is in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) repository: Repository,
    /// Key of the request that brought it, where one did.
    pub(super) import: Option<String>,
}

/// The inside of a workspace, as far as repositories go.
pub(super) struct Checkouts<'a> {
    pub(super) agent: &'a dyn AgentPort,
}

impl Checkouts<'_> {
    /// Checks a bundle out. The directory is there as a whole or not at all,
    /// and one that is there already is left alone.
    pub(super) async fn import(
        &self,
        fetched: &FetchedBundle,
        import: &Import<'_>,
    ) -> Result<(), WorkspacesError> {
        let own = format!("{IMPORT_DIR}/{}", Uuid::now_v7().simple());
        let archive = archive_of(&fetched.path, "bundle")
            .await
            .map_err(|error| GitSourceError::Host(error.to_string()))?;
        let uploaded = self.agent.upload(&own, None, archive).await;
        let done = match uploaded {
            Ok(_) => self.check_out(fetched, import, &own).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.must(&["rm", "-rf", "--", &own]).await {
            tracing::warn!(directory = own, %error, "cannot clean up after a checkout");
        }
        done
    }

    async fn check_out(
        &self,
        fetched: &FetchedBundle,
        import: &Import<'_>,
        own: &str,
    ) -> Result<(), WorkspacesError> {
        let (bundle, tree) = (format!("{own}/bundle"), format!("{own}/tree"));
        let settings = [
            format!("{SOURCE}={}", import.source),
            format!("{IMPORT}={}", import.key),
        ];
        let mut clone = vec!["git", "-c", "core.hooksPath=/dev/null", "clone", "--quiet"];
        // Hooks come from templates; these settings stay in the repository.
        clone.extend(["--template=", "--branch", &fetched.branch]);
        for setting in COMMITTER.into_iter().chain(settings.iter().map(|s| &**s)) {
            clone.extend(["-c", setting]);
        }
        clone.extend(["--", &bundle, &tree]);
        self.must(&clone).await?;
        let at = ["git", "-C", &tree];
        match import.origin {
            Some(url) => {
                self.must(&[&at[..], &["remote", "set-url", "origin", url]].concat())
                    .await
            }
            None => {
                self.must(&[&at[..], &["remote", "remove", "origin"]].concat())
                    .await
            }
        }?;
        let head = self
            .must(&[&at[..], &["rev-parse", "HEAD"]].concat())
            .await?;
        if head.trim() != fetched.commit {
            let message = format!("{} was checked out, not {}", head.trim(), fetched.commit);
            return Err(WorkspacesError::Checkout(message));
        }
        let directory = directory_of(import.name);
        // Without -T it would go into a directory that a person made meanwhile.
        let moved = self.must(&["mv", "-T", "--", &tree, &directory]).await;
        if moved.is_err() && self.agent.stat(&directory).await?.is_some() {
            return Err(WorkspacesError::RepositoryExists(import.name.clone()));
        }
        moved.map(drop)
    }

    /// Ends what an import that was cut off has left running, and removes what it
    /// has left lying. The caller sees to it that none is under way.
    pub(super) async fn clear_left_over(&self) -> Result<(), WorkspacesError> {
        if self.agent.stat(IMPORT_DIR).await?.is_none() {
            return Ok(());
        }
        // An import runs nothing while it has no directory.
        let left = self.agent.list_directory(IMPORT_DIR, Some(CLEARED)).await?;
        if left.entries.is_empty() {
            return Ok(());
        }
        for exec in self.agent.list(true).await? {
            if is_of_import(&exec.id) {
                tracing::info!(exec_id = %exec.id, "ending a command of an import that was cut off");
                self.end(&exec.id).await?;
            }
        }
        let entries = left.entries.iter();
        let names = entries.filter_map(|entry| entry.path.rsplit('/').next());
        let paths: Vec<String> = names.map(|name| format!("{IMPORT_DIR}/{name}")).collect();
        let mut remove = vec!["rm", "-rf", "--"];
        remove.extend(paths.iter().map(String::as_str));
        if let Err(error) = self.must(&remove).await {
            tracing::warn!(%error, "cannot clean up after a checkout that was cut off");
        }
        Ok(())
    }

    /// Ends a command, and waits for that.
    async fn end(&self, id: &ExecId) -> Result<(), WorkspacesError> {
        let ended = async {
            let at_once = SignalTarget::End { grace_ms: 0 };
            self.agent.signal(id, None, at_once).await?;
            let from = OutputOffsets::default();
            let mut events = self.agent.attach(id, from, Reading::ExitOnly);
            while let Some(event) = events.next().await {
                if matches!(event?, ExecEvent::Exited(_)) {
                    break;
                }
            }
            Ok::<_, AgentError>(())
        };
        match tokio::time::timeout(END_DEADLINE, ended).await {
            Ok(ended) => ended?,
            Err(_) => {
                let (call, seconds) = ("the end of an import", END_DEADLINE.as_secs());
                return Err(AgentError::Deadline { call, seconds }.into());
            }
        }
        drop(self.agent.remove(id).await);
        Ok(())
    }

    /// The repository in a directory below `/workspace`; `None` when there is
    /// no directory of this name, or no repository in it.
    pub(super) async fn look(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<Found>, WorkspacesError> {
        const SHOWN: usize = 1_024;
        let directory = directory_of(name);
        if self
            .agent
            .stat(&format!("{directory}/.git"))
            .await?
            .is_none()
        {
            return Ok(None);
        }
        let ask = async |arguments: &[&str]| {
            let at = ["git", "-C", &directory];
            self.run(&[&at[..], arguments].concat(), LOOK_TIMEOUT_MS)
                .await
        };
        let commit = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?;
        let branch = ask(&["symbolic-ref", "--short", "--quiet", "HEAD"]).await?;
        let wanted = r"^(compy\.(source|import)|remote\.origin\.url)$";
        let settings = ask(&["config", "--local", "--null", "--get-regexp", wanted]).await?;
        let settings = settings.unwrap_or_default();
        let setting = |key: &str| {
            let mut settings = settings
                .split('\0')
                .filter_map(|pair| pair.split_once('\n'));
            let (_, value) = settings.find(|(known, _)| *known == key)?;
            Some(value.chars().take(SHOWN).collect::<String>())
        };
        let source = setting(SOURCE).or_else(|| setting("remote.origin.url"));
        Ok(Some(Found {
            repository: Repository {
                name: name.clone(),
                source: without_credentials(&source.unwrap_or_default()),
                commit: commit.unwrap_or_default().trim().to_owned(),
                branch: branch.unwrap_or_default().trim().to_owned(),
                // Whoever is inside can have written that.
                provenance: Provenance::Claimed,
            },
            import: setting(IMPORT),
        }))
    }

    /// Every repository below `/workspace`, by name.
    pub(super) async fn look_everywhere(&self) -> Result<Vec<Repository>, WorkspacesError> {
        let listing = self
            .agent
            .list_directory("/workspace", Some(LOOKED_AT))
            .await?;
        let mut found = Vec::new();
        for entry in listing.entries {
            let name = entry.path.rsplit('/').next().unwrap_or_default().parse();
            if let (FileKind::Directory, Ok(name)) = (entry.kind, name) {
                found.extend(self.look(&name).await?.map(|found| found.repository));
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Standard output of a command of an import, which must exit with 0.
    pub(super) async fn must(&self, argv: &[&str]) -> Result<String, WorkspacesError> {
        let outcome = self.outcome(IMPORT_COMMAND, argv, IMPORT_TIMEOUT_MS);
        let (status, stdout, stderr) = outcome.await?;
        match status {
            ExitStatus::Code(0) => Ok(stdout),
            status => Err(WorkspacesError::Checkout(format!(
                "{status}: {}",
                stderr.trim()
            ))),
        }
    }

    /// Standard output of a command; `None` when it does not exit with 0.
    async fn run(&self, argv: &[&str], timeout_ms: u64) -> Result<Option<String>, WorkspacesError> {
        let (status, stdout, _) = self.outcome(LOOK_COMMAND, argv, timeout_ms).await?;
        Ok((status == ExitStatus::Code(0)).then_some(stdout))
    }

    /// How a command ended, and the start of its outputs.
    async fn outcome(
        &self,
        kind: &str,
        argv: &[&str],
        timeout_ms: u64,
    ) -> Result<(ExitStatus, String, String), WorkspacesError> {
        const KEPT: usize = 4096;
        let mut spec = ExecSpec::new(argv);
        spec.timeout_ms = Some(timeout_ms);
        spec.leftovers = Leftovers::Kill;
        let id: ExecId = format!("{kind}-{}", Uuid::now_v7().simple())
            .parse()
            .map_err(|error| WorkspacesError::Dropped(format!("{error}")))?;
        let mut events = self.agent.run(&id, &spec);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut exit = None;
        while let Some(event) = events.next().await {
            match event? {
                ExecEvent::Output { stream, data, .. } => {
                    let kept = match stream {
                        OutputStream::Stdout => &mut stdout,
                        OutputStream::Stderr => &mut stderr,
                    };
                    let room = KEPT.saturating_sub(kept.len()).min(data.len());
                    kept.extend_from_slice(&data[..room]);
                }
                ExecEvent::Exited(how) => exit = Some(how.status),
                ExecEvent::Attached(_) | ExecEvent::Gap(_) => {}
            }
        }
        // Nobody asks for this command again; a spool that stays is harmless.
        drop(self.agent.remove(&id).await);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match exit {
            Some(ExitStatus::NotStarted(why)) => Err(WorkspacesError::Checkout(format!(
                "{why}; choose an image with git"
            ))),
            Some(status) => Ok((status, text(stdout), text(stderr))),
            None => Err(AgentError::Unreachable("git's exit never came".to_owned()).into()),
        }
    }
}

/// Whether a command was run by an import: others choose their ids as they like.
fn is_of_import(id: &ExecId) -> bool {
    let rest = (id.as_str().strip_prefix(IMPORT_COMMAND)).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| rest.len() == 32 && Uuid::parse_str(rest).is_ok())
}

pub(super) fn directory_of(name: &RepositoryName) -> String {
    format!("/workspace/{name}")
}

/// A tar stream with one file in it.
pub(in crate::service) async fn archive_of(
    path: &std::path::Path,
    name: &str,
) -> std::io::Result<BoxStream<'static, Bytes>> {
    const PIECE: usize = 512 * 1024;
    const BLOCK: u64 = 512;
    let file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let header = Bytes::copy_from_slice(header.as_bytes());
    // The file filled up to a block, then two blocks that end the archive.
    let filling = size.next_multiple_of(BLOCK) - size + 2 * BLOCK;
    let filling = Bytes::from(vec![0; usize::try_from(filling).unwrap_or(0)]);
    let pieces = futures_util::stream::unfold(file.take(size), |mut file| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        // A read that fails cuts the archive short, which the agent refuses.
        match file.read_buf(&mut piece).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some((piece.freeze(), file)),
        }
    });
    let whole = futures_util::stream::iter([header])
        .chain(pieces)
        .chain(futures_util::stream::iter([filling]));
    Ok(whole.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_archive_of_a_bundle_is_a_tar_with_one_file() {
        for size in [0, 1, 511, 512, 513, 1_100_000] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            std::fs::write(file.path(), &content).unwrap();
            let pieces: Vec<Bytes> = archive_of(file.path(), "x.bundle")
                .await
                .unwrap()
                .collect()
                .await;
            let whole = pieces.concat();
            let mut archive = tar::Archive::new(&whole[..]);
            let mut entries = archive.entries().unwrap();
            let mut entry = entries.next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str(), Some("x.bundle"));
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut unpacked).unwrap();
            assert!(unpacked == content, "{size} bytes");
            assert!(entries.next().is_none());
        }
    }
}
