//! Artifacts: records in the store, content among the blobs.
//!
//! Nothing is kept with the value of a credential in it.
//!
//! The blob is durable before the record names it, so a record never points at
//! nothing; a crash in between leaves an unnamed blob.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{
    domain::{
        artifact::{Artifact, ArtifactKind},
        ids::{ArtifactId, SessionId, StepId},
        redaction::RedactionStream,
        stage::Stage,
    },
    ports::{
        blobs::{BlobError, BlobHash, BlobPort, BlobWriter},
        clock::ClockPort,
        store::{StoreError, StorePort},
    },
    service::redaction::Redactions,
};

/// What an artifact is recorded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactAbout {
    /// Session that makes it.
    pub session: SessionId,
    /// Stage it is made in.
    pub stage: Stage,
    /// Step that makes it; `None` when it belongs to the stage as a whole.
    pub step: Option<StepId>,
    /// What it is.
    pub kind: ArtifactKind,
    /// A line for people.
    pub title: String,
    /// Media type.
    pub media_type: String,
}

/// Keeps artifacts. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts {
    store: Arc<dyn StorePort>,
    blobs: Arc<dyn BlobPort>,
    clock: Arc<dyn ClockPort>,
    redactions: Redactions,
}

impl Artifacts {
    /// Artifacts over a store, blobs and a clock.
    #[must_use]
    pub fn new(
        store: Arc<dyn StorePort>,
        blobs: Arc<dyn BlobPort>,
        clock: Arc<dyn ClockPort>,
    ) -> Self {
        Self {
            store,
            blobs,
            clock,
            redactions: Redactions::default(),
        }
    }

    /// With these values kept out of titles and contents.
    #[must_use]
    pub fn with_redactions(mut self, redactions: Redactions) -> Self {
        self.redactions = redactions;
        self
    }

    /// What is kept out.
    pub(crate) fn redactions(&self) -> &Redactions {
        &self.redactions
    }

    /// The wall clock that records are stamped with.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Stores some content and records it; durable when it returns.
    pub async fn put(
        &self,
        about: ArtifactAbout,
        content: Bytes,
    ) -> Result<Artifact, ArtifactError> {
        let clean = match self.redactions.current().bytes(&content) {
            Cow::Borrowed(_) => None,
            Cow::Owned(clean) => Some(Bytes::from(clean)),
        };
        let content = clean.unwrap_or(content);
        let size = content.len() as u64;
        let hash = self.blobs.put(content).await?;
        self.record(about, &hash, size).await
    }

    /// Begins an artifact of unknown size.
    pub async fn begin(&self, about: ArtifactAbout) -> Result<ArtifactWriter, ArtifactError> {
        Ok(ArtifactWriter {
            artifacts: self.clone(),
            about,
            blob: self.blobs.begin().await?,
            redaction: self.redactions.stream(),
        })
    }

    /// A session's artifacts in the order they were made; `None` means any.
    pub async fn list(
        &self,
        session: &SessionId,
        stage: Option<Stage>,
        kind: Option<ArtifactKind>,
    ) -> Result<Vec<Artifact>, ArtifactError> {
        let mut artifacts = self.store.artifacts(session).await?;
        artifacts.retain(|artifact| {
            stage.is_none_or(|stage| artifact.stage == stage)
                && kind.is_none_or(|kind| artifact.kind == kind)
        });
        artifacts.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
        Ok(artifacts)
    }

    /// An artifact's record. Fails with [`ArtifactError::Unknown`].
    pub async fn get(&self, id: &ArtifactId) -> Result<Artifact, ArtifactError> {
        self.store
            .artifact(id)
            .await?
            .ok_or_else(|| ArtifactError::Unknown(id.clone()))
    }

    /// An artifact and its content in pieces of at most 1 MiB. Fails with
    /// [`ArtifactError::Unknown`].
    pub async fn stream(
        &self,
        id: &ArtifactId,
    ) -> Result<(Artifact, BoxStream<'static, Result<Bytes, BlobError>>), ArtifactError> {
        let artifact = self.get(id).await?;
        let hash = BlobHash::parse(&artifact.hash)
            .ok_or_else(|| ArtifactError::Store(StoreError::Damaged(format!("hash of {id}"))))?;
        Ok((artifact, self.blobs.stream(&hash)))
    }

    async fn record(
        &self,
        about: ArtifactAbout,
        hash: &BlobHash,
        size_bytes: u64,
    ) -> Result<Artifact, ArtifactError> {
        let artifact = Artifact {
            id: id_of(&about),
            session: about.session,
            stage: about.stage,
            step: about.step,
            kind: about.kind,
            title: self.redactions.current().text(&about.title).into_owned(),
            hash: hash.as_str().to_owned(),
            size_bytes,
            media_type: about.media_type,
            created_at_ms: self.clock.now_ms(),
        };
        self.store.put_artifact(&artifact).await?;
        Ok(artifact)
    }
}

/// The id of what a step makes under a kind and a title: the same when the step
/// is done again after a kill, which then replaces the record.
fn id_of(about: &ArtifactAbout) -> ArtifactId {
    let Some(step) = &about.step else {
        return ArtifactId::from_uuid(uuid::Uuid::now_v7());
    };
    let parts = [
        about.session.as_str(),
        step.as_str(),
        &format!("{:?}", about.kind),
        &about.title,
    ];
    let hash = blake3::hash(parts.join("\0").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    ArtifactId::from_uuid(uuid::Uuid::from_bytes(bytes))
}

/// An artifact being written. Dropped without `finish`, it leaves nothing.
pub struct ArtifactWriter {
    artifacts: Artifacts,
    about: ArtifactAbout,
    blob: Box<dyn BlobWriter>,
    redaction: RedactionStream,
}

impl ArtifactWriter {
    /// Adds bytes at the end.
    pub async fn write(&mut self, data: Bytes) -> Result<(), ArtifactError> {
        match self.redaction.push(data) {
            clean if clean.is_empty() => Ok(()),
            clean => Ok(self.blob.write(clean).await?),
        }
    }

    /// Makes the content durable and records it.
    pub async fn finish(mut self) -> Result<Artifact, ArtifactError> {
        let rest = self.redaction.flush();
        if !rest.is_empty() {
            self.blob.write(rest).await?;
        }
        let (hash, size) = self.blob.finish().await?;
        self.artifacts.record(self.about, &hash, size).await
    }
}

/// Why an artifact could not be kept or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// There is none with this id.
    #[error("there is no artifact {0}")]
    Unknown(ArtifactId),
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl ArtifactError {
    /// Whether the disk is full, so that work can go on later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::DiskFull(_)) | Self::Blob(BlobError::DiskFull(_))
        )
    }
}
