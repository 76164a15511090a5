//! Orphans on the real engine: what carries the daemon's labels and nothing
//! names is counted and goes, its foreign twin stays, and nothing of work under
//! way is ever taken for one.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bollard::{
    models::{ContainerConfig, ContainerCreateBody, VolumeCreateRequest},
    query_parameters::{CommitContainerOptions, CreateContainerOptions},
};
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::{IMAGE, LABEL},
    exec::command,
    wait,
};
use serde_json::Value;
use uuid::Uuid;

type Labels = HashMap<String, String>;

/// Another daemon's data directory.
const ANOTHER: &str = "00000000000000000000000000000000";

fn id(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::now_v7().simple())
}

fn labels(daemon: &Daemon, more: &[(&str, &str)]) -> Labels {
    let all = [&[(LABEL, daemon.run_name())], more].concat();
    all.iter()
        .map(|&(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

async fn container(daemon: &Daemon, name: &str, labels: Labels) -> String {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        labels: Some(labels),
        ..Default::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let engine = daemon.engine().await;
    let created = engine.docker().create_container(Some(options), body).await;
    created.unwrap().id
}

async fn volume(daemon: &Daemon, name: String, labels: Labels) -> String {
    let request = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some(labels),
        ..Default::default()
    };
    let engine = daemon.engine().await;
    engine.docker().create_volume(request).await.unwrap();
    name
}

/// An image of a snapshot, made of a container, which then goes.
async fn image(daemon: &Daemon, owner: &str) -> String {
    let snapshot = id("sn");
    let made_of = container(daemon, &id("of-image"), labels(daemon, &[])).await;
    let options = CommitContainerOptions {
        container: Some(made_of.clone()),
        repo: Some("compy/snapshot".to_owned()),
        tag: Some(snapshot.clone()),
        ..Default::default()
    };
    let config = ContainerConfig {
        labels: Some(labels(daemon, &[("compy.daemon.snapshots", owner)])),
        ..Default::default()
    };
    let engine = daemon.engine().await;
    let docker = engine.docker();
    docker.commit_container(options, config).await.unwrap();
    docker.remove_container(&made_of, None).await.unwrap();
    format!("compy/snapshot:{snapshot}")
}

/// One of each kind in the engine, with the labels of a daemon.
struct Orphans {
    container: String,
    helper: String,
    volume: String,
    copy: String,
    image: String,
}

impl Orphans {
    async fn make(daemon: &Daemon, owner: &str, workspace: &str) -> Self {
        let of_workspace = |workspace, generation| {
            let more = [
                ("compy.daemon", owner),
                ("compy.workspace", workspace),
                ("compy.generation", generation),
            ];
            labels(daemon, &more)
        };
        let gone = id("ws");
        let helper = [("compy.daemon.helper", owner)];
        let copy = [("compy.daemon", owner), ("compy.copy", "0123456789ab")];
        Self {
            // Of a generation before the workspace's.
            container: container(daemon, &id("old"), of_workspace(workspace, "0")).await,
            helper: container(daemon, &id("helper"), labels(daemon, &helper)).await,
            volume: volume(
                daemon,
                format!("compy-{gone}-work"),
                of_workspace(&gone, "1"),
            )
            .await,
            copy: volume(daemon, id("compy-copy"), labels(daemon, &copy)).await,
            image: image(daemon, owner).await,
        }
    }

    /// Which of them the engine has, in this order.
    async fn there(&self, daemon: &Daemon) -> [bool; 5] {
        let engine = daemon.engine().await;
        let containers = engine.containers(Some(daemon.run_name())).await;
        let volumes = engine.volumes(Some(daemon.run_name())).await;
        let has = |of: &[(String, Labels)], name: &str| of.iter().any(|(id, _)| id == name);
        [
            has(&containers, &self.container),
            has(&containers, &self.helper),
            has(&volumes, &self.volume),
            has(&volumes, &self.copy),
            engine.has_image(&self.image).await,
        ]
    }
}

/// What `gc` says of each kind: how many go, how many are left.
async fn gc(daemon: &Daemon, more: &[&str]) -> BTreeMap<String, (u64, u64)> {
    let args = [&["-o", "json", "gc"], more].concat();
    let kinds = daemon.compyctl(&args).await.expect_code(0).json();
    let number = |kind: &Value, key: &str| kind[key].as_u64().unwrap();
    let kinds = kinds.as_array().unwrap().iter().map(|kind| {
        let name = kind["kind"].as_str().unwrap().to_owned();
        (name, (number(kind, "count"), number(kind, "kept")))
    });
    kinds.collect()
}

/// A file among the blobs, named by its content, of another day.
fn blob(daemon: &Daemon, content: &[u8]) -> PathBuf {
    let hash = blake3::hash(content).to_hex().to_string();
    let dir = daemon
        .data_dir()
        .join("blobs")
        .join(&hash[..2])
        .join(&hash[2..4]);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(hash);
    std::fs::write(&path, content).unwrap();
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(yesterday).unwrap();
    path
}

#[tokio::test]
async fn orphans_of_each_kind_are_counted_and_go_and_their_foreign_twins_stay() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let workspace = daemon.workspace("w", &[]).await;
    let own = std::fs::read_to_string(daemon.data_dir().join("daemon.id")).unwrap();
    let clean = gc(&daemon, &["--dry-run"]).await;
    assert!(clean.values().all(|found| *found == (0, 0)), "{clean:?}");

    let orphans = Orphans::make(&daemon, own.trim(), &workspace.id).await;
    let twins = Orphans::make(&daemon, ANOTHER, &workspace.id).await;
    let link = daemon.data_dir().join("links").join(id("ws"));
    let no_link = daemon.data_dir().join("links").join("somebody's");
    for dir in [&link, &no_link] {
        std::fs::create_dir(dir).unwrap();
    }
    let unnamed = blob(&daemon, b"unnamed");
    let no_blob = unnamed.with_file_name("somebody's");
    std::fs::write(&no_blob, "").unwrap();

    // Images and copies are tidied up all the time, so they may be gone.
    let expected = [
        ("blobs", (1, 0)),
        ("chunks", (0, 0)),
        ("containers", (1, 0)),
        ("helpers", (1, 0)),
        ("links", (1, 0)),
        ("volumes", (0, 1)),
    ];
    let without_tidied = |mut found: BTreeMap<String, (u64, u64)>| {
        let tidied = ["copies", "images"].map(|kind| found.remove(kind).unwrap());
        assert!(tidied.iter().all(|(count, kept)| *count <= 1 && *kept == 0));
        found
    };
    let expected: BTreeMap<_, _> = expected.map(|(kind, n)| (kind.to_owned(), n)).into();
    let measured = gc(&daemon, &["--dry-run"]).await;
    assert_eq!(without_tidied(measured), expected);
    assert_eq!(orphans.there(&daemon).await[..3], [true; 3]);
    assert!(link.exists() && unnamed.exists());

    assert_eq!(without_tidied(gc(&daemon, &[]).await), expected);
    let left = [false, false, true, false, false];
    assert_eq!(orphans.there(&daemon).await, left, "but for a volume");
    assert!(!link.exists() && !unnamed.exists());
    let told = daemon.compyctl(&["gc"]).await.expect_code(0);
    assert!(told.stderr.contains("gc --volumes"), "{}", told.stderr);

    let last = gc(&daemon, &["--volumes"]).await;
    assert_eq!(last["volumes"], (1, 0), "{last:?}");
    assert_eq!(orphans.there(&daemon).await, [false; 5]);
    assert_eq!(twins.there(&daemon).await, [true; 5]);
    assert!(no_link.exists() && no_blob.exists());
    let clean = gc(&daemon, &["--volumes"]).await;
    assert!(clean.values().all(|found| *found == (0, 0)), "{clean:?}");

    // The workspace has lost nothing.
    assert_eq!(
        daemon.workspace_now("w").await.container_id,
        workspace.container_id
    );
    let ran = daemon.exec(command("w", &["true"])).await.unwrap();
    assert_eq!(ran.code(), Some(0));
}

/// A collector that never rests and gives no grace finds nothing to take from
/// work under way, and what such work makes is whole.
#[tokio::test]
async fn a_collector_that_never_rests_takes_nothing_from_work_under_way() {
    let options = Options::default()
        .set("gc.every", "20ms")
        .set("gc.grace", "0s");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let run = async |args: &[&str]| {
        let _ = daemon.compyctl(args).await.expect_code(0);
    };
    let write = async |content: &str| {
        let script = format!("echo {content} > /workspace/file; echo {content} > /opt/file");
        let write = [
            "workspace",
            "exec",
            "--user",
            "root",
            "w",
            "--",
            "sh",
            "-c",
            &script,
        ];
        run(&write).await;
    };
    let read = async |workspace: &str| {
        let cat = ["cat", "/workspace/file", "/opt/file"];
        let ran = daemon.exec(command(workspace, &cat)).await.unwrap();
        ran.text()
    };
    for round in ["one", "two"] {
        write(round).await;
        let snapshot = ["-o", "json", "workspace", "snapshot", "w"];
        let taken = daemon.compyctl(&snapshot).await.expect_code(0).json();
        let taken = taken["id"].as_str().unwrap();
        write("changed").await;
        run(&["workspace", "diff", "w", taken]).await;
        let fork = format!("f-{round}");
        let fork_it = ["workspace", "fork", "w", &fork, "--snapshot", taken];
        let restore = ["workspace", "restore", "w", taken, "--no-backup", "-y"];
        tokio::join!(run(&fork_it), run(&restore));
        for workspace in [&fork[..], "w"] {
            assert_eq!(read(workspace).await, format!("{round}\n{round}"));
        }
        run(&["workspace", "delete", &fork, "--yes"]).await;
    }
    let found = "removing what nothing needs from the engine";
    wait::until("a last collection", wait::PATIENCE, async || {
        let clean = gc(&daemon, &["--dry-run"]).await;
        clean.values().all(|found| *found == (0, 0)).then_some(())
    })
    .await;
    let log = daemon.log();
    let orphans: Vec<_> = log.lines().filter(|line| line.contains(found)).collect();
    assert!(orphans.is_empty(), "{orphans:#?}");
}
