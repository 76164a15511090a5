//! Volumes of restored and forked workspaces: overlays over copies of trees,
//! which nobody can tell from plain ones.

use std::collections::{BTreeSet, HashMap};

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptions};
use compyd_proto::v1::WorkspaceState;
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::{IMAGE, LABEL},
    programs::torture,
    wait,
};
use serde_json::Value;

use super::snapshots::{LOOK, bash, filled, id, json, leftovers, root, snapshot};

/// What `LOOK` does not see, and files that the next changes are about.
const MORE: &str = r#"
    set -e
    cd /workspace
    chown dev:dev . ; chmod 2770 . ; touch secret; chmod 4755 secret
    chown 1234:5678 empty; mkdir -p deep/er; echo one > deep/er/in; ln deep/er/in deep/again
    python3 - <<'EOF'
import os, struct
acl = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, who) for tag, perm, who in
    [(1, 7, 2**32 - 1), (2, 5, 4242), (4, 5, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1)])
os.setxattr("deep", "system.posix_acl_access", acl)
os.setxattr("deep", "system.posix_acl_default", acl)
os.setxattr("large", "user.origin", b"\0\xff")
os.setxattr(".", "user.root", b"of the volume")
open("c" * 200, "w").close()
EOF
    touch -d '2001-02-03 04:05:06.000000007' .
"#;

const NO_VOLUMES: [&str; 0] = [];

/// The hashes of a snapshot's volumes.
fn trees(snapshot: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (snapshot["volumes"].as_array().unwrap().iter())
        .map(|volume| (text(&volume["name"]), text(&volume["tree_hash"])))
        .collect()
}

async fn ctl(daemon: &Daemon, args: &[&str]) {
    let _ = daemon.compyctl(args).await.expect_code(0);
}

async fn fork(daemon: &Daemon, name: &str, snapshot: &str) {
    ctl(
        daemon,
        &["workspace", "fork", "w", name, "--snapshot", snapshot],
    )
    .await;
}

/// What the engine says the work volumes of workspaces lie over.
async fn lowers(daemon: &Daemon) -> BTreeSet<String> {
    let volumes = daemon.engine().await.volumes(Some(daemon.run_name())).await;
    (volumes.into_iter())
        .filter(|(name, _)| name.ends_with("-work"))
        .filter_map(|(_, labels)| labels.get("compy.lower").cloned())
        .collect()
}

async fn copies(daemon: &Daemon) -> Vec<String> {
    daemon.engine().await.tree_copies(daemon.run_name()).await
}

/// Whether overlay volumes work here; the tests of this module say so when not.
async fn overlays_work(daemon: &Daemon) -> bool {
    let checks = json(daemon, &["doctor"]).await;
    let checks = checks["checks"].as_array().unwrap();
    let named = |check: &&Value| check["name"] == "overlay-volumes";
    let found = checks.iter().find(named).unwrap();
    if found["verdict"] != "ok" {
        eprintln!("SKIPPED: overlay volumes do not work here: {found}");
    }
    found["verdict"] == "ok"
}

#[tokio::test]
async fn a_fork_is_captured_as_the_tree_that_it_was_made_from() {
    let Some(daemon) = filled().await else {
        return;
    };
    if !overlays_work(&daemon).await {
        return;
    }
    root(&daemon, "w", MORE).await;
    let first = snapshot(&daemon, "w").await;
    for name in ["f", "g"] {
        fork(&daemon, name, &id(&first)).await;
    }
    // Both lie over the same copy, and are the tree to the last attribute.
    assert_eq!(lowers(&daemon).await.len(), 1);
    assert_eq!(copies(&daemon).await.len(), 2, "of work and of home");
    assert_eq!(trees(&snapshot(&daemon, "f").await), trees(&first));
    let changed = r"
        cd /workspace; set -e
        echo more >> deep/again; mv deep deeper; rm -r sub; mkdir sub; echo new > sub/new
        touch -r file stamp; echo FIRST > file; touch -r stamp file; rm stamp
        test $(cat deeper/er/in | wc -l) = 2; test $(ls sub) = new
    ";
    root(&daemon, "f", changed).await;
    let look = root(&daemon, "f", LOOK).await;
    // The other and the origin have none of it.
    assert_eq!(trees(&snapshot(&daemon, "g").await), trees(&first));
    assert_eq!(trees(&snapshot(&daemon, "w").await), trees(&first));

    // Mounted anew, written in place with the size and times it had: what is
    // read again is what is there.
    ctl(&daemon, &["workspace", "stop", "f"]).await;
    ctl(&daemon, &["workspace", "start", "f"]).await;
    assert_eq!(root(&daemon, "f", LOOK).await, look);
    let second = snapshot(&daemon, "f").await;
    let in_place = r"
        cd /workspace; set -e
        touch -r large stamp; printf XYZ | dd of=large bs=1 seek=99 conv=notrunc; touch -r stamp large
        rm stamp
    ";
    root(&daemon, "f", in_place).await;
    let look = root(&daemon, "f", LOOK).await;
    let third = snapshot(&daemon, "f").await;
    assert_ne!(trees(&third), trees(&second));
    fork(&daemon, "h", &id(&third)).await;
    assert_eq!(root(&daemon, "h", LOOK).await, look);
    assert_eq!(trees(&snapshot(&daemon, "h").await), trees(&third));
}

