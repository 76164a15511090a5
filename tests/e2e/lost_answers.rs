//! Every third answer is lost and asked for again, the daemon is killed in the
//! middle, and in the end exactly the right things exist.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use compyd_proto::v1::{
    CreateSnapshotRequest, CreateWorkspaceRequest, DeleteWorkspaceRequest, ListSnapshotsRequest,
    ListWorkspacesRequest, StartWorkspaceRequest, StopWorkspaceRequest,
    snapshot_service_client::SnapshotServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};
use compyd_tests::{
    daemon::{Daemon, Options, channel},
    exec::{collect, command, start},
    lossy::LossyDoor,
    programs::torture,
    request_id, wait,
};
use tokio::task::LocalSet;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;

/// Who make calls at the same time, each in workspaces of its own.
const CLIENTS: usize = 4;
/// Share of the answers that are lost.
const LOST: f64 = 0.3;
/// Longer than a sound daemon ever needs, its restart included.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a workspace should have been through.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Expected {
    /// Lines that commands have written, each its own.
    lines: Vec<String>,
    snapshots: usize,
}

/// One who makes calls and asks again until there is an answer.
struct Client {
    number: usize,
    door: PathBuf,
    calls_left: Arc<AtomicUsize>,
    made: usize,
    workspaces: BTreeMap<String, Expected>,
}

/// Whether the answer was lost, or the daemon asks to try again.
fn try_again(status: &Status) -> bool {
    status.get_details_error_info().is_none() || status.get_details_retry_info().is_some()
}

impl Client {
    /// Makes one call, over a new connection each time, until it is answered.
    async fn call<Answer>(
        &self,
        what: &str,
        call: impl AsyncFn(Channel) -> Result<Answer, Status>,
    ) -> Answer {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match call(channel(&self.door)).await {
                Ok(answer) => return answer,
                Err(status) if try_again(&status) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => panic!("{what}: {status:?}"),
            }
        }
        panic!("{what} is not answered within {PATIENCE:?}");
    }

    async fn run(mut self) -> BTreeMap<String, Expected> {
        let take = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        while self.calls_left.fetch_update(order, order, take).is_ok() {
            self.one().await;
        }
        self.workspaces
    }

    /// One call of a kind that chance decides.
    async fn one(&mut self) {
        let names: Vec<String> = self.workspaces.keys().cloned().collect();
        let chance = fastrand::u32(..100);
        let Some(name) = fastrand::choice(&names).cloned() else {
            return self.create().await;
        };
        match chance {
            0..5 if names.len() < 3 => self.create().await,
            0..8 => self.delete(name).await,
            8..14 => self.snapshot(name).await,
            14..20 => self.stop(name).await,
            20..30 => self.start(name).await,
            _ => self.exec(name).await,
        }
    }

    async fn create(&mut self) {
        self.made += 1;
        let name = format!("c{}-{}", self.number, self.made);
        let request = CreateWorkspaceRequest {
            request_id: request_id(),
            name: name.clone(),
            ..Default::default()
        };
        self.call("create", async |channel| {
            let mut client = WorkspaceServiceClient::new(channel);
            client.create_workspace(request.clone()).await
        })
        .await;
        self.workspaces.insert(name, Expected::default());
    }

    async fn delete(&mut self, name: String) {
        let request = DeleteWorkspaceRequest {
            request_id: request_id(),
            workspace: name.clone(),
            force: false,
        };
        self.call("delete", async |channel| {
            let mut client = WorkspaceServiceClient::new(channel);
            client.delete_workspace(request.clone()).await
        })
        .await;
        self.workspaces.remove(&name);
    }

    async fn snapshot(&mut self, name: String) {
        let request = CreateSnapshotRequest {
            request_id: request_id(),
            workspace: name.clone(),
            label: String::new(),
        };
        self.call("snapshot", async |channel| {
            let mut client = SnapshotServiceClient::new(channel);
            client.create_snapshot(request.clone()).await
        })
        .await;
        self.workspaces.get_mut(&name).unwrap().snapshots += 1;
    }

    async fn stop(&mut self, name: String) {
        let request = StopWorkspaceRequest {
            request_id: request_id(),
            workspace: name,
        };
        self.call("stop", async |channel| {
            let mut client = WorkspaceServiceClient::new(channel);
            client.stop_workspace(request.clone()).await
        })
        .await;
    }

    async fn start(&mut self, name: String) {
        let request = StartWorkspaceRequest {
            request_id: request_id(),
            workspace: name,
        };
        self.call("start", async |channel| {
            let mut client = WorkspaceServiceClient::new(channel);
            client.start_workspace(request.clone()).await
        })
        .await;
    }

    /// A command that leaves a line each time it runs.
    async fn exec(&mut self, name: String) {
        let line = format!("{:016x}", fastrand::u64(..));
        let script = format!("echo {line} >> /workspace/lines");
        let exec = command(&name, &["sh", "-c", &script]);
        let done = self
            .call("exec", async |channel| {
                let mut client = WorkspaceServiceClient::new(channel);
                let messages = tokio_stream::once(start(exec.clone()));
                collect(client.exec(messages).await?.into_inner()).await
            })
            .await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        self.workspaces.get_mut(&name).unwrap().lines.push(line);
    }
}

