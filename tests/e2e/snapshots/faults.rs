//! What a fault leaves at every step that the journal knows: a killed daemon, a
//! killed workspace, a full disk. The journal's own list of steps drives it, so
//! a step without a case here does not compile, and one that no case comes to
//! fails.
//!
//! The daemon under test holds an operation at the step that a file names; see
//! its `service/snapshots/hold.rs`.

mod engine;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use compyd::domain::snapshot::{
    journal::Verdict::{self, Finished, Undone},
    point::Point,
};
use compyd_proto::v1::{
    CreateSnapshotRequest, DeleteSnapshotRequest, ForkWorkspaceRequest, RestoreWorkspaceRequest,
    snapshot_service_client::SnapshotServiceClient,
};
use compyd_tests::{programs::torture, request_id, skip::skip, small_disk::SmallDisk};
use tonic::{Code, transport::Channel};

use super::*;

/// Room for everything that is tested here, an image in an archive included.
const DISK: &str = "4g";
/// How long a workspace may stand still that nobody paused, and how long a test
/// that runs beside others waits for it to go on.
const STILL_MAX: Duration = Duration::from_secs(5);
const STILL_BESIDE_OTHERS: Duration = Duration::from_secs(90);
/// How long an operation may take to come to a step, or to end after it.
const STEP_MAX: Duration = Duration::from_secs(240);

/// No container is frozen once this has waited as long as one may be.
async fn nobody_stands_still(daemon: &Daemon) {
    let patience = if torture() {
        STILL_MAX
    } else {
        STILL_BESIDE_OTHERS
    };
    wait::until("no container to stand still", patience, async || {
        paused(daemon).await.is_empty().then_some(())
    })
    .await;
}

/// What happens to an operation at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The daemon is killed before the work of the step begins.
    Daemon,
    /// It is killed somewhere in the work of the step.
    DaemonSoonAfter,
    /// The workspace's container is killed.
    Workspace,
    /// The daemon's disk is full from here on.
    Disk,
}

/// What is called for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Snapshot,
    Restore,
    Fork,
    Import,
    Delete,
}

/// How to come to a step, and how an operation ends that a kill cut off there.
fn case(point: Point) -> (Call, Verdict) {
    match point {
        Point::SnapshotBegun
        | Point::SnapshotPausing
        | Point::SnapshotResumed
        | Point::SnapshotFlattening => (Call::Snapshot, Undone),
        Point::SnapshotStoring => (Call::Snapshot, Finished),
        Point::RestoreBegun | Point::RestoreFilled => (Call::Restore, Undone),
        Point::RestoreSwapping | Point::RestoreCleaning => (Call::Restore, Finished),
        Point::ForkBegun | Point::ForkFilled => (Call::Fork, Undone),
        Point::ForkAdding => (Call::Fork, Finished),
        Point::ImportBegun => (Call::Import, Undone),
        Point::ImportStoring => (Call::Import, Finished),
        Point::DeleteBegun => (Call::Delete, Finished),
    }
}

/// A workspace `w` at its snapshot `first`, an archive, and the steps that
/// operations were held at.
struct Arena {
    disk: SmallDisk,
    daemon: Daemon,
    first: String,
    first_look: String,
    archive: PathBuf,
    held: BTreeSet<Point>,
}

impl Arena {
    async fn new() -> Option<Self> {
        let disk = match SmallDisk::new(DISK) {
            Ok(disk) => disk,
            Err(why) => {
                skip(why);
                return None;
            }
        };
        let options = Options::default()
            .data_dir(&disk.path().join("data"))
            .set("disk.low_water", "16MiB");
        let daemon = Daemon::start(options).await?;
        daemon.workspace("w", &[]).await;
        bash(&daemon, "w", FILL).await;
        bash(&daemon, "w", "echo first > /workspace/mark").await;
        root(&daemon, "w", "echo one > /opt/installed").await;
        let first_look = bash(&daemon, "w", LOOK).await;
        let first = id(&snapshot(&daemon, "w").await);
        let exported = id(&snapshot(&daemon, "w").await);
        let archive = daemon.directory().join("exported.tar.zst");
        let export = ["snapshot", "export", &exported, archive.to_str().unwrap()];
        let _ = daemon.compyctl(&export).await.expect_code(0);
        let arena = Self {
            disk,
            daemon,
            first,
            first_look,
            archive,
            held: BTreeSet::new(),
        };
        arena.delete(&exported).await;
        // From here on its image is one that was committed.
        arena.restore_first().await;
        Some(arena)
    }

    async fn delete(&self, snapshot: &str) {
        let delete = ["snapshot", "delete", snapshot, "--yes"];
        let _ = self.daemon.compyctl(&delete).await.expect_code(0);
    }

