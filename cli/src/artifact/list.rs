//! `compyctl artifact list`.

use clap::{Args, ValueEnum};
use compyd_proto::v1::{ArtifactType, ListArtifactsRequest};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format,
    artifact::{ArtifactView, list_table},
    print, print_json,
};

/// `compyctl artifact list SESSION`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Session id.
    session: String,
    /// Only this stage: VALIDATE, PR.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "STAGE"
    )]
    stage: String,
    /// Only this type.
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    artifact_type: Option<TypeName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TypeName {
    Output,
    Diff,
    #[value(alias = "test_report")]
    TestReport,
    Evidence,
    Other,
}

impl From<TypeName> for ArtifactType {
    fn from(name: TypeName) -> Self {
        match name {
            TypeName::Output => ArtifactType::Output,
            TypeName::Diff => ArtifactType::Diff,
            TypeName::TestReport => ArtifactType::TestReport,
            TypeName::Evidence => ArtifactType::Evidence,
            TypeName::Other => ArtifactType::Other,
        }
    }
}

impl ListArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = ListArtifactsRequest {
            session_id: self.session,
            stage: self.stage.to_ascii_uppercase(),
            r#type: self
                .artifact_type
                .map_or(ArtifactType::Unspecified, Into::into)
                .into(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.artifacts(), request.clone());
                async move { client.list_artifacts(request).await }
            })
            .await?;
        let views: Vec<ArtifactView> = response.artifacts.into_iter().map(Into::into).collect();
        match context.format {
            Format::Json => print_json(&views)?,
            Format::Table if views.is_empty() => eprintln!("no artifacts"),
            Format::Table => print(&list_table(&views).to_string())?,
        }
        Ok(Exit::OK)
    }
}
