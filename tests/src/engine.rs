//! The engine as tests see it from outside: what is there, what carries a
//! label, and its removal.

use std::collections::HashMap;

use bollard::{
    Docker,
    models::ContainerInspectResponse,
    query_parameters::{
        KillContainerOptions, ListContainersOptions, ListImagesOptions, ListVolumesOptions,
        RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions, TopOptions,
    },
};

use crate::programs;

/// The label of everything that tests make; its value names the run.
pub const LABEL: &str = "compy.test";
/// The image that workspaces get when none is named.
pub const IMAGE: &str = "compy/base:latest";

/// A connection to an engine.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// The engine at `host` (`unix:///PATH`), else the one that the environment
    /// names, else the machine's own.
    ///
    /// # Errors
    /// Says why there is none, for a person.
    pub async fn connect(host: Option<&str>) -> Result<Self, String> {
        let named = programs::engine_host();
        let docker = match host.or(named.as_deref()) {
            Some(host) => Docker::connect_with_host(host),
            None => Docker::connect_with_socket_defaults(),
        }
        .map_err(|error| format!("there is no container engine: {error}"))?;
        docker
            .version()
            .await
            .map_err(|error| format!("the container engine does not answer: {error}"))?;
        Ok(Self { docker })
    }

    /// The client, for what this module does not offer.
    #[must_use]
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Whether the engine has an image.
    pub async fn has_image(&self, image: &str) -> bool {
        self.docker.inspect_image(image).await.is_ok()
    }

    /// Whether the engine has a bridge that workspaces can be given.
    pub async fn has_bridge(&self) -> bool {
        self.docker.inspect_network("bridge", None).await.is_ok()
    }

    /// What the engine says about a container.
    ///
    /// # Panics
    /// When it knows no such container.
    pub async fn inspect(&self, container: &str) -> ContainerInspectResponse {
        self.docker
            .inspect_container(container, None)
            .await
            .unwrap_or_else(|error| panic!("inspect {container}: {error}"))
    }

    /// Command lines of a container's processes, as the engine sees them; a
    /// process that nobody waited for has `<defunct>` in its own.
    ///
    /// # Panics
    /// When the engine refuses.
    pub async fn top(&self, container: &str) -> Vec<String> {
        let options = TopOptions {
            ps_args: "-eo pid,args".to_owned(),
        };
        let top = self.docker.top_processes(container, Some(options)).await;
        let top = top.unwrap_or_else(|error| panic!("top {container}: {error}"));
        let processes = top.processes.unwrap_or_default().into_iter();
        processes
            .map(|columns| columns.into_iter().skip(1).collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// Kills a container's processes.
    ///
    /// # Panics
    /// When the engine refuses.
    pub async fn kill(&self, container: &str) {
        self.docker
            .kill_container(container, None::<KillContainerOptions>)
            .await
            .unwrap_or_else(|error| panic!("kill {container}: {error}"));
    }

    /// Ids and labels of the containers that a run made.
    pub async fn containers(&self, run: Option<&str>) -> Vec<(String, HashMap<String, String>)> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(filter(run)),
            ..Default::default()
        };
        let listed = self.docker.list_containers(Some(options)).await;
        listed
            .unwrap_or_default()
            .into_iter()
            .map(|container| {
                (
                    container.id.unwrap_or_default(),
                    container.labels.unwrap_or_default(),
                )
            })
            .collect()
    }

    /// Names and labels of the volumes that a run made, by name.
    pub async fn volumes(&self, run: Option<&str>) -> Vec<(String, HashMap<String, String>)> {
        let options = ListVolumesOptions {
            filters: Some(filter(run)),
        };
        let listed = self.docker.list_volumes(Some(options)).await;
        let mut volumes: Vec<_> = listed
            .ok()
            .and_then(|listed| listed.volumes)
            .unwrap_or_default()
            .into_iter()
            .map(|volume| (volume.name, volume.labels))
            .collect();
        volumes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        volumes
    }

    /// Names of the volumes of a run's workspaces.
    pub async fn workspace_volumes(&self, run: &str) -> Vec<String> {
        self.volumes(Some(run))
            .await
            .into_iter()
            .filter(|(_, labels)| labels.contains_key("compy.workspace"))
            .map(|(name, _)| name)
            .collect()
    }

    /// Names of the copies of trees that a run's overlay volumes may lie over.
    pub async fn tree_copies(&self, run: &str) -> Vec<String> {
        self.volumes(Some(run))
            .await
            .into_iter()
            .filter(|(_, labels)| labels.contains_key("compy.copy"))
            .map(|(name, _)| name)
            .collect()
    }

    /// Removes whatever a run made.
    pub async fn sweep(&self, run: &str) {
        for (id, _) in self.containers(Some(run)).await {
            self.remove_container(&id).await;
        }
        for (name, _) in self.volumes(Some(run)).await {
            // An overlay comes before its upper volume, whose name goes on.
            self.remove_volume(&name).await;
        }
        for (id, _) in self.images(Some(run)).await {
            self.remove_image(&id).await;
        }
    }

    /// Removes what runs left behind whose process is gone.
    pub async fn sweep_dead_runs(&self) {
        for (id, labels) in self.containers(None).await {
            if labels.get(LABEL).is_some_and(|run| is_dead(run)) {
                self.remove_container(&id).await;
            }
        }
        for (name, labels) in self.volumes(None).await {
            if labels.get(LABEL).is_some_and(|run| is_dead(run)) {
                self.remove_volume(&name).await;
            }
        }
        for (id, labels) in self.images(None).await {
            if labels.get(LABEL).is_some_and(|run| is_dead(run)) {
                self.remove_image(&id).await;
            }
        }
    }

    /// Ids and labels of the images that a run made.
    pub async fn images(&self, run: Option<&str>) -> Vec<(String, HashMap<String, String>)> {
        let options = ListImagesOptions {
            filters: Some(filter(run)),
            ..Default::default()
        };
        let listed = self.docker.list_images(Some(options)).await;
        listed
            .unwrap_or_default()
            .into_iter()
            .map(|image| (image.id, image.labels))
            .collect()
    }

    /// Names of the images that a run made; of one without any, its id.
    pub async fn image_names(&self, run: &str) -> Vec<String> {
        let options = ListImagesOptions {
            filters: Some(filter(Some(run))),
            ..Default::default()
        };
        let listed = self.docker.list_images(Some(options)).await;
        listed
            .unwrap_or_default()
            .into_iter()
            .flat_map(|image| {
                let mut names = image.repo_tags;
                names.retain(|name| name != "<none>:<none>");
                if names.is_empty() {
                    names.push(image.id);
                }
                names
            })
            .collect()
    }

    async fn remove_image(&self, id: &str) {
        let options = RemoveImageOptions {
            force: true,
            ..Default::default()
        };
        // One that others build on goes with the last of them.
        let _ = self.docker.remove_image(id, Some(options), None).await;
    }

    async fn remove_container(&self, id: &str) {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..Default::default()
        };
        // Somebody else may be removing it; the volumes tell in the end.
        let _ = self.docker.remove_container(id, Some(options)).await;
    }

    async fn remove_volume(&self, name: &str) {
        let options = RemoveVolumeOptions { force: true };
        let _ = self.docker.remove_volume(name, Some(options)).await;
    }
}

fn filter(run: Option<&str>) -> HashMap<String, Vec<String>> {
    let label = run.map_or_else(|| LABEL.to_owned(), |run| format!("{LABEL}={run}"));
    HashMap::from([("label".to_owned(), vec![label])])
}

/// A name for what one test makes: the process and a number.
#[must_use]
pub fn new_run() -> String {
    format!("{}-{:08x}", std::process::id(), fastrand::u32(..))
}

/// Whether the process that a run belongs to has ended. Runs of other kinds of
/// names are left alone.
fn is_dead(run: &str) -> bool {
    let pid = run
        .split('-')
        .next()
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
}