    async fn restore_first(&self) {
        let restore = ["workspace", "restore", "w", &self.first];
        let restore = [&restore[..], &["--no-backup", "--yes"]].concat();
        let _ = self.daemon.compyctl(&restore).await.expect_code(0);
    }

    /// One fault at one step, and everything that has to hold afterwards.
    async fn suffer(&mut self, fault: Fault, point: Point) {
        eprintln!("{fault:?} at {point}");
        let what = format!("{fault:?} at {point}");
        let (call, verdict) = case(point);
        let flattening = point == Point::SnapshotFlattening;
        if flattening {
            let every_time = |options: Options| options.set("snapshots.layers_max", "1");
            self.daemon.restart_with(every_time).await;
            self.is_ready().await;
        }
        bash(&self.daemon, "w", "echo changed > /workspace/mark").await;
        if call == Call::Snapshot {
            root(&self.daemon, "w", &format!("echo '{what}' > /opt/changed")).await;
        }
        let subject = match call {
            Call::Delete => id(&snapshot(&self.daemon, "w").await),
            Call::Snapshot | Call::Restore | Call::Fork | Call::Import => self.first.clone(),
        };
        let known: BTreeSet<String> = ids(&self.daemon, "w").await.into_iter().collect();
        let before = bash(&self.daemon, "w", LOOK).await;

        let hold = Hold::at(&self.daemon, point);
        let channel = self.daemon.channel();
        let made = Made::of(call, channel, &self.daemon, &self.archive, subject.clone());
        let mut made = tokio::spawn(made);
        hold.wait(&self.daemon, &mut made).await;
        self.held.insert(point);
        let ended = match fault {
            Fault::Daemon | Fault::DaemonSoonAfter => {
                if fault == Fault::DaemonSoonAfter {
                    hold.release();
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
                }
                self.daemon.kill().await;
                let made = made.await.unwrap();
                match (fault, made.worked) {
                    (Fault::Daemon, worked) => {
                        assert!(!worked, "{what}: its daemon is dead");
                        Some(verdict)
                    }
                    // It was done before the kill.
                    (_, true) => Some(Finished),
                    // Undone or finished, by how far it came.
                    (_, false) => None,
                }
            }
            Fault::Workspace => {
                let container = self.daemon.workspace_now("w").await.container_id;
                self.daemon.engine().await.kill(&container).await;
                hold.release();
                Some(ended(&what, made).await)
            }
            Fault::Disk => {
                self.disk.fill();
                hold.release();
                let ended = ended(&what, made).await;
                self.nobody_stands_still().await;
                self.disk.free();
                Some(ended)
            }
        };
        drop(hold);
        self.daemon.restart().await;
        self.nobody_stands_still().await;
        if flattening {
            let seldom = |options: Options| options.set("snapshots.layers_max", "40");
            self.daemon.restart_with(seldom).await;
        }
        self.is_ready().await;
        self.all_or_nothing(&what, call, ended, &subject, &before, &known)
            .await;
        self.begin_again().await;
    }

    /// Waits until what was cut off is settled and the workspace runs.
    async fn is_ready(&self) {
        let nobody = format!("sn-{}", "0".repeat(32));
        wait::until("what was cut off is settled", STEP_MAX, async || {
            let mut client = SnapshotServiceClient::new(self.daemon.channel());
            let delete = DeleteSnapshotRequest {
                request_id: request_id(),
                snapshot: nobody.clone(),
            };
            let answer = client.delete_snapshot(delete).await.unwrap_err();
            (answer.code() == Code::NotFound).then_some(())
        })
        .await;
        wait::until("w runs", STEP_MAX, async || {
            let state = self.daemon.workspace_now("w").await.state();
            (state == WorkspaceState::Running).then_some(())
        })
        .await;
    }

    /// No container is frozen once this has waited as long as one may be.
    async fn nobody_stands_still(&self) {
        nobody_stands_still(&self.daemon).await;
    }

