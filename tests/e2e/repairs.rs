//! Containers, volumes and images that somebody removed by hand: noticed, said,
//! and repaired from the last snapshot where there is one.

use bollard::query_parameters::{
    RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions, TagImageOptions,
};
use compyd_proto::v1::{Workspace, WorkspaceState};
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::Engine,
    exec::command,
    skip::skip,
    wait::{self, PATIENCE},
};
use serde_json::Value;

async fn root(daemon: &Daemon, workspace: &str, script: &str) -> String {
    let mut as_root = command(workspace, &["bash", "-c", script]);
    as_root.user = "root".to_owned();
    let ran = daemon.exec(as_root).await.unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {ran:?}");
    ran.text()
}

async fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let all = [&["-o", "json"], args].concat();
    daemon.compyctl(&all).await.expect_code(0).json()
}

/// A workspace with a word in each place, at a snapshot, and other words after.
async fn at_a_snapshot(daemon: &Daemon, name: &str) -> String {
    daemon.workspace(name, &[]).await;
    let write = |word: &str| {
        format!("echo {word} > /workspace/f; echo {word} > ~dev/f; echo {word} > /opt/f")
    };
    root(daemon, name, &write("before")).await;
    let snapshot = json(daemon, &["workspace", "snapshot", name]).await;
    root(daemon, name, &write("after")).await;
    snapshot["id"].as_str().unwrap().to_owned()
}

const LOOK: &str = "cat /workspace/f ~dev/f /opt/f | tr '\\n' ' '";

async fn remove_container(engine: &Engine, id: &str) {
    let options = RemoveContainerOptions {
        force: true,
        ..Default::default()
    };
    let removed = engine.docker().remove_container(id, Some(options)).await;
    removed.unwrap();
}

/// Waits until a workspace is in a state in another container than before.
async fn made_again(daemon: &Daemon, before: &Workspace, state: WorkspaceState) -> Workspace {
    let what = format!("{} to be made again", before.name);
    wait::until(&what, PATIENCE, async || {
        let now = daemon.workspace_now(&before.name).await;
        let other = !now.container_id.is_empty() && now.container_id != before.container_id;
        (other && now.state() == state).then_some(now)
    })
    .await
}

#[tokio::test]
async fn a_container_removed_by_hand_is_made_again_from_the_last_snapshot() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let snapshot = at_a_snapshot(&daemon, "running").await;
    at_a_snapshot(&daemon, "stopped").await;
    let _ = daemon
        .compyctl(&["workspace", "stop", "stopped"])
        .await
        .expect_code(0);
    let engine = daemon.engine().await;
    for (name, state) in [
        ("running", WorkspaceState::Running),
        ("stopped", WorkspaceState::Stopped),
    ] {
        let before = daemon.workspace_now(name).await;
        assert_eq!(before.state_reason, "");
        remove_container(&engine, &before.container_id).await;
        // Nobody asked for anything: the engine said so.
        let after = made_again(&daemon, &before, state).await;
        let said = &after.state_reason;
        assert!(said.contains("its container was gone"), "{said}");
        // Volumes are as they were; outside of them the snapshot is.
        assert_eq!(root(&daemon, name, LOOK).await, "after after before");
    }
    let said = daemon.workspace_now("running").await.state_reason;
    assert!(said.contains(&snapshot), "{said}");
    daemon.wait_for_log("a workspace is repaired").await;
    // Said until it is stopped.
    let _ = daemon
        .compyctl(&["workspace", "stop", "running"])
        .await
        .expect_code(0);
    assert_eq!(daemon.workspace_now("running").await.state_reason, "");
    let run = daemon.run_name();
    assert_eq!(engine.containers(Some(run)).await.len(), 2);
    assert_eq!(engine.workspace_volumes(run).await.len(), 12);
}

/// Removes a workspace's container and these of its volumes. The daemon must
/// not run: it would be faster.
async fn prune(engine: &Engine, workspace: &Workspace, volumes: &[&str]) {
    remove_container(engine, &workspace.container_id).await;
    for volume in volumes {
        let name = format!("compy-{}-{volume}", workspace.id);
        let options = None::<RemoveVolumeOptions>;
        engine.docker().remove_volume(&name, options).await.unwrap();
    }
}

#[tokio::test]
async fn volumes_removed_by_hand_are_filled_from_the_last_snapshot_or_new_and_said() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let one = at_a_snapshot(&daemon, "one").await;
    at_a_snapshot(&daemon, "all").await;
    daemon.workspace("none", &[]).await;
    root(
        &daemon,
        "none",
        "echo lost > /workspace/f; echo kept > ~dev/f",
    )
    .await;
    let _ = daemon
        .compyctl(&["workspace", "stop", "all"])
        .await
        .expect_code(0);
    let before = [
        daemon.workspace_now("one").await,
        daemon.workspace_now("all").await,
        daemon.workspace_now("none").await,
    ];
    daemon.kill().await;
    let engine = daemon.engine().await;
    prune(&engine, &before[0], &["work"]).await;
    let all = ["work", "home", "browser", "state", "tmp", "var-tmp"];
    prune(&engine, &before[1], &all).await;
    prune(&engine, &before[2], &["work"]).await;
    daemon.restart().await;

    let after = made_again(&daemon, &before[0], WorkspaceState::Running).await;
    let said = &after.state_reason;
    let expected = format!("volume work was gone and is as in snapshot {one}");
    assert!(said.contains(&expected), "{said}");
    assert!(!said.contains("volume home"), "{said}");
    assert_eq!(root(&daemon, "one", LOOK).await, "before after before");

    made_again(&daemon, &before[1], WorkspaceState::Stopped).await;
    assert_eq!(root(&daemon, "all", LOOK).await, "before before before");
    // What no snapshot keeps works as well.
    root(&daemon, "all", "touch /tmp/x /var/tmp/x").await;

    let after = made_again(&daemon, &before[2], WorkspaceState::Running).await;
    let said = &after.state_reason;
    assert!(said.contains("volume work was gone and is new"), "{said}");
    let left = root(&daemon, "none", "cat ~dev/f; ls -A /workspace").await;
    assert_eq!(left, "kept");
    let run = daemon.run_name();
    assert_eq!(
        engine.containers(Some(run)).await.len(),
        3,
        "no helper is left"
    );
    assert_eq!(engine.workspace_volumes(run).await.len(), 18);
}

