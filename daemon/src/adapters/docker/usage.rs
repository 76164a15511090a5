//! What a container uses, as the engine counts it.

use std::collections::HashMap;

use bollard::{
    Docker,
    models::{ContainerMemoryStats, ContainerStatsResponse},
    query_parameters::{InspectContainerOptions, StatsOptions},
};
use futures_util::StreamExt as _;

use super::errors;
use crate::ports::runtime::{ContainerId, ContainerUsage, RuntimeError};

/// One reading. Without `one_shot` the engine would take a second one first,
/// for a share of the CPU, and two seconds.
pub(super) async fn read(
    docker: &Docker,
    id: &ContainerId,
) -> Result<Option<ContainerUsage>, RuntimeError> {
    let options = StatsOptions {
        stream: false,
        one_shot: true,
    };
    let mut readings = Box::pin(docker.stats(&id.0, Some(options)));
    match readings.next().await {
        Some(Ok(reading)) => Ok(usage(reading)),
        // It has ended between the engine's own look and its reading.
        Some(Err(error)) if errors::conflict(&error) => Ok(None),
        Some(Err(error)) => Err(errors::container("read the usage of", id, &error)),
        None => Ok(None),
    }
}

/// Bytes of a container's root file system beyond its image.
pub(super) async fn root_bytes(docker: &Docker, id: &ContainerId) -> Result<u64, RuntimeError> {
    let options = InspectContainerOptions { size: true };
    let inspected = docker.inspect_container(&id.0, Some(options)).await;
    let inspected = inspected.map_err(|error| errors::container("measure", id, &error))?;
    Ok(inspected
        .size_rw
        .map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0)))
}

/// `None` for a container without processes: its readings are empty.
fn usage(reading: ContainerStatsResponse) -> Option<ContainerUsage> {
    let pids = reading.pids_stats.and_then(|stats| stats.current)?;
    let cpu = reading.cpu_stats.and_then(|stats| stats.cpu_usage);
    Some(ContainerUsage {
        cpu_ns: cpu.and_then(|usage| usage.total_usage).unwrap_or(0),
        memory_bytes: reading.memory_stats.map_or(0, memory),
        pids,
    })
}

/// Without the cache of files that can be dropped; the kernel calls it
/// `total_inactive_file` with cgroups of version 1, `inactive_file` with 2.
fn memory(stats: ContainerMemoryStats) -> u64 {
    let details: HashMap<String, u64> = stats.stats.unwrap_or_default();
    let cache = ["total_inactive_file", "inactive_file"];
    let cache = cache.iter().find_map(|name| details.get(*name)).copied();
    stats.usage.unwrap_or(0).saturating_sub(cache.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::adapters::docker::transport;

    #[test]
    fn memory_leaves_the_droppable_cache_out_under_both_cgroup_versions() {
        let stats = |name: &str| ContainerMemoryStats {
            usage: Some(100),
            stats: Some(HashMap::from([(name.to_owned(), 30)])),
            ..Default::default()
        };
        assert_eq!(memory(stats("total_inactive_file")), 70);
        assert_eq!(memory(stats("inactive_file")), 70);
        assert_eq!(memory(stats("something_else")), 100);
    }

    #[test]
    fn a_container_without_processes_uses_nothing() {
        assert_eq!(usage(ContainerStatsResponse::default()), None);
    }

    /// An engine that answers one request, in these words.
    async fn asked_once(status: &str) -> Result<Option<ContainerUsage>, RuntimeError> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let body = r#"{"message":"it does not run"}"#;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = stream.read(&mut [0; 4_096]).await.unwrap();
            assert_ne!(asked, 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let docker = transport::connect(Some(&format!("unix://{}", socket.display()))).unwrap();
        read(&docker, &ContainerId("c".to_owned())).await
    }

    #[tokio::test]
    async fn a_container_that_ends_while_it_is_read_uses_nothing() {
        assert_eq!(asked_once("409 Conflict").await, Ok(None));
        let gone = RuntimeError::ContainerMissing("c".to_owned());
        assert_eq!(asked_once("404 Not Found").await, Err(gone));
    }
}