    /// The operation is done, or it is as if it had never begun; what is listed
    /// is whole, and nothing is left over.
    async fn all_or_nothing(
        &self,
        what: &str,
        call: Call,
        ended: Option<Verdict>,
        subject: &str,
        before: &str,
        known: &BTreeSet<String>,
    ) {
        let daemon = &self.daemon;
        let listed: BTreeSet<String> = ids(daemon, "w").await.into_iter().collect();
        let forked = daemon.compyctl(&["workspace", "show", "f"]).await.code == 0;
        let mark = bash(daemon, "w", "cat /workspace/mark").await;
        let new: Vec<&String> = listed.difference(known).collect();
        let gone: Vec<&String> = known.difference(&listed).collect();
        let finished = match call {
            Call::Snapshot | Call::Import => new.len() == 1,
            Call::Restore => mark == "first",
            Call::Fork => forked,
            Call::Delete => gone == [subject],
        };
        if let Some(ended) = ended {
            assert_eq!(finished, ended == Finished, "{what}");
        }
        let one_if = |this: Call| usize::from(finished && call == this);
        let news = one_if(Call::Snapshot) + one_if(Call::Import);
        assert_eq!(new.len(), news, "{what}: {new:?}");
        assert_eq!(gone.len(), one_if(Call::Delete), "{what}: {gone:?}");
        assert_eq!(forked, finished && call == Call::Fork, "{what}");
        let restored = finished && call == Call::Restore;
        let look = if restored { &self.first_look } else { before };
        assert_eq!(bash(daemon, "w", LOOK).await, *look, "{what}");
        leftovers(daemon, 1 + one_if(Call::Fork), listed.len()).await;
        for snapshot in new {
            let (look, changed) = match call {
                Call::Snapshot => (before, what),
                _ => (self.first_look.as_str(), ""),
            };
            self.is_whole(snapshot, look, changed).await;
        }
    }

    /// A fork of a snapshot holds what was in the workspace then.
    async fn is_whole(&self, snapshot: &str, look: &str, changed: &str) {
        let daemon = &self.daemon;
        let fork = ["workspace", "fork", "w", "whole", "--snapshot", snapshot];
        let _ = daemon.compyctl(&fork).await.expect_code(0);
        assert_eq!(bash(daemon, "whole", LOOK).await, look);
        let root = "cat /opt/changed 2>/dev/null || true";
        assert_eq!(bash(daemon, "whole", root).await, changed);
        self.delete_workspace("whole").await;
    }

    async fn delete_workspace(&self, name: &str) {
        let delete = ["workspace", "delete", name, "--yes"];
        let _ = self.daemon.compyctl(&delete).await.expect_code(0);
    }

    /// Everything as it was before the fault.
    async fn begin_again(&self) {
        if self.daemon.compyctl(&["workspace", "show", "f"]).await.code == 0 {
            self.delete_workspace("f").await;
        }
        for snapshot in ids(&self.daemon, "w").await {
            if snapshot != self.first {
                self.delete(&snapshot).await;
            }
        }
    }
}

/// Names of the run's containers that are frozen.
async fn paused(daemon: &Daemon) -> Vec<String> {
    let engine = daemon.engine().await;
    let mut paused = Vec::new();
    for (container, _) in engine.containers(Some(daemon.run_name())).await {
        // One that is gone by now does not stand still.
        let inspected = engine.docker().inspect_container(&container, None).await;
        let state = inspected.ok().and_then(|container| container.state);
        if state.and_then(|state| state.paused) == Some(true) {
            paused.push(container);
        }
    }
    paused
}

/// A file that keeps operations at a step while it is there.
struct Hold {
    file: PathBuf,
    point: Point,
    held_before: usize,
}

impl Hold {
    fn at(daemon: &Daemon, point: Point) -> Self {
        let file = daemon.data_dir().join("hold");
        let held_before = held(daemon, point);
        std::fs::write(&file, point.name()).unwrap();
        Self {
            file,
            point,
            held_before,
        }
    }

    /// Waits until an operation is held.
    async fn wait(&self, daemon: &Daemon, made: &mut tokio::task::JoinHandle<Made>) {
        let what = format!("{} (a daemon with its feature `test-util`?)", self.point);
        wait::until(&what, STEP_MAX, async || {
            assert!(!made.is_finished(), "it ended before {}", self.point);
            (held(daemon, self.point) > self.held_before).then_some(())
        })
        .await;
    }