#[tokio::test]
async fn lost_answers_and_a_killed_daemon_do_nothing_twice() {
    LocalSet::new().run_until(nothing_is_done_twice()).await;
}

async fn nothing_is_done_twice() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let calls = if torture() { 2_000 } else { 160 };
    let door = daemon.directory().join("door.sock");
    let door = LossyDoor::open(&daemon.socket(), door, LOST);
    let calls_left = Arc::new(AtomicUsize::new(calls));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                number,
                door: door.socket().to_owned(),
                calls_left: calls_left.clone(),
                made: 0,
                workspaces: BTreeMap::new(),
            };
            tokio::task::spawn_local(client.run())
        })
        .collect();
    for part in [3, 2, 1] {
        wait::until(
            "a part of the calls",
            Duration::from_secs(1_200),
            async || {
                let stuck = clients.iter().any(|client| client.is_finished());
                (stuck || calls_left.load(Ordering::Relaxed) <= calls * part / 4).then_some(())
            },
        )
        .await;
        daemon.restart().await;
    }
    let mut expected = BTreeMap::new();
    for client in clients {
        expected.extend(client.await.unwrap());
    }
    eprintln!(
        "{calls} calls, {} answers lost, 3 kills; {} workspaces in the end",
        door.lost(),
        expected.len()
    );
    assert!(door.lost() > calls / 10, "only {} lost", door.lost());
    exactly_these(&daemon, expected).await;
}

/// The daemon and the engine have these workspaces and nothing else.
async fn exactly_these(daemon: &Daemon, expected: BTreeMap<String, Expected>) {
    let listed = daemon
        .workspaces()
        .list_workspaces(ListWorkspacesRequest {})
        .await;
    let listed = listed.unwrap().into_inner().workspaces;
    let mut found = BTreeMap::new();
    let mut snapshots = SnapshotServiceClient::new(daemon.channel());
    for workspace in listed {
        let request = ListSnapshotsRequest {
            workspace: workspace.id,
        };
        let taken = snapshots
            .list_snapshots(request)
            .await
            .unwrap()
            .into_inner();
        let lines = daemon
            .shell(&workspace.name, "cat /workspace/lines || true")
            .await;
        let is = Expected {
            lines: lines.text().lines().map(str::to_owned).collect(),
            snapshots: taken.snapshots.len(),
        };
        found.insert(workspace.name, is);
    }
    assert_eq!(found, expected);
    let (engine, run) = (daemon.engine().await, daemon.run_name());
    // The engine may still be at what a killed daemon had asked for.
    let only_these = "no container but these";
    wait::until(only_these, Duration::from_secs(60), async || {
        let containers = engine.containers(Some(run)).await;
        (containers.len() == expected.len()).then_some(())
    })
    .await;
    let volumes = engine.workspace_volumes(run).await;
    assert_eq!(volumes.len(), 6 * expected.len(), "{volumes:?}");
}
