//! Generations of change, snapshot and restore: each puts a layer on the
//! image, and from a bound on they are made one.

use std::{collections::HashMap, time::Instant};

use bollard::{
    models::{ContainerConfig, ContainerCreateBody, HostConfig, ImageInspect},
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, RemoveContainerOptions,
        StartContainerOptions, WaitContainerOptions,
    },
};
use compyd_tests::{engine, programs::torture};
use futures_util::StreamExt as _;

use super::*;

/// What workspaces are made from that name no image.
const DEFAULT_IMAGE: &str = "compy/base:latest";

/// What one generation does to the root file system; `N` is its number. Each
/// undoes a part of what the one before did. The last lines hide a change from
/// who compares with the image that all began with by size and time alone.
const CHANGE: &str = r#"
    set -e
    mkdir -p /opt/kept /opt/gN/deep
    head -c 200000 /dev/urandom > /opt/data
    echo N >> /opt/kept/log; chmod $((600 + N % 8)) /opt/kept/log
    echo N > /opt/gN/deep/file; ln /opt/gN/deep/file /opt/gN/hard
    ln -sfn /opt/gN /opt/newest
    cp /bin/true /opt/gN/setuid; chown 1:1 /opt/gN/setuid; chmod 4755 /opt/gN/setuid
    rm -rf /opt/g$((N - 1))/deep /opt/g$((N - 2))
    rm -rf /usr/share/perl5
    mkdir /usr/share/perl5; echo N > /usr/share/perl5/new
    rm -f /usr/bin/[ ; ln -s /bin/true '/usr/bin/['
    mkfifo /opt/gN/pipe
    if [[ ! -e /opt/stamp ]]; then touch -r /etc/debian_version /opt/stamp; fi
    if ((N == 1)); then touch -d 2001-01-01 /etc/debian_version; fi
    if ((N == 2)); then
        tr 0-9 1-90 < /etc/debian_version > /tmp/changed
        cat /tmp/changed > /etc/debian_version
        touch -r /opt/stamp /etc/debian_version
    fi
"#;

/// All of a root file system that a commit keeps.
const ROOT: &str = r#"
    find / -xdev ! -path '/var/lib/compy*' ! -type d -printf '%P %y %m %U %G %s %l\n' | LC_ALL=C sort
    find / -xdev -type d -printf '%P %y %m %U %G\n' | LC_ALL=C sort
    find /opt /usr/share/perl5 /etc -xdev -type f -exec sha256sum {} + | LC_ALL=C sort
    find /opt /usr/share/perl5 -xdev ! -type d -printf '%P %Ts\n' | LC_ALL=C sort
    cd /opt; test newest/hard -ef newest/deep/file; echo $?
    python3 -B -c 'print(__import__("os").getxattr("moved", "security.capability"))'
"#;

/// Version 2 of the attribute, with `net_raw` permitted and effective.
const SET_CAPABILITY: &str = r#"
import os, struct
open("/opt/capable", "w").close()
os.setxattr("/opt/capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
"#;

/// Makes an image with a file that has a capability, which a workspace's own
/// commands may not set. It goes with the run.
async fn image_with_capability(daemon: &Daemon) -> String {
    let engine = daemon.engine().await;
    let docker = engine.docker();
    let labels = HashMap::from([(engine::LABEL.to_owned(), daemon.run_name().to_owned())]);
    let body = ContainerCreateBody {
        image: Some(DEFAULT_IMAGE.to_owned()),
        user: Some("0".to_owned()),
        entrypoint: Some(vec!["python3".to_owned(), "-B".to_owned()]),
        cmd: Some(vec!["-c".to_owned(), SET_CAPABILITY.to_owned()]),
        labels: Some(labels.clone()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            cap_add: Some(vec!["SETFCAP".to_owned()]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let made = docker.create_container(None::<CreateContainerOptions>, body);
    let id = made.await.unwrap().id;
    let start = None::<StartContainerOptions>;
    docker.start_container(&id, start).await.unwrap();
    let mut ended = docker.wait_container(&id, None::<WaitContainerOptions>);
    assert_eq!(ended.next().await.unwrap().unwrap().status_code, 0);
    let name = format!("compy/test-capable:{}", daemon.run_name());
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let options = CommitContainerOptions {
        container: Some(id.clone()),
        repo: Some(repository.to_owned()),
        tag: Some(tag.to_owned()),
        ..Default::default()
    };
    let config = ContainerConfig {
        user: Some("dev".to_owned()),
        labels: Some(labels),
        ..Default::default()
    };
    docker.commit_container(options, config).await.unwrap();
    let remove = None::<RemoveContainerOptions>;
    docker.remove_container(&id, remove).await.unwrap();
    name
}

async fn inspect(daemon: &Daemon, image: &str) -> ImageInspect {
    let engine = daemon.engine().await;
    engine.docker().inspect_image(image).await.unwrap()
}

fn layers(image: &ImageInspect) -> usize {
    let root = image.root_fs.as_ref().unwrap();
    root.layers.as_ref().unwrap().len()
}

/// How often the layers of an image were made one.
fn flattened(daemon: &Daemon) -> usize {
    daemon
        .log()
        .matches("making the layers of an image one")
        .count()
}

#[tokio::test]
async fn layers_stay_few_over_generations_of_restores_and_nothing_is_lost() {
    const LAYERS_MAX: usize = 2;
    let options = Options::default().set("snapshots.layers_max", LAYERS_MAX.to_string());
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    let image = image_with_capability(&daemon).await;
    daemon.workspace("w", &["--image", &image]).await;
    // Under another name it is in a layer of its own.
    root(&daemon, "w", "mv /opt/capable /opt/moved").await;
    let mut taken = Vec::new();
    let mut base = None;
    for generation in 1..=6 {
        root(&daemon, "w", &CHANGE.replace('N', &generation.to_string())).await;
        let before = root(&daemon, "w", ROOT).await;
        let snapshot = snapshot(&daemon, "w").await;
        let image = inspect(&daemon, snapshot["image_id"].as_str().unwrap()).await;
        let base = *base.get_or_insert(layers(&image) - 1);
        assert!(
            layers(&image) <= base + LAYERS_MAX,
            "generation {generation} has {} layers over {base}",
            layers(&image)
        );
        let config = image.config.unwrap();
        assert_eq!(config.user.as_deref(), Some("dev"));
        let restored = id(&snapshot);
        let restore = [
            "workspace",
            "restore",
            "w",
            &restored,
            "--no-backup",
            "--yes",
        ];
        let _ = daemon.compyctl(&restore).await.expect_code(0);
        let after = root(&daemon, "w", ROOT).await;
        for (before, after) in before.lines().zip(after.lines()) {
            assert_eq!(before, after, "generation {generation}");
        }
        assert_eq!(before.len(), after.len(), "generation {generation}");
        taken.push(restored);
    }
    assert!(flattened(&daemon) >= 2, "{}", daemon.log());
    assert!(
        !daemon.log().contains("left as they are"),
        "{}",
        daemon.log()
    );
    // And the image of the test.
    leftovers(&daemon, 1, taken.len() + 1).await;
    // In any order, and the last is not touched by it.
    let last = taken.pop().unwrap();
    taken.swap(0, 3);
    for snapshot in &taken {
        let _ = daemon
            .compyctl(&["snapshot", "delete", snapshot, "--yes"])
            .await
            .expect_code(0);
    }
    leftovers(&daemon, 1, 2).await;
    let fork = ["workspace", "fork", "w", "f", "--snapshot", &last];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    assert_eq!(root(&daemon, "f", "cat /opt/newest/deep/file").await, "6");
}

#[tokio::test]
async fn a_container_of_an_image_that_a_helper_became_is_a_workspaces_like_any() {
    let options = Options::default().set("snapshots.layers_max", "1");
    let Some(mut daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    for text in ["one", "two"] {
        root(&daemon, "w", &format!("echo {text} > /opt/file")).await;
        let taken = id(&snapshot(&daemon, "w").await);
        let restore = ["workspace", "restore", "w", &taken, "--no-backup", "--yes"];
        let _ = daemon.compyctl(&restore).await.expect_code(0);
    }
    assert_eq!(flattened(&daemon), 1);
    root(&daemon, "w", "echo three > /opt/three").await;
    let container = daemon.workspace_now("w").await.container_id;
    daemon.restart().await;
    assert_eq!(daemon.workspace_now("w").await.container_id, container);
    assert_eq!(
        bash(&daemon, "w", "cat /opt/file /opt/three").await,
        "two\nthree"
    );
    assert_eq!(daemon.workspace_now("w").await.container_id, container);
}

/// Bytes that the layers of these images take, each layer once. Every image is
/// built on another one of them, or on the first.
async fn image_bytes(daemon: &Daemon) -> u64 {
    let mut ids = vec![DEFAULT_IMAGE.to_owned()];
    let made = daemon.engine().await.images(Some(daemon.run_name())).await;
    ids.extend(made.into_iter().map(|(id, _)| id));
    let mut images = Vec::new();
    for id in ids {
        let image = inspect(daemon, &id).await;
        let layers = image.root_fs.unwrap().layers.unwrap();
        images.push((layers, image.size.unwrap()));
    }
    let own = |(layers, size): &(Vec<String>, i64)| {
        let below = images
            .iter()
            .filter(|(below, _)| below.len() < layers.len() && layers.starts_with(below));
        size - below.map(|(_, size)| *size).max().unwrap_or(0)
    };
    images.iter().map(own).sum::<i64>().unsigned_abs()
}

fn directory_bytes(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => directory_bytes(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Three hundred times the engine's limit of layers would be crossed twice; a few
/// times a lower limit is.
#[tokio::test]
async fn generations_without_end_cost_what_one_does() {
    const CHANGED_BYTES: usize = 300_000;
    let (generations, options) = match torture() {
        true => (300, Options::default()),
        false => (12, Options::default().set("snapshots.layers_max", "5")),
    };
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let (mut times, mut taken) = (Vec::new(), Vec::new());
    let base_bytes = image_bytes(&daemon).await;
    for generation in 1..=generations {
        let change = format!(
            "head -c {CHANGED_BYTES} /dev/urandom | tee /opt/data > /workspace/data; \
             rm -rf /opt/g*; echo {generation} > /opt/generation; mkdir /opt/g{generation}"
        );
        root(&daemon, "w", &change).await;
        let snapshot = id(&snapshot(&daemon, "w").await);
        let begun = Instant::now();
        let restore = [
            "workspace",
            "restore",
            "w",
            &snapshot,
            "--no-backup",
            "--yes",
        ];
        let _ = daemon.compyctl(&restore).await.expect_code(0);
        times.push(begun.elapsed());
        let seen = bash(&daemon, "w", "cat /opt/generation; cd /opt; echo g?*").await;
        assert_eq!(seen, format!("{generation}\ng{generation} generation"));
        taken.push(snapshot);
        if generation % 25 == 0 {
            let lately = median(&times[generation - 10..]);
            eprintln!("generation {generation}: restored in {lately:?}");
        }
    }
    let (first, last) = (median(&times[..10]), median(&times[generations - 10..]));
    eprintln!("restore: {first:?} in the first ten, {last:?} in the last ten");
    // Of a few, chance decides.
    assert!(
        !torture() || last <= first.mul_f64(1.3),
        "{first:?} to {last:?}"
    );
    // Random bytes, in the root file system and once more in a volume.
    let unique = base_bytes + (2 * CHANGED_BYTES * generations) as u64;
    let chunks = daemon.data_dir().join("chunks");
    let used = image_bytes(&daemon).await + directory_bytes(&chunks);
    eprintln!("{used} bytes for {unique} unique ones");
    assert!(used as f64 <= 1.2 * unique as f64, "{used} of {unique}");

    // All but two go in any order; neither misses anything of the others.
    let last = taken.pop().unwrap();
    let sibling = taken.swap_remove(fastrand::usize(..generations - 1));
    fastrand::shuffle(&mut taken);
    for snapshot in &taken {
        let delete = ["snapshot", "delete", snapshot, "--yes"];
        let _ = daemon.compyctl(&delete).await.expect_code(0);
    }
    let before = directory_bytes(&chunks);
    let _ = json(&daemon, &["snapshot", "prune"]).await;
    let (kept, after) = (2 * CHANGED_BYTES as u64, directory_bytes(&chunks));
    eprintln!("pruned {before} bytes of chunks to {after}");
    let left = after.saturating_sub(kept) as f64;
    assert!(left <= 0.01 * (before - kept) as f64, "{before} to {after}");
    for (snapshot, name) in [(&last, "last"), (&sibling, "sibling")] {
        let fork = ["workspace", "fork", "w", name, "--snapshot", snapshot];
        let _ = daemon.compyctl(&fork).await.expect_code(0);
        let same = "cmp /opt/data /workspace/data && cat /opt/generation";
        assert_ne!(root(&daemon, name, same).await, "");
    }
    leftovers(&daemon, 3, 2).await;
}
