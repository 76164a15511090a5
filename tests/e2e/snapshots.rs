//! Snapshots, restores and forks on the real engine.

mod faults;
mod layers;
mod root;

use std::time::Duration;

use compyd_proto::v1::{SessionState, WorkspaceState};
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    repository::Repository,
    script::Script,
    sessions::request,
    wait,
};
use serde_json::Value;

/// What survives a snapshot, written by a shell: content and metadata in every
/// volume and in the root file system.
const FILL: &str = r"
    set -e
    cd /workspace
    echo first > file; chmod 0640 file; touch -d '2020-01-02 03:04:05.123456789' file
    mkdir -p empty sub; chmod 1770 sub; ln file sub/hard; ln -s ../file sub/soft
    mkfifo pipe; truncate -s 8M sparse; printf end >> sparse
    printf x > 'name with
line'; printf y > $'\377\376'
    head -c 3000000 /dev/urandom > large
    echo dot > ~/.dotfile
";

/// Everything about the files that a snapshot keeps. How many names a directory
/// has is the file system's to say: an overlay says 1.
pub(super) const LOOK: &str = r"
    cd /workspace
    find . -type d -printf '%P %y %m %u %T@\n' | sort
    find . ~/.dotfile ! -type d -printf '%P %y %m %u %T@ %n %l %s\n' | sort
    find . ~/.dotfile -type f -exec sha256sum {} + | sort
    stat -c %b sparse; cat /opt/installed
";

pub(super) async fn bash(daemon: &Daemon, workspace: &str, script: &str) -> String {
    let ran = daemon
        .exec(command(workspace, &["bash", "-c", script]))
        .await
        .unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {ran:?}");
    ran.text()
}

pub(super) async fn root(daemon: &Daemon, workspace: &str, script: &str) -> String {
    let mut as_root = command(workspace, &["bash", "-c", script]);
    as_root.user = "root".to_owned();
    let ran = daemon.exec(as_root).await.unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {ran:?}");
    ran.text()
}

pub(super) async fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let all = [&["-o", "json"], args].concat();
    daemon.compyctl(&all).await.expect_code(0).json()
}

pub(super) async fn snapshot(daemon: &Daemon, workspace: &str) -> Value {
    json(daemon, &["workspace", "snapshot", workspace]).await
}

pub(super) fn id(snapshot: &Value) -> String {
    snapshot["id"].as_str().unwrap().to_owned()
}

async fn ids(daemon: &Daemon, workspace: &str) -> Vec<String> {
    let listed = json(daemon, &["workspace", "snapshots", workspace]).await;
    listed.as_array().unwrap().iter().map(id).collect()
}

/// A workspace with something in every place.
pub(super) async fn filled() -> Option<Daemon> {
    let daemon = Daemon::start(Options::default()).await?;
    daemon.workspace("w", &[]).await;
    bash(&daemon, "w", FILL).await;
    root(&daemon, "w", "echo one > /opt/installed").await;
    Some(daemon)
}

/// Six volumes a workspace, an upper one for each that is an overlay, and the
/// copies that these lie over or that a snapshot names.
async fn volumes_fit(daemon: &Daemon, workspaces: usize) {
    let run = daemon.run_name();
    let volumes = daemon.engine().await.volumes(Some(run)).await;
    let of_workspaces: Vec<_> = (volumes.iter())
        .filter(|(_, labels)| labels.contains_key("compy.workspace"))
        .collect();
    let (uppers, others): (Vec<_>, Vec<_>) =
        (of_workspaces.into_iter()).partition(|(name, _)| name.ends_with("-upper"));
    assert_eq!(others.len(), workspaces * 6, "{others:?}");
    let overlays: Vec<_> = (others.iter())
        .filter(|(_, labels)| labels.contains_key("compy.lower"))
        .collect();
    let expected: Vec<_> = overlays
        .iter()
        .map(|(name, _)| format!("{name}-upper"))
        .collect();
    let found: Vec<_> = uppers.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(found, expected);
    let mut named: Vec<String> = Vec::new();
    let listed = json(daemon, &["workspace", "snapshots", "w"]).await;
    for snapshot in listed.as_array().unwrap() {
        for volume in snapshot["volumes"].as_array().unwrap() {
            named.push(volume["tree_hash"].as_str().unwrap().to_owned());
        }
    }
    let mut trees = Vec::new();
    for (name, labels) in &volumes {
        let Some(tree) = labels.get("compy.copy") else {
            continue;
        };
        let lower = Some(name);
        let in_use = overlays
            .iter()
            .any(|(_, labels)| labels.get("compy.lower") == lower);
        assert!(in_use || named.contains(tree), "{name} is of no use");
        assert!(!trees.contains(&tree), "{tree} has two copies");
        trees.push(tree);
    }
}

