//! Snapshots, restores and forks, beside `docker commit`, `docker run` and
//! `cp -a` of the volume.

use std::{path::PathBuf, time::Instant};

use compyd_proto::v1::{
    CreateSnapshotRequest, DeleteWorkspaceRequest, ForkWorkspaceRequest, RestoreWorkspaceRequest,
    Snapshot, snapshot_service_client::SnapshotServiceClient,
};
use tokio::process::Command;
use tonic::transport::Channel;

use super::{Better, Field, Measured, Report};
use crate::{
    engine::{IMAGE, LABEL},
    exec::command,
    request_id,
};

const FIRST_ROUNDS: usize = 6;
const ROUNDS: usize = 6;
const MB: f64 = 1e6;
/// 20,000 files of 2 to 65 kB, 670 MB in all, half of each noise.
const FILL: &str = r#"
import os, random, sys
r = random.Random(int(sys.argv[1]))
text = b"let answer = question.iter().map(ask).collect();\n" * 1400
for d in range(200):
    os.makedirs(f"tree/{d}", exist_ok=True)
    for f in range(100):
        n = r.randrange(1000, 32600)
        with open(f"tree/{d}/{f}", "wb") as file:
            file.write(r.randbytes(n) + text[:n])
"#;
const CHANGE_TEN: &str = "for n in 1 2 3 4 5 6 7 8 9 10; do date +%N >> tree/$((n * 19))/7; done";
const CHANGE_ROOT: &str = "head -c 1000000 /dev/urandom > /opt/changed";

/// What a user does otherwise, with one workspace's container and volume.
struct Rival<'a> {
    field: &'a Field,
    container: String,
    volume: PathBuf,
    copies: tempfile::TempDir,
    made: usize,
}

/// Measures a volume of 670 MB. `None` of theirs where this process may not read
/// volumes.
pub async fn measure(field: &Field, report: &mut Report) {
    first_and_second(field, report).await;
    pauses(field, report).await;
    restores(field, report).await;
    forks(field, report).await;
}

async fn first_and_second(field: &Field, report: &mut Report) {
    let [mut ours, mut theirs, mut our_bytes, mut their_bytes] = [const { Vec::new() }; 4];
    for round in 0..FIRST_ROUNDS {
        let name = format!("first-{round}");
        let mut rival = filled(field, &name, round).await;
        let (taken, snapshot) = snapshot(field, &name).await;
        ours.push(taken);
        our_bytes.push(snapshot.new_bytes as f64 / MB);
        let (taken, bytes) = rival.save().await;
        theirs.push(taken);
        their_bytes.push(bytes / MB);
        if round + 1 < FIRST_ROUNDS {
            delete(field, &name).await;
        }
    }
    report.add(
        Measured {
            name: "first snapshot, 670 MB | docker commit + cp -a",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "no slower",
        |_, ratio| ratio >= 1.0,
    );
    report.add(
        Measured {
            name: "bytes of it | theirs",
            unit: "MB",
            better: Better::Less,
            ours: our_bytes,
            theirs: their_bytes,
        },
        "at most 60 %",
        |_, ratio| ratio >= 1.0 / 0.6,
    );

    let name = format!("first-{}", FIRST_ROUNDS - 1);
    let mut rival = Rival::new(field, &name).await;
    let [mut ours, mut theirs, mut our_bytes, mut their_bytes] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        shell(field, &name, CHANGE_TEN).await;
        let (taken, snapshot) = snapshot(field, &name).await;
        ours.push(taken);
        our_bytes.push(snapshot.new_bytes as f64 / MB);
        let (taken, bytes) = rival.save().await;
        theirs.push(taken);
        their_bytes.push(bytes / MB);
    }
    report.add(
        Measured {
            name: "snapshot after 10 files changed | the same again",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "10 times faster",
        |_, ratio| ratio >= 10.0,
    );
    report.add(
        Measured {
            name: "bytes of it | theirs",
            unit: "MB",
            better: Better::Less,
            ours: our_bytes,
            theirs: their_bytes,
        },
        "under 1 %",
        |_, ratio| ratio > 100.0,
    );
    delete(field, &name).await;
}

async fn pauses(field: &Field, report: &mut Report) {
    let mut rival = filled(field, "pause", 50).await;
    let _ = snapshot(field, "pause").await;
    let [mut changed, mut unchanged, mut theirs] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        root(field, "pause", CHANGE_ROOT).await;
        shell(field, "pause", CHANGE_TEN).await;
        changed.push(snapshot(field, "pause").await.1.pause_ms as f64);
        theirs.push(rival.commit().await.0);
        shell(field, "pause", CHANGE_TEN).await;
        unchanged.push(snapshot(field, "pause").await.1.pause_ms as f64);
    }
    report.add(
        Measured {
            name: "pause, root file system changed | docker commit",
            unit: "ms",
            better: Better::Less,
            ours: changed,
            theirs: theirs.clone(),
        },
        "at most 250 ms more",
        |ours, ratio| ours.p50 * (1.0 - ratio) <= 250.0,
    );
    report.add(
        Measured {
            name: "pause, root file system unchanged | docker commit",
            unit: "ms",
            better: Better::Less,
            ours: unchanged,
            theirs,
        },
        "the volumes' delta: at most 250 ms",
        |ours, _| ours.p50 <= 250.0,
    );
    delete(field, "pause").await;
}

