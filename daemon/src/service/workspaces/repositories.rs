//! Puts a repository into a workspace: fetched on the host as objects only,
//! streamed in as a bundle, and [checked out](super::checkout) inside.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::io::AsyncWriteExt as _;

use super::{
    GitSourceError, Workspaces, WorkspacesError,
    checkout::{Checkouts, Import, directory_of},
    git_source::{FetchedBundle, SourceUrl, Wanted, WantedSetup},
    setup::{Begin, Planned, SetupChoice},
};
use crate::{
    domain::{
        ids::{RepositoryName, WorkspaceId},
        setup::SetupSource,
        workspace::{Provenance, Repository, Workspace},
    },
    ports::{
        agent::AgentPort,
        store::{StoreError, StorePort},
    },
};

/// A repository to put into a workspace.
pub struct AddRepository {
    /// Who asks, such as a request's id: the same key again, after a kill,
    /// finds what was added for it.
    pub key: String,
    /// Whose word and whose rights it is added with.
    pub asker: Asker,
    /// Directory below `/workspace`; `None` means the source's last component.
    pub name: Option<RepositoryName>,
    /// Branch, tag or commit; `None` means the source's HEAD.
    pub reference: Option<String>,
    /// What decides about its setup.
    pub setup: SetupChoice,
    /// Where it comes from.
    pub origin: RepositoryOrigin,
}

/// Whose word and whose rights a repository is added with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody who may set the credentials of every project: what they say of a
    /// bundle's source counts, and URLs are fetched as the daemon's account.
    Admin,
    /// Anybody else: URLs are fetched as nobody, from the public Internet.
    Other,
    /// Somebody who reaches some workspaces only: the same, and what they add is of
    /// no project, whose credentials may be for others.
    OfSome,
}

/// Where a repository comes from.
pub enum RepositoryOrigin {
    /// The daemon fetches it.
    Url(String),
    /// A client streams a bundle. The stream ends at the first error.
    Stream {
        /// The client's path, for people; an admin's word where it came from.
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
    /// What was left out and why, and how it was set up, for a person.
    pub notes: Vec<String>,
}

impl Workspaces {
    /// Puts a repository into a workspace, which is started where needed, and
    /// sets it up. One repository at a time is added to a workspace.
    ///
    /// # Errors
    /// What [`GitSourceError`] says of the source; a directory that exists and
    /// was not made for the same key; a workspace that does not come up.
    /// Nothing is left behind. [`WorkspacesError::SetupFailed`]: the repository
    /// is there.
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
        let provenance = provenance_of(&request.origin, request.asker);
        let name = match request.name {
            Some(name) => name,
            None => name_of(&source)?,
        };
        let place = self.inner.adding.place(id);
        let _one_at_a_time = place.lock().await;
        let agent = self.agent_quietly(id).await?;
        let checkouts = Checkouts { agent: &*agent };
        // A kill of the daemon cuts an import off, but not its commands: they would
        // go on beside the retry.
        checkouts.clear_left_over().await?;
        let there = agent.stat(&directory_of(&name)).await?.is_some();
        let half_way = there && self.restoring(id, &name)?;
        if there {
            match checkouts.look(&name).await? {
                Some(found) if found.import.as_ref() == Some(&request.key) => {
                    let known = self.record(id)?;
                    let known = known.repositories.iter().find(|known| known.name == name);
                    let provenance = match (known, request.asker) {
                        // What was read in the workspace after a kill is nobody's
                        // word yet, and this is an admin's.
                        (Some(known), Asker::Admin) if known.source == source => provenance,
                        (None, Asker::Admin) => provenance,
                        (Some(known), _) => known.provenance,
                        // Nothing but the workspace's own files says that it was
                        // brought for this request.
                        (None, Asker::Other | Asker::OfSome) => Provenance::Claimed,
                    };
                    let repository = Repository {
                        source: known.map_or(source, |known| known.source.clone()),
                        provenance,
                        ..found.repository
                    };
                    self.record_repository(id, repository.clone()).await?;
                    let notes = self.finish_setup(id, &name).await?;
                    return Ok(AddedRepository { repository, notes });
                }
                _ if half_way => {}
                Some(_) | None => return Err(WorkspacesError::RepositoryExists(name)),
            }
        }
        let wanted = Wanted {
            reference: request.reference.as_deref(),
            setup: match &request.setup {
                SetupChoice::OwnFile => WantedSetup::OwnFile,
                SetupChoice::FileOf { commit, .. } => WantedSetup::FileOf(commit),
                SetupChoice::Skip => WantedSetup::None,
            },
        };
        let fetched = self
            .fetch(
                id,
                request.asker,
                request.origin,
                url.as_ref(),
                &source,
                wanted,
            )
            .await?;
        tracing::info!(workspace_id = %id, repository = %name, source, commit = fetched.commit,
            "checking out a repository");
        let import = Import {
            name: &name,
            key: &request.key,
            source: &source,
            origin: url.as_ref().map(SourceUrl::shown),
        };
        let planned = Planned {
            name: &name,
            key: &request.key,
            source: match &request.setup {
                SetupChoice::FileOf {
                    source: Some(source),
                    ..
                } => SetupSource::Vouched(source),
                SetupChoice::FileOf {
                    commit,
                    source: None,
                } => SetupSource::Commit(commit),
                SetupChoice::OwnFile | SetupChoice::Skip => match provenance {
                    Provenance::Fetched | Provenance::Declared => SetupSource::Vouched(&source),
                    Provenance::Claimed | Provenance::Unrecorded => {
                        SetupSource::Commit(&fetched.commit)
                    }
                },
            },
            fetched: &fetched.setup,
            half_way,
        };
        let mut notes = self.put_in_place(id, &planned, &fetched, &import).await?;
        let repository = Repository {
            name,
            source,
            commit: fetched.commit.clone(),
            branch: fetched.branch.clone(),
            provenance,
        };
        self.record_repository(id, repository.clone()).await?;
        if fetched.has_submodules {
            notes.push(
                "the repository has submodules; they were not fetched: add each as a repository \
                 of its own where it is needed"
                    .to_owned(),
            );
        }
        notes.extend(self.finish_setup(id, &repository.name).await?);
        Ok(AddedRepository { repository, notes })
    }

