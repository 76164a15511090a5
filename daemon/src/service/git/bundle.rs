//! Bringing a branch from a workspace to the host, as a bundle.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{Git, GitError, SCRATCH};
use crate::{
    ports::{agent::AgentError, forge::BUNDLED_BASE},
    service::{commands::CommandError, workspaces::archive_of},
};

/// Where bundles lie on the host while they are on their way, and how large
/// they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleSpace {
    /// A directory of the daemon's own.
    pub parent: PathBuf,
    /// Bytes of one bundle at most.
    pub max_bytes: u64,
}

impl BundleSpace {
    /// A directory for one bundle, gone when it is dropped.
    pub fn directory(&self) -> std::io::Result<TempDir> {
        std::fs::create_dir_all(&self.parent)?;
        tempfile::tempdir_in(&self.parent)
    }
}

/// The commit in a bundle that is a commit and no branch.
const BUNDLED_COMMIT: &str = "refs/compy/bundled";

/// How long a bundle may stand still on its way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Git {
    /// Writes a bundle to a file on the host: a branch with all its history,
    /// and a commit that it began from as [`BUNDLED_BASE`]. What the branch of
    /// that commit is by now does not matter. Fails with
    /// [`GitError::BundleTooLarge`] beyond `max_bytes`.
    pub async fn bundle(
        &self,
        branch: &str,
        base_commit: &str,
        target: &Path,
        max_bytes: u64,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let script = r#"set -e
mkdir -p "${1%/*}"
git update-ref "$3" "$4"
git bundle create --quiet "$1" "$2" "$3"
git update-ref -d "$3""#;
        let branch = format!("refs/heads/{branch}");
        let arguments = [branch.as_str(), BUNDLED_BASE, base_commit];
        self.bundle_by(script, &arguments, target, max_bytes, cancel)
            .await
    }

    /// Writes a bundle to a file on the host: a commit with what a repository
    /// that has `base_commit` lacks of it; the two differ. Otherwise as
    /// [`bundle`](Self::bundle).
    pub async fn bundle_since(
        &self,
        base_commit: &str,
        commit: &str,
        target: &Path,
        max_bytes: u64,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let script = r#"set -e
mkdir -p "${1%/*}"
git update-ref "$2" "$3"
git bundle create --quiet "$1" "$4..$2"
git update-ref -d "$2""#;
        let arguments = [BUNDLED_COMMIT, commit, base_commit];
        self.bundle_by(script, &arguments, target, max_bytes, cancel)
            .await
    }

    /// Checks a commit out, detached, from a bundle of
    /// [`bundle_since`](Self::bundle_since) on the host. Files that no commit
    /// has stay. Doing so again is harmless.
    pub async fn check_out_bundled(&self, bundle: &Path, commit: &str) -> Result<(), GitError> {
        let directory = format!("{SCRATCH}/bundle-{}", uuid::Uuid::now_v7().simple());
        let archive = archive_of(bundle, "bundle").await;
        let archive = archive.map_err(|error| GitError::Host {
            path: bundle.display().to_string(),
            message: error.to_string(),
        })?;
        let workspaces = self.commands.workspaces();
        let agent = workspaces.agent(&self.site.workspace).await;
        let agent = agent.map_err(CommandError::from)?;
        let uploaded = agent.upload(&directory, None, archive).await;
        uploaded.map_err(CommandError::from)?;
        let script = r#"set -e
git fetch --quiet --no-tags --no-write-fetch-head "$1/bundle" "$2"
rm -rf "$1"
git checkout --quiet --force --detach "$3""#;
        let arguments = [directory.as_str(), BUNDLED_COMMIT, commit];
        (self.ask_plain_script("checkout", script, &arguments)).await?;
        Ok(())
    }

    /// Runs a script that writes a bundle to its first argument, and brings
    /// that to the host.
    async fn bundle_by(
        &self,
        script: &str,
        arguments: &[&str],
        target: &Path,
        max_bytes: u64,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let path = format!("{SCRATCH}/bundle-{}", uuid::Uuid::now_v7().simple());
        let arguments = [&[path.as_str()], arguments].concat();
        let made = self.ask_plain_script("bundle", script, &arguments).await;
        let fetched = match made {
            Ok(_) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(CommandError::Cancelled.into()),
                fetched = self.fetch(&path, target, max_bytes) => fetched,
            },
            Err(error) => Err(error),
        };
        let removed = self.ask_plain_script("rm", r#"rm -f "$1""#, &[&path]).await;
        fetched.and(removed.map(|_| ()))
    }

    /// Brings one file of the workspace to the host.
    ///
    /// Cancel safety: dropped halfway it leaves nothing but the target.
    async fn fetch(&self, path: &str, target: &Path, max_bytes: u64) -> Result<(), GitError> {
        let host = |error: std::io::Error| GitError::Host {
            path: target.display().to_string(),
            message: error.to_string(),
        };
        let agent = self
            .commands
            .workspaces()
            .agent(&self.site.workspace)
            .await
            .map_err(CommandError::from)?;
        let archive = tempfile::NamedTempFile::new_in(target.parent().unwrap_or(Path::new(".")))
            .map_err(host)?;
        let mut file = tokio::fs::File::from_std(archive.reopen().map_err(host)?);
        let mut pieces = agent.download(path);
        let mut left = max_bytes;
        let stalled = |_| {
            let text = format!("a bundle stood still for {IDLE_TIMEOUT:?}");
            CommandError::from(AgentError::Unreachable(text))
        };
        while let Some(piece) = tokio::time::timeout(IDLE_TIMEOUT, pieces.next())
            .await
            .map_err(stalled)?
        {
            let piece = piece.map_err(CommandError::from)?;
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or(GitError::BundleTooLarge { max_bytes })?;
            file.write_all(&piece).await.map_err(host)?;
        }
        file.flush().await.map_err(host)?;
        let target = target.to_owned();
        let unpack = tokio::task::spawn_blocking(move || unpack_one(archive.path(), &target));
        unpack
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(host)
    }
}

/// Unpacks the only file of a tar archive.
fn unpack_one(archive: &Path, target: &Path) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive)?);
    let mut entries = archive.entries()?;
    let mut entry = entries
        .next()
        .ok_or_else(|| std::io::Error::other("the workspace sent an empty archive"))??;
    if !entry.header().entry_type().is_file() {
        return Err(std::io::Error::other(
            "the workspace sent something else than a file",
        ));
    }
    std::io::copy(&mut entry, &mut std::fs::File::create(target)?)?;
    Ok(())
}
