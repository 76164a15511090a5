//! A container that is created and never started: files of an image and of a
//! volume go in and out through its archive API, and nothing of the image runs.

use std::{collections::HashMap, sync::LazyLock};

use bollard::{
    Docker, body_full,
    models::{ContainerCreateBody, HostConfig, Mount},
    query_parameters::{
        DownloadFromContainerOptions, ListContainersOptions, ListVolumesOptions,
        RemoveContainerOptions, UploadToContainerOptions,
    },
};
use compyd_proto::link;
use futures_util::StreamExt as _;
use uuid::Uuid;

use super::{
    DockerOptions, LABEL_DAEMON, LABEL_DEFINITION, LABEL_WORKSPACE,
    errors::{is_missing_image, is_removal_under_way, not_found, refused},
    volumes,
};
use crate::{domain::orphans::Maker, ports::runtime::RuntimeError};

/// Label with the daemon that made a helper.
pub(super) const LABEL_HELPER: &str = "compy.daemon.helper";
/// Label with the id of the workspace that a helper works for.
pub(super) const LABEL_OF: &str = "compy.daemon.helper.of";
/// Label with the process that made it.
const LABEL_PROCESS: &str = "compy.daemon.process";
/// More than any file read this way has.
const LONGEST_FILE_BYTES: usize = 64 << 20;

/// Names this process among those that ever served the same data directory.
static PROCESS: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().simple().to_string());

/// One helper; removed by [`remove`](Self::remove).
pub(super) struct Helper<'a> {
    docker: &'a Docker,
    id: String,
}

impl<'a> Helper<'a> {
    /// A helper from an image, with these volumes.
    pub(super) async fn create(
        docker: &'a Docker,
        options: &DockerOptions,
        image: &str,
        mounts: Vec<Mount>,
    ) -> Result<Self, RuntimeError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // An image may name no command, and the engine wants one.
            entrypoint: Some(vec![link::AGENT_BINARY.to_owned()]),
            labels: Some(labels(options)),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(mounts),
                ..Default::default()
            }),
            ..Default::default()
        };
        match docker.create_container(None, body).await {
            Ok(created) => Ok(Self {
                docker,
                id: created.id,
            }),
            Err(error) if is_missing_image(&error) => {
                Err(RuntimeError::ImageMissing(image.to_owned()))
            }
            Err(error) => Err(refused("create", "a helper container", &error)),
        }
    }

    /// A regular file; `None` when it is not there or is something else.
    pub(super) async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
        let options = DownloadFromContainerOptions {
            path: path.to_owned(),
        };
        let mut stream = self.docker.download_from_container(&self.id, Some(options));
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

    /// Unpacks a tar archive into a directory.
    pub(super) async fn upload(
        &self,
        directory: &str,
        archive: Vec<u8>,
    ) -> Result<(), RuntimeError> {
        let options = UploadToContainerOptions {
            path: directory.to_owned(),
            ..Default::default()
        };
        self.docker
            .upload_to_container(&self.id, Some(options), body_full(archive.into()))
            .await
            .map_err(|error| refused("unpack files into", directory, &error))
    }

    /// Removes the helper; one that cannot be removed is logged, and swept by
    /// the next process.
    pub(super) async fn remove(self) {
        if let Err(error) = remove(self.docker, &self.id).await {
            tracing::warn!(container_id = %self.id, %error, "helper container stays behind");
        }
    }
}

/// The labels of every helper. What an image that was committed from a
/// workspace may carry of the workspace's is blanked.
pub(super) fn labels(options: &DockerOptions) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = options.labels.clone().into_iter().collect();
    for of_others in [LABEL_WORKSPACE, LABEL_DEFINITION, LABEL_DAEMON, LABEL_OF] {
        labels.insert(of_others.to_owned(), String::new());
    }
    labels.insert(LABEL_HELPER.to_owned(), options.daemon.clone());
    labels.insert(LABEL_PROCESS.to_owned(), PROCESS.clone());
    labels
}

/// The labels of a helper that others made from what it left must not have.
pub(super) const OWN_LABELS: [&str; 3] = [LABEL_HELPER, LABEL_PROCESS, LABEL_OF];

/// Whether these are the labels of a helper. A workspace's container is none
/// that has them from its image, which a helper became: it has a definition.
pub(super) fn is_helper(labels: Option<&HashMap<String, String>>) -> bool {
    let has = |label| {
        let value = labels.and_then(|labels| labels.get(label));
        value.is_some_and(|value| !value.is_empty())
    };
    has(LABEL_HELPER) && !has(LABEL_DEFINITION)
}

/// The process that made a helper with these labels.
pub(super) fn maker(labels: &HashMap<String, String>) -> Maker {
    match labels.get(LABEL_PROCESS) == Some(&*PROCESS) {
        true => Maker::This,
        false => Maker::Earlier,
    }
}

