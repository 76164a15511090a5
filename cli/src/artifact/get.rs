//! `compyctl artifact get`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::{Artifact, GetArtifactRequest, get_artifact_response::Part};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, artifact::ArtifactView, print_json};

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
        let mut sink = Sink::open(self.to)?;
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

/// Where the content goes. A file appears under its name only when whole.
#[derive(Debug)]
enum Sink {
    Stdout,
    File {
        file: tempfile::NamedTempFile,
        path: PathBuf,
    },
}

impl Sink {
    fn open(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Sink::Stdout);
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".compyctl-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(&directory)
            .map_err(|error| {
                Failure::usage(
                    format!("no file can be made in {}: {error}", directory.display()),
                    "name a file in a directory that exists and can be written",
                )
            })?;
        Ok(Sink::File { file, path })
    }

    /// Whether more is wanted.
    fn write(&mut self, data: &[u8]) -> Result<bool, Failure> {
        let result = match self {
            Sink::Stdout => std::io::stdout().lock().write_all(data),
            Sink::File { file, .. } => file.write_all(data),
        };
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::local(
                format!("the content cannot be written: {error}"),
                "",
            )),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Sink::Stdout => std::io::stdout().lock().flush().map_err(|error| {
                Failure::local(format!("the content cannot be written: {error}"), "")
            }),
            Sink::File { file, path } => file.persist(&path).map(drop).map_err(|error| {
                Failure::local(
                    format!("{} cannot be written: {}", path.display(), error.error),
                    "",
                )
            }),
        }
    }
}
