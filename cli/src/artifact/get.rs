//! `compyctl artifact get`.

use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::{Artifact, GetArtifactRequest, get_artifact_response::Part};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, artifact::ArtifactView, print_json};
use crate::sink::{Readers, Sink};

/// `compyctl artifact get ID`.
#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// Artifact id.
    artifact: String,
    /// Write the content here instead of standard output; `-o json` then
    /// prints what it is.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl GetArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if context.format == Format::Json && self.to.is_none() {
            return Err(Failure::usage(
                "the content and its description would both go to standard output",
                "--to FILE writes the content to a file",
            ));
        }
        let daemon = context.daemon().await?;
        let request = GetArtifactRequest {
            artifact_id: self.artifact,
        };
        let mut stream = daemon
            .call(|| {
                let (mut client, request) = (daemon.artifacts(), request.clone());
                async move { client.get_artifact(request).await }
            })
            .await?;
        let mut sink = Sink::open(self.to, Readers::All)?;
        let mut artifact = Artifact::default();
        let mut written = 0;
        while let Some(message) = stream
            .message()
            .await
            .map_err(|status| daemon.failure(status))?
        {
            match message.part {
                Some(Part::Artifact(described)) => artifact = described,
                Some(Part::Data(data)) => {
                    if !sink.write(&data)? {
                        return Ok(Exit::OK);
                    }
                    written += data.len() as u64;
                }
                None => {}
            }
        }
        if written != artifact.size_bytes {
            return Err(Failure::local(
                format!("{written} of {} bytes arrived", artifact.size_bytes),
                "get it again",
            ));
        }
        sink.finish()?;
        if context.format == Format::Json {
            print_json(&ArtifactView::from(artifact))?;
        }
        Ok(Exit::OK)
    }
}
