//! Requests that are made again after they were cut off, over an engine in memory.

use std::sync::Arc;

use super::*;
use crate::{
    adapters::{
        memory::{ManualClock, MemoryLinks, MemoryRuntime, MemoryStore},
        world::SystemWorld,
    },
    service::{
        egress::EgressOptions,
        workspaces::{WorkspacePorts, WorkspacesOptions},
    },
};

struct Bench {
    store: Arc<MemoryStore>,
    runtime: Arc<MemoryRuntime>,
    workspaces: Workspaces,
    api: WorkspaceApi,
}

impl Bench {
    async fn new() -> Self {
        let runtime = Arc::new(MemoryRuntime::with_image("image"));
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::default());
        let tasks = TaskTracker::new();
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
        let egress = Egress::new(
            EgressOptions::default(),
            Arc::new(workspaces.clone()),
            Arc::new(SystemWorld),
            clock.clone(),
            tasks.clone(),
        );
        let api = WorkspaceApi::new(
            workspaces.clone(),
            egress,
            Policies::open(None).unwrap(),
            Requests::new(store.clone(), clock, tasks.clone()),
            tasks,
            CancellationToken::new(),
        );
        Self {
            store,
            runtime,
            workspaces,
            api,
        }
    }

    /// Makes a workspace named `a`.
    async fn make(&self, request_id: &str) -> WorkspaceId {
        let request = wire::CreateWorkspaceRequest {
            request_id: request_id.to_owned(),
            name: "a".to_owned(),
            ..Default::default()
        };
        let made = self.api.create_workspace(Request::new(request)).await;
        let made = made.unwrap().into_inner().workspace.unwrap();
        made.id.parse().unwrap()
    }

    /// Deletes the workspace named `a`, by one request.
    async fn delete(&self) -> Result<(), Status> {
        let request = wire::DeleteWorkspaceRequest {
            request_id: "delete".to_owned(),
            workspace: "a".to_owned(),
            force: false,
        };
        let deleted = self.api.delete_workspace(Request::new(request)).await;
        deleted.map(drop)
    }
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_deletes_no_later_workspace_of_the_name() {
    let bench = Bench::new().await;
    let first = bench.make("first").await;
    bench.runtime.take_down();
    assert_eq!(bench.delete().await.unwrap_err().code(), Code::Unavailable);
    bench.runtime.answer_again();
    // As the reconciler does.
    bench.workspaces.delete(&first, false).await.unwrap();
    let second = bench.make("second").await;
    bench.delete().await.unwrap();
    assert_eq!(bench.workspaces.resolve("a").unwrap().id, second);
}

#[tokio::test]
async fn a_deletion_that_an_older_daemon_began_goes_by_the_name() {
    for meanwhile in [false, true] {
        let bench = Bench::new().await;
        let first = bench.make("first").await;
        bench.runtime.take_down();
        assert_eq!(bench.delete().await.unwrap_err().code(), Code::Unavailable);
        bench.runtime.answer_again();
        bench.store.forget_what_requests_are_about();
        if meanwhile {
            bench.workspaces.delete(&first, false).await.unwrap();
        }
        bench.delete().await.unwrap();
        assert!(bench.workspaces.resolve("a").is_err(), "{meanwhile}");
    }
}
