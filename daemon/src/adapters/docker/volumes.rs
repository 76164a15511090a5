//! Captured volumes that are made for a restore or a fork: plain ones, and
//! overlays over the copy of a tree.
//!
//! ```text
//! compy-<workspace>-work          the overlay; what containers mount
//! compy-<workspace>-work-upper    plain: upper/, what was changed, and work/
//! compy-copy-<hash>-<number>      plain: the copy, shared, never written again
//! ```
//!
//! The engine mounts an overlay when a container starts, and knows nothing of
//! what it is made of. So that `docker volume prune` finds them in use, a
//! workspace's container mounts the upper volume and the copy as well,
//! read-only, below a directory that root alone may enter (see
//! [`Layers::mounts`]).
//!
//! `index=on` keeps the names of a hard link together at the first write, and
//! `redirect_dir=on` lets directories of the copy be renamed. The root of an
//! overlay is that of its upper directory, so that is made with the owner, the
//! mode, the times and the attributes of the tree's: by an archive that is
//! unpacked into a container that never starts.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    models::{Mount, Volume, VolumeCreateRequest},
    query_parameters::{ListVolumesOptions, RemoveVolumeOptions},
};
use compyd_proto::link;
use uuid::Uuid;

use super::{
    DockerRuntime, LABEL_DAEMON, VolumeKind,
    errors::{conflict, not_found, refused},
    hardening::{volume, without_copy},
    helper::Helper,
    root_archive::RootArchive,
};
use crate::{
    domain::snapshot::{CapturedVolume, copies::VolumeRef, hash::TreeHash},
    ports::{
        runtime::{ContainerPlan, RuntimeError},
        snapshot_runtime::{CopyVolume, NewVolume},
    },
};

/// Label of a copy with the hash of its tree.
const LABEL_COPY: &str = "compy.copy";
/// Label of an overlay volume, and of its upper one, with the name of what it
/// lies over.
const LABEL_LOWER: &str = "compy.lower";
/// How often the removal of a volume in use is tried, which a container was just
/// removed from: for 5 s.
const RELEASE_TRIES: u32 = 50;
const RELEASE_RETRY: Duration = Duration::from_millis(100);

/// Where the container that never starts has the volumes.
const VOLUMES: &str = "volumes";
/// Where a workspace's container has what its overlays are made of.
const LAYERS: &str = "layers";

/// The parts of an overlay volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layers {
    lower: String,
    upper: String,
    kind: VolumeKind,
}

impl Layers {
    /// Those of a volume as the engine describes it; none of a plain one.
    pub(super) fn of(kind: VolumeKind, volume: &Volume) -> Option<Self> {
        let lower = volume.labels.get(LABEL_LOWER)?;
        Some(Self {
            lower: lower.clone(),
            upper: upper_name(&volume.name),
            kind,
        })
    }

    /// Keeps the parts from being taken for unused.
    pub(super) fn mounts(&self) -> [Mount; 2] {
        let at = |part| format!("{}/{LAYERS}/{}/{part}", link::STATE_DIR, self.kind.name());
        [(&self.lower, "lower"), (&self.upper, "upper")]
            .map(|(name, part)| without_copy(volume(name, &at(part), true)))
    }
}

/// The name of the volume that holds what an overlay volume changed.
pub(super) fn upper_name(overlay: &str) -> String {
    format!("{overlay}-upper")
}

/// The settings of an overlay over one volume with another's directories.
/// Fails for a path that cannot be written there.
fn overlay_options(lower: &Volume, upper: &Volume) -> Result<HashMap<String, String>, String> {
    let paths = [&lower.mountpoint, &upper.mountpoint];
    if let Some(odd) = paths.iter().find(|path| path.contains([',', ':', '\\'])) {
        return Err(format!("{odd} has a character with a meaning to mount"));
    }
    let [lower, upper] = paths;
    let options = format!(
        "lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work,index=on,redirect_dir=on"
    );
    Ok(HashMap::from([
        ("type".to_owned(), "overlay".to_owned()),
        ("device".to_owned(), "overlay".to_owned()),
        ("o".to_owned(), options),
    ]))
}

pub(super) async fn create(
    docker: &Docker,
    name: &str,
    labels: &HashMap<String, String>,
) -> Result<Volume, RuntimeError> {
    let request = VolumeCreateRequest {
        name: Some(name.to_owned()),
        labels: Some(labels.clone()),
        ..Default::default()
    };
    let created = docker.create_volume(request).await;
    created.map_err(|error| refused("create the volume", name, &error))
}

