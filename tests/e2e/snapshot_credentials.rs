//! No credential is in a snapshot: canaries go every way into a workspace and are
//! looked for in everything that a snapshot keeps. The same search finds them where
//! nothing holds them back.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use compyd_proto::v1::ExecStart;
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::IMAGE,
    exec::{Done, command},
};
use futures_util::StreamExt as _;

use super::credentials::forms;

/// In a variable, in a file, as git's login.
const VALUE: &str = "canary_Value_5e1b77c20d9f";
const FILE: &str = "canary_F1le_0a94be83c617";
const LOGIN: &str = "canary_L0gin_c3d82f6614ab";

async fn run(daemon: &Daemon, workspace: &str, user: &str, script: &str) -> Done {
    let start = ExecStart {
        user: user.to_owned(),
        timeout_ms: 60_000,
        ..command(workspace, &["bash", "-c", script])
    };
    daemon.exec(start).await.unwrap()
}

/// The private part of a key that is made now, and the file with it.
fn ssh_key(daemon: &Daemon) -> (String, String, String) {
    let file = daemon.directory().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(&file)
        .status()
        .unwrap();
    assert!(made.success());
    let key = std::fs::read_to_string(&file).unwrap();
    // The lines before it say the kind and the public key.
    let secret = key.lines().nth(4).unwrap().to_owned();
    let public = daemon.directory().join("key.pub").display().to_string();
    (key, secret, public)
}

/// Credentials of every kind, each used in the workspace `w`; the canaries.
async fn canaries(daemon: &Daemon) -> Vec<String> {
    let (key, secret, public) = ssh_key(daemon);
    let set = async |arguments: &[&str], value: &str| {
        let arguments = [&["credential", "set", "--workspace", "w"], arguments].concat();
        let ran = daemon.client().args(arguments).stdin(value).run().await;
        let _ = ran.expect_code(0);
    };
    set(&["value"], VALUE).await;
    set(&["keyfile", "--kind", "file", "--env", "KEYFILE"], FILE).await;
    let git = ["forge", "--kind", "git", "--host", "localhost:8443"];
    set(&git, &format!("me:{LOGIN}")).await;
    let ssh = [
        "deploy",
        "--kind",
        "ssh-key",
        "--host",
        "localhost",
        "--host-key",
        &public,
    ];
    set(&ssh, &key).await;
    let used = r#"printenv VALUE > /dev/null && cat "$KEYFILE" > /dev/null && ssh-add -L &&
git config --list > /workspace/settings && cp "$COMPY_SSH_CONFIG" "$COMPY_SSH_KNOWN_HOSTS" ~ &&
mkdir -p /workspace/it && git -C /workspace/it init -q && ! git -C /workspace/it fetch -q https://localhost:8443/me/it.git"#;
    let used = run(daemon, "w", "", used).await;
    assert_eq!(
        used.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&used.stderr)
    );
    let changed = "apt-config dump > /etc/changed";
    assert_eq!(run(daemon, "w", "root", changed).await.code(), Some(0));
    [VALUE, FILE, LOGIN, &secret].map(str::to_owned).to_vec()
}

/// Which canaries are in some bytes, in any form.
fn found(place: &str, bytes: &[u8], canaries: &[String], hits: &mut BTreeSet<String>) {
    for canary in canaries {
        for (form, sought) in forms(canary) {
            if bytes.windows(sought.len()).any(|part| part == sought) {
                hits.insert(format!("{place}: {canary} {form}"));
            }
        }
    }
}

