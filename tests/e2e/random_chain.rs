//! Random trees through the whole chain: snapshot, export, import, restore and
//! fork, with the real agent and the real store. The hash of the tree, which
//! names everything in it, decides each time.

use std::{fs, io::Read as _, path::Path};

use compyd_proto::agent::TreeEntry;
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    skip,
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use prost::Message as _;
use serde_json::Value;

use crate::{
    random_tree::{Seen, change, make, perform},
    snapshots::{bash, id, json},
};

/// Trees in a volume, and one in so many has a file that changes all the time.
const CHANGING_EVERY: usize = 8;
/// The features that an entry or a tree can have.
const SHARE_PERCENT: usize = 5;

/// `make torture` plays more of them.
fn trees() -> usize {
    let torture = std::env::var_os("COMPY_TORTURE");
    if torture.is_some_and(|value| !value.is_empty() && value != "0") {
        400
    } else {
        24
    }
}

/// Makes random trees below a directory, each in one of its own.
fn grow(directory: &Path, runner: &mut TestRunner) {
    let strategy = (
        prop::collection::vec(make(), 30..80),
        // Few: what is removed most is what has few of its kind.
        prop::collection::vec(change(), 1..6),
    );
    for number in 0..trees() {
        let (makes, changes) = strategy.new_tree(runner).unwrap().current();
        let root = directory.join(format!("tree-{number}"));
        fs::create_dir(&root).unwrap();
        for operation in makes.iter().chain(&changes) {
            perform(&root, operation);
        }
    }
}

/// The entries of a volume, from the file that a snapshot was exported to.
fn listing(archive: &Path, volume: &str) -> Vec<TreeEntry> {
    let archive = fs::File::open(archive).unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(archive).unwrap());
    let mut wanted: Vec<String> = Vec::new();
    let mut found = std::collections::HashMap::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = member.path().unwrap().display().to_string();
        if name == "snapshot.json" {
            let head: Value = serde_json::from_reader(&mut member).unwrap();
            let chunks = &head["manifest"]["volumes"][volume]["listing"];
            let chunks = chunks.as_array().unwrap().iter();
            wanted = chunks
                .map(|hash| format!("chunks/{}", hash.as_str().unwrap()))
                .collect();
        } else if wanted.contains(&name) {
            let mut content = Vec::new();
            member.read_to_end(&mut content).unwrap();
            found.insert(name, content);
            if found.len()
                == wanted
                    .iter()
                    .collect::<std::collections::HashSet<_>>()
                    .len()
            {
                break;
            }
        }
    }
    let encoded: Vec<u8> = wanted.iter().flat_map(|name| found[name].clone()).collect();
    let mut encoded = bytes::Bytes::from(encoded);
    let mut entries = Vec::new();
    while !encoded.is_empty() {
        entries.push(TreeEntry::decode_length_delimited(&mut encoded).unwrap());
    }
    entries
}

/// The hash of each volume's tree.
fn hashes(snapshot: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (snapshot["volumes"].as_array().unwrap().iter())
        .map(|volume| (text(&volume["name"]), text(&volume["tree_hash"])))
        .collect()
}

#[tokio::test]
async fn random_trees_are_the_same_after_every_step_of_the_chain() {
    if !skip::is_root() {
        skip::skip("random trees go into a volume from outside, which needs root");
        return;
    }
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let engine = daemon.engine().await;
    let volumes = engine.workspace_volumes(daemon.run_name()).await;
    let work = volumes.iter().find(|name| name.ends_with("-work")).unwrap();
    let mountpoint = engine
        .docker()
        .inspect_volume(work)
        .await
        .unwrap()
        .mountpoint;
    let work = Path::new(&mountpoint);
    if !work.is_dir() {
        skip::skip("the engine's volumes are not on this host");
        return;
    }
    // It takes a while, and who is connected must go on answering.
    let work = work.to_owned();
    let grown = move || grow(&work, &mut TestRunner::deterministic());
    tokio::task::spawn_blocking(grown).await.unwrap();
    // Files that change while they are read: a tree must be what it is all the
    // same, whichever moment of them it has.
    let writers = format!(
        "cd /workspace; for tree in $(seq 0 {CHANGING_EVERY} {last}); do \
           (while :; do head -c 300000 /dev/urandom > changing-$tree; sleep 0.01; done) & done; wait",
        last = trees() - 1
    );
    // They go on until the restore ends them.
    let writing = daemon.exec(command("w", &["bash", "-c", &writers]));
    let taken = tokio::select! {
        taken = json(&daemon, &["workspace", "snapshot", "w"]) => taken,
        ended = writing => panic!("the writers ended: {ended:?}"),
    };
    let expected = hashes(&taken);

    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("w.tar.zst");
    let path = file.to_str().unwrap();
    let _ = json(&daemon, &["snapshot", "export", &id(&taken), path]).await;
    let mut seen = Seen::default();
    let entries = listing(&file, "work");
    seen.count(&entries);
    seen.check();
    let changing = entries
        .iter()
        .filter(|e| e.path.starts_with(b"changing-"))
        .count();
    assert!(
        changing * 100 >= trees() * SHARE_PERCENT,
        "{changing} change"
    );

    let restore = [
        "workspace",
        "restore",
        "w",
        &id(&taken),
        "--no-backup",
        "--yes",
    ];
    let _ = daemon.compyctl(&restore).await.expect_code(0);
    let restored = json(&daemon, &["workspace", "snapshot", "w"]).await;
    assert_eq!(hashes(&restored), expected, "restored");
    for gone in [
        vec!["workspace", "delete", "w", "--yes"],
        vec!["snapshot", "delete", &id(&taken), "--yes"],
        vec!["snapshot", "delete", &id(&restored), "--yes"],
        vec!["snapshot", "prune"],
    ] {
        let _ = daemon.compyctl(&gone).await.expect_code(0);
    }
    let imported = json(&daemon, &["snapshot", "import", path]).await;
    assert_eq!(hashes(&imported), expected, "imported");
    let fork = ["snapshot", "fork", &id(&imported), "f"];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    let forked = json(&daemon, &["workspace", "snapshot", "f"]).await;
    assert_eq!(hashes(&forked), expected, "forked");
    assert_eq!(bash(&daemon, "f", "ls /workspace | wc -l").await.trim(), {
        (trees() + changing).to_string()
    });
}