/// Makes an overlay volume of two plain ones.
pub(super) async fn create_overlay(
    docker: &Docker,
    name: &str,
    labels: &HashMap<String, String>,
    lower: &Volume,
    upper: &Volume,
) -> Result<Volume, RuntimeError> {
    let options = overlay_options(lower, upper).map_err(|message| RuntimeError::Refused {
        action: "make an overlay of",
        subject: lower.name.clone(),
        message,
    })?;
    let mut labels = labels.clone();
    labels.insert(LABEL_LOWER.to_owned(), lower.name.clone());
    let request = VolumeCreateRequest {
        name: Some(name.to_owned()),
        driver: Some("local".to_owned()),
        driver_opts: Some(options),
        labels: Some(labels),
        ..Default::default()
    };
    let created = docker.create_volume(request).await;
    created.map_err(|error| refused("create the volume", name, &error))
}

/// What the engine knows of a volume.
pub(super) async fn find(docker: &Docker, name: &str) -> Result<Option<Volume>, RuntimeError> {
    match docker.inspect_volume(name).await {
        Ok(volume) => Ok(Some(volume)),
        Err(error) if not_found(&error) => Ok(None),
        Err(error) => Err(refused("inspect the volume", name, &error)),
    }
}

/// Whether the content of a volume is there. Of an overlay that is what it
/// changed and what it lies over; itself it is made again from the two.
pub(super) async fn is_there(docker: &Docker, name: &str) -> Result<bool, RuntimeError> {
    let volume = find(docker, name).await?;
    let upper = find(docker, &upper_name(name)).await?;
    let mut parts = volume.iter().chain(&upper);
    Ok(match parts.find_map(|part| part.labels.get(LABEL_LOWER)) {
        Some(lower) => upper.is_some() && find(docker, lower).await?.is_some(),
        None => volume.is_some(),
    })
}

/// Makes a volume that is missing: an overlay over what it lay over where what
/// it changed is still there, a plain one otherwise. One that is there is left
/// as it is, and described.
pub(super) async fn ensure(
    docker: &Docker,
    name: &str,
    labels: &HashMap<String, String>,
) -> Result<Volume, RuntimeError> {
    if let Some(upper) = find(docker, &upper_name(name)).await?
        && let Some(lower) = upper.labels.get(LABEL_LOWER)
        && find(docker, name).await?.is_none()
        && let Some(lower) = find(docker, lower).await?
    {
        tracing::warn!(
            volume = name,
            "an overlay volume was gone and is made again"
        );
        return create_overlay(docker, name, labels, &lower, &upper).await;
    }
    create(docker, name, labels).await
}

/// Removes a volume; an absent one is accepted. The engine lets go of the volumes
/// of a container a moment after it is gone, so one in use is tried again.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let mut tries = RELEASE_TRIES;
    loop {
        tries -= 1;
        let removed = docker.remove_volume(name, None::<RemoveVolumeOptions>);
        match removed.await {
            Ok(()) => return Ok(()),
            Err(error) if not_found(&error) => return Ok(()),
            Err(error) if tries > 0 && conflict(&error) => {
                tokio::time::sleep(RELEASE_RETRY).await;
            }
            Err(error) => return Err(refused("remove the volume", name, &error)),
        }
    }
}

/// Removes an overlay volume before its upper one, or a plain volume.
pub(super) async fn remove_with_upper(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    remove(docker, name).await?;
    remove(docker, &upper_name(name)).await
}

impl DockerRuntime {
    pub(super) async fn make_volumes(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let labels = self.labels(plan)?;
        let state = VolumeKind::State.volume_name(&plan.workspace, plan.generation);
        create(&docker, &state, &labels).await?;
        for new in volumes {
            let name = VolumeKind::from(new.volume).volume_name(&plan.workspace, plan.generation);
            remove_with_upper(&docker, &name).await?;
            let Some(lower) = &new.lower else {
                create(&docker, &name, &labels).await?;
                continue;
            };
            // The upper one names it too: with it the overlay can be made again.
            let mut upper_labels = labels.clone();
            upper_labels.insert(LABEL_LOWER.to_owned(), lower.0.clone());
            let upper = create(&docker, &upper_name(&name), &upper_labels).await?;
            let found = docker.inspect_volume(&lower.0).await;
            let lower = found.map_err(|error| refused("inspect the volume", &lower.0, &error))?;
            create_overlay(&docker, &name, &labels, &lower, &upper).await?;
        }
        Ok(())
    }

