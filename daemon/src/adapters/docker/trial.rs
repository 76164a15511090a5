//! Whether volumes can be overlays on this engine: tried with a small one, in
//! a container that runs nothing but the agent.
//!
//! What is tried is what restored volumes need beyond the mount itself: see
//! `compy-agent try-overlay`.

use bollard::{
    Docker,
    container::LogOutput,
    models::{ContainerCreateBody, HostConfig, Volume},
    query_parameters::{LogsOptions, WaitContainerOptions},
};
use compyd_proto::{agent::TreeEntry, link, trial};
use futures_util::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use super::{
    DockerRuntime,
    errors::refused,
    hardening::{volume, without_copy},
    helper::{self, Helper},
    root_archive::RootArchive,
    volumes::{create, create_overlay, remove, upper_name},
};
use crate::ports::runtime::{ContainerId, OverlayVolumes, RuntimeError, RuntimePort as _};

/// Where the trial's volume is.
const AT: &str = "/volume";
/// More than the agent says.
const LONGEST_REASON: usize = 2000;

impl DockerRuntime {
    /// Tries it. What keeps it from being tried at all is an error.
    pub(super) async fn try_overlay(&self, image: &str) -> Result<OverlayVolumes, RuntimeError> {
        let docker = self.connect()?;
        let agent_volume = self.agent_volume(&docker, image).await?;
        let name = format!("compy-trial-{}", Uuid::now_v7().simple());
        let tried = self.try_as(&docker, image, &agent_volume, &name).await;
        for name in [&name, &upper_name(&name), &lower_name(&name)] {
            if let Err(error) = remove(&docker, name).await {
                tracing::warn!(volume = %name, %error, "a volume stays behind");
            }
        }
        tried
    }

    async fn try_as(
        &self,
        docker: &Docker,
        image: &str,
        agent_volume: &str,
        name: &str,
    ) -> Result<OverlayVolumes, RuntimeError> {
        let labels = helper::labels(&self.options);
        let lower = create(docker, &lower_name(name), &labels).await?;
        let upper = create(docker, &upper_name(name), &labels).await?;
        fill(docker, self, image, &lower, &upper).await?;
        if let Err(error) = create_overlay(docker, name, &labels, &lower, &upper).await {
            return refusal(error);
        }
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![link::AGENT_BINARY.to_owned()]),
            cmd: Some(vec!["try-overlay".to_owned(), AT.to_owned()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(vec!["DAC_OVERRIDE".to_owned(), "FOWNER".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                network_mode: Some("none".to_owned()),
                readonly_rootfs: Some(true),
                mounts: Some(vec![
                    volume(agent_volume, link::AGENT_DIR, true),
                    without_copy(volume(name, AT, false)),
                ]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let created = docker.create_container(None, body).await;
        let id = created.map_err(|error| refused("create", "a container for a trial", &error))?;
        let tried = run(docker, &id.id).await;
        self.remove(&ContainerId(id.id)).await?;
        tried.or_else(refusal)
    }
}

/// What the engine refuses with an overlay volume does not work; one that does
/// not answer has not said so.
fn refusal(error: RuntimeError) -> Result<OverlayVolumes, RuntimeError> {
    match error {
        RuntimeError::Refused { .. } => Ok(OverlayVolumes::Fail(error.to_string())),
        other => Err(other),
    }
}

fn lower_name(name: &str) -> String {
    format!("{name}-lower")
}

/// Puts into the lower volume what the agent looks for, and makes the upper
/// directories.
async fn fill(
    docker: &Docker,
    runtime: &DockerRuntime,
    image: &str,
    lower: &Volume,
    upper: &Volume,
) -> Result<(), RuntimeError> {
    let mut archive = RootArchive::default();
    let root = TreeEntry {
        mode: trial::ROOT_MODE,
        uid: trial::ROOT_OWNER,
        gid: trial::ROOT_OWNER,
        ..TreeEntry::default()
    };
    archive.root("upper/upper", &root)?;
    archive.private_directory("upper/work")?;
    archive.private_directory(&format!("lower/{}", trial::DIRECTORY))?;
    archive.file(&format!("lower/{}", trial::FILE), trial::CONTENT)?;
    archive.hard_link(
        &format!("lower/{}", trial::OTHER_NAME),
        &format!("lower/{}", trial::FILE),
    )?;
    let mounts = vec![
        without_copy(volume(&lower.name, "/volumes/lower", false)),
        without_copy(volume(&upper.name, "/volumes/upper", false)),
    ];
    let helper = Helper::create(docker, &runtime.options, image, mounts).await?;
    let unpacked = helper.upload("/volumes", archive.finish()?).await;
    helper.remove().await;
    unpacked
}

/// Runs a container to its end; its exit status and its words are the answer.
async fn run(docker: &Docker, id: &str) -> Result<OverlayVolumes, RuntimeError> {
    let started = docker.start_container(id, None).await;
    started.map_err(|error| refused("start", "a container with an overlay volume", &error))?;
    let waited = docker.wait_container(id, None::<WaitContainerOptions>);
    let ended = waited.boxed().try_next().await;
    let code = match ended {
        Ok(Some(answer)) => answer.status_code,
        Ok(None) => -1,
        Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => return Err(refused("wait for", "a container for a trial", &error)),
    };
    if code == 0 {
        return Ok(OverlayVolumes::Work);
    }
    let options = LogsOptions {
        stderr: true,
        ..Default::default()
    };
    let said = docker.logs(id, Some(options));
    let said: Vec<LogOutput> = said.try_collect().await.unwrap_or_default();
    let said: String = said.iter().map(ToString::to_string).collect();
    let why: String = said.chars().take(LONGEST_REASON).collect();
    Ok(OverlayVolumes::Fail(format!(
        "{} (exit status {code})",
        why.trim()
    )))
}
