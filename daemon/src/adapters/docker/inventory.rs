//! Containers and volumes of this daemon, by their labels.

use std::collections::HashMap;

use async_trait::async_trait;
use bollard::{
    models::{ContainerSummary, Volume},
    query_parameters::{ListContainersOptions, ListVolumesOptions, RemoveVolumeOptions},
};

use super::{
    DockerRuntime, LABEL_DAEMON, LABEL_DEFINITION, LABEL_GENERATION, LABEL_WORKSPACE,
    errors::{conflict, not_found, refused},
    helper,
};
use crate::{
    domain::{
        ids::WorkspaceId,
        orphans::{EngineObject, Role},
        snapshot::journal::Generation,
        workspace::WorkspaceDefinition,
    },
    ports::{
        inventory::{Discarded, InventoryPort},
        runtime::{ContainerId, RuntimeError, RuntimePort as _},
    },
};

type Labels = HashMap<String, String>;

#[async_trait]
impl InventoryPort for DockerRuntime {
    async fn inventory(&self) -> Result<Vec<EngineObject>, RuntimeError> {
        let docker = self.connect()?;
        let mut objects = Vec::new();
        // Helpers that never run do not carry the label of the others.
        for owner in [LABEL_DAEMON, helper::LABEL_HELPER] {
            let ours = format!("{owner}={}", self.options.daemon);
            let filters = HashMap::from([("label".to_owned(), vec![ours])]);
            let options = ListContainersOptions {
                all: true,
                filters: Some(filters.clone()),
                ..Default::default()
            };
            let listed = docker.list_containers(Some(options)).await;
            let listed = listed.map_err(|error| refused("list", "containers", &error))?;
            objects.extend(listed.into_iter().filter_map(container));
            let options = ListVolumesOptions {
                filters: Some(filters),
            };
            let listed = docker.list_volumes(Some(options)).await;
            let listed = listed.map_err(|error| refused("list", "volumes", &error))?;
            objects.extend(listed.volumes.into_iter().flatten().filter_map(volume));
        }
        // An overlay before its upper volume, whose name only goes on; helpers
        // that run carry both labels.
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        objects.dedup();
        Ok(objects)
    }

    async fn has(&self, object: &EngineObject) -> Result<bool, RuntimeError> {
        let docker = self.connect()?;
        let looked = match &object.role {
            Role::Container { .. } | Role::Helper { .. } => {
                let looked = docker.inspect_container(&object.name, None).await;
                looked.map(drop)
            }
            Role::Volume { .. } | Role::HelperVolume { .. } => {
                docker.inspect_volume(&object.name).await.map(drop)
            }
        };
        match looked {
            Ok(()) => Ok(true),
            Err(error) if not_found(&error) => Ok(false),
            Err(error) => Err(refused("inspect", &object.name, &error)),
        }
    }

    async fn discard(&self, object: &EngineObject) -> Result<Discarded, RuntimeError> {
        match &object.role {
            Role::Container { .. } | Role::Helper { .. } => {
                self.remove(&ContainerId(object.name.clone())).await?;
                Ok(Discarded::Gone)
            }
            Role::Volume { .. } | Role::HelperVolume { .. } => {
                let options = None::<RemoveVolumeOptions>;
                match self.connect()?.remove_volume(&object.name, options).await {
                    Ok(()) => Ok(Discarded::Gone),
                    Err(error) if not_found(&error) => Ok(Discarded::Gone),
                    Err(error) if conflict(&error) => Ok(Discarded::InUse),
                    Err(error) => Err(refused("remove the volume", &object.name, &error)),
                }
            }
        }
    }
}

fn container(summary: ContainerSummary) -> Option<EngineObject> {
    let labels = summary.labels.unwrap_or_default();
    let role = match helper::is_helper(Some(&labels)) {
        true => Role::Helper {
            id: workspace(&labels, LABEL_WORKSPACE),
            of: workspace(&labels, helper::LABEL_OF),
            maker: helper::maker(&labels),
        },
        false => Role::Container {
            workspace: workspace(&labels, LABEL_WORKSPACE)?,
            generation: generation(&labels),
            adoptable: labels
                .get(LABEL_DEFINITION)
                .is_some_and(|json| serde_json::from_str::<WorkspaceDefinition>(json).is_ok()),
        },
    };
    Some(EngineObject {
        name: summary.id?,
        role,
        made_at_ms: summary.created.map(|seconds| seconds.saturating_mul(1000)),
    })
}

/// A volume that is not a copy of a tree.
fn volume(volume: Volume) -> Option<EngineObject> {
    let labels = &volume.labels;
    let role = match helper::is_helper(Some(labels)) {
        true => Role::HelperVolume {
            maker: helper::maker(labels),
        },
        false => Role::Volume {
            workspace: workspace(labels, LABEL_WORKSPACE)?,
            generation: generation(labels),
        },
    };
    Some(EngineObject {
        name: volume.name,
        role,
        made_at_ms: volume.created_at.as_deref().and_then(milliseconds),
    })
}

fn workspace(labels: &Labels, label: &str) -> Option<WorkspaceId> {
    labels.get(label)?.parse().ok()
}

fn generation(labels: &Labels) -> Generation {
    let number = labels.get(LABEL_GENERATION);
    let number = number.and_then(|number| number.parse().ok());
    number.map_or(Generation::FIRST, Generation)
}

/// The engine's times have its host's offset: `2026-01-02T03:04:05+02:00`.
fn milliseconds(time: &str) -> Option<i64> {
    let (local, offset_seconds) = match time.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = time.split_at_checked(time.len().checked_sub(6)?)?;
            let sign = match offset.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = offset[1..].split_once(':')?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
            (local, sign * (hours * 60 + minutes) * 60)
        }
    };
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let since = local.duration_since(std::time::UNIX_EPOCH).ok()?;
    let local_ms = i64::try_from(since.as_millis()).ok()?;
    Some(local_ms - offset_seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_times_are_read_whatever_their_offset() {
        let same = [
            "2026-01-02T03:04:05Z",
            "2026-01-02T05:04:05+02:00",
            "2026-01-01T21:34:05-05:30",
        ];
        for time in same {
            assert_eq!(milliseconds(time), Some(1_767_323_045_000), "{time}");
        }
        for odd in [
            "",
            "Z",
            "soon",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05*02:00",
        ] {
            assert_eq!(milliseconds(odd), None, "{odd}");
        }
    }

    #[test]
    fn objects_are_told_apart_by_their_labels() {
        let id = "ws-0197b1c2d3e47f5a8b6c7d8e9f001122";
        let labels = |labels: &[(&str, &str)]| -> Labels {
            let owned = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
            owned.collect()
        };
        let read = |given: &[(&str, &str)]| {
            let summary = ContainerSummary {
                id: Some("c".to_owned()),
                labels: Some(labels(given)),
                ..Default::default()
            };
            container(summary).map(|object| object.role)
        };
        let workspace: WorkspaceId = id.parse().unwrap();
        let own = (LABEL_WORKSPACE, id);
        assert_eq!(
            read(&[own, (LABEL_GENERATION, "3")]),
            Some(Role::Container {
                workspace: workspace.clone(),
                generation: Generation(3),
                adoptable: false,
            })
        );
        assert_eq!(read(&[(LABEL_WORKSPACE, "somebody's")]), None);
        let helper = (helper::LABEL_HELPER, "us");
        assert_eq!(
            read(&[own, helper, (helper::LABEL_OF, id)]),
            Some(Role::Helper {
                id: Some(workspace.clone()),
                of: Some(workspace),
                maker: crate::domain::orphans::Maker::Earlier,
            })
        );
    }
}