async fn restores(field: &Field, report: &mut Report) {
    let mut rival = filled(field, "restore", 100).await;
    let base = snapshot(field, "restore").await.1.id;
    let saved = rival.copy().await;
    for (name, aim, everything) in [
        (
            "restore to first exec, 10 files changed | docker run + cp -a",
            "4 times faster",
            false,
        ),
        (
            "restore to first exec, all changed | docker run + cp -a",
            "no slower",
            true,
        ),
    ] {
        let [mut ours, mut theirs] = [const { Vec::new() }; 2];
        for round in 0..ROUNDS {
            if everything && round == FIRST_ROUNDS {
                break;
            }
            match everything {
                true => fill(field, "restore", 101 + round).await,
                false => shell(field, "restore", CHANGE_TEN).await,
            }
            sync().await;
            ours.push(restore(field, "restore", &base).await);
            theirs.push(rival.run_from(&saved).await);
        }
        let least = if everything { 1.0 } else { 4.0 };
        report.add(
            Measured {
                name,
                unit: "ms",
                better: Better::Less,
                ours,
                theirs,
            },
            aim,
            |_, ratio| ratio >= least,
        );
    }
    delete(field, "restore").await;
}

async fn forks(field: &Field, report: &mut Report) {
    let rival = filled(field, "forked", 200).await;
    let base = snapshot(field, "forked").await.1;
    let [mut ours, mut theirs] = [const { Vec::new() }; 2];
    // The first one may pay for the others.
    for number in 0..=ROUNDS {
        let name = format!("fork-{number}");
        let request = ForkWorkspaceRequest {
            request_id: request_id(),
            workspace: "forked".to_owned(),
            name: name.clone(),
            snapshot: base.id.clone(),
        };
        let begun = Instant::now();
        let forked = client(field).fork_workspace(request).await;
        forked.expect("the fork is made");
        let _ = shell(field, &name, "true").await;
        if number > 0 {
            ours.push(milliseconds(begun));
            theirs.push(rival.run(&[], &base.image_id).await);
        }
    }
    report.add(
        Measured {
            name: "second fork to first exec, 670 MB | docker run",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "at most 1.5 times as long",
        |_, ratio| ratio >= 1.0 / 1.5,
    );
    for number in 0..=ROUNDS {
        delete(field, &format!("fork-{number}")).await;
    }
    delete(field, "forked").await;
}

/// A workspace with a tree in it, and the rival of its snapshots.
async fn filled<'a>(field: &'a Field, name: &str, seed: usize) -> Rival<'a> {
    field.daemon.workspace(name, &[]).await;
    fill(field, name, seed).await;
    sync().await;
    Rival::new(field, name).await
}

async fn fill(field: &Field, name: &str, seed: usize) {
    shell(field, name, &format!("python3 - {seed} <<'EOF'{FILL}EOF")).await;
}

async fn shell(field: &Field, workspace: &str, script: &str) {
    let done = field.daemon.shell(workspace, script).await;
    let error = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.code(), Some(0), "{error}");
}

async fn root(field: &Field, workspace: &str, script: &str) {
    let mut start = command(workspace, &["sh", "-c", script]);
    start.user = "root".to_owned();
    let done = field.daemon.exec(start).await.expect("the daemon runs it");
    assert_eq!(done.code(), Some(0));
}

fn client(field: &Field) -> SnapshotServiceClient<Channel> {
    SnapshotServiceClient::new(field.daemon.channel())
}

async fn snapshot(field: &Field, workspace: &str) -> (f64, Snapshot) {
    let request = CreateSnapshotRequest {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        label: String::new(),
    };
    let begun = Instant::now();
    let taken = client(field).create_snapshot(request).await;
    let elapsed = milliseconds(begun);
    let taken = taken.expect("the snapshot is taken").into_inner();
    (elapsed, taken.snapshot.expect("it is in the answer"))
}

