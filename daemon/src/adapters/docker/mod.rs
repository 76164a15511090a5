//! The Docker Engine as the runtime of workspaces. The only place that knows
//! bollard.
//!
//! Containers are found by label, never by a list of ours: what the engine
//! holds is the truth. Hardening is the same for every container and lives in
//! [`hardening`]; nothing a caller passes can widen it. The agent's binary
//! comes from a volume named by its content hash (see [`agent_volume`]).
//!
//! A connection is made for each call, so that an engine that restarts costs
//! the calls under way and nothing after.

mod agent_volume;
mod changes;
mod errors;
mod hardening;
mod helper;
mod image_archive;
mod inventory;
mod passwd;
mod root_archive;
mod snapshots;
mod state;
mod transport;
mod trial;
mod usage;
mod volumes;

pub use hardening::CAPABILITIES;
pub use image_archive::DockerImages;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptions, ListContainersOptions, ListVolumesOptions, RemoveContainerOptions,
        StopContainerOptions,
    },
};
use compyd_proto::link;
use futures_util::stream::BoxStream;
use tokio::sync::{Mutex, Semaphore};

use self::{
    agent_volume::AgentVolume,
    errors::{not_found, refused},
    hardening::{bind, tmpfs, volume, without_copy},
    helper::Helper,
    volumes::Layers,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        snapshot::{CapturedVolume, journal::Generation},
    },
    ports::runtime::{
        ContainerId, ContainerPlan, ContainerState, ContainerStatus, ContainerSummary,
        ContainerUsage, EXTRA_CA_FILE, EngineInfo, ImageInfo, OverlayVolumes, RuntimeChange,
        RuntimeError, RuntimePort,
    },
};

/// Label with the workspace's id.
pub const LABEL_WORKSPACE: &str = "compy.workspace";
/// Label with the workspace's definition as JSON.
pub const LABEL_DEFINITION: &str = "compy.definition";
/// Label with the identity of the data directory whose daemon owns the object.
pub const LABEL_DAEMON: &str = "compy.daemon";

/// Label with the number of the workspace's generation.
pub const LABEL_GENERATION: &str = "compy.generation";
/// Label with the image of the snapshot that a container was made from; empty
/// when there is none.
pub const LABEL_BASE: &str = "compy.base";

/// How often a container is asked to freeze that starts processes faster than
/// the kernel freezes them, and the time between.
const PAUSE_TRIES: u32 = 10;
const PAUSE_RETRY: Duration = Duration::from_millis(50);
/// How long a removal that somebody else asked for is waited for: a minute.
const REMOVAL_TRIES: u32 = 300;
const REMOVAL_RETRY: Duration = Duration::from_millis(200);
/// How often a container is looked for whose name is taken: whoever asked for it
/// may have ended, and the engine is still at it.
const NAME_TRIES: u32 = 25;
const NAME_RETRY: Duration = Duration::from_millis(200);

/// Creates and starts at once: beyond about four an engine gets no faster.
const STARTS_AT_ONCE: usize = 4;
/// Images whose accounts are remembered; some kilobytes each.
const IMAGES_KNOWN: usize = 256;

/// How to reach the engine and what to put into its containers.
#[derive(Debug, Clone)]
pub struct DockerOptions {
    /// `unix:///PATH` or `tcp://HOST:PORT`; `None` means the engine's default
    /// socket.
    pub host: Option<String>,
    /// Identity of the data directory: a daemon sees only its own objects.
    pub daemon: String,
    /// The agent's binary on this host, static.
    pub agent_binary: PathBuf,
    /// Labels on everything that is made, on top of the adapter's own.
    pub labels: BTreeMap<String, String>,
}

/// The Docker Engine.
#[derive(Debug)]
pub struct DockerRuntime {
    options: DockerOptions,
    starts: Semaphore,
    /// The volume with the agent, once it is known to be filled.
    agent_volume: Mutex<Option<AgentVolume>>,
    /// The accounts of images, by content id: asking takes a container.
    accounts: Mutex<HashMap<String, String>>,
    /// Whether overlay volumes work, once that was tried.
    overlays: Mutex<Option<OverlayVolumes>>,
}

impl DockerRuntime {
    /// An engine that is reached at the first call.
    #[must_use]
    pub fn new(options: DockerOptions) -> Self {
        Self {
            options,
            starts: Semaphore::new(STARTS_AT_ONCE),
            agent_volume: Mutex::new(None),
            accounts: Mutex::default(),
            overlays: Mutex::new(None),
        }
    }

