//! Puts a repository into a workspace: fetched on the host as objects only,
//! streamed in as a bundle, checked out inside by the workspace's own git as
//! the workspace's own user.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::{
    GitSourceError, Workspaces, WorkspacesError,
    git_source::{FetchedBundle, SourceUrl},
};
use crate::{
    domain::{
        exec::{ExecEvent, ExecSpec, ExitStatus, Leftovers, OutputStream},
        ids::{ExecId, RepositoryName, WorkspaceId},
        workspace::{Repository, Workspace},
    },
    ports::agent::{AgentError, AgentPort},
};

/// Where a bundle is for a moment, inside.
const IMPORT_DIR: &str = "/workspace/.compy/import";
/// Time that one git command may take inside.
const CHECKOUT_TIMEOUT_MS: u64 = 15 * 60 * 1000;
/// Who signs commits where nobody else says so.
const COMMITTER: [&str; 2] = ["user.name=Compy", "user.email=compy@localhost"];

/// A repository to put into a workspace.
pub struct AddRepository {
    /// Directory below `/workspace`; `None` means the source's last component.
    pub name: Option<RepositoryName>,
    /// Branch, tag or commit; `None` means the source's HEAD.
    pub reference: Option<String>,
    /// Where it comes from.
    pub origin: RepositoryOrigin,
}

/// Where a repository comes from.
pub enum RepositoryOrigin {
    /// The daemon fetches it.
    Url(String),
    /// A client streams a bundle. The stream ends at the first error.
    Stream {
        /// The client's path, for people.
        source: String,
        /// The bundle.
        bundle: BoxStream<'static, Result<Bytes, String>>,
    },
    /// A bundle on the daemon's own host.
    File {
        /// For people.
        source: String,
        /// The bundle.
        bundle: PathBuf,
    },
}

/// A repository that was put into a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedRepository {
    /// As it was checked out.
    pub repository: Repository,
    /// What was left out and why, for a person.
    pub notes: Vec<String>,
}

impl Workspaces {
    /// Puts a repository into a workspace, which is started where needed.
    ///
    /// # Errors
    /// What [`GitSourceError`] says of the source; a directory that exists; a
    /// workspace that does not come up. Nothing is left behind.
    pub async fn add_repository(
        &self,
        id: &WorkspaceId,
        request: AddRepository,
    ) -> Result<AddedRepository, WorkspacesError> {
        let (source, url) = match &request.origin {
            RepositoryOrigin::Url(url) => {
                let url = SourceUrl::parse(url, self.inner.git.allows_file_urls())?;
                (url.shown().to_owned(), Some(url))
            }
            RepositoryOrigin::Stream { source, .. } | RepositoryOrigin::File { source, .. } => {
                (source.clone(), None)
            }
        };
        let name = match request.name {
            Some(name) => name,
            None => name_of(&source)?,
        };
        let agent = self.agent(id).await?;
        let directory = format!("/workspace/{name}");
        if agent.stat(&directory).await?.is_some() {
            return Err(WorkspacesError::RepositoryExists(name));
        }
        let reference = request.reference.as_deref();
        let git = &self.inner.git;
        let fetched = match (request.origin, &url) {
            (RepositoryOrigin::Url(_), Some(url)) => git.fetch_url(url, reference).await?,
            (RepositoryOrigin::Url(_), None) => return Err(GitSourceError::Empty(source).into()),
            (RepositoryOrigin::File { bundle, .. }, _) => {
                git.fetch_bundle(&bundle, &source, reference).await?
            }
            (RepositoryOrigin::Stream { bundle, .. }, _) => {
                let dir = git.scratch()?;
                let path = dir.path().join("received.bundle");
                receive(bundle, &path, git.limit_bytes(), &source).await?;
                git.fetch_bundle(&path, &source, reference).await?
            }
        };
        tracing::info!(workspace_id = %id, repository = %name, source, commit = fetched.commit,
            "checking out a repository");
        let checkout = Checkout {
            agent: &*agent,
            directory: &directory,
            origin: url.as_ref().map(SourceUrl::shown),
        };
        if let Err(error) = checkout.run(&fetched).await {
            checkout.clear(&["rm", "-rf", "--", &directory]).await;
            return Err(error);
        }
        let repository = Repository {
            name,
            source,
            commit: fetched.commit.clone(),
            branch: fetched.branch.clone(),
        };
        self.record_repository(id, repository.clone()).await?;
        let mut notes = Vec::new();
        if fetched.has_submodules {
            notes.push(
                "the repository has submodules; they were not fetched: add each as a repository \
                 of its own where it is needed"
                    .to_owned(),
            );
        }
        Ok(AddedRepository { repository, notes })
    }

    async fn record_repository(
        &self,
        id: &WorkspaceId,
        repository: Repository,
    ) -> Result<(), WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let mut workspace = Workspace::clone(&*self.record(id)?);
        workspace
            .repositories
            .retain(|known| known.name != repository.name);
        workspace.repositories.push(repository);
        workspace.repositories.sort_by(|a, b| a.name.cmp(&b.name));
        self.save(workspace).await.map(|_| ())
    }
}