    async fn fetch(
        &self,
        id: &WorkspaceId,
        asker: Asker,
        origin: RepositoryOrigin,
        url: Option<&SourceUrl>,
        source: &str,
        wanted: Wanted<'_>,
    ) -> Result<FetchedBundle, WorkspacesError> {
        let git = &self.inner.git;
        Ok(match (origin, url) {
            (RepositoryOrigin::Url(_), Some(url)) => {
                let rights = self.fetch_rights(id, url, asker).await?;
                git.fetch_url(url, wanted, &rights).await?
            }
            (RepositoryOrigin::Url(_), None) => {
                return Err(GitSourceError::Empty(source.to_owned()).into());
            }
            (RepositoryOrigin::File { bundle, .. }, _) => {
                git.fetch_bundle(&bundle, source, wanted).await?
            }
            (RepositoryOrigin::Stream { bundle, .. }, _) => {
                let dir = git.scratch()?;
                let path = dir.path().join("received.bundle");
                receive(bundle, &path, git.limit_bytes(), source).await?;
                git.fetch_bundle(&path, source, wanted).await?
            }
        })
    }

    /// Checks out what was fetched, beside the result of its setup where that is
    /// known. Returns what a person should know of it.
    async fn put_in_place(
        &self,
        id: &WorkspaceId,
        planned: &Planned<'_>,
        fetched: &FetchedBundle,
        import: &Import<'_>,
    ) -> Result<Vec<String>, WorkspacesError> {
        let name = planned.name;
        let mut notes = Vec::new();
        let restored = match self.plan_setup(id, planned).await? {
            Begin::InPlace => true,
            Begin::Restore(snapshot) => match self.restore_setup(id, name, &snapshot).await? {
                Ok(()) => true,
                Err(problem) => {
                    let note = "a setup that was kept cannot be used, so it is run again";
                    notes.push(format!("{note}: {problem}"));
                    false
                }
            },
            Begin::CheckOut => false,
        };
        // A restore has made another container.
        let agent = self.agent_quietly(id).await?;
        let checkouts = Checkouts { agent: &*agent };
        if restored {
            checkouts.replace(fetched, import).await?;
        } else if let Err(error) = checkouts.import(fetched, import).await {
            self.put_setup(id, name, None).await?;
            return Err(error);
        }
        Ok(notes)
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

    /// Records the repositories that are in a workspace and not in its record:
    /// those of one that was adopted, and those that were cloned inside. The
    /// workspace is started where needed.
    ///
    /// # Errors
    /// A workspace that does not come up, or whose git cannot be asked.
    pub async fn find_repositories(
        &self,
        id: &WorkspaceId,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let agent = self.agent(id).await?;
        let checkouts = Checkouts { agent: &*agent };
        let found = checkouts.look_everywhere().await?;
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        self.record_found(id, found).await
    }

    /// As [`find_repositories`](Self::find_repositories), for a workspace whose
    /// record has none and whose agent has just come up; the caller holds its
    /// lock. What cannot be found out now is found out at the first need.
    pub(super) async fn find_first_repositories(&self, id: &WorkspaceId, agent: &dyn AgentPort) {
        let knows_none = (self.inner.index.get(id)).is_some_and(|w| w.repositories.is_empty());
        if !knows_none {
            return;
        }
        let found = match (Checkouts { agent }).look_everywhere().await {
            Ok(found) => self.record_found(id, found).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = found {
            tracing::warn!(workspace_id = %id, %error, "a workspace's repositories are not known");
        }
    }

    /// Clears away what an import left that was cut off, where none is under way;
    /// what cannot be cleared now is cleared before the next import.
    pub(super) async fn clear_left_over_imports(&self, id: &WorkspaceId, agent: &dyn AgentPort) {
        let place = self.inner.adding.place(id);
        let Ok(_nobody_adds) = place.try_lock() else {
            return;
        };
        if let Err(error) = (Checkouts { agent }).clear_left_over().await {
            tracing::warn!(workspace_id = %id, %error, "what an import left is cleared away later");
        }
    }

    async fn record_found(
        &self,
        id: &WorkspaceId,
        found: Vec<Repository>,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let record = self.record(id)?;
        let mut workspace = Workspace::clone(&record);
        for repository in found {
            if !(workspace.repositories.iter()).any(|known| known.name == repository.name) {
                tracing::info!(workspace_id = %id, repository = %repository.name,
                    "found a repository in a workspace");
                workspace.repositories.push(repository);
            }
        }
        if workspace == *record {
            return Ok(record);
        }
        workspace.repositories.sort_by(|a, b| a.name.cmp(&b.name));
        self.save(workspace).await
    }
}

type PlaceLock = tokio::sync::Mutex<()>;

/// Repositories being added. Each workspace has a lock, so that nobody adds to a
/// place that somebody else is about to fill, or to replace.
#[derive(Debug, Default)]
pub(super) struct Adding {
    /// Locks that somebody holds or waits for. The map's own lock is held for a
    /// look-up only.
    places: Mutex<HashMap<WorkspaceId, Weak<PlaceLock>>>,
}

impl Adding {
    pub(super) fn place(&self, id: &WorkspaceId) -> Arc<PlaceLock> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = places.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        places.insert(id.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// Who says that a repository comes from its source.
pub(super) fn provenance_of(origin: &RepositoryOrigin, asker: Asker) -> Provenance {
    match (origin, asker) {
        (RepositoryOrigin::Url(_), Asker::Admin | Asker::Other) => Provenance::Fetched,
        (RepositoryOrigin::Stream { .. } | RepositoryOrigin::File { .. }, Asker::Admin) => {
            Provenance::Declared
        }
        (RepositoryOrigin::Stream { .. } | RepositoryOrigin::File { .. }, Asker::Other)
        | (_, Asker::OfSome) => Provenance::Claimed,
    }
}

/// Records of older daemons with what they did not say: who vouches for the
/// sources of repositories. Where there is no token, nobody but the local user can
/// have brought them; elsewhere anybody can.
pub(super) async fn with_provenance(
    store: &dyn StorePort,
    mut workspaces: Vec<Workspace>,
) -> Result<Vec<Workspace>, StoreError> {
    let is_old = |repository: &Repository| repository.provenance == Provenance::Unrecorded;
    let provenance = match store.tokens().await?.is_empty() {
        true => Provenance::Declared,
        false => Provenance::Claimed,
    };
    for workspace in &mut workspaces {
        if !workspace.repositories.iter().any(is_old) {
            continue;
        }
        let id = workspace.id.clone();
        for repository in &mut workspace.repositories {
            if is_old(repository) {
                tracing::info!(workspace_id = %id, repository = %repository.name, ?provenance,
                    "an older daemon did not say who vouches for a repository's source");
                repository.provenance = provenance;
            }
        }
        // A daemon with a full disk starts; the next one asks again.
        if let Err(error) = store.update_workspace(workspace).await {
            tracing::warn!(workspace_id = %id, %error, "who vouches for its repositories is not kept");
        }
    }
    Ok(workspaces)
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
}
