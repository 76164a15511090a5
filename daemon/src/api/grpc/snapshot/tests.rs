//! Requests that are made again after they were cut off, over an engine in memory.

use std::sync::Arc;

use tonic::Code;

use super::*;
use crate::{
    adapters::memory::{
        ManualClock, MemoryChunks, MemoryImages, MemoryLinks, MemoryRuntime, MemoryStore,
    },
    api::grpc::status::reason,
    domain::{
        snapshot::journal::Generation,
        workspace::{Limits, NetworkMode},
    },
    ports::{contract, store::StorePort as _},
    service::{
        snapshots::SnapshotsOptions,
        workspaces::{CreateWorkspace, WorkspacePorts, WorkspacesOptions},
    },
};

struct Bench {
    store: Arc<MemoryStore>,
    runtime: Arc<MemoryRuntime>,
    workspaces: Workspaces,
    /// One of a workspace that is gone.
    snapshot: SnapshotId,
    api: SnapshotApi,
}

impl Bench {
    async fn new() -> Self {
        let runtime = Arc::new(MemoryRuntime::with_image("image"));
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::default());
        let tasks = TaskTracker::new();
        let snapshot = contract::store::snapshot(5, 1);
        store.put_snapshot(&snapshot).await.unwrap();
        runtime.add_committed(&snapshot.id);
        let options = WorkspacesOptions {
            default_image: "image".to_owned(),
            ..WorkspacesOptions::default()
        };
        let ports = WorkspacePorts {
            store: store.clone(),
            runtime: runtime.clone(),
            links: Arc::new(MemoryLinks::new(runtime.clone())),
            clock: clock.clone(),
        };
        let opened = Workspaces::open(options, ports, tasks.clone()).await;
        let workspaces = opened.unwrap();
        let snapshots = Snapshots::new(
            workspaces.clone(),
            runtime.clone(),
            Arc::new(MemoryChunks::default()),
            SnapshotsOptions::default(),
        );
        snapshots.settle().await.unwrap();
        let images = Arc::new(MemoryImages::new(runtime.clone()));
        let api = SnapshotApi::new(
            snapshots.clone(),
            Archives::new(snapshots, images, tasks.clone()),
            workspaces.clone(),
            Requests::new(store.clone(), clock, tasks.clone()),
            tasks,
        );
        Self {
            store,
            runtime,
            workspaces,
            snapshot: snapshot.id,
            api,
        }
    }

    /// Makes a workspace named `a`.
    async fn make(&self) -> WorkspaceId {
        let create = CreateWorkspace {
            id: WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
            name: "a".parse().unwrap(),
            image: None,
            limits: Limits {
                cpu_millis: 0,
                memory_bytes: 0,
                pids: 0,
                disk_bytes: 0,
            },
            network: NetworkMode::None,
            user: None,
            egress: None,
            idle_stop: IdleStop::default(),
        };
        let made = self.workspaces.create(create).await.unwrap();
        made.workspace.id.clone()
    }

    /// Why `a` is not restored, not forked and not captured, each by one request.
    async fn refused(&self) -> [Status; 3] {
        let restore = wire::RestoreWorkspaceRequest {
            request_id: "restore".to_owned(),
            workspace: "a".to_owned(),
            snapshot: self.snapshot.to_string(),
            no_backup: true,
            ..Default::default()
        };
        let fork = wire::ForkWorkspaceRequest {
            request_id: "fork".to_owned(),
            workspace: "a".to_owned(),
            name: "f".to_owned(),
            ..Default::default()
        };
        let take = wire::CreateSnapshotRequest {
            request_id: "take".to_owned(),
            workspace: "a".to_owned(),
            ..Default::default()
        };
        let restored = self.api.restore_workspace(Request::new(restore)).await;
        let forked = self.api.fork_workspace(Request::new(fork)).await;
        let taken = self.api.create_snapshot(Request::new(take)).await;
        [
            restored.map(drop).unwrap_err(),
            forked.map(drop).unwrap_err(),
            taken.map(drop).unwrap_err(),
        ]
    }
}

#[tokio::test]
async fn what_was_cut_off_is_done_with_no_later_workspace_of_the_name() {
    let bench = Bench::new().await;
    let first = bench.make().await;
    bench.runtime.take_down();
    for cut_off in bench.refused().await {
        assert_eq!(cut_off.code(), Code::Unavailable, "{cut_off}");
    }
    bench.runtime.answer_again();
    bench.workspaces.delete(&first, false).await.unwrap();
    let second = bench.make().await;
    for refused in bench.refused().await {
        assert_eq!(reason(&refused), "WORKSPACE_UNKNOWN", "{refused}");
    }
    let left = bench.workspaces.resolve("a").unwrap();
    assert_eq!((&left.id, left.generation), (&second, Generation::FIRST));
    assert!(bench.workspaces.resolve("f").is_err());
    let snapshots = bench.store.snapshots(None).await.unwrap();
    assert_eq!(snapshots.len(), 1);
}

#[tokio::test]
async fn what_an_older_daemon_began_goes_by_the_name() {
    let bench = Bench::new().await;
    let first = bench.make().await;
    bench.runtime.take_down();
    for cut_off in bench.refused().await {
        assert_eq!(cut_off.code(), Code::Unavailable, "{cut_off}");
    }
    bench.store.forget_what_requests_are_about();
    // The workspace is found, and still not its engine.
    for cut_off in bench.refused().await {
        assert_eq!(cut_off.code(), Code::Unavailable, "{cut_off}");
    }
    bench.runtime.answer_again();
    bench.workspaces.delete(&first, false).await.unwrap();
    for refused in bench.refused().await {
        assert_eq!(reason(&refused), "WORKSPACE_UNKNOWN", "{refused}");
    }
}

#[tokio::test]
async fn a_fork_of_a_snapshot_goes_on_when_the_workspace_that_it_names_is_gone() {
    let bench = Bench::new().await;
    let first = bench.make().await;
    let fork = async || {
        let request = wire::ForkWorkspaceRequest {
            request_id: "fork".to_owned(),
            workspace: "a".to_owned(),
            snapshot: bench.snapshot.to_string(),
            name: "f".to_owned(),
        };
        let forked = bench.api.fork_workspace(Request::new(request)).await;
        forked.map(drop).unwrap_err()
    };
    bench.runtime.take_down();
    assert_eq!(fork().await.code(), Code::Unavailable);
    bench.runtime.answer_again();
    bench.workspaces.delete(&first, false).await.unwrap();
    bench.runtime.take_down();
    let refused = fork().await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
