//! The local forge: a bare repository for each repository of a workspace, and
//! pull requests in the store.
//!
//! Bundles come from a workspace and are untrusted: objects are checked while
//! they are unpacked and looked through for credentials before a branch moves,
//! nothing is ever checked out, and no hook runs.

mod search;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{process::Command, sync::Mutex};

use crate::{
    domain::{
        forge::{ForgeCheck, PullRequest, PullRequestDraft},
        redaction::Redactor,
    },
    ports::{
        forge::{BUNDLED_BASE, ForgeError, ForgePort, ForgeRepository, Publication},
        store::{StoreError, StorePort},
    },
};

/// A forge below a directory of the host.
pub struct LocalForge {
    directory: PathBuf,
    store: Arc<dyn StorePort>,
    /// Guards what is read and then written: a branch's end, the pull requests
    /// of a repository. Publishing is rare and short, so one for all will do.
    writing: Mutex<()>,
}

/// Where the branches of a bundle arrive before they are judged.
const INCOMING: &str = "refs/compy/incoming/";

/// How long one run of git, or one search, may take.
const TIMEOUT: Duration = Duration::from_secs(300);

impl LocalForge {
    /// A forge that keeps its repositories in `<directory>/<workspace>/`.
    #[must_use]
    pub fn new(directory: PathBuf, store: Arc<dyn StorePort>) -> Self {
        Self {
            directory,
            store,
            writing: Mutex::new(()),
        }
    }

    /// The bare repository of a repository.
    #[must_use]
    pub fn path(&self, repository: &ForgeRepository) -> PathBuf {
        self.directory
            .join(repository.workspace.as_str())
            .join(format!("{}.git", repository.repository))
    }

    async fn ensure(&self, repository: &ForgeRepository) -> Result<PathBuf, ForgeError> {
        let path = self.path(repository);
        if !path.join("HEAD").exists() {
            let failed = |error: std::io::Error| failed("make a repository", &error);
            tokio::fs::create_dir_all(&path).await.map_err(failed)?;
            succeeded(
                "make a repository",
                git(&path, &["init", "--quiet", "--bare", "--template="]).await?,
            )?;
        }
        Ok(path)
    }

    /// Takes a bundle's branch and its base in, checked, below [`INCOMING`].
    async fn fetch(&self, path: &Path, branch: &str, bundle: &Path) -> Result<(), ForgeError> {
        let invalid = |message: String| ForgeError::BundleInvalid {
            branch: branch.to_owned(),
            message,
        };
        self.forget_incoming(path).await?;
        let bundle = bundle
            .to_str()
            .ok_or_else(|| invalid("its path is no text".to_owned()))?;
        let branch_here = format!("+refs/heads/{branch}:{INCOMING}head");
        let base_here = format!("+{BUNDLED_BASE}:{INCOMING}base");
        let output = git(
            path,
            &[
                "-c",
                "fetch.fsckObjects=true",
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-recurse-submodules",
                bundle,
                &branch_here,
                &base_here,
            ],
        )
        .await?;
        if output.status.success() {
            return Ok(());
        }
        Err(invalid(message(&output)))
    }

