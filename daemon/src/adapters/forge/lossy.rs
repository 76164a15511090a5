//! A forge whose answers get lost, for tests. Only with the feature `test-util`,
//! which the programs that users get are built without.
//!
//! A test writes the names of calls into a file, one a line: the next such call
//! is done, its line is taken out, and who asked is told that it failed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    domain::{
        forge::{ForgeCheck, PullRequest, PullRequestDraft},
        redaction::Redactor,
    },
    ports::forge::{ForgeError, ForgePort, ForgeRepository, Publication},
};

/// A forge behind a line that loses answers.
pub struct LossyForge {
    forge: Arc<dyn ForgePort>,
    file: PathBuf,
}

impl LossyForge {
    /// This forge; the file names what gets lost.
    #[must_use]
    pub fn new(forge: Arc<dyn ForgePort>, file: PathBuf) -> Self {
        Self { forge, file }
    }

    fn answer<T>(&self, call: &'static str, answer: T) -> Result<T, ForgeError> {
        let names = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut left: Vec<&str> = names.lines().collect();
        let Some(at) = left.iter().position(|name| *name == call) else {
            return Ok(answer);
        };
        left.remove(at);
        let _ = std::fs::write(&self.file, left.join("\n"));
        tracing::warn!(call, "an answer of the forge is lost for a test");
        Err(ForgeError::Failed {
            action: call,
            message: "502 Bad Gateway".to_owned(),
        })
    }
}

#[async_trait]
impl ForgePort for LossyForge {
    async fn publish(
        &self,
        repository: &ForgeRepository,
        publication: &Publication,
        bundle: &Path,
        redactor: &Redactor,
    ) -> Result<(), ForgeError> {
        let published = self
            .forge
            .publish(repository, publication, bundle, redactor);
        published.await?;
        self.answer("publish", ())
    }

    async fn open_pull_request(
        &self,
        repository: &ForgeRepository,
        draft: &PullRequestDraft,
    ) -> Result<PullRequest, ForgeError> {
        let opened = self.forge.open_pull_request(repository, draft).await?;
        self.answer("open_pull_request", opened)
    }

    async fn find_pull_request(
        &self,
        repository: &ForgeRepository,
        head: &str,
    ) -> Result<Option<PullRequest>, ForgeError> {
        let found = self.forge.find_pull_request(repository, head).await?;
        self.answer("find_pull_request", found)
    }

    async fn report_check(
        &self,
        repository: &ForgeRepository,
        number: u64,
        check: &ForgeCheck,
    ) -> Result<PullRequest, ForgeError> {
        let reported = self.forge.report_check(repository, number, check).await?;
        self.answer("report_check", reported)
    }

    async fn bundle(
        &self,
        repository: &ForgeRepository,
        branch: &str,
        target: &Path,
    ) -> Result<(), ForgeError> {
        self.forge.bundle(repository, branch, target).await?;
        self.answer("bundle", ())
    }
}
