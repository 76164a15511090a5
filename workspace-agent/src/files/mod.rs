//! The file tools.
//!
//! All of them act with the rights of the workspace's default user and inside
//! the roots, links resolved. Everything here waits for disks, so each tool
//! runs in a blocking thread. Nothing here knows gRPC.

pub(crate) mod archive;
mod change;
mod change_set;
mod info;
mod read;
mod receipts;
mod roots;
mod search;
mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compyd_proto::agent as wire;

use crate::accounts::{Account, Accounts};
use crate::errors::{AgentError, Reason};
use crate::exec::spec::check_id;
use crate::identity::as_account;
use receipts::Receipts;
use roots::Roots;

/// Handle to the file tools; cheap to clone.
#[derive(Clone)]
pub(crate) struct FileTools {
    shared: Arc<Shared>,
}

struct Shared {
    roots: Roots,
    accounts: Accounts,
    user: Account,
    receipts: Receipts,
}

impl FileTools {
    pub(crate) fn open(
        state: &Path,
        roots: Vec<PathBuf>,
        accounts: Accounts,
        user: Account,
    ) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                roots: Roots::new(roots),
                accounts,
                user,
                receipts: Receipts::open(state)?,
            }),
        })
    }

    pub(crate) async fn read(
        &self,
        request: wire::ReadFileRequest,
    ) -> Result<wire::ReadFileResponse, AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve(&request.path)?;
            read::read(&path, &request)
        })
        .await
    }

    pub(crate) async fn stat(
        &self,
        request: wire::StatFileRequest,
    ) -> Result<wire::StatFileResponse, AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve_link(&request.path)?;
            info::stat(&path, request.with_hash)
        })
        .await
    }

    pub(crate) async fn list(
        &self,
        request: wire::ListDirectoryRequest,
    ) -> Result<wire::ListDirectoryResponse, AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve(&request.path)?;
            info::list(&path, request.max_entries)
        })
        .await
    }

    pub(crate) async fn glob(
        &self,
        request: wire::GlobRequest,
    ) -> Result<wire::GlobResponse, AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve_or_base(&request.path)?;
            search::glob(&path, &request)
        })
        .await
    }

    pub(crate) async fn grep(
        &self,
        request: wire::GrepRequest,
    ) -> Result<wire::GrepResponse, AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve_or_base(&request.path)?;
            search::grep(&path, &request)
        })
        .await
    }

    pub(crate) async fn write(
        &self,
        request: wire::WriteFileRequest,
    ) -> Result<wire::WriteFileResponse, AgentError> {
        self.step(request.step_id.clone(), move |shared| {
            change::write(&shared.roots, &shared.user, &shared.receipts, request)
        })
        .await
    }

    pub(crate) async fn edit(
        &self,
        request: wire::EditFileRequest,
    ) -> Result<wire::EditFileResponse, AgentError> {
        self.step(request.step_id.clone(), move |shared| {
            change::edit(&shared.roots, &shared.user, &shared.receipts, request)
        })
        .await
    }

    pub(crate) async fn change(
        &self,
        request: wire::ChangeFilesRequest,
    ) -> Result<wire::ChangeFilesResponse, AgentError> {
        self.step(request.step_id.clone(), move |shared| {
            change_set::change(&shared.roots, &shared.user, &shared.receipts, request)
        })
        .await
    }

    pub(crate) async fn receipt(
        &self,
        step_id: String,
    ) -> Result<wire::GetReceiptResponse, AgentError> {
        check_id("step id", &step_id)?;
        self.step(step_id.clone(), move |shared| {
            change::settled(&shared.user, &shared.receipts, &step_id)
        })
        .await
    }

    /// Unpacks an archive that `content` delivers; see `archive`.
    pub(crate) async fn upload(
        &self,
        directory: String,
        step_id: String,
        user: String,
        content: impl io::Read + Send + 'static,
    ) -> Result<wire::UploadResponse, AgentError> {
        if !step_id.is_empty() {
            check_id("step id", &step_id)?;
        }
        let work = move |shared: &Shared| {
            let user = if user.is_empty() {
                shared.user.clone()
            } else {
                shared
                    .accounts
                    .find(&user)
                    .map_err(|error| AgentError::new(Reason::UserUnknown, error.to_string()))?
            };
            archive::upload(
                &shared.roots,
                &shared.receipts,
                &user,
                &directory,
                &step_id,
                content,
            )
        };
        self.blocking(work).await
    }

    /// Packs what is at `path` into `sink`; see [`archive::pack`].
    pub(crate) async fn download(
        &self,
        path: String,
        sink: impl io::Write + Send + 'static,
    ) -> Result<(), AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve(&path)?;
            archive::pack(&path, sink)
        })
        .await
    }

    /// The path of a download, checked before the first byte is sent.
    pub(crate) async fn check_download(&self, path: String) -> Result<(), AgentError> {
        self.as_user(move |shared| {
            let path = shared.roots.resolve(&path)?;
            info::stat(&path, false).map(drop)
        })
        .await
    }

    async fn as_user<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        self.blocking(move |shared| as_account(&shared.user, || work(shared)))
            .await
    }

    /// Runs one step of a mutating tool; a repeated one waits for the first.
    async fn step<T: Send + 'static>(
        &self,
        step_id: String,
        work: impl FnOnce(&Shared) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        check_id("step id", &step_id)?;
        self.blocking(work).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|_| Err(AgentError::lost_task("finish the file tool")))
    }
}