#[tokio::test]
async fn a_restore_writes_what_differs_and_is_captured_as_the_tree() {
    let Some(daemon) = filled().await else {
        return;
    };
    if !overlays_work(&daemon).await {
        return;
    }
    root(&daemon, "w", MORE).await;
    let first = snapshot(&daemon, "w").await;
    let restore = async |snapshot: &Value| {
        let id = id(snapshot);
        let args = ["workspace", "restore", "w", &id, "--no-backup", "--yes"];
        ctl(&daemon, &args).await;
    };
    restore(&first).await;
    assert_eq!(trees(&snapshot(&daemon, "w").await), trees(&first));
    let before = root(&daemon, "w", LOOK).await;
    let change = r"
        cd /workspace; set -e
        echo x >> deep/again; rm -r empty pipe; mv sub other; chmod 0700 other; echo 2 > file
        mkdir -p new/dir; ln deep/again new/dir/third; setfattr 2>/dev/null || true
    ";
    root(&daemon, "w", change).await;
    let second = snapshot(&daemon, "w").await;
    let after = root(&daemon, "w", LOOK).await;
    // Back and forth: the copy of the first tree serves for both.
    let over = lowers(&daemon).await;
    for (to, look) in [(&first, &before), (&second, &after), (&first, &before)] {
        restore(to).await;
        assert_eq!(root(&daemon, "w", LOOK).await, *look);
        assert_eq!(trees(&snapshot(&daemon, "w").await), trees(to));
        assert_eq!(lowers(&daemon).await, over);
    }
}

#[tokio::test]
async fn deleting_in_any_order_breaks_nobody_and_leaves_nothing() {
    let Some(mut daemon) = filled().await else {
        return;
    };
    if !overlays_work(&daemon).await {
        return;
    }
    let look = bash(&daemon, "w", LOOK).await;
    let taken = id(&snapshot(&daemon, "w").await);
    for name in ["f", "g"] {
        fork(&daemon, name, &taken).await;
    }
    ctl(&daemon, &["workspace", "stop", "g"]).await;
    leftovers(&daemon, 3, 1).await;
    ctl(&daemon, &["snapshot", "delete", &taken, "--yes"]).await;
    ctl(&daemon, &["workspace", "delete", "w", "--yes"]).await;
    assert_eq!(bash(&daemon, "f", LOOK).await, look);
    ctl(&daemon, &["workspace", "delete", "f", "--yes"]).await;
    daemon.restart().await;
    ctl(&daemon, &["workspace", "start", "g"]).await;
    assert_eq!(bash(&daemon, "g", LOOK).await, look);
    ctl(&daemon, &["workspace", "delete", "g", "--yes"]).await;
    daemon.restart().await;
    wait::until("no copy is left", wait::PATIENCE, async || {
        copies(&daemon).await.is_empty().then_some(())
    })
    .await;
    let run = daemon.run_name();
    assert_eq!(
        daemon.engine().await.workspace_volumes(run).await,
        NO_VOLUMES
    );
}

#[tokio::test]
async fn copies_go_when_there_is_no_room_and_nothing_lies_over_them() {
    let options = Options::default().set("snapshots.copies_max", "0");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    if !overlays_work(&daemon).await {
        return;
    }
    daemon.workspace("w", &[]).await;
    bash(&daemon, "w", "echo one > file").await;
    let taken = id(&snapshot(&daemon, "w").await);
    fork(&daemon, "f", &taken).await;
    let used = copies(&daemon).await;
    assert!(!used.is_empty());
    ctl(&daemon, &["workspace", "delete", "f", "--yes"]).await;
    fork(&daemon, "g", &taken).await;
    assert_eq!(bash(&daemon, "g", "cat /workspace/file").await, "one");
    ctl(&daemon, &["workspace", "delete", "g", "--yes"]).await;
    // Whatever ends next tidies up.
    let other = id(&snapshot(&daemon, "w").await);
    ctl(&daemon, &["snapshot", "delete", &other, "--yes"]).await;
    assert_eq!(copies(&daemon).await, NO_VOLUMES);
}