/// The volumes below the overlays of a workspace: the copy that one lies over,
/// shared with others, and what was changed on it.
async fn layers(engine: &Engine, workspace: &Workspace, volume: &str) -> Option<(String, String)> {
    let upper = format!("compy-{}-{volume}-upper", workspace.id);
    let found = engine.docker().inspect_volume(&upper).await.ok()?;
    let copy = found.labels.get("compy.lower")?.clone();
    Some((copy, upper))
}

#[tokio::test]
async fn a_copy_removed_by_hand_below_an_overlay_costs_what_was_changed_on_it_and_no_more() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let first = at_a_snapshot(&daemon, "w").await;
    let fork = ["workspace", "fork", "w", "fork", "--snapshot", &first];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    root(
        &daemon,
        "fork",
        "echo later > /workspace/f; echo later > ~dev/f",
    )
    .await;
    let before = daemon.workspace_now("fork").await;
    let engine = daemon.engine().await;
    let Some((copy, upper)) = layers(&engine, &before, "work").await else {
        skip("this engine makes no overlays of volumes");
        return;
    };
    // While a container is made of it, the engine keeps it from being removed.
    let options = None::<RemoveVolumeOptions>;
    let refused = engine.docker().remove_volume(&copy, options).await;
    assert!(refused.is_err(), "{copy} was removed under a workspace");
    daemon.kill().await;
    prune(&engine, &before, &[]).await;
    let options = None::<RemoveVolumeOptions>;
    engine.docker().remove_volume(&copy, options).await.unwrap();
    daemon.restart().await;

    let after = made_again(&daemon, &before, WorkspaceState::Running).await;
    let said = &after.state_reason;
    let expected = format!("volume work was gone and is as in snapshot {first}");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(root(&daemon, "fork", LOOK).await, "before later before");
    // The next one gets a copy again.
    let fork = ["workspace", "fork", "w", "next", "--snapshot", &first];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    assert_eq!(root(&daemon, "next", LOOK).await, "before before before");
    assert!(
        engine.docker().inspect_volume(&upper).await.is_err(),
        "it is left over"
    );
}

#[tokio::test]
async fn an_image_removed_by_hand_is_found_again_by_its_content_or_said() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let snapshot = at_a_snapshot(&daemon, "w").await;
    let engine = daemon.engine().await;
    let tag = format!("compy/snapshot:{snapshot}");
    // The name only: the content has another.
    let other = TagImageOptions {
        repo: Some("compy/other".to_owned()),
        tag: Some(daemon.run_name().to_owned()),
    };
    engine.docker().tag_image(&tag, Some(other)).await.unwrap();
    let remove = async |name: &str| {
        let options = None::<RemoveImageOptions>;
        engine
            .docker()
            .remove_image(name, options, None)
            .await
            .unwrap();
    };
    remove(&tag).await;
    let restore = [
        "workspace",
        "restore",
        "w",
        &snapshot,
        "--no-backup",
        "--yes",
    ];
    let _ = daemon.compyctl(&restore).await.expect_code(0);
    assert_eq!(root(&daemon, "w", LOOK).await, "before before before");

    // All of it, which the engine allows when no container is made from it.
    daemon.workspace("v", &[]).await;
    let taken = json(&daemon, &["workspace", "snapshot", "v"]).await;
    let gone = taken["id"].as_str().unwrap();
    remove(&format!("compy/snapshot:{gone}")).await;
    let restore = ["workspace", "restore", "v", gone, "--no-backup", "--yes"];
    let refused = daemon.compyctl(&restore).await;
    assert!(
        refused.stderr.contains("SNAPSHOT_IMAGE_GONE"),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains("use another snapshot"),
        "{refused:?}"
    );
    // The workspace itself is none the worse, nor is its next container.
    let before = daemon.workspace_now("v").await;
    remove_container(&engine, &before.container_id).await;
    let after = made_again(&daemon, &before, WorkspaceState::Running).await;
    assert!(after.state_reason.contains("from its image"), "{after:?}");
    remove(&format!("compy/other:{}", daemon.run_name())).await;
}

#[tokio::test]
async fn a_paused_workspace_whose_container_is_removed_is_stopped_and_made_again() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    at_a_snapshot(&daemon, "w").await;
    let _ = daemon
        .compyctl(&["workspace", "pause", "w"])
        .await
        .expect_code(0);
    let before = daemon.workspace_now("w").await;
    assert_eq!(before.state(), WorkspaceState::Paused);
    remove_container(&daemon.engine().await, &before.container_id).await;
    // Nobody asked for anything.
    let after = made_again(&daemon, &before, WorkspaceState::Stopped).await;
    let said = &after.state_reason;
    assert!(said.contains("was paused"), "{said}");
    // The next use starts it.
    assert_eq!(root(&daemon, "w", LOOK).await, "after after before");
    let run = daemon.run_name();
    let engine = daemon.engine().await;
    assert_eq!(engine.containers(Some(run)).await.len(), 1);
}