    pub(super) async fn unpack_roots(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let kind = VolumeKind::State;
        let mut archive = RootArchive::default();
        archive.private_directory(&format!("{VOLUMES}/{}/{LAYERS}", kind.name()))?;
        let state = kind.volume_name(&plan.workspace, plan.generation);
        let mut mounts = vec![mounted(&state, kind)];
        for new in volumes {
            let kind = VolumeKind::from(new.volume);
            let name = kind.volume_name(&plan.workspace, plan.generation);
            let at = format!("{VOLUMES}/{}", kind.name());
            match &new.lower {
                None => {
                    archive.root(&at, &new.root)?;
                    mounts.push(mounted(&name, kind));
                }
                Some(_) => {
                    archive.root(&format!("{at}/upper"), &new.root)?;
                    archive.private_directory(&format!("{at}/work"))?;
                    mounts.push(mounted(&upper_name(&name), kind));
                }
            }
        }
        let helper = Helper::create(&docker, &self.options, plan.image(), mounts).await?;
        let unpacked = helper.upload("/", archive.finish()?).await;
        helper.remove().await;
        unpacked
    }

    pub(super) async fn make_copy(&self, tree: &TreeHash) -> Result<VolumeRef, RuntimeError> {
        let docker = self.connect()?;
        let tree = tree.to_string();
        let number = Uuid::now_v7().simple();
        let mut labels: HashMap<String, String> = self.options.labels.clone().into_iter().collect();
        labels.insert(LABEL_DAEMON.to_owned(), self.options.daemon.clone());
        labels.insert(LABEL_COPY.to_owned(), tree.clone());
        let name = format!("compy-copy-{}-{number}", &tree[..12]);
        Ok(VolumeRef(create(&docker, &name, &labels).await?.name))
    }

    pub(super) async fn find_copies(&self) -> Result<Vec<CopyVolume>, RuntimeError> {
        let options = ListVolumesOptions {
            filters: Some(self.filters(None)),
        };
        let listed = self.connect()?.list_volumes(Some(options)).await;
        let listed = listed.map_err(|error| refused("list", "volumes", &error))?;
        let volumes = listed.volumes.unwrap_or_default();
        let is_copy = |volume: &&Volume| volume.labels.contains_key(LABEL_COPY);
        let copies = volumes.iter().filter(is_copy).map(|copy| CopyVolume {
            volume: VolumeRef(copy.name.clone()),
            in_use: (volumes.iter()).any(|over| over.labels.get(LABEL_LOWER) == Some(&copy.name)),
        });
        Ok(copies.collect())
    }

    pub(super) async fn drop_copy(&self, copy: &VolumeRef) -> Result<(), RuntimeError> {
        let docker = self.connect()?;
        let removed = docker.remove_volume(&copy.0, None::<RemoveVolumeOptions>);
        match removed.await {
            Ok(()) => Ok(()),
            Err(error) if not_found(&error) || conflict(&error) => Ok(()),
            Err(error) => Err(refused("remove the volume", &copy.0, &error)),
        }
    }
}

fn mounted(name: &str, kind: VolumeKind) -> Mount {
    without_copy(volume(name, &format!("/{VOLUMES}/{}", kind.name()), false))
}

impl From<CapturedVolume> for VolumeKind {
    fn from(volume: CapturedVolume) -> Self {
        match volume {
            CapturedVolume::Work => Self::Work,
            CapturedVolume::Home => Self::Home,
            CapturedVolume::Browser => Self::Browser,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_mount_would_take_apart_is_refused() {
        let at = |path: &str| Volume {
            mountpoint: path.to_owned(),
            ..Default::default()
        };
        let options = overlay_options(&at("/v/l"), &at("/v/u")).unwrap();
        assert_eq!(
            options["o"],
            "lowerdir=/v/l,upperdir=/v/u/upper,workdir=/v/u/work,index=on,redirect_dir=on"
        );
        for odd in ["/v,w", "/v:w", "/v\\w"] {
            assert!(overlay_options(&at(odd), &at("/v/u")).is_err(), "{odd}");
        }
    }
}