/// Names of the volumes of workspaces, of snapshots' images, and of containers
/// that are there beside the workspaces' own.
pub(super) async fn leftovers(daemon: &Daemon, workspaces: usize, images: usize) {
    let engine = daemon.engine().await;
    let run = Some(daemon.run_name());
    volumes_fit(daemon, workspaces).await;
    // One that several snapshots share has a name for each.
    let names = engine.image_names(daemon.run_name()).await;
    assert_eq!(names.len(), images, "{names:?}");
    assert!(
        names.iter().all(|name| name.starts_with("compy/")),
        "{names:?}"
    );
    let containers = engine.containers(run).await;
    assert_eq!(containers.len(), workspaces, "{containers:?}");
    for (container, _) in containers {
        let state = engine.inspect(&container).await.state.unwrap();
        assert_ne!(state.paused, Some(true), "{container}");
    }
}

#[tokio::test]
async fn a_workspace_comes_back_as_it_was_running_or_stopped() {
    let Some(mut daemon) = filled().await else {
        return;
    };
    let before = bash(&daemon, "w", LOOK).await;
    let taken = snapshot(&daemon, "w").await;
    assert_eq!(taken["workspace_state"], "running");
    assert_eq!(taken["parent_id"], "");
    let again = snapshot(&daemon, "w").await;
    assert_eq!(again["parent_id"], taken["id"]);
    assert_eq!(again["volumes"], taken["volumes"]);
    let (new, all) = (&again["new_bytes"], &taken["new_bytes"]);
    assert!(
        new.as_u64() < Some(all.as_u64().unwrap() / 10),
        "{new} of {all}"
    );

    let change = "cd /workspace && rm -rf sub file && echo other > large && echo x > ~/.dotfile";
    bash(&daemon, "w", change).await;
    root(&daemon, "w", "echo two > /opt/installed; touch /opt/more").await;
    let after = bash(&daemon, "w", LOOK).await;
    let restore = ["workspace", "restore", "w", taken["id"].as_str().unwrap()];
    let _ = daemon.compyctl(&restore).await.expect_code(0);
    assert_eq!(bash(&daemon, "w", LOOK).await, before);
    assert_eq!(bash(&daemon, "w", "ls /opt").await, "installed");
    assert_eq!(
        bash(&daemon, "w", "id -un; pwd; hostname").await,
        "dev\n/workspace\nw"
    );

    // What was there before is a snapshot, and the way back; stopped this time.
    let known = ids(&daemon, "w").await;
    assert_eq!(known[..2], [id(&taken), id(&again)]);
    let _ = daemon
        .compyctl(&["workspace", "stop", "w"])
        .await
        .expect_code(0);
    let back = [
        "workspace",
        "restore",
        "w",
        &known[2],
        "--no-backup",
        "--yes",
    ];
    let _ = daemon.compyctl(&back).await.expect_code(0);
    let state = daemon.workspace_now("w").await.state();
    assert_eq!(state, WorkspaceState::Stopped);
    daemon.restart().await;
    let _ = daemon
        .compyctl(&["workspace", "start", "w"])
        .await
        .expect_code(0);
    assert_eq!(bash(&daemon, "w", LOOK).await, after);
    leftovers(&daemon, 1, 3).await;

    // The one that the workspace is made from keeps its image until then.
    for snapshot in &known {
        let _ = daemon
            .compyctl(&["snapshot", "delete", snapshot, "--yes"])
            .await
            .expect_code(0);
    }
    leftovers(&daemon, 1, 1).await;
    assert_eq!(ids(&daemon, "w").await, [] as [String; 0]);
    let _ = daemon
        .compyctl(&["workspace", "delete", "w", "--yes"])
        .await
        .expect_code(0);
    wait::until("no image is left", wait::PATIENCE, async || {
        let images = daemon.engine().await.images(Some(daemon.run_name())).await;
        images.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fork_has_the_files_and_an_identity_of_its_own() {
    let Some(daemon) = filled().await else {
        return;
    };
    let keys = "mkdir -p /etc/ssh && echo shared | tee /etc/ssh/ssh_host_rsa_key";
    root(&daemon, "w", keys).await;
    let _ = daemon
        .compyctl(&["workspace", "fork", "w", "f"])
        .await
        .expect_code(0);
    assert_eq!(
        bash(&daemon, "f", LOOK).await,
        bash(&daemon, "w", LOOK).await
    );
    let identity = "hostname; cat /etc/machine-id";
    assert_eq!(
        bash(&daemon, "f", identity).await,
        format!("f\n{}", &daemon.workspace_now("f").await.id[3..])
    );
    assert_eq!(
        bash(&daemon, "w", identity).await,
        format!("w\n{}", &daemon.workspace_now("w").await.id[3..])
    );
    let key = "cat /etc/ssh/ssh_host_rsa_key 2>/dev/null || true";
    assert_ne!(root(&daemon, "f", key).await, "shared");
    assert_eq!(root(&daemon, "w", key).await, "shared");
    // Each goes its own way.
    bash(&daemon, "f", "echo forked > /workspace/file").await;
    assert_eq!(bash(&daemon, "w", "cat /workspace/file").await, "first");
    let taken = daemon.compyctl(&["workspace", "fork", "w", "f"]).await;
    assert!(taken.stderr.contains("NAME_TAKEN"), "{}", taken.stderr);
    let unknown = format!("sn-{}", "0".repeat(32));
    let missing = ["workspace", "restore", "w", &unknown];
    let missing = daemon.compyctl(&missing).await;
    assert!(
        missing.stderr.contains("SNAPSHOT_UNKNOWN"),
        "{}",
        missing.stderr
    );
    leftovers(&daemon, 2, 1).await;
}

/// The daemon and the engine say that the workspace stands still, in the
/// container that it was paused in.
async fn stands_still(daemon: &Daemon, container: &str) {
    let now = daemon.workspace_now("w").await;
    assert_eq!(now.state(), WorkspaceState::Paused);
    assert_eq!(now.container_id, container);
    let state = daemon.engine().await.inspect(container).await.state;
    assert_eq!(state.unwrap().paused, Some(true));
}

#[tokio::test]
async fn a_snapshot_of_a_paused_workspace_has_what_was_written_before_and_leaves_it_paused() {
    let Some(daemon) = filled().await else {
        return;
    };
    let ctl = async |args: &[&str]| {
        let _ = daemon.compyctl(args).await.expect_code(0);
    };
    let before = bash(&daemon, "w", LOOK).await;
    // It writes until it is frozen, and goes on when it is let go.
    let count = "i=0; while :; do i=$((i+1)); echo $i >> ~/count; sleep 0.01; done";
    let writer = ["exec", "w", "--detach", "--", "bash", "-c", count];
    ctl(&[&["workspace"], &writer[..]].concat()).await;
    wait::until("the writer", wait::PATIENCE, async || {
        let written = bash(&daemon, "w", "cat ~/count 2>/dev/null || :").await;
        (!written.is_empty()).then_some(())
    })
    .await;
    ctl(&["workspace", "pause", "w"]).await;
    let container = daemon.workspace_now("w").await.container_id;

    let taken = snapshot(&daemon, "w").await;
    assert_eq!(taken["workspace_state"], "paused");
    stands_still(&daemon, &container).await;
    let again = snapshot(&daemon, "w").await;
    assert_eq!(again["volumes"], taken["volumes"], "nobody wrote meanwhile");
    let taken = id(&taken);
    ctl(&["workspace", "fork", "w", "f", "--snapshot", &taken]).await;
    assert_eq!(bash(&daemon, "f", LOOK).await, before);
    let counted = bash(&daemon, "f", "cat ~/count").await;
    let numbers = 1..=counted.lines().count();
    let whole: Vec<String> = numbers.map(|number| number.to_string()).collect();
    assert_eq!(counted.lines().collect::<Vec<_>>(), whole);
    stands_still(&daemon, &container).await;

    // What was frozen lives on, and has written nothing that is not in there.
    ctl(&["workspace", "resume", "w"]).await;
    wait::until("the writer goes on", wait::PATIENCE, async || {
        let now = bash(&daemon, "w", "cat ~/count").await;
        assert!(now.starts_with(&counted), "{now} after {counted}");
        (now.lines().count() > whole.len()).then_some(())
    })
    .await;

    // From paused to what it was when it was paused before.
    bash(&daemon, "w", "rm -r /workspace/* ~/.dotfile").await;
    root(&daemon, "w", "echo two > /opt/installed").await;
    ctl(&["workspace", "pause", "w"]).await;
    ctl(&["workspace", "restore", "w", &taken]).await;
    assert_eq!(bash(&daemon, "w", LOOK).await, before);
    assert_eq!(bash(&daemon, "w", "cat ~/count").await, counted);
    // The two, and the one that was taken before the restore.
    assert_eq!(ids(&daemon, "w").await.len(), 3);
    leftovers(&daemon, 2, 3).await;
}

#[tokio::test]
async fn a_restore_is_refused_while_a_session_runs_and_cancels_it_when_forced() {
    let Some(daemon) = filled().await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    let add = ["workspace", "add-repo", "w", repository.arg()];
    let _ = daemon.compyctl(&add).await.expect_code(0);
    let before = id(&snapshot(&daemon, "w").await);
    let sleep = serde_json::json!({"command": "echo ran > /workspace/ran; sleep 600"});
    let model = Script::new()
        .tool("run_command", sleep)
        .write(daemon.directory());
    let session = daemon.start_session(request("w", &model)).await;
    let ran = "cat /workspace/ran 2>/dev/null || true";
    wait::until("its command", wait::PATIENCE, async || {
        (bash(&daemon, "w", ran).await == "ran").then_some(())
    })
    .await;

    let restore = ["workspace", "restore", "w", &before, "--no-backup", "--yes"];
    let refused = daemon.compyctl(&restore).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("WORKSPACE_BUSY"), "{refused:?}");
    assert_eq!(bash(&daemon, "w", ran).await, "ran");
    assert_eq!(
        daemon.session(&session).await.state(),
        SessionState::Running
    );

    let forced = [&restore[..], &["--force"]].concat();
    let _ = daemon.compyctl(&forced).await.expect_code(0);
    assert_eq!(
        daemon.session(&session).await.state(),
        SessionState::Cancelled
    );
    let left = "cat /workspace/ran 2>/dev/null; ps -eo args | grep -c '^sleep 600' || true";
    assert_eq!(bash(&daemon, "w", left).await, "0");
    // The session has taken one of its own before its first edit.
    leftovers(&daemon, 1, ids(&daemon, "w").await.len()).await;
}