    fn connect(&self) -> Result<Docker, RuntimeError> {
        transport::connect(self.options.host.as_deref())
    }

    /// A permit to create or start.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, RuntimeError> {
        self.starts
            .acquire()
            .await
            .map_err(|_| RuntimeError::Unavailable("the daemon is shutting down".to_owned()))
    }

    fn labels(&self, plan: &ContainerPlan) -> Result<HashMap<String, String>, RuntimeError> {
        let definition =
            serde_json::to_string(&plan.definition).map_err(|error| RuntimeError::Refused {
                action: "describe",
                subject: plan.workspace.to_string(),
                message: error.to_string(),
            })?;
        let mut labels: HashMap<String, String> = self.options.labels.clone().into_iter().collect();
        labels.insert(LABEL_WORKSPACE.to_owned(), plan.workspace.to_string());
        labels.insert(LABEL_DEFINITION.to_owned(), definition);
        labels.insert(LABEL_DAEMON.to_owned(), self.options.daemon.clone());
        labels.insert(LABEL_GENERATION.to_owned(), plan.generation.0.to_string());
        let base = plan.base.as_ref().map_or_else(String::new, |b| b.0.clone());
        labels.insert(LABEL_BASE.to_owned(), base);
        Ok(labels)
    }

    fn filters(&self, workspace: Option<&WorkspaceId>) -> HashMap<String, Vec<String>> {
        let mut wanted = vec![format!("{LABEL_DAEMON}={}", self.options.daemon)];
        if let Some(workspace) = workspace {
            wanted.push(format!("{LABEL_WORKSPACE}={workspace}"));
        }
        HashMap::from([("label".to_owned(), wanted)])
    }

    /// The containers of one workspace, or of all, as the engine lists them.
    async fn summaries(
        &self,
        docker: &Docker,
        workspace: Option<&WorkspaceId>,
    ) -> Result<Vec<bollard::models::ContainerSummary>, RuntimeError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.filters(workspace)),
            ..Default::default()
        };
        docker
            .list_containers(Some(options))
            .await
            .map_err(|error| refused("list", "containers", &error))
    }

    /// The container of a plan, where it was made before.
    async fn made_before(&self, plan: &ContainerPlan) -> Result<Option<ContainerId>, RuntimeError> {
        let found = self.states(&plan.workspace).await?;
        let same = |state: &ContainerState| state.generation == plan.generation;
        Ok(found.into_iter().find(same).map(|state| state.id))
    }

    async fn states(&self, workspace: &WorkspaceId) -> Result<Vec<ContainerState>, RuntimeError> {
        let docker = self.connect()?;
        let summaries = self.summaries(&docker, Some(workspace)).await?;
        let mut states = Vec::with_capacity(summaries.len());
        for summary in summaries {
            let Some(id) = summary.id else { continue };
            match docker.inspect_container(&id, None).await {
                Ok(inspected) => states.extend(state::read(inspected)),
                // Removed since it was listed.
                Err(error) if not_found(&error) => {}
                Err(error) => return Err(refused("inspect", &id, &error)),
            }
        }
        Ok(states)
    }

    /// Name of the volume with the agent, filled.
    async fn agent_volume(&self, docker: &Docker, image: &str) -> Result<String, RuntimeError> {
        let mut known = self.agent_volume.lock().await;
        if let Some(volume) = &*known
            && volume.is_there(docker).await?
        {
            return Ok(volume.name.clone());
        }
        let volume = AgentVolume::ensure(docker, &self.options, image).await?;
        Ok(known.insert(volume).name.clone())
    }

    /// Makes the volumes that are missing, and returns what those that are
    /// overlays are made of.
    async fn ensure_volumes(
        &self,
        docker: &Docker,
        plan: &ContainerPlan,
        labels: &HashMap<String, String>,
    ) -> Result<Vec<Layers>, RuntimeError> {
        let mut layers = Vec::new();
        for kind in VolumeKind::ALL {
            let name = kind.volume_name(&plan.workspace, plan.generation);
            let there = volumes::ensure(docker, &name, labels).await?;
            layers.extend(Layers::of(kind, &there));
        }
        Ok(layers)
    }

    /// The account that commands of a workspace run as, and where `home` is
    /// mounted for it.
    async fn account(
        &self,
        docker: &Docker,
        reference: &str,
        user: Option<&str>,
    ) -> Result<(String, Option<String>), RuntimeError> {
        let image = self
            .image(reference)
            .await?
            .ok_or_else(|| RuntimeError::ImageMissing(reference.to_owned()))?;
        let user = match user {
            Some(user) => user.to_owned(),
            None if image.user.is_empty() => "root".to_owned(),
            None => image.user,
        };
        let mut accounts = self.accounts.lock().await;
        if !accounts.contains_key(&image.id) {
            if accounts.len() >= IMAGES_KNOWN {
                accounts.clear();
            }
            let passwd = self.passwd(docker, reference).await?;
            accounts.insert(image.id.clone(), passwd);
        }
        let home = passwd::home(&accounts[&image.id], &user);
        Ok((user, home))
    }

    /// The accounts of an image; empty where it names none.
    async fn passwd(&self, docker: &Docker, image: &str) -> Result<String, RuntimeError> {
        let helper = Helper::create(docker, &self.options, image, Vec::new()).await?;
        let passwd = helper.read("/etc/passwd").await;
        helper.remove().await;
        Ok(String::from_utf8_lossy(&passwd?.unwrap_or_default()).into_owned())
    }
}

