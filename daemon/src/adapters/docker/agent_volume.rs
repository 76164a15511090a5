//! The volume with the agent's binary: named by the binary's hash, filled once,
//! mounted read-only everywhere.
//!
//! Files go in and out through the archive API of a container that is created
//! and never started, so that nothing of the image runs.

use std::collections::HashMap;

use bollard::{
    Docker, body_full,
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{
        DownloadFromContainerOptions, RemoveContainerOptions, UploadToContainerOptions,
    },
};
use compyd_proto::link;
use futures_util::StreamExt as _;

use super::{
    DockerOptions, LABEL_DAEMON,
    errors::{is_missing_image, not_found, refused},
    hardening::volume,
};
use crate::ports::runtime::RuntimeError;

/// More than any file read this way has.
const LONGEST_FILE_BYTES: usize = 64 << 20;

/// Makes sure that the volume exists and holds the agent; returns its name.
pub(super) async fn ensure(
    docker: &Docker,
    options: &DockerOptions,
    image: &str,
) -> Result<String, RuntimeError> {
    let path = &options.agent_binary;
    let binary = tokio::fs::read(path)
        .await
        .map_err(|error| RuntimeError::Refused {
            action: "be given",
            subject: format!("the agent's binary {}", path.display()),
            message: format!("{error}; build it, or say where it is in the configuration"),
        })?;
    let hash = blake3::hash(&binary);
    let name = format!("compy-agent-{}", &hash.to_hex()[..16]);
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some(HashMap::from([(
            "compy.agent".to_owned(),
            hash.to_hex().to_string(),
        )])),
        ..Default::default()
    };
    docker
        .create_volume(request)
        .await
        .map_err(|error| refused("create the volume", &name, &error))?;

    let helper = Helper::create(docker, image, Some(&name), &options.daemon).await?;
    let filled = fill(docker, &helper, &binary, &hash).await;
    helper.remove(docker).await;
    filled.map(|()| name)
}

async fn fill(
    docker: &Docker,
    helper: &Helper,
    binary: &[u8],
    hash: &blake3::Hash,
) -> Result<(), RuntimeError> {
    // A volume that is there may be half filled: a kill can come at any time.
    let present = helper.read(docker, link::AGENT_BINARY).await?;
    if present.is_some_and(|bytes| blake3::hash(&bytes) == *hash) {
        return Ok(());
    }
    let mut archive = tar::Builder::new(Vec::with_capacity(binary.len() + 4096));
    let mut header = tar::Header::new_gnu();
    header.set_size(binary.len() as u64);
    header.set_mode(0o555);
    let name = link::AGENT_BINARY
        .rsplit('/')
        .next()
        .unwrap_or(link::AGENT_BINARY);
    let archive = archive
        .append_data(&mut header, name, binary)
        .and_then(|()| archive.into_inner())
        .map_err(|error| RuntimeError::Refused {
            action: "be given",
            subject: "the agent".to_owned(),
            message: error.to_string(),
        })?;
    let options = UploadToContainerOptions {
        path: link::AGENT_DIR.to_owned(),
        ..Default::default()
    };
    docker
        .upload_to_container(&helper.id, Some(options), body_full(archive.into()))
        .await
        .map_err(|error| refused("fill the volume of", "the agent", &error))
}

/// A file of an image; `None` when it is not there.
pub(super) async fn read_from_image(
    docker: &Docker,
    image: &str,
    path: &str,
) -> Result<Option<Vec<u8>>, RuntimeError> {
    let helper = Helper::create(docker, image, None, "").await?;
    let content = helper.read(docker, path).await;
    helper.remove(docker).await;
    content
}

/// A container that is never started.
struct Helper {
    id: String,
}

impl Helper {
    async fn create(
        docker: &Docker,
        image: &str,
        agent_volume: Option<&str>,
        daemon: &str,
    ) -> Result<Self, RuntimeError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec![link::AGENT_BINARY.to_owned()]),
            labels: Some(HashMap::from([(
                format!("{LABEL_DAEMON}.helper"),
                daemon.to_owned(),
            )])),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: agent_volume.map(|name| vec![volume(name, link::AGENT_DIR, false)]),
                ..Default::default()
            }),
            ..Default::default()
        };
        match docker.create_container(None, body).await {
            Ok(created) => Ok(Self { id: created.id }),
            Err(error) if is_missing_image(&error) => {
                Err(RuntimeError::ImageMissing(image.to_owned()))
            }
            Err(error) => Err(refused("create", "a helper container", &error)),
        }
    }

    /// A regular file by the archive API.
    async fn read(&self, docker: &Docker, path: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
        let options = DownloadFromContainerOptions {
            path: path.to_owned(),
        };
        let mut stream = docker.download_from_container(&self.id, Some(options));
        let mut archive = Vec::new();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(bytes) => archive.extend_from_slice(&bytes),
                Err(error) if not_found(&error) => return Ok(None),
                Err(error) => return Err(refused("read", path, &error)),
            }
            if archive.len() > LONGEST_FILE_BYTES {
                return Ok(None);
            }
        }
        Ok(first_file(&archive))
    }

    async fn remove(self, docker: &Docker) {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..Default::default()
        };
        if let Err(error) = docker.remove_container(&self.id, Some(options)).await {
            tracing::warn!(container_id = %self.id, %error, "helper container stays behind");
        }
    }
}

fn first_file(archive: &[u8]) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content).ok()?;
    Some(content)
}