/// Looks through what the engine and the daemon keep of a snapshot.
async fn search(daemon: &Daemon, snapshot: &str, canaries: &[String]) -> BTreeSet<String> {
    let shown = ["snapshot", "show", snapshot, "-o", "json"];
    let shown = daemon.compyctl(&shown).await.expect_code(0);
    let mut hits = BTreeSet::new();
    found("manifest", &shown.stdout, canaries, &mut hits);
    let image = shown.json()["image_id"].as_str().unwrap().to_owned();
    let engine = daemon.engine().await;
    let docker = engine.docker();
    let inspected = docker.inspect_image(&image).await.unwrap();
    let config = serde_json::to_vec(&inspected).unwrap();
    found("config", &config, canaries, &mut hits);
    let history = docker.image_history(&image).await.unwrap();
    let history = serde_json::to_vec(&history).unwrap();
    found("history", &history, canaries, &mut hits);
    // Layers of the image that all began with are as they were.
    let layers = |image: bollard::models::ImageInspect| {
        image
            .root_fs
            .and_then(|root| root.layers)
            .unwrap_or_default()
    };
    let base = layers(docker.inspect_image(IMAGE).await.unwrap());
    let added = layers(inspected).len() - base.len();
    let mut saved = Vec::new();
    let mut pieces = docker.export_image(&image);
    while let Some(piece) = pieces.next().await {
        saved.extend_from_slice(&piece.unwrap());
    }
    let mut looked_through = 0;
    let mut archive = tar::Archive::new(saved.as_slice());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let size = entry.size();
        if base
            .iter()
            .any(|layer| path.contains(layer.trim_start_matches("sha256:")))
            || size > 64 << 20
        {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            bytes = gunzipped(&bytes);
        }
        looked_through += usize::from(size > 0);
        found(&format!("saved {path}"), &bytes, canaries, &mut hits);
    }
    assert!(
        added > 0 && looked_through > added,
        "{looked_through} of {added}"
    );
    // Volumes are read where they are seen whole: in a workspace that is made of them.
    let fork = ["snapshot", "fork", snapshot, "copy"];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    let script = "find /workspace /home /root /etc /opt /var/tmp -type f -size -4M -exec base64 -w0 {} \\; -exec echo \\;";
    let files = run(daemon, "copy", "root", script).await.text();
    assert!(files.lines().count() > 100, "{files}");
    for file in files.lines() {
        // What was taken out of the output on its way was there.
        if file.contains("[redacted:") {
            hits.insert(format!("a file: {file}"));
        }
        let file = STANDARD.decode(file).unwrap_or_default();
        found("a file", &file, canaries, &mut hits);
    }
    hits
}

fn gunzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.stdout
}

async fn snapshot(daemon: &Daemon) -> String {
    let take = ["workspace", "snapshot", "w", "-o", "json"];
    let taken = daemon.compyctl(&take).await.expect_code(0).json();
    taken["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_way_that_a_credential_goes_leads_into_a_snapshot() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &["--allow", "localhost:8443"]).await;
    let canaries = canaries(&daemon).await;
    let taken = snapshot(&daemon).await;
    assert_eq!(search(&daemon, &taken, &canaries).await, BTreeSet::new());
}

#[tokio::test]
async fn the_search_finds_what_is_put_where_a_snapshot_takes_it() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("redaction-off"), "").unwrap();
    let Some(daemon) = Daemon::start(Options::default().data_dir(data.path())).await else {
        return;
    };
    daemon.workspace("w", &["--allow", "localhost:8443"]).await;
    let canaries = canaries(&daemon).await;
    let leak = r#"printenv VALUE | od -An -tx1 | tr -d ' \\n' > ~/hex; base64 < "$KEYFILE" > /workspace/encoded"#;
    let _ = run(&daemon, "w", "", leak).await;
    let _ = run(&daemon, "w", "root", "printenv VALUE > /etc/left-behind").await;
    let taken = snapshot(&daemon).await;
    let hits = search(&daemon, &taken, &canaries).await;
    let found = |place: &str, canary: &str| {
        hits.iter()
            .any(|hit| hit.starts_with(place) && hit.contains(canary))
    };
    assert!(found("saved", VALUE), "{hits:?}");
    assert!(found("a file", VALUE) && found("a file", FILE), "{hits:?}");
    assert!(!found("manifest", "") && !found("history", ""), "{hits:?}");
}
