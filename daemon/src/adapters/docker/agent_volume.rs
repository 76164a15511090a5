//! The volume with the agent's binary: named by what is in it, filled once,
//! mounted read-only everywhere.

use std::collections::HashMap;

use bollard::{Docker, models::VolumeCreateRequest};
use compyd_proto::link;

use super::{
    DockerOptions,
    errors::{not_found, refused},
    hardening::volume,
    helper::{self, Helper},
};
use crate::ports::runtime::RuntimeError;

/// Label with the hash of the agent in the volume.
const LABEL_AGENT: &str = "compy.agent";

/// A volume that was seen to hold the agent.
#[derive(Debug)]
pub(super) struct AgentVolume {
    pub(super) name: String,
}

impl AgentVolume {
    /// Whether the engine still has it: people remove what looks unused, and a
    /// volume that is missing is made anew, empty, by the container that
    /// mounts it.
    pub(super) async fn is_there(&self, docker: &Docker) -> Result<bool, RuntimeError> {
        match docker.inspect_volume(&self.name).await {
            Ok(_) => Ok(true),
            Err(error) if not_found(&error) => Ok(false),
            Err(error) => Err(refused("inspect the volume", &self.name, &error)),
        }
    }

    /// Makes sure that there is one; `image` is any that the engine has.
    pub(super) async fn ensure(
        docker: &Docker,
        options: &DockerOptions,
        image: &str,
    ) -> Result<Self, RuntimeError> {
        helper::sweep(docker, options).await?;
        let path = &options.agent_binary;
        let binary = tokio::fs::read(path)
            .await
            .map_err(|error| RuntimeError::Refused {
                action: "be given",
                subject: format!("the agent's binary {}", path.display()),
                message: format!("{error}; build it, or say where it is in the configuration"),
            })?;
        let hash = blake3::hash(&binary);
        let name = name(&hash, options);
        let mut labels: HashMap<String, String> = options.labels.clone().into_iter().collect();
        labels.insert(LABEL_AGENT.to_owned(), hash.to_hex().to_string());
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels),
            ..Default::default()
        };
        docker
            .create_volume(request)
            .await
            .map_err(|error| refused("create the volume", &name, &error))?;

        let mounts = vec![volume(&name, link::AGENT_DIR, false)];
        let helper = Helper::create(docker, options, image, mounts).await?;
        let filled = fill(&helper, &binary, &hash).await;
        helper.remove().await;
        filled.map(|()| Self { name })
    }
}

/// Daemons with the same agent share a volume, unless their objects carry
/// different labels: it has to carry them too.
fn name(agent: &blake3::Hash, options: &DockerOptions) -> String {
    if options.labels.is_empty() {
        return format!("compy-agent-{}", &agent.to_hex()[..16]);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(agent.as_bytes());
    for (key, value) in &options.labels {
        hasher.update(format!("{key}={value}\n").as_bytes());
    }
    format!("compy-agent-{}", &hasher.finalize().to_hex()[..16])
}

async fn fill(helper: &Helper<'_>, binary: &[u8], hash: &blake3::Hash) -> Result<(), RuntimeError> {
    // A volume that is there may be half filled: a kill can come at any time.
    let present = helper.read(link::AGENT_BINARY).await?;
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
    helper.upload(link::AGENT_DIR, archive).await
}