/// The last component of a URL or path, as a directory's name.
fn name_of(source: &str) -> Result<RepositoryName, WorkspacesError> {
    let last = source
        .trim_end_matches('/')
        .rsplit(['/', ':'])
        .next()
        .unwrap_or_default();
    let last = last.strip_suffix(".git").unwrap_or(last);
    let last = last.strip_suffix(".bundle").unwrap_or(last);
    last.parse().map_err(|_| {
        WorkspacesError::Source(GitSourceError::UrlInvalid {
            url: source.chars().take(200).collect(),
            why: "its last component is no name for a directory; give a name",
        })
    })
}

/// Writes a streamed bundle to disk.
async fn receive(
    mut bundle: BoxStream<'static, Result<Bytes, String>>,
    path: &std::path::Path,
    limit_bytes: u64,
    source: &str,
) -> Result<(), WorkspacesError> {
    let host = |error: std::io::Error| GitSourceError::Host(error.to_string());
    let mut file = tokio::fs::File::create(path).await.map_err(host)?;
    let mut received = 0_u64;
    while let Some(piece) = bundle.next().await {
        let piece = piece.map_err(GitSourceError::BundleInvalid)?;
        received += piece.len() as u64;
        if received > limit_bytes {
            let why = format!("it is larger than {} MiB", limit_bytes >> 20);
            let source_name = source.to_owned();
            return Err(GitSourceError::GivenUp { source_name, why }.into());
        }
        file.write_all(&piece).await.map_err(host)?;
    }
    file.flush().await.map_err(host)?;
    Ok(())
}

/// A bundle's way into a workspace.
struct Checkout<'a> {
    agent: &'a dyn AgentPort,
    directory: &'a str,
    /// What `origin` points to, without credentials.
    origin: Option<&'a str>,
}

impl Checkout<'_> {
    async fn run(&self, fetched: &FetchedBundle) -> Result<(), WorkspacesError> {
        let name = format!("{}.bundle", Uuid::now_v7().simple());
        let archive = archive_of(&fetched.path, &name)
            .await
            .map_err(|error| GitSourceError::Host(error.to_string()))?;
        self.agent.upload(IMPORT_DIR, None, archive).await?;
        let bundle = format!("{IMPORT_DIR}/{name}");
        let done = self.check_out(fetched, &bundle).await;
        self.clear(&["rm", "-rf", "--", IMPORT_DIR]).await;
        done
    }

    async fn check_out(
        &self,
        fetched: &FetchedBundle,
        bundle: &str,
    ) -> Result<(), WorkspacesError> {
        let mut clone = vec!["git", "-c", "core.hooksPath=/dev/null", "clone", "--quiet"];
        // Hooks come from templates; these settings stay in the repository.
        clone.extend(["--template=", "--branch", &fetched.branch]);
        for setting in COMMITTER {
            clone.extend(["-c", setting]);
        }
        clone.extend(["--", bundle, self.directory]);
        self.must(&clone).await?;
        let at = ["git", "-C", self.directory];
        match self.origin {
            Some(url) => {
                self.must(&[&at[..], &["remote", "set-url", "origin", url]].concat())
                    .await
            }
            // A path of the client's: nothing to fetch from in here.
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
        Ok(())
    }

    /// Standard output of a command that must exit with 0.
    async fn must(&self, argv: &[&str]) -> Result<String, WorkspacesError> {
        const KEPT: usize = 4096;
        let mut spec = ExecSpec::new(argv);
        spec.timeout_ms = Some(CHECKOUT_TIMEOUT_MS);
        spec.leftovers = Leftovers::Kill;
        let id: ExecId = format!("repository-{}", Uuid::now_v7().simple())
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
                ExecEvent::Attached(_) | ExecEvent::Gap { .. } => {}
            }
        }
        // Nobody asks for this command again; a spool that stays is harmless.
        drop(self.agent.remove(&id).await);
        match exit {
            Some(ExitStatus::Code(0)) => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            Some(ExitStatus::NotStarted(why)) => Err(WorkspacesError::Checkout(format!(
                "{why}; choose an image with git"
            ))),
            Some(status) => {
                let words = String::from_utf8_lossy(&stderr);
                Err(WorkspacesError::Checkout(format!(
                    "{status}: {}",
                    words.trim()
                )))
            }
            None => Err(AgentError::Unreachable("git's exit never came".to_owned()).into()),
        }
    }

    /// Cleans up; what cannot be is said and left.
    async fn clear(&self, argv: &[&str]) {
        if let Err(error) = self.must(argv).await {
            tracing::warn!(directory = self.directory, %error, "cannot clean up after a checkout");
        }
    }
}

/// A tar stream with one file in it.
async fn archive_of(
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

    #[test]
    fn a_repository_is_named_by_its_source() {
        for (source, expected) in [
            ("https://host/a/slug.git", "slug"),
            ("https://host/a/slug/", "slug"),
            ("ssh://git@host/slug", "slug"),
            ("/home/me/My-Project", "My-Project"),
            ("/home/me/x.bundle", "x"),
        ] {
            assert_eq!(name_of(source).unwrap().as_str(), expected, "{source}");
        }
        for source in [
            "https://host/..",
            "",
            "/",
            "https://host/a b",
            "https://host/-x",
        ] {
            assert!(name_of(source).is_err(), "{source}");
        }
    }

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