    fn release(&self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

/// How many operations a daemon has held at a step.
fn held(daemon: &Daemon, point: Point) -> usize {
    let line = format!("an operation is held for a test point={point}");
    daemon.log().matches(&line).count()
}

/// How an operation ended by the answer that its caller got.
async fn ended(what: &str, made: tokio::task::JoinHandle<Made>) -> Verdict {
    let made = tokio::time::timeout(STEP_MAX, made).await;
    let made = made.unwrap_or_else(|_| panic!("{what}: it does not end"));
    let made = made.unwrap();
    eprintln!("    {}", made.said);
    let finished_later = made.said.contains("is finished as soon as it can be");
    if made.worked || finished_later {
        Finished
    } else {
        Undone
    }
}

/// What became of a call.
struct Made {
    worked: bool,
    said: String,
}

impl Made {
    fn of(
        call: Call,
        channel: Channel,
        daemon: &Daemon,
        archive: &Path,
        snapshot: String,
    ) -> impl Future<Output = Self> + Send + 'static {
        let import = daemon.client().args(["snapshot", "import"]).args([archive]);
        async move {
            let mut client = SnapshotServiceClient::new(channel);
            let (request_id, workspace) = (request_id(), "w".to_owned());
            let answer = match call {
                Call::Snapshot => {
                    let request = CreateSnapshotRequest {
                        request_id,
                        workspace,
                        label: String::new(),
                    };
                    client.create_snapshot(request).await.map(drop)
                }
                Call::Restore => {
                    let request = RestoreWorkspaceRequest {
                        request_id,
                        workspace,
                        snapshot,
                        no_backup: true,
                        force: false,
                    };
                    client.restore_workspace(request).await.map(drop)
                }
                Call::Fork => {
                    let request = ForkWorkspaceRequest {
                        request_id,
                        workspace,
                        name: "f".to_owned(),
                        snapshot,
                    };
                    client.fork_workspace(request).await.map(drop)
                }
                Call::Delete => {
                    let request = DeleteSnapshotRequest {
                        request_id,
                        snapshot,
                    };
                    client.delete_snapshot(request).await.map(drop)
                }
                Call::Import => {
                    let ran = import.run().await;
                    let (worked, said) = (ran.code == 0, ran.stderr);
                    return Self { worked, said };
                }
            };
            match answer {
                Ok(()) => Self {
                    worked: true,
                    said: "done".to_owned(),
                },
                Err(status) => Self {
                    worked: false,
                    said: status.message().to_owned(),
                },
            }
        }
    }
}

/// The steps to test a fault at: each under `make torture`, else these.
fn points(sample: &'static [Point]) -> &'static [Point] {
    if torture() { Point::ALL } else { sample }
}

async fn at_each(fault: Fault, points: &[Point]) {
    let Some(mut arena) = Arena::new().await else {
        return;
    };
    for point in points {
        arena.suffer(fault, *point).await;
    }
    assert_eq!(arena.held, points.iter().copied().collect());
    eprintln!(
        "{fault:?}: {} steps of {}",
        arena.held.len(),
        Point::ALL.len()
    );
    // Nothing of it is in the way of what comes next.
    arena.restore_first().await;
    snapshot(&arena.daemon, "w").await;
    leftovers(&arena.daemon, 1, 2).await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_step_leaves_all_or_nothing() {
    at_each(Fault::Daemon, Point::ALL).await;
}

#[tokio::test]
async fn a_daemon_killed_in_the_work_of_any_step_leaves_all_or_nothing() {
    let sample = &[
        Point::SnapshotBegun,
        Point::SnapshotPausing,
        Point::SnapshotFlattening,
        Point::RestoreBegun,
        Point::RestoreSwapping,
        Point::ForkBegun,
    ];
    at_each(Fault::DaemonSoonAfter, points(sample)).await;
}

#[tokio::test]
async fn a_workspace_killed_at_any_step_leaves_all_or_nothing() {
    let sample = &[
        Point::SnapshotPausing,
        Point::RestoreFilled,
        Point::RestoreCleaning,
    ];
    at_each(Fault::Workspace, points(sample)).await;
}

#[tokio::test]
async fn a_disk_that_is_full_at_any_step_leaves_all_or_nothing() {
    let sample = &[
        Point::SnapshotPausing,
        Point::RestoreBegun,
        Point::RestoreSwapping,
        Point::ForkFilled,
        Point::DeleteBegun,
    ];
    at_each(Fault::Disk, points(sample)).await;
}

#[tokio::test]
async fn what_a_person_paused_stays_so_over_a_kill() {
    let Some(mut daemon) = filled().await else {
        return;
    };
    for verb in ["pause", "resume", "pause"] {
        let _ = daemon
            .compyctl(&["workspace", verb, "w"])
            .await
            .expect_code(0);
    }
    let container = daemon.workspace_now("w").await.container_id;
    for point in [Point::SnapshotBegun, Point::SnapshotStoring] {
        let hold = Hold::at(&daemon, point);
        let nothing = Path::new("");
        let made = Made::of(
            Call::Snapshot,
            daemon.channel(),
            &daemon,
            nothing,
            String::new(),
        );
        let mut made = tokio::spawn(made);
        hold.wait(&daemon, &mut made).await;
        daemon.kill().await;
        assert!(!made.await.unwrap().worked);
        drop(hold);
        daemon.restart().await;
        tokio::time::sleep(STILL_MAX).await;
        assert_eq!(
            paused(&daemon).await,
            std::slice::from_ref(&container),
            "{point}"
        );
    }
    let _ = daemon
        .compyctl(&["workspace", "resume", "w"])
        .await
        .expect_code(0);
    assert_eq!(bash(&daemon, "w", "cat /opt/installed").await, "one");
    leftovers(&daemon, 1, 1).await;
}
