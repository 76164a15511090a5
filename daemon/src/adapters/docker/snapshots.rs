//! What snapshots need of the engine: frozen containers, committed images, and
//! helpers that reach volumes.

use std::{collections::HashMap, path::PathBuf};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::{
        ContainerConfig, ContainerCreateBody, DriverData, HostConfig, ImageConfig, ImageInspect,
        Mount,
    },
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, ListImagesOptions, RemoveImageOptions,
        TagImageOptions,
    },
};
use compyd_proto::link;

use super::{
    DockerRuntime, LABEL_BASE, LABEL_DAEMON, LABEL_DEFINITION, LABEL_GENERATION, LABEL_WORKSPACE,
    VolumeKind,
    errors::{self, conflict, not_found, refused},
    hardening::{bind, bind_of_engine, tmpfs, volume, without_copy},
    helper, object_name, volumes,
};
use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        snapshot::{
            CapturedVolume,
            copies::VolumeRef,
            hash::TreeHash,
            journal::{ContainerRef, Generation, ImageRef},
            layers::{BaseImage, ImageLayers},
        },
    },
    ports::{
        runtime::{ContainerId, ContainerPlan, RuntimeError, RuntimePort as _},
        snapshot_runtime::{
            CommittedImage, CopyVolume, FileAccess, HelperPlan, ImageHelperPlan, NewVolume,
            ROOT_CHANGES_DIRECTORY, ROOT_SHOWN_DIRECTORY, RootChanges, SnapshotRuntimePort,
            VolumeAccess, helper_container, volume_directory,
        },
    },
};

/// Label of a committed image with the daemon that made it.
const LABEL_IMAGES: &str = "compy.daemon.snapshots";
/// Label of a committed image with the id of the one that its layers begin
/// with: what somebody brought, and no snapshot made.
const LABEL_BEGUN_WITH: &str = "compy.snapshot.begun-with";
/// Label of a committed image with its snapshot's id.
const LABEL_SNAPSHOT: &str = "compy.snapshot";

/// What reading and writing every file of a volume needs of root: owners,
/// foreign directories, modes and times, setgid, device files, and file
/// capabilities.
const CAPABILITIES: [&str; 6] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "SETFCAP",
];
/// The storage driver whose file system is a program with a cache of writes.
const KEEPS_WRITES_BACK: &str = "fuse-overlayfs";
/// Threads of the agent, and a few to spare.
const HELPER_PIDS: i64 = 512;

impl DockerRuntime {
    fn helper_labels(&self, id: &WorkspaceId, of: Option<&WorkspaceId>) -> HashMap<String, String> {
        let mut labels = helper::labels(&self.options);
        labels.extend(of.map(|of| (helper::LABEL_OF.to_owned(), of.to_string())));
        labels.insert(LABEL_WORKSPACE.to_owned(), id.to_string());
        labels.insert(LABEL_DAEMON.to_owned(), self.options.daemon.clone());
        labels
    }