/// Removes the helpers that earlier processes of this daemon left behind, and
/// the volumes of their trials. What the engine does not let go is logged, and
/// left for the next sweep: it is in nobody's way.
pub(super) async fn sweep(docker: &Docker, options: &DockerOptions) -> Result<(), RuntimeError> {
    let wanted = format!("{LABEL_HELPER}={}", options.daemon);
    sweep_containers(docker, &wanted).await?;
    sweep_volumes(docker, wanted).await
}

async fn sweep_containers(docker: &Docker, wanted: &str) -> Result<(), RuntimeError> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([(
            "label".to_owned(),
            vec![wanted.to_owned()],
        )])),
        ..Default::default()
    };
    let listed = docker
        .list_containers(Some(options))
        .await
        .map_err(|error| refused("list", "helper containers", &error))?;
    for helper in listed {
        let labels = helper.labels.unwrap_or_default();
        let Some(id) = helper.id else { continue };
        if maker(&labels) == Maker::This || !is_helper(Some(&labels)) {
            continue;
        }
        match remove(docker, &id).await {
            Ok(()) => tracing::info!(container_id = %id, "removed a helper container left behind"),
            // Somebody who was killed had begun to.
            Err(error) if not_found(&error) || is_removal_under_way(&error) => {}
            Err(error) => leave(docker, &id, refused("remove", &id, &error)).await?,
        }
    }
    Ok(())
}

async fn sweep_volumes(docker: &Docker, wanted: String) -> Result<(), RuntimeError> {
    let options = ListVolumesOptions {
        filters: Some(HashMap::from([("label".to_owned(), vec![wanted])])),
    };
    let listed = docker.list_volumes(Some(options)).await;
    let listed = listed.map_err(|error| refused("list", "volumes of helpers", &error))?;
    let mut left: Vec<String> = (listed.volumes.unwrap_or_default().into_iter())
        .filter(|volume| maker(&volume.labels) == Maker::Earlier)
        .map(|volume| volume.name)
        .collect();
    // An overlay before what it is made of, whose names only go on.
    left.sort_unstable();
    for name in left {
        if let Err(error) = volumes::remove(docker, &name).await {
            leave(docker, &name, error).await?;
        }
    }
    Ok(())
}

/// Leaves something behind that could not be removed, unless the engine has gone
/// away: one that answers is only stuck with this.
async fn leave(docker: &Docker, name: &str, error: RuntimeError) -> Result<(), RuntimeError> {
    if let RuntimeError::Unavailable(_) = error
        && docker.ping().await.is_err()
    {
        return Err(error);
    }
    tracing::warn!(name, %error, "something of a helper stays behind");
    Ok(())
}

async fn remove(docker: &Docker, id: &str) -> Result<(), bollard::errors::Error> {
    let options = RemoveContainerOptions {
        force: true,
        v: true,
        ..Default::default()
    };
    docker.remove_container(id, Some(options)).await
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

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;
    use crate::adapters::docker::transport;

    /// An engine with these helpers and one volume of a trial, that does not let
    /// go of what is called stuck. Says what else it was asked to remove.
    fn engine(listener: UnixListener) -> Arc<Mutex<Vec<String>>> {
        let removed: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = removed.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let line = request.lines().next().unwrap_or_default();
                let (status, body) = answer(line, &told);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        removed
    }

    fn answer(line: &str, removed: &Mutex<Vec<String>>) -> (&'static str, &'static str) {
        let path = line.split([' ', '?']).nth(1).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        match line.split(' ').next() {
            Some("DELETE") if name == "stuck" => {
                ("500 Internal Server Error", r#"{"message":"it is busy"}"#)
            }
            Some("DELETE") => {
                removed.lock().unwrap().push(name.to_owned());
                ("204 No Content", "")
            }
            _ if path.ends_with("/containers/json") => (
                "200 OK",
                r#"[{"Id":"stuck","Labels":{"compy.daemon.helper":"d"}},
                    {"Id":"old","Labels":{"compy.daemon.helper":"d"}}]"#,
            ),
            _ => (
                "200 OK",
                r#"{"Volumes":[
                    {"Name":"stuck","Driver":"local","Mountpoint":"/","Labels":{},"Scope":"local","Options":{}},
                    {"Name":"trial","Driver":"local","Mountpoint":"/","Labels":{},"Scope":"local","Options":{}}]}"#,
            ),
        }
    }

    #[tokio::test]
    async fn a_helper_that_cannot_be_removed_is_left_and_the_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let removed = engine(UnixListener::bind(&socket).unwrap());
        let docker = transport::connect(Some(&format!("unix://{}", socket.display()))).unwrap();
        let options = DockerOptions {
            host: None,
            daemon: "d".to_owned(),
            agent_binary: "/nonexistent".into(),
            labels: BTreeMap::new(),
        };
        sweep(&docker, &options).await.unwrap();
        assert_eq!(*removed.lock().unwrap(), ["old", "trial"]);
        std::fs::remove_file(&socket).unwrap();
        let away = sweep(&docker, &options).await;
        assert!(matches!(away, Err(RuntimeError::Unavailable(_))));
    }
}