    /// Publishes what has arrived, where it is what it should be.
    async fn take(
        &self,
        path: &Path,
        publication: &Publication,
        redactor: &Redactor,
    ) -> Result<(), ForgeError> {
        let Publication {
            branch,
            commit,
            base_branch,
            base_commit,
        } = publication;
        let incoming = self.references(path, INCOMING).await?;
        for (name, wanted) in [("head", commit), ("base", base_commit)] {
            let end = incoming
                .iter()
                .find(|(reference, _)| reference.strip_prefix(INCOMING) == Some(name))
                .map_or("nothing", |(_, end)| end);
            if end != wanted {
                return Err(ForgeError::BundleInvalid {
                    branch: branch.clone(),
                    message: format!("its {name} ends at {end}, not at {wanted}"),
                });
            }
        }
        // What the base brings is new here as well, where the forge has an older one.
        let known = self.branch_end(path, base_branch).await?;
        let from = known.as_ref().unwrap_or(base_commit);
        let found = search::credential_between(path, from, commit, redactor).await?;
        if let Some(search::FoundCredential { place, marker }) = found {
            return Err(ForgeError::HoldsCredential {
                branch: branch.clone(),
                place,
                marker,
                base: base_commit.clone(),
            });
        }
        self.advance(path, branch, commit).await?;
        match self.advance(path, base_branch, base_commit).await {
            // The forge's own has gone on: the diff is from where they parted.
            Ok(()) | Err(ForgeError::PushRejected { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has no object of a branch that was refused in the repository.
    async fn forget_objects(&self, path: &Path) -> Result<(), ForgeError> {
        let output = git(path, &["gc", "--quiet", "--prune=now"]).await?;
        succeeded("forget a bundle", output).map(drop)
    }

    async fn forget_incoming(&self, path: &Path) -> Result<(), ForgeError> {
        for (reference, _) in self.references(path, INCOMING).await? {
            let output = git(path, &["update-ref", "-d", &reference]).await?;
            succeeded("forget a bundle", output)?;
        }
        Ok(())
    }

    /// References below a prefix and their commits.
    async fn references(
        &self,
        path: &Path,
        prefix: &str,
    ) -> Result<Vec<(String, String)>, ForgeError> {
        let format = "--format=%(refname) %(objectname)";
        let output = git(path, &["for-each-ref", format, prefix]).await?;
        let output = succeeded("list branches", output)?;
        let lines = output.lines().filter_map(|line| line.split_once(' '));
        Ok(lines
            .map(|(name, commit)| (name.to_owned(), commit.to_owned()))
            .collect())
    }

    async fn branch_end(&self, path: &Path, branch: &str) -> Result<Option<String>, ForgeError> {
        let name = format!("refs/heads/{branch}");
        let found = self.references(path, &name).await?;
        Ok(found
            .into_iter()
            .find(|(reference, _)| *reference == name)
            .map(|(_, commit)| commit))
    }

    /// Moves a branch forwards; anything else is rejected.
    async fn advance(&self, path: &Path, branch: &str, commit: &str) -> Result<(), ForgeError> {
        let name = format!("refs/heads/{branch}");
        let old = self.branch_end(path, branch).await?;
        if old.as_deref() == Some(commit) {
            return Ok(());
        }
        if let Some(old) = &old {
            let output = git(path, &["merge-base", "--is-ancestor", old, commit]).await?;
            if !output.status.success() {
                return Err(ForgeError::PushRejected {
                    branch: branch.to_owned(),
                });
            }
        }
        // The old end is named, so that nothing is lost between the two.
        let old = old.unwrap_or_else(|| "0".repeat(commit.len()));
        let output = git(path, &["update-ref", &name, commit, &old]).await?;
        succeeded("move a branch", output).map(|_| ())
    }

    fn key(repository: &ForgeRepository) -> String {
        format!("{}/{}", repository.workspace, repository.repository)
    }

    async fn pull_requests(
        &self,
        repository: &ForgeRepository,
    ) -> Result<Vec<PullRequest>, ForgeError> {
        let found = self.store.pull_requests(&Self::key(repository)).await;
        found.map_err(|error| store_failed("list pull requests", &error))
    }

    async fn keep(
        &self,
        repository: &ForgeRepository,
        pull_request: &PullRequest,
    ) -> Result<(), ForgeError> {
        let kept = self
            .store
            .put_pull_request(&Self::key(repository), pull_request)
            .await;
        kept.map_err(|error| store_failed("keep a pull request", &error))
    }
}

#[async_trait]
impl ForgePort for LocalForge {
    async fn publish(
        &self,
        repository: &ForgeRepository,
        publication: &Publication,
        bundle: &Path,
        redactor: &Redactor,
    ) -> Result<(), ForgeError> {
        let _writing = self.writing.lock().await;
        let path = self.ensure(repository).await?;
        self.fetch(&path, &publication.branch, bundle).await?;
        let published = self.take(&path, publication, redactor).await;
        self.forget_incoming(&path).await?;
        if matches!(published, Err(ForgeError::HoldsCredential { .. })) {
            self.forget_objects(&path).await?;
        }
        published
    }

    async fn open_pull_request(
        &self,
        repository: &ForgeRepository,
        draft: &PullRequestDraft,
    ) -> Result<PullRequest, ForgeError> {
        let _writing = self.writing.lock().await;
        let path = self.path(repository);
        if !path.exists() {
            return Err(ForgeError::Missing(format!(
                "repository {}",
                Self::key(repository)
            )));
        }
        let head_commit = self
            .branch_end(&path, &draft.head)
            .await?
            .ok_or_else(|| ForgeError::Missing(format!("branch {}", draft.head)))?;
        if self.branch_end(&path, &draft.base).await?.is_none() {
            return Err(ForgeError::Missing(format!("branch {}", draft.base)));
        }
        let known = self.pull_requests(repository).await?;
        let pull_request = match known.iter().find(|each| each.draft.head == draft.head) {
            Some(open) => PullRequest {
                draft: draft.clone(),
                // Checks belong to a commit.
                checks: if open.head_commit == head_commit {
                    open.checks.clone()
                } else {
                    Vec::new()
                },
                head_commit,
                ..open.clone()
            },
            None => {
                let number = known.iter().map(|each| each.number).max().unwrap_or(0) + 1;
                PullRequest {
                    number,
                    url: format!("{}#{number}", path.display()),
                    draft: draft.clone(),
                    head_commit,
                    checks: Vec::new(),
                }
            }
        };
        self.keep(repository, &pull_request).await?;
        Ok(pull_request)
    }

    async fn find_pull_request(
        &self,
        repository: &ForgeRepository,
        head: &str,
    ) -> Result<Option<PullRequest>, ForgeError> {
        let known = self.pull_requests(repository).await?;
        Ok(known.into_iter().find(|each| each.draft.head == head))
    }

    async fn report_check(
        &self,
        repository: &ForgeRepository,
        number: u64,
        check: &ForgeCheck,
    ) -> Result<PullRequest, ForgeError> {
        let _writing = self.writing.lock().await;
        let known = self.pull_requests(repository).await?;
        let mut pull_request = known
            .into_iter()
            .find(|each| each.number == number)
            .ok_or_else(|| ForgeError::Missing(format!("pull request {number}")))?;
        match pull_request
            .checks
            .iter_mut()
            .find(|each| each.name == check.name)
        {
            Some(known) => *known = check.clone(),
            None => pull_request.checks.push(check.clone()),
        }
        self.keep(repository, &pull_request).await?;
        Ok(pull_request)
    }

    async fn bundle(
        &self,
        repository: &ForgeRepository,
        branch: &str,
        target: &Path,
    ) -> Result<(), ForgeError> {
        let path = self.path(repository);
        let missing = || ForgeError::Missing(format!("branch {branch}"));
        if !path.exists() || self.branch_end(&path, branch).await?.is_none() {
            return Err(missing());
        }
        let name = format!("refs/heads/{branch}");
        let target = target.to_str().ok_or_else(|| ForgeError::Failed {
            action: "write a bundle",
            message: "its path is no text".to_owned(),
        })?;
        let output = git(&path, &["bundle", "create", "--quiet", target, &name]).await?;
        succeeded("write a bundle", output).map(|_| ())
    }
}

/// Runs git in a bare repository to its end.
async fn git(repository: &Path, arguments: &[&str]) -> Result<Output, ForgeError> {
    let output = command(repository, arguments).output();
    match tokio::time::timeout(TIMEOUT, output).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(failed("run git; is it installed?", &error)),
        Err(_) => Err(too_late("run git")),
    }
}

/// Git on the host in a bare repository, without hooks or anybody's settings.
fn command(repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
        .args(["-c", "maintenance.auto=false", "-c", "core.fsmonitor=false"])
        .args([
            "-c",
            "protocol.allow=never",
            "-c",
            "protocol.file.allow=always",
        ])
        .arg("--git-dir")
        .arg(repository)
        .args(arguments)
        .current_dir(repository)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_OBJECT_DIRECTORY")
        .env_remove("GIT_ALTERNATE_OBJECT_DIRECTORIES")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn too_late(action: &'static str) -> ForgeError {
    ForgeError::Failed {
        action,
        message: format!("it did not end within {} s", TIMEOUT.as_secs()),
    }
}

fn succeeded(action: &'static str, output: Output) -> Result<String, ForgeError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ForgeError::Failed {
        action,
        message: message(&output),
    })
}

/// What git said, bounded.
fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut text: String = text.trim().chars().take(1_000).collect();
    if text.is_empty() {
        text = output.status.to_string();
    }
    text
}

fn failed(action: &'static str, error: &std::io::Error) -> ForgeError {
    ForgeError::Failed {
        action,
        message: error.to_string(),
    }
}

fn store_failed(action: &'static str, error: &StoreError) -> ForgeError {
    ForgeError::Failed {
        action,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