    /// Makes a container, not started, that runs nothing but the agent.
    async fn create_agent(
        &self,
        docker: &Docker,
        id: &WorkspaceId,
        image: &str,
        mounts: Vec<Mount>,
        files: FileAccess,
        of: Option<&WorkspaceId>,
    ) -> Result<ContainerId, RuntimeError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![link::AGENT_BINARY.to_owned()]),
            cmd: Some(
                [
                    "serve",
                    "--workspace-id",
                    id.as_str(),
                    "--user",
                    "0:0",
                    "--root",
                    "/volumes",
                    "--state",
                    "/run/compy/state",
                ]
                .map(str::to_owned)
                .to_vec(),
            ),
            working_dir: Some("/".to_owned()),
            labels: Some(self.helper_labels(id, of)),
            host_config: Some(HostConfig {
                pids_limit: Some(HELPER_PIDS),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                network_mode: Some("none".to_owned()),
                readonly_rootfs: Some(files == FileAccess::Read),
                mounts: Some(mounts),
                tmpfs: Some(tmpfs()),
                init: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        };
        let name = helper_container(id).0;
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..Default::default()
        };
        match docker.create_container(Some(options), body).await {
            Ok(created) => Ok(ContainerId(created.id)),
            Err(error) if errors::is_missing_image(&error) => {
                Err(RuntimeError::ImageMissing(image.to_owned()))
            }
            Err(error) => Err(refused("create the container", &name, &error)),
        }
    }

    /// Commits a container with the settings of an image.
    async fn commit_as(
        &self,
        docker: &Docker,
        id: &ContainerId,
        like: ImageInspect,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let like_bytes = size_of(&like);
        // An image of ours hands on what it was begun with.
        let begun_with = match label_of(&like, LABEL_IMAGES) {
            Some(_) => label_of(&like, LABEL_BEGUN_WITH).unwrap_or_default(),
            None => like.id.as_deref().unwrap_or_default(),
        };
        let begun_with = begun_with.to_owned();
        let config = self.image_config(like.config.unwrap_or_default(), snapshot, begun_with);
        let tag = ImageRef::of(snapshot);
        let (repository, version) = repository_and_tag(&tag);
        let options = CommitContainerOptions {
            container: Some(id.0.clone()),
            repo: Some(repository.to_owned()),
            tag: Some(version.to_owned()),
            pause: false,
            ..Default::default()
        };
        let committed = docker
            .commit_container(options, config)
            .await
            .map_err(|error| errors::container("commit", id, &error))?;
        let size_bytes = size_of(&inspect(docker, &tag.0).await?);
        Ok(CommittedImage {
            id: committed.id,
            size_bytes,
            new_bytes: size_bytes.saturating_sub(like_bytes),
        })
    }

    /// The settings of a committed image. The engine fills what is empty from
    /// the container, whose settings are the agent's: so whatever differs is
    /// set here, and our labels are blanked.
    fn image_config(
        &self,
        before: ImageConfig,
        snapshot: &SnapshotId,
        begun_with: String,
    ) -> ContainerConfig {
        let mut labels = self.image_labels(snapshot);
        labels.insert(LABEL_BEGUN_WITH.to_owned(), begun_with);
        let or = |given: Option<String>, default: &str| {
            given
                .filter(|text| !text.is_empty())
                .or_else(|| Some(default.to_owned()))
        };
        ContainerConfig {
            user: or(before.user, "root"),
            working_dir: or(before.working_dir, "/"),
            env: before.env,
            entrypoint: Some(before.entrypoint.unwrap_or_default()),
            cmd: (before.cmd)
                .filter(|cmd| !cmd.is_empty())
                .or_else(|| Some(vec!["/bin/sh".to_owned()])),
            stop_signal: or(before.stop_signal, "SIGTERM"),
            labels: Some(labels),
            ..Default::default()
        }
    }

    /// The labels of a snapshot's image; ours that containers carry are blank.
    pub(super) fn image_labels(&self, snapshot: &SnapshotId) -> HashMap<String, String> {
        let mut labels: HashMap<String, String> = self.options.labels.clone().into_iter().collect();
        for label in [
            LABEL_WORKSPACE,
            LABEL_DEFINITION,
            LABEL_DAEMON,
            LABEL_GENERATION,
            LABEL_BASE,
        ]
        .into_iter()
        // The container that becomes a flattened image is a helper.
        .chain(helper::OWN_LABELS)
        {
            labels.insert(label.to_owned(), String::new());
        }
        labels.insert(LABEL_IMAGES.to_owned(), self.options.daemon.clone());
        labels.insert(LABEL_SNAPSHOT.to_owned(), snapshot.to_string());
        labels
    }
}

/// Content id of the image that a container was made from.
async fn image_of(docker: &Docker, id: &ContainerId) -> Result<String, RuntimeError> {
    let container = docker.inspect_container(&id.0, None).await;
    let container = container.map_err(|error| errors::container("commit", id, &error))?;
    Ok(container.image.unwrap_or_default())
}

/// The layers of an image, the lowest first.
fn layers_of(image: &ImageInspect) -> Vec<String> {
    let layers = image.root_fs.as_ref().and_then(|root| root.layers.clone());
    layers.unwrap_or_default()
}

fn count(layers: &[String]) -> u32 {
    u32::try_from(layers.len()).unwrap_or(u32::MAX)
}

fn is_below(below: &[String], layers: &[String]) -> bool {
    !below.is_empty() && below.len() < layers.len() && layers.starts_with(below)
}

fn label_of<'a>(image: &'a ImageInspect, label: &str) -> Option<&'a str> {
    let labels = image.config.as_ref()?.labels.as_ref()?;
    labels
        .get(label)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

pub(super) async fn inspect(docker: &Docker, image: &str) -> Result<ImageInspect, RuntimeError> {
    let inspected = docker.inspect_image(image).await;
    inspected.map_err(|error| match not_found(&error) {
        true => RuntimeError::ImageMissing(image.to_owned()),
        false => refused("inspect the image", image, &error),
    })
}

