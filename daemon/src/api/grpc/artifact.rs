//! `compy.v1.ArtifactService`: what sessions leave behind.

use std::sync::Arc;

use bytes::Bytes;
use compyd_proto::v1::{
    self, ArtifactType, GetArtifactRequest, GetArtifactResponse, ListArtifactsRequest,
    ListArtifactsResponse, artifact_service_server::ArtifactService, get_artifact_response::Part,
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Code, Request, Response, Status};

use super::{
    status::{Retry, internal, invalid, invalid_id, refusal},
    time::timestamp,
};
use crate::{
    domain::{
        artifact::{Artifact, ArtifactKind},
        ids::{ArtifactId, SessionId},
        stage::Stage,
    },
    ports::{
        blobs::{BlobHash, BlobPort},
        store::StorePort,
    },
};

/// The service.
pub struct ArtifactApi {
    store: Arc<dyn StorePort>,
    blobs: Arc<dyn BlobPort>,
}

impl ArtifactApi {
    /// A service over these.
    #[must_use]
    pub fn new(store: Arc<dyn StorePort>, blobs: Arc<dyn BlobPort>) -> Self {
        Self { store, blobs }
    }
}

#[tonic::async_trait]
impl ArtifactService for ArtifactApi {
    async fn list_artifacts(
        &self,
        request: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        let request = request.into_inner();
        let session: SessionId = request
            .session_id
            .parse()
            .map_err(|error| invalid_id("SESSION_ID_INVALID", &error))?;
        let stage = stage(&request.stage)?;
        let kind = kind(request.r#type)?;
        let log = self.store.events(&session, 1, 1).await;
        if log.map_err(|error| internal(&error))?.is_empty() {
            return Err(unknown_session(&session));
        }
        let artifacts = self.store.artifacts(&session).await;
        let mut artifacts = artifacts.map_err(|error| internal(&error))?;
        artifacts.sort_by_key(|artifact| artifact.created_at_ms);
        let artifacts = artifacts
            .into_iter()
            .filter(|artifact| stage.is_none_or(|stage| artifact.stage == stage))
            .filter(|artifact| kind.is_none_or(|kind| artifact.kind == kind))
            .map(encode)
            .collect();
        Ok(Response::new(ListArtifactsResponse { artifacts }))
    }

    type GetArtifactStream = BoxStream<'static, Result<GetArtifactResponse, Status>>;

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let id: ArtifactId = request
            .into_inner()
            .artifact_id
            .parse()
            .map_err(|error| invalid_id("ARTIFACT_ID_INVALID", &error))?;
        let artifact = self.store.artifact(&id).await;
        let artifact = artifact
            .map_err(|error| internal(&error))?
            .ok_or_else(|| unknown_artifact(&id))?;
        let hash = BlobHash::parse(&artifact.hash)
            .ok_or_else(|| internal(&format!("{id} has no valid hash")))?;
        let first = stream::iter([Ok(message(Part::Artifact(encode(artifact))))]);
        let rest = self.blobs.stream(&hash).map(|piece: Result<Bytes, _>| {
            piece
                .map(|data| message(Part::Data(data)))
                .map_err(|error| internal(&error))
        });
        Ok(Response::new(first.chain(rest).boxed()))
    }
}

fn message(part: Part) -> GetArtifactResponse {
    GetArtifactResponse { part: Some(part) }
}

fn stage(name: &str) -> Result<Option<Stage>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    Stage::parse(name).map(Some).ok_or_else(|| {
        let names = Stage::ALL.map(Stage::name).join(", ");
        invalid(
            "STAGE_INVALID",
            format!(
                "`{}` is no stage",
                name.chars().take(64).collect::<String>()
            ),
            format!("give one of {names}"),
        )
    })
}

fn kind(number: i32) -> Result<Option<ArtifactKind>, Status> {
    match ArtifactType::try_from(number) {
        Ok(ArtifactType::Unspecified) => Ok(None),
        Ok(ArtifactType::Output) => Ok(Some(ArtifactKind::Output)),
        Ok(ArtifactType::Diff) => Ok(Some(ArtifactKind::Diff)),
        Ok(ArtifactType::TestReport) => Ok(Some(ArtifactKind::TestReport)),
        Ok(ArtifactType::Evidence) => Ok(Some(ArtifactKind::Evidence)),
        Ok(ArtifactType::Other) => Ok(Some(ArtifactKind::Other)),
        Err(_) => Err(invalid(
            "ARTIFACT_TYPE_INVALID",
            format!("there is no artifact type {number}"),
            "use a client no newer than the daemon",
        )),
    }
}

fn encode(artifact: Artifact) -> v1::Artifact {
    let kind = match artifact.kind {
        ArtifactKind::Output => ArtifactType::Output,
        ArtifactKind::Diff => ArtifactType::Diff,
        ArtifactKind::TestReport => ArtifactType::TestReport,
        ArtifactKind::Evidence => ArtifactType::Evidence,
        ArtifactKind::Other => ArtifactType::Other,
    };
    v1::Artifact {
        id: artifact.id.into(),
        session_id: artifact.session.into(),
        stage: artifact.stage.name().to_owned(),
        step_id: artifact.step.map(String::from).unwrap_or_default(),
        r#type: kind.into(),
        title: artifact.title,
        hash: artifact.hash,
        size_bytes: artifact.size_bytes,
        media_type: artifact.media_type,
        created_at: Some(timestamp(artifact.created_at_ms)),
    }
}

fn unknown_session(id: &SessionId) -> Status {
    refusal(
        Code::NotFound,
        "SESSION_UNKNOWN",
        format!("there is no session {id}"),
        "`compyctl session list` shows those there are",
        Retry::No,
    )
}

fn unknown_artifact(id: &ArtifactId) -> Status {
    refusal(
        Code::NotFound,
        "ARTIFACT_UNKNOWN",
        format!("there is no artifact {id}"),
        "`compyctl artifact list SESSION` shows those there are",
        Retry::No,
    )
}