/// The name of a generation's container, which those of its volumes begin with.
fn object_name(workspace: &WorkspaceId, generation: Generation) -> String {
    if generation == Generation::FIRST {
        return format!("compy-{workspace}");
    }
    format!("compy-{workspace}-{}", generation.0)
}

/// The volumes that an image declares and that are not at a place of ours,
/// sorted. One below a place of ours is a file system of its own all the same.
fn foreign_among(declared: Vec<String>, home: Option<&str>) -> Vec<String> {
    let ours = VolumeKind::ALL
        .into_iter()
        .filter_map(|kind| kind.target(home));
    let ours: Vec<PathBuf> = ours.map(PathBuf::from).collect();
    // Paths compare by their parts: `/tmp/` is `/tmp`.
    let foreign = |path: &String| !ours.iter().any(|place| place == Path::new(path));
    let mut foreign: Vec<String> = declared.into_iter().filter(foreign).collect();
    foreign.sort_unstable();
    foreign
}

/// The workspace whose volume has this name.
fn workspace_of_volume(name: &str) -> Option<WorkspaceId> {
    let rest = name.strip_prefix("compy-")?;
    // An id has one dash, after its prefix.
    let end = rest.match_indices('-').nth(1)?.0;
    rest[..end].parse().ok()
}

/// The volumes of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VolumeKind {
    Work,
    Home,
    Browser,
    State,
    Scratch,
    ScratchVar,
}

impl VolumeKind {
    /// Its name among the volumes of a workspace.
    fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Home => "home",
            Self::Browser => "browser",
            Self::State => "state",
            // Two volumes: engines before 26 cannot mount a part of one.
            Self::Scratch => "tmp",
            Self::ScratchVar => "var-tmp",
        }
    }

    const ALL: [Self; 6] = [
        Self::Work,
        Self::Home,
        Self::Browser,
        Self::State,
        Self::Scratch,
        Self::ScratchVar,
    ];

    fn volume_name(self, workspace: &WorkspaceId, generation: Generation) -> String {
        format!("{}-{}", object_name(workspace, generation), self.name())
    }

    /// Where it is mounted; `None` when the image has no place for it.
    fn target(self, home: Option<&str>) -> Option<String> {
        match self {
            Self::Work => Some(link::WORK_DIR.to_owned()),
            Self::Home => home.map(str::to_owned),
            Self::Browser => Some("/var/lib/compy-browser".to_owned()),
            Self::State => Some(link::STATE_DIR.to_owned()),
            Self::Scratch => Some("/tmp".to_owned()),
            Self::ScratchVar => Some("/var/tmp".to_owned()),
        }
    }
}