/// Bytes of an image with all its layers.
pub(super) fn size_of(image: &ImageInspect) -> u64 {
    image.size.and_then(|n| n.try_into().ok()).unwrap_or(0)
}

fn repository_and_tag(image: &ImageRef) -> (&str, &str) {
    image.0.rsplit_once(':').unwrap_or((&image.0, "latest"))
}

#[async_trait]
impl SnapshotRuntimePort for DockerRuntime {
    async fn unpause(&self, container: &ContainerRef) -> Result<(), RuntimeError> {
        match self.connect()?.unpause_container(&container.0).await {
            Ok(()) => Ok(()),
            Err(error) if not_found(&error) => Ok(()),
            // Engines say 500 or 409 for one that is not paused.
            Err(error) if errors::is_not_paused(&error) => Ok(()),
            Err(error) => Err(refused("unpause", &container.0, &error)),
        }
    }

    async fn commit(
        &self,
        id: &ContainerId,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let docker = self.connect()?;
        let before = image_of(&docker, id).await?;
        let before = inspect(&docker, &before).await?;
        self.commit_as(&docker, id, before, snapshot).await
    }

    async fn commit_like(
        &self,
        id: &ContainerId,
        like: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let docker = self.connect()?;
        let before_bytes = size_of(&inspect(&docker, &image_of(&docker, id).await?).await?);
        let like = inspect(&docker, &like.0).await?;
        let committed = self.commit_as(&docker, id, like, snapshot).await?;
        Ok(CommittedImage {
            new_bytes: committed.size_bytes.saturating_sub(before_bytes),
            ..committed
        })
    }

    async fn layers(&self, image: &str, made_from: &str) -> Result<ImageLayers, RuntimeError> {
        let docker = self.connect()?;
        let image = inspect(&docker, image).await?;
        let (mut base, layers) = (None, layers_of(&image));
        for candidate in label_of(&image, LABEL_BEGUN_WITH)
            .into_iter()
            .chain([made_from])
        {
            match docker.inspect_image(candidate).await {
                Ok(below) if is_below(&layers_of(&below), &layers) => {
                    base = Some(BaseImage {
                        count: count(&layers_of(&below)),
                        id: below.id.unwrap_or_default(),
                    });
                    break;
                }
                Ok(_) => {}
                Err(error) if not_found(&error) => {}
                Err(error) => return Err(refused("inspect the image", candidate, &error)),
            }
        }
        Ok(ImageLayers {
            count: count(&layers),
            base,
        })
    }

    async fn root_changes(&self, id: &ContainerId) -> Result<Option<RootChanges>, RuntimeError> {
        let container = (self.connect()?.inspect_container(&id.0, None).await)
            .map_err(|error| errors::container("inspect", id, &error))?;
        let runs = container.state.and_then(|state| state.running) == Some(true);
        let Some(DriverData { name, mut data }) = container.graph_driver else {
            return Ok(None);
        };
        let shown = data
            .remove("MergedDir")
            .filter(|_| runs && name == KEEPS_WRITES_BACK);
        Ok(data.remove("UpperDir").map(|directory| RootChanges {
            directory: directory.into(),
            shown_at: shown.map(PathBuf::from),
        }))
    }

    async fn share(
        &self,
        image: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let docker = self.connect()?;
        let tag = ImageRef::of(snapshot);
        let (repository, version) = repository_and_tag(&tag);
        let options = TagImageOptions {
            repo: Some(repository.to_owned()),
            tag: Some(version.to_owned()),
        };
        match docker.tag_image(&image.0, Some(options)).await {
            Ok(()) => {}
            Err(error) if not_found(&error) => {
                return Err(RuntimeError::ImageMissing(image.0.clone()));
            }
            Err(error) => return Err(refused("tag the image", &image.0, &error)),
        }
        let shared = inspect(&docker, &tag.0).await?;
        Ok(CommittedImage {
            size_bytes: size_of(&shared),
            id: shared.id.unwrap_or_default(),
            new_bytes: 0,
        })
    }

    async fn tag(&self, image: &str, tag: &ImageRef) -> Result<bool, RuntimeError> {
        let (repository, version) = tag.0.rsplit_once(':').unwrap_or((&tag.0, "latest"));
        let options = TagImageOptions {
            repo: Some(repository.to_owned()),
            tag: Some(version.to_owned()),
        };
        match self.connect()?.tag_image(image, Some(options)).await {
            Ok(()) => Ok(true),
            Err(error) if not_found(&error) => Ok(false),
            Err(error) => Err(refused("tag the image", image, &error)),
        }
    }

