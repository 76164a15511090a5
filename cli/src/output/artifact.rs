//! Artifacts as compyctl prints them.

use compyd_proto::v1::{Artifact, ArtifactType};
use serde::Serialize;

use super::{bytes, table::Table, time};

/// An artifact in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ArtifactView {
    /// `ar-` and 32 hex digits.
    pub(crate) id: String,
    /// Session that made it.
    pub(crate) session_id: String,
    /// Stage in capitals.
    pub(crate) stage: String,
    /// Step; empty when it belongs to the stage.
    pub(crate) step_id: String,
    /// `output`, `diff`, `test_report`, `evidence`, `other`.
    #[serde(rename = "type")]
    pub(crate) artifact_type: String,
    /// A line for people.
    pub(crate) title: String,
    /// blake3 of the content.
    pub(crate) hash: String,
    /// Size of the content.
    pub(crate) size_bytes: u64,
    /// Media type.
    pub(crate) media_type: String,
    /// When it was stored.
    pub(crate) created_at: Option<String>,
}

impl From<Artifact> for ArtifactView {
    fn from(artifact: Artifact) -> Self {
        ArtifactView {
            artifact_type: type_name(artifact.r#type()).to_owned(),
            created_at: time(artifact.created_at.as_ref()),
            id: artifact.id,
            session_id: artifact.session_id,
            stage: artifact.stage,
            step_id: artifact.step_id,
            title: artifact.title,
            hash: artifact.hash,
            size_bytes: artifact.size_bytes,
            media_type: artifact.media_type,
        }
    }
}

fn type_name(artifact_type: ArtifactType) -> &'static str {
    match artifact_type {
        ArtifactType::Unspecified => "unknown",
        ArtifactType::Output => "output",
        ArtifactType::Diff => "diff",
        ArtifactType::TestReport => "test_report",
        ArtifactType::Evidence => "evidence",
        ArtifactType::Other => "other",
    }
}

/// Artifacts, one line each.
pub(crate) fn list_table(artifacts: &[ArtifactView]) -> Table {
    let mut table = Table::new(&["ID", "STAGE", "TYPE", "SIZE", "TITLE"]);
    for artifact in artifacts {
        table.row([
            &artifact.id,
            &artifact.stage,
            &artifact.artifact_type,
            &bytes(artifact.size_bytes),
            &artifact.title,
        ]);
    }
    table
}