#[async_trait]
impl RuntimePort for DockerRuntime {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        let docker = self.connect()?;
        let version = docker
            .version()
            .await
            .map_err(|error| refused("ask", "its version", &error))?;
        let info = docker
            .info()
            .await
            .map_err(|error| refused("ask", "about itself", &error))?;
        Ok(EngineInfo {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            root_dir: info.docker_root_dir.unwrap_or_default().into(),
            storage_driver: info.driver.unwrap_or_default(),
            cpus: info.ncpu.and_then(|n| n.try_into().ok()).unwrap_or(0),
            memory_bytes: info.mem_total.and_then(|n| n.try_into().ok()).unwrap_or(0),
        })
    }

    async fn overlay_volumes(&self, image: &str) -> Result<OverlayVolumes, RuntimeError> {
        let mut known = self.overlays.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let found = self.try_overlay(image).await?;
        if let OverlayVolumes::Fail(why) = &found {
            tracing::warn!(%why, "volumes cannot be overlays here: restores and forks copy them");
        }
        Ok(known.insert(found).clone())
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        match self.connect()?.inspect_image(reference).await {
            Ok(image) => Ok(Some(ImageInfo {
                id: image.id.unwrap_or_default(),
                size_bytes: image.size.and_then(|n| n.try_into().ok()).unwrap_or(0),
                user: image.config.and_then(|c| c.user).unwrap_or_default(),
            })),
            Err(error) if not_found(&error) => Ok(None),
            Err(error) => Err(refused("inspect the image", reference, &error)),
        }
    }

    async fn foreign_volumes(
        &self,
        image: &str,
        user: Option<&str>,
    ) -> Result<Vec<String>, RuntimeError> {
        let docker = self.connect()?;
        let inspected = snapshots::inspect(&docker, image).await?;
        let declared = inspected.config.and_then(|config| config.volumes);
        let declared = declared.unwrap_or_default();
        if declared.is_empty() {
            return Ok(declared);
        }
        let (_, home) = self.account(&docker, image, user).await?;
        Ok(foreign_among(declared, home.as_deref()))
    }

    async fn create(&self, plan: &ContainerPlan) -> Result<ContainerId, RuntimeError> {
        if let Some(found) = self.made_before(plan).await? {
            return Ok(found);
        }
        let docker = self.connect()?;
        let _turn = self.turn().await?;
        let definition = &plan.definition;
        let user = definition.user.as_deref();
        let (user, home) = self.account(&docker, plan.image(), user).await?;
        let agent_volume = self.agent_volume(&docker, plan.image()).await?;
        let labels = self.labels(plan)?;
        let layers = self.ensure_volumes(&docker, plan, &labels).await?;

        let mut mounts = vec![
            volume(&agent_volume, link::AGENT_DIR, true),
            bind(&plan.link_dir, link::LINK_DIR),
        ];
        for kind in VolumeKind::ALL {
            if let Some(target) = kind.target(home.as_deref()) {
                let name = kind.volume_name(&plan.workspace, plan.generation);
                let mount = volume(&name, &target, false);
                // What a snapshot had empty stays empty.
                mounts.push(match plan.base {
                    Some(_) => without_copy(mount),
                    None => mount,
                });
            }
        }
        mounts.extend(layers.iter().flat_map(Layers::mounts));
        if let Some(file) = &plan.extra_ca_file {
            mounts.push(bind(file, EXTRA_CA_FILE));
        }
        let host_config =
            hardening::host_config(&definition.limits, definition.network, mounts, tmpfs());
        let body = ContainerCreateBody {
            hostname: Some(definition.name.to_string()),
            // The agent is root so that it can give each command its account;
            // what root may do here is bounded by the capabilities left to it.
            user: Some("0:0".to_owned()),
            image: Some(plan.image().to_owned()),
            entrypoint: Some(vec![link::AGENT_BINARY.to_owned()]),
            cmd: Some(vec![
                "serve".to_owned(),
                "--workspace-id".to_owned(),
                plan.workspace.to_string(),
                "--user".to_owned(),
                user,
            ]),
            working_dir: Some("/".to_owned()),
            labels: Some(labels),
            stop_signal: Some("SIGTERM".to_owned()),
            open_stdin: Some(false),
            tty: Some(false),
            host_config: Some(host_config),
            ..Default::default()
        };
        let name = object_name(&plan.workspace, plan.generation);
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..Default::default()
        };
        let error = match docker.create_container(Some(options), body).await {
            Ok(created) => return Ok(ContainerId(created.id)),
            Err(error) => error,
        };
        if errors::is_missing_image(&error) {
            return Err(RuntimeError::ImageMissing(plan.image().to_owned()));
        }
        if errors::conflict(&error) {
            for _ in 0..NAME_TRIES {
                if let Some(found) = self.made_before(plan).await? {
                    return Ok(found);
                }
                tokio::time::sleep(NAME_RETRY).await;
            }
        }
        Err(refused("create the container", &name, &error))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let _turn = self.turn().await?;
        let paused = docker
            .inspect_container(&id.0, None)
            .await
            .map_err(|error| errors::container("start", id, &error))?
            .state
            .is_some_and(|state| state.paused == Some(true));
        if paused {
            docker.unpause_container(&id.0).await
        } else {
            docker.start_container(&id.0, None).await
        }
        .map_err(|error| errors::container("start", id, &error))
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let mut tries = PAUSE_TRIES;
        loop {
            tries -= 1;
            match docker.pause_container(&id.0).await {
                Ok(()) => return Ok(()),
                Err(error) if errors::is_paused_already(&error) => return Ok(()),
                Err(error) if tries > 0 && errors::is_too_busy_to_freeze(&error) => {
                    tokio::time::sleep(PAUSE_RETRY).await;
                }
                Err(error) => return Err(errors::container("pause", id, &error)),
            }
        }
    }

    async fn usage(&self, id: &ContainerId) -> Result<Option<ContainerUsage>, RuntimeError> {
        usage::read(&self.connect()?, id).await
    }

    async fn root_bytes(&self, id: &ContainerId) -> Result<u64, RuntimeError> {
        usage::root_bytes(&self.connect()?, id).await
    }

    async fn stop(&self, id: &ContainerId, grace_seconds: u32) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        // A frozen process obeys no signal. Fails where it is not paused.
        let _ = docker.unpause_container(&id.0).await;
        let options = StopContainerOptions {
            t: Some(i32::try_from(grace_seconds).unwrap_or(i32::MAX)),
            ..Default::default()
        };
        docker
            .stop_container(&id.0, Some(options))
            .await
            .map_err(|error| errors::container("stop", id, &error))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..Default::default()
        };
        let docker = self.connect()?;
        let mut tries = REMOVAL_TRIES;
        loop {
            tries -= 1;
            match docker.remove_container(&id.0, Some(options.clone())).await {
                Ok(()) => return Ok(()),
                Err(error) if not_found(&error) => return Ok(()),
                // What asked for it may have ended; until it is done the container
                // holds its name and its volumes.
                Err(error) if tries > 0 && errors::is_removal_under_way(&error) => {
                    tokio::time::sleep(REMOVAL_RETRY).await;
                }
                Err(error) => return Err(errors::container("remove", id, &error)),
            }
        }
    }

    async fn remove_volumes(&self, workspace: &WorkspaceId) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let options = ListVolumesOptions {
            filters: Some(self.filters(Some(workspace))),
        };
        let listed = docker
            .list_volumes(Some(options))
            .await
            .map_err(|error| refused("list", "volumes", &error))?;
        let mut names: Vec<String> = (listed.volumes.unwrap_or_default().into_iter())
            .map(|volume| volume.name)
            .collect();
        // An overlay before its upper volume, whose name only goes on.
        names.sort_unstable();
        for name in names {
            volumes::remove(&docker, &name).await?;
        }
        Ok(())
    }

    async fn captured_volumes(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<BTreeSet<CapturedVolume>, RuntimeError> {
        let docker = self.connect()?;
        let mut there = BTreeSet::new();
        for volume in CapturedVolume::ALL {
            // By name: one that somebody made by hand is not to be filled either.
            let name = VolumeKind::from(volume).volume_name(workspace, generation);
            if volumes::is_there(&docker, &name).await? {
                there.insert(volume);
            }
        }
        Ok(there)
    }

    async fn find(&self, workspace: &WorkspaceId) -> Result<Option<ContainerState>, RuntimeError> {
        let states = self.states(workspace).await?;
        Ok(states
            .into_iter()
            .min_by_key(|state| newest_first(state.generation, state.status)))
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let summaries = self.summaries(&self.connect()?, None).await?;
        let mut ours: Vec<_> = summaries
            .into_iter()
            // A helper is found by its own id and listed nowhere.
            .filter(|summary| !helper::is_helper(summary.labels.as_ref()))
            .filter_map(state::summarize)
            .collect();
        ours.sort_by_key(|summary| newest_first(summary.generation, summary.status));
        let mut seen = HashSet::new();
        ours.retain(|summary| seen.insert(summary.workspace.clone()));
        Ok(ours)
    }

    async fn changes(&self) -> Result<BoxStream<'static, RuntimeChange>, RuntimeError> {
        changes::follow(self.connect()?, self.options.daemon.clone()).await
    }
}

/// Of one generation there is more than one only when somebody copied the
/// labels by hand; the one that runs is the right one then.
fn newest_first(generation: Generation, status: ContainerStatus) -> (Reverse<Generation>, bool) {
    (Reverse(generation), status != ContainerStatus::Running)
}

#[cfg(test)]
mod removal_tests;
#[cfg(test)]
mod tests;