    async fn committed(&self) -> Result<Vec<ImageRef>, RuntimeError> {
        let ours = format!("{LABEL_IMAGES}={}", self.options.daemon);
        let options = ListImagesOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![ours])])),
            ..Default::default()
        };
        let listed = self.connect()?.list_images(Some(options)).await;
        let listed = listed.map_err(|error| refused("list", "images", &error))?;
        let is_ours = |tag: &String| tag.starts_with(ImageRef::SNAPSHOTS);
        let names = listed.into_iter().flat_map(|image| {
            // Engines say `<none>:<none>` of one without a name.
            let mut tags = image.repo_tags;
            tags.retain(|tag| !tag.starts_with("<none>"));
            match tags.is_empty() {
                true => vec![image.id],
                false => tags.into_iter().filter(is_ours).collect(),
            }
        });
        Ok(names.map(ImageRef).collect())
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        match docker
            .remove_image(&image.0, None::<RemoveImageOptions>, None)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if not_found(&error) || conflict(&error) => Ok(()),
            Err(error) => Err(refused("remove the image", &image.0, &error)),
        }
    }

    async fn create_volumes(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError> {
        self.make_volumes(plan, volumes).await
    }

    async fn make_roots(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError> {
        self.unpack_roots(plan, volumes).await
    }

    async fn create_copy(&self, tree: &TreeHash) -> Result<VolumeRef, RuntimeError> {
        self.make_copy(tree).await
    }

    async fn copies(&self) -> Result<Vec<CopyVolume>, RuntimeError> {
        self.find_copies().await
    }

    async fn remove_copy(&self, volume: &VolumeRef) -> Result<(), RuntimeError> {
        self.drop_copy(volume).await
    }

    async fn create_helper(&self, plan: &HelperPlan) -> Result<ContainerId, RuntimeError> {
        let docker = self.connect()?;
        let _turn = self.turn().await?;
        let agent_volume = self.agent_volume(&docker, &plan.image).await?;
        let mut mounts = vec![
            volume(&agent_volume, link::AGENT_DIR, true),
            bind(&plan.link_dir, link::LINK_DIR),
        ];
        for captured in CapturedVolume::ALL {
            let kind = VolumeKind::from(captured);
            let own = || kind.volume_name(&plan.of.workspace, plan.of.generation);
            let (name, read_only) = match &plan.access {
                VolumeAccess::Read => (own(), true),
                VolumeAccess::Write => (own(), false),
                VolumeAccess::Copies(copies) => match copies.get(&captured) {
                    Some(copy) => (copy.0.clone(), false),
                    None => continue,
                },
            };
            let mount = volume(&name, volume_directory(captured), read_only);
            mounts.push(without_copy(mount));
        }
        if let Some(root) = &plan.root {
            mounts.push(bind_of_engine(&root.directory, ROOT_CHANGES_DIRECTORY));
            let shown = root.shown_at.as_deref();
            mounts.extend(shown.map(|shown| bind_of_engine(shown, ROOT_SHOWN_DIRECTORY)));
        }
        let (files, of) = (FileAccess::Read, Some(&plan.of.workspace));
        self.create_agent(&docker, &plan.id, &plan.image, mounts, files, of)
            .await
    }

    async fn create_image_helper(
        &self,
        plan: &ImageHelperPlan,
    ) -> Result<ContainerId, RuntimeError> {
        let docker = self.connect()?;
        let _turn = self.turn().await?;
        let agent_volume = self.agent_volume(&docker, &plan.image).await?;
        let mounts = vec![
            volume(&agent_volume, link::AGENT_DIR, true),
            bind(&plan.link_dir, link::LINK_DIR),
        ];
        self.create_agent(&docker, &plan.id, &plan.image, mounts, plan.access, None)
            .await
    }

    async fn sweep_helpers(&self) -> Result<(), RuntimeError> {
        helper::sweep(&self.connect()?, &self.options).await
    }

    async fn remove_generation(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<(), RuntimeError> {
        let container = ContainerId(object_name(workspace, generation));
        self.remove(&container).await?;
        let docker = self.connect()?;
        for kind in VolumeKind::ALL {
            let name = kind.volume_name(workspace, generation);
            volumes::remove_with_upper(&docker, &name).await?;
        }
        Ok(())
    }
}