#[tokio::test]
async fn without_overlays_volumes_are_plain_and_hold_the_same() {
    let options = Options::default().set("snapshots.overlays", "false");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    root(
        &daemon,
        "w",
        "echo one > /workspace/file; mkfifo /workspace/pipe",
    )
    .await;
    root(
        &daemon,
        "w",
        "chmod 2711 /workspace; touch -d 2002-03-04T05:06:07.000000008 /workspace",
    )
    .await;
    let taken = snapshot(&daemon, "w").await;
    fork(&daemon, "f", &id(&taken)).await;
    assert_eq!(trees(&snapshot(&daemon, "f").await), trees(&taken));
    bash(&daemon, "w", "rm -r /workspace/*").await;
    let back = [
        "workspace",
        "restore",
        "w",
        &id(&taken),
        "--no-backup",
        "--yes",
    ];
    ctl(&daemon, &back).await;
    assert_eq!(trees(&snapshot(&daemon, "w").await), trees(&taken));
    assert_eq!(copies(&daemon).await, NO_VOLUMES);
    assert_eq!(lowers(&daemon).await, BTreeSet::new());
}

#[tokio::test]
async fn a_paused_workspace_is_restored_and_runs() {
    let Some(daemon) = filled().await else {
        return;
    };
    let look = bash(&daemon, "w", LOOK).await;
    let taken = id(&snapshot(&daemon, "w").await);
    bash(&daemon, "w", "rm -r /workspace/*").await;
    let containers = daemon
        .engine()
        .await
        .containers(Some(daemon.run_name()))
        .await;
    let docker = daemon.engine().await.docker().clone();
    docker.pause_container(&containers[0].0).await.unwrap();
    ctl(&daemon, &["workspace", "restore", "w", &taken]).await;
    let state = daemon.workspace_now("w").await.state();
    assert_eq!(state, WorkspaceState::Running);
    assert_eq!(bash(&daemon, "w", LOOK).await, look);
    leftovers(&daemon, 1, 2).await;
}

#[tokio::test]
async fn a_restore_whose_swap_fails_leaves_the_workspace_as_it_was() {
    let Some(daemon) = filled().await else {
        return;
    };
    let taken = id(&snapshot(&daemon, "w").await);
    bash(&daemon, "w", "echo later > /workspace/file").await;
    let look = bash(&daemon, "w", LOOK).await;
    // The name of the container that the swap is going to make.
    let workspace = daemon.workspace_now("w").await.id;
    let name = CreateContainerOptions {
        name: Some(format!("compy-{workspace}-2")),
        ..Default::default()
    };
    let run = daemon.run_name().to_owned();
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        labels: Some(HashMap::from([(LABEL.to_owned(), run)])),
        ..Default::default()
    };
    let engine = daemon.engine().await;
    let made = engine.docker().create_container(Some(name), body).await;
    made.unwrap();
    let args = ["workspace", "restore", "w", &taken, "--no-backup", "--yes"];
    let refused = daemon.compyctl(&args).await;
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    assert_eq!(bash(&daemon, "w", LOOK).await, look);
    leftovers(&daemon, 1, 1).await;
    ctl(&daemon, &args).await;
    assert_eq!(bash(&daemon, "w", "cat /workspace/file").await, "first");
    leftovers(&daemon, 1, 1).await;
}

#[tokio::test]
async fn forks_share_no_identifier() {
    let Some(daemon) = filled().await else {
        return;
    };
    let keys = "mkdir -p /etc/ssh && echo shared | tee /etc/ssh/ssh_host_ed25519_key";
    root(&daemon, "w", keys).await;
    let taken = id(&snapshot(&daemon, "w").await);
    let count = if torture() { 64 } else { 4 };
    let mut seen = BTreeSet::new();
    for number in 0..count {
        let name = format!("f{number}");
        fork(&daemon, &name, &taken).await;
        let look = "hostname; cat /etc/machine-id; sha256sum /etc/ssh/ssh_host_* | cut -c1-64";
        let found = root(&daemon, &name, look).await;
        assert!(found.lines().count() >= 3, "{found}");
        for line in found.lines() {
            assert!(seen.insert(line.to_owned()), "{line} is not {name}'s own");
        }
        if torture() {
            ctl(&daemon, &["workspace", "stop", &name]).await;
        }
    }
}
