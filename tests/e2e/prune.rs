//! Pruning on the real engine: what nothing names goes, by command and by
//! itself, and what is named stays.

use std::{fs, path::Path, time::Duration};

use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    wait,
};
use serde_json::Value;

/// Bytes that no other write has.
const NOISE: &str = "head -c 8000000 /dev/urandom > /workspace/noise";

async fn bash(daemon: &Daemon, script: &str) {
    let ran = daemon.exec(command("w", &["bash", "-c", script])).await;
    let ran = ran.unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {ran:?}");
}

async fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let all = [&["-o", "json"], args].concat();
    daemon.compyctl(&all).await.expect_code(0).json()
}

async fn snapshot(daemon: &Daemon, more: &[&str]) -> String {
    let args = [&["workspace", "snapshot", "w"], more].concat();
    let taken = json(daemon, &args).await;
    taken["id"].as_str().unwrap().to_owned()
}

async fn ids(daemon: &Daemon) -> Vec<String> {
    let listed = json(daemon, &["workspace", "snapshots", "w"]).await;
    let listed = listed.as_array().unwrap();
    let id = |snapshot: &Value| snapshot["id"].as_str().unwrap().to_owned();
    listed.iter().map(id).collect()
}

fn chunk_bytes(data_dir: &Path) -> u64 {
    let packs = fs::read_dir(data_dir.join("chunks")).unwrap();
    // One may be collected meanwhile.
    let packs = packs.filter_map(|pack| pack.unwrap().metadata().ok());
    packs.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

#[tokio::test]
async fn pruning_gives_back_what_no_snapshot_names() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    bash(&daemon, NOISE).await;
    let labelled = snapshot(&daemon, &["--label", "kept"]).await;
    let with_one = chunk_bytes(&daemon.data_dir());
    for _ in 0..3 {
        bash(&daemon, NOISE).await;
        snapshot(&daemon, &[]).await;
    }
    let newest = ids(&daemon).await.pop().unwrap();
    let before = chunk_bytes(&daemon.data_dir());
    assert!(before > 3 * with_one, "{before} and {with_one}");

    let prune = ["snapshot", "prune", "--keep", "1"];
    let unasked = daemon.compyctl(&prune).await;
    assert_ne!(unasked.code, 0);
    let dry = [&prune[..], &["--dry-run"]].concat();
    let would = json(&daemon, &dry).await;
    assert_eq!(ids(&daemon).await.len(), 4);
    assert_eq!(chunk_bytes(&daemon.data_dir()), before);
    let gave = json(&daemon, &[&prune[..], &["--yes"]].concat()).await;
    assert_eq!(ids(&daemon).await, [labelled.clone(), newest.clone()]);
    assert_eq!(gave["snapshots"].as_array().unwrap().len(), 2);
    for key in ["snapshots", "chunks", "freed_bytes"] {
        assert_eq!(gave[key], would[key], "{key}");
    }
    let after = chunk_bytes(&daemon.data_dir());
    assert_eq!(gave["freed_bytes"].as_u64(), Some(before - after));
    // Two of four contents are gone, and at most a hundredth of them is left.
    let unnamed = 2 * 8_000_000;
    assert!(
        (before - after) * 100 >= unnamed * 99,
        "{before} to {after}"
    );

    for snapshot in [&labelled, &newest] {
        let restore = ["workspace", "restore", "w", snapshot, "--no-backup", "-y"];
        let _ = daemon.compyctl(&restore).await.expect_code(0);
    }
    let nothing = json(&daemon, &["snapshot", "prune"]).await;
    assert_eq!(
        (&nothing["chunks"], &nothing["freed_bytes"]),
        (&0.into(), &0.into())
    );
    let kinds = json(&daemon, &["gc"]).await;
    for kind in ["images", "chunks"] {
        let mut found = kinds.as_array().unwrap().iter();
        let found = found.find(|found| found["kind"] == kind);
        assert_eq!(found.unwrap()["count"], 0, "{kinds}");
    }
    let alone = daemon
        .compyctl(&["snapshot", "prune", "--workspace", "w"])
        .await;
    assert_eq!(alone.code, 2, "{}", alone.stderr);
}

#[tokio::test]
async fn the_collector_takes_by_itself_what_is_left_of_a_deleted_snapshot() {
    let options = Options::default().set("gc.every", "500ms");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    bash(&daemon, NOISE).await;
    let taken = snapshot(&daemon, &[]).await;
    assert!(chunk_bytes(&daemon.data_dir()) > 8_000_000);
    let delete = ["snapshot", "delete", &taken, "--yes"];
    let _ = daemon.compyctl(&delete).await.expect_code(0);
    wait::until("its chunks are gone", Duration::from_secs(30), async || {
        (chunk_bytes(&daemon.data_dir()) == 0).then_some(())
    })
    .await;
}