async fn restore(field: &Field, workspace: &str, snapshot: &str) -> f64 {
    let request = RestoreWorkspaceRequest {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        snapshot: snapshot.to_owned(),
        // As theirs, who keep nothing of what was there either.
        no_backup: true,
        force: false,
    };
    let begun = Instant::now();
    let restored = client(field).restore_workspace(request).await;
    restored.expect("the workspace is restored");
    shell(field, workspace, "true").await;
    milliseconds(begun)
}

async fn delete(field: &Field, workspace: &str) {
    let request = DeleteWorkspaceRequest {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        force: true,
    };
    let deleted = field.daemon.workspaces().delete_workspace(request).await;
    deleted.expect("the workspace goes");
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

async fn sync() {
    let _ = run("sync", &[]).await;
}

/// What a program prints.
async fn run(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).output().await;
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

impl<'a> Rival<'a> {
    async fn new(field: &'a Field, workspace: &str) -> Self {
        let container = field.daemon.workspace_now(workspace).await.container_id;
        let inspected = field.engine.inspect(&container).await;
        let volume = inspected
            .mounts
            .into_iter()
            .flatten()
            .find(|mount| mount.destination.as_deref() == Some("/workspace"))
            .and_then(|mount| mount.source)
            .expect("the workspace has a volume");
        // On the engine's disk, where a copy of a volume would be.
        let beside = PathBuf::from(&volume);
        let beside = beside.ancestors().nth(2).unwrap_or(&beside);
        let copies = tempfile::Builder::new()
            .prefix("compy-bench-")
            .tempdir_in(beside)
            .expect("volumes can be copied: run this as root");
        Self {
            field,
            container,
            volume: volume.into(),
            copies,
            made: 0,
        }
    }

    /// An image of the container and a copy of its volume on the disk:
    /// milliseconds and bytes.
    async fn save(&mut self) -> (f64, f64) {
        let (commit, layer) = self.commit().await;
        let begun = Instant::now();
        let copy = self.copy().await;
        let copied = milliseconds(begun);
        let copy = copy.display().to_string();
        let du = run("du", &["--summarize", "--block-size=1", &copy]).await;
        let bytes: f64 = du
            .split('\t')
            .next()
            .and_then(|bytes| bytes.parse().ok())
            .expect("du prints a number");
        let _ = run("rm", &["--recursive", "--force", &copy]).await;
        (commit + copied, bytes + layer)
    }

    /// Milliseconds of an image of the container, and the bytes of its layer.
    async fn commit(&mut self) -> (f64, f64) {
        let change = format!("LABEL {LABEL}={}", self.field.daemon.run_name());
        let begun = Instant::now();
        let image = run("docker", &["commit", "--change", &change, &self.container]).await;
        let taken = milliseconds(begun);
        let format = ["history", "--format", "{{.Size}}", "--human=false", &image];
        let history = run("docker", &format).await;
        let layer = history.lines().next().and_then(|size| size.parse().ok());
        let _ = run("docker", &["image", "rm", &image]).await;
        (taken, layer.unwrap_or(0.0))
    }

    /// A copy of the volume, on the disk.
    async fn copy(&mut self) -> PathBuf {
        let to = self.next();
        copy(&self.volume, &to).await;
        sync().await;
        to
    }

    /// A container with a copy of a copy as its volume, to its first command.
    async fn run_from(&mut self, saved: &std::path::Path) -> f64 {
        let to = self.next();
        let begun = Instant::now();
        copy(saved, &to).await;
        let mount = format!("{}:/workspace", to.display());
        let _ = self.run(&["--volume", &mount], IMAGE).await;
        let taken = milliseconds(begun);
        let _ = run("rm", &["--recursive", "--force", &to.display().to_string()]).await;
        taken
    }

    /// `docker run` of `true`.
    async fn run(&self, more: &[&str], image: &str) -> f64 {
        let begun = Instant::now();
        let first = ["run", "--rm", "--network", "none"];
        let _ = run("docker", &[&first, more, &[image, "true"]].concat()).await;
        milliseconds(begun)
    }

    fn next(&mut self) -> PathBuf {
        self.made += 1;
        self.copies.path().join(self.made.to_string())
    }
}

async fn copy(from: &std::path::Path, to: &std::path::Path) {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let _ = run("cp", &["--archive", &from, &to]).await;
}
