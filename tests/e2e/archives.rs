//! Snapshots as files: out of one daemon, and into another on the same engine.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use compyd_tests::{
    daemon::{Daemon, Options},
    wait,
};
use serde_json::Value;

use crate::snapshots::{LOOK, bash, filled, id, json, snapshot};

async fn snapshots_of(daemon: &Daemon, workspace: &str) -> Vec<Value> {
    let listed = json(daemon, &["workspace", "snapshots", workspace]).await;
    listed.as_array().unwrap().clone()
}

/// The bytes of chunks that are left when what nothing names is gone.
async fn chunk_bytes(daemon: &Daemon) -> u64 {
    // What a kill cut off is settled first.
    wait::until("a prune", wait::PATIENCE, async || {
        let pruned = daemon.compyctl(&["snapshot", "prune"]).await;
        (pruned.code == 0).then_some(())
    })
    .await;
    let packs = fs::read_dir(daemon.data_dir().join("chunks")).unwrap();
    // One may be collected meanwhile.
    let packs = packs.filter_map(|pack| pack.unwrap().metadata().ok());
    packs.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// Containers and images that a daemon has made and not removed.
async fn left(daemon: &Daemon, containers: usize, images: usize) {
    let (engine, run) = (daemon.engine().await, Some(daemon.run_name()));
    assert_eq!(engine.containers(run).await.len(), containers);
    let made = engine.images(run).await;
    assert_eq!(made.len(), images, "{made:?}");
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn a_snapshot_goes_into_a_file_and_comes_back_anywhere() {
    let Some(daemon) = filled().await else {
        return;
    };
    let before = bash(&daemon, "w", LOOK).await;
    let taken = snapshot(&daemon, "w").await;
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("w.tar.zst");
    let path = file.to_str().unwrap();
    let export = ["snapshot", "export", &id(&taken), path];
    let exported = json(&daemon, &export).await;
    let metadata = file.metadata().unwrap();
    assert_eq!(exported["bytes"].as_u64(), Some(metadata.len()));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);

    // Everything about it goes, and it comes back from the file alone.
    for gone in [
        ["workspace", "delete", "w", "--yes"],
        ["snapshot", "delete", &id(&taken), "--yes"],
    ] {
        let _ = daemon.compyctl(&gone).await.expect_code(0);
    }
    assert_eq!(chunk_bytes(&daemon).await, 0);
    left(&daemon, 0, 0).await;
    let imported = json(&daemon, &["snapshot", "import", path]).await;
    for key in ["id", "workspace_id", "volumes", "created_at", "image_id"] {
        assert_eq!(imported[key], taken[key], "{key}");
    }
    let workspace = taken["workspace_id"].as_str().unwrap();
    assert_eq!(
        snapshots_of(&daemon, workspace).await,
        std::slice::from_ref(&imported)
    );
    let fork = ["snapshot", "fork", &id(&imported), "back"];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    assert_eq!(bash(&daemon, "back", LOOK).await, before);
    let again = daemon.compyctl(&["snapshot", "import", path]).await;
    assert!(again.expect_code(0).stderr.contains("here already"));
    left(&daemon, 1, 1).await;

    let Some(mut other) = Daemon::start(Options::default()).await else {
        return;
    };
    // A file that is not whole leaves nothing there.
    let mut cut = fs::read(&file).unwrap();
    cut.truncate(cut.len() - 1000);
    let import = other.client().args(["snapshot", "import", "-"]);
    let refused = import.stdin(cut).run().await;
    assert!(
        refused.stderr.contains("ARCHIVE_REFUSED"),
        "{}",
        refused.stderr
    );
    assert_eq!(chunk_bytes(&other).await, 0);
    left(&other, 0, 0).await;
    assert!(is_empty(&other.data_dir().join("scratch")));

    // Nor does a kill while the engine loads the image, or all of it is there.
    let import = other.client().args(["snapshot", "import", path]);
    let cut = tokio::spawn(import.run());
    wait::until("it began", Duration::from_secs(240), async || {
        other.log().contains("import begun").then_some(())
    })
    .await;
    other.restart().await;
    let _ = cut.await.unwrap();
    wait::until("nothing is left", Duration::from_secs(60), async || {
        let images = other.engine().await.images(Some(other.run_name())).await;
        images.is_empty().then_some(())
    })
    .await;
    assert_eq!(snapshots_of(&other, workspace).await, [] as [Value; 0]);
    assert_eq!(chunk_bytes(&other).await, 0);
    assert!(is_empty(&other.data_dir().join("scratch")));

    let there = json(&other, &["snapshot", "import", path]).await;
    // The engine has the first one's image under its name.
    assert_ne!(there["id"], taken["id"]);
    assert_ne!(
        there["image_id"], taken["image_id"],
        "its labels are its own"
    );
    assert_eq!(there["volumes"], taken["volumes"]);
    let fork = ["snapshot", "fork", &id(&there), "there"];
    let _ = other.compyctl(&fork).await.expect_code(0);
    assert_eq!(bash(&other, "there", LOOK).await, before);
    left(&other, 1, 1).await;
    left(&daemon, 1, 1).await;
}
