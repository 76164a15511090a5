//! Orphans of each kind in an engine, a store and links in memory, beside what
//! is needed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::*;
use crate::{
    adapters::memory::{
        ManualClock, MemoryBlobs, MemoryChunks, MemoryLinks, MemoryRuntime, MemoryStore,
    },
    domain::{
        artifact::{Artifact, ArtifactKind},
        ids::{ArtifactId, OperationId, SessionId},
        orphans::EngineObject,
        snapshot::journal::{ForkStep, Generation, ImageRef, Progress},
        stage::Stage,
        workspace::Workspace,
    },
    ports::{
        contract::store::{snapshot, workspace},
        inventory::Discarded,
        links::LinksPort as _,
        runtime::{ContainerId, ContainerPlan, RuntimePort as _},
        snapshot_runtime::{HelperPlan, SnapshotRuntimePort as _, VolumeAccess, helper_container},
    },
    service::{
        snapshots::SnapshotsOptions,
        workspaces::{WorkspacePorts, WorkspacesOptions},
    },
};

const NOW_MS: i64 = 10 * UNRECORDED_AGE_MS;

struct World {
    store: Arc<MemoryStore>,
    runtime: Arc<MemoryRuntime>,
    links: MemoryLinks,
    blobs: Arc<MemoryBlobs>,
    workspaces: Workspaces,
    garbage: Garbage,
}

/// A workspace at its second generation, with its container, volumes and link.
async fn world() -> World {
    let store = Arc::new(MemoryStore::default());
    let own = Workspace {
        generation: Generation(2),
        ..workspace(1, "w")
    };
    store.add_workspace(&own).await.unwrap();
    let runtime = Arc::new(MemoryRuntime::with_image(&own.definition.image));
    let links = MemoryLinks::new(runtime.clone());
    let ports = WorkspacePorts {
        store: store.clone(),
        runtime: runtime.clone(),
        links: Arc::new(links.clone()),
        clock: Arc::new(ManualClock::at(NOW_MS)),
    };
    let workspaces = WorkspacesOptions::default();
    let workspaces = Workspaces::open(workspaces, ports, TaskTracker::new());
    let workspaces = workspaces.await.unwrap();
    let snapshots = Snapshots::new(
        workspaces.clone(),
        runtime.clone(),
        Arc::new(MemoryChunks::default()),
        SnapshotsOptions::default(),
    );
    snapshots.settle().await.unwrap();
    let blobs = Arc::new(MemoryBlobs::new());
    let garbage = Garbage::new(
        snapshots,
        workspaces.clone(),
        runtime.clone(),
        store.clone(),
        blobs.clone(),
    );
    let world = World {
        store,
        runtime,
        links,
        blobs,
        workspaces,
        garbage,
    };
    world.runtime.create(&world.plan(&own)).await.unwrap();
    world.links.prepare(&own.id).await.unwrap();
    world.links.close(&own.id).await;
    world
}

impl World {
    fn plan(&self, of: &Workspace) -> ContainerPlan {
        self.workspaces.plan(of, "/links".into())
    }

    /// A helper that works for a workspace.
    async fn help(&self, number: u128, of: &Workspace) -> WorkspaceId {
        let id = WorkspaceId::from_uuid(Uuid::from_u128(number));
        let plan = HelperPlan {
            id: id.clone(),
            of: self.plan(of),
            image: of.definition.image.clone(),
            link_dir: "/links".into(),
            access: VolumeAccess::Read,
            root: None,
        };
        self.runtime.create_helper(&plan).await.unwrap();
        id
    }

    async fn put_blob(&self, content: &'static [u8], at_ms: i64) -> String {
        self.blobs.set_now_ms(at_ms);
        let hash = self.blobs.put(Bytes::from_static(content)).await.unwrap();
        hash.as_str().to_owned()
    }

    async fn names_blob(&self, hash: &str) {
        let artifact = Artifact {
            id: ArtifactId::from_uuid(Uuid::from_u128(1)),
            session: SessionId::from_uuid(Uuid::from_u128(1)),
            stage: Stage::Plan,
            step: None,
            kind: ArtifactKind::Other,
            title: String::new(),
            hash: hash.to_owned(),
            size_bytes: 5,
            media_type: String::new(),
            created_at_ms: 1,
        };
        self.store.put_artifact(&artifact).await.unwrap();
    }

    /// Kinds of which there was something: how many went, how many were left.
    async fn collect(&self, what: Collect) -> Vec<(&'static str, u64, u64)> {
        let all = self.garbage.collect(what).await.unwrap();
        let kinds: Vec<_> = all.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, KINDS);
        let some = all.into_iter().filter(|one| one.count + one.kept > 0);
        some.map(|one| (one.kind, one.count, one.kept)).collect()
    }
}

fn now(mode: PruneMode, only_copies: OnlyCopies) -> Collect {
    Collect::now(mode, only_copies)
}

#[tokio::test]
async fn orphans_of_each_kind_go_and_what_is_needed_stays() {
    let world = world().await;
    let own = workspace(1, "w");
    let nothing: Vec<(&str, u64, u64)> = Vec::new();
    let all = now(PruneMode::Remove, OnlyCopies::Remove);
    assert_eq!(world.collect(all).await, nothing);

    // What a restore would have left, whose journal was lost.
    world.runtime.create(&world.plan(&own)).await.unwrap();
    world.help(20, &own).await;
    let unknown = workspace(9, "gone");
    world
        .runtime
        .create_volumes(&world.plan(&unknown), &[])
        .await
        .unwrap();
    world.runtime.add_committed(&snapshot(7, 9).id);
    world.links.prepare(&unknown.id).await.unwrap();
    world.links.close(&unknown.id).await;
    world.put_blob(b"unnamed", 0).await;
    world.put_blob(b"young", NOW_MS - UNRECORDED_AGE_MS).await;
    let named = world.put_blob(b"named", 0).await;
    world.names_blob(&named).await;

    let kept = [
        ("containers", 1, 0),
        ("helpers", 1, 0),
        ("volumes", 0, 2),
        ("images", 1, 0),
        ("links", 1, 0),
        ("blobs", 1, 0),
    ];
    let measure = now(PruneMode::Measure, OnlyCopies::Keep);
    assert_eq!(world.collect(measure).await, kept, "nothing is changed");
    assert_eq!(world.collect(measure).await, kept);
    let remove = now(PruneMode::Remove, OnlyCopies::Keep);
    assert_eq!(world.collect(remove).await, kept);
    assert_eq!(world.collect(remove).await, [("volumes", 0, 2)]);
    assert_eq!(world.collect(all).await, [("volumes", 2, 0)]);
    assert_eq!(world.collect(all).await, nothing);

    let container = world.runtime.find(&own.id).await.unwrap().unwrap();
    assert_eq!(container.generation, Generation(2));
    assert_eq!(world.runtime.volumes(), 1);
    assert_eq!(world.blobs.len(), 2);
}

#[tokio::test]
async fn what_an_operation_under_way_has_made_is_no_orphan() {
    let world = world().await;
    let (fork, own) = (workspace(3, "f"), workspace(1, "w"));
    let helper = world.help(20, &fork).await;
    let operation = Operation {
        id: OperationId::from_uuid(Uuid::from_u128(9)),
        workspace: fork.id.clone(),
        begun_at_ms: 1,
        progress: Progress::Fork {
            snapshot: snapshot(5, 1).id,
            helper: helper_container(&helper),
            step: ForkStep::Begun,
        },
    };
    world.store.put_operation(&operation).await.unwrap();
    world
        .runtime
        .create_volumes(&world.plan(&fork), &[])
        .await
        .unwrap();
    world.links.prepare(&fork.id).await.unwrap();
    world.links.close(&fork.id).await;
    let all = now(PruneMode::Remove, OnlyCopies::Remove);
    assert_eq!(world.collect(all).await, []);

    // A diff is in no journal, and holds the lock of its workspace.
    world.help(21, &own).await;
    let held = world.workspaces.hold(&own.id).await;
    assert_eq!(world.collect(all).await, []);
    drop(held);
    assert_eq!(world.collect(all).await, [("helpers", 1, 0)]);

    world.store.remove_operation(&operation.id).await.unwrap();
    let left = [("helpers", 1, 0), ("volumes", 1, 0), ("links", 1, 0)];
    assert_eq!(world.collect(all).await, left);
}

/// An engine that was listed when it still had something else.
struct ListedBefore {
    engine: Arc<MemoryRuntime>,
    listed: Vec<EngineObject>,
}

#[async_trait]
impl InventoryPort for ListedBefore {
    async fn inventory(&self) -> Result<Vec<EngineObject>, RuntimeError> {
        Ok(self.listed.clone())
    }

    async fn has(&self, object: &EngineObject) -> Result<bool, RuntimeError> {
        self.engine.has(object).await
    }

    async fn discard(&self, object: &EngineObject) -> Result<Discarded, RuntimeError> {
        self.engine.discard(object).await
    }
}

#[tokio::test]
async fn what_its_user_removed_meanwhile_was_not_collected() {
    let world = world().await;
    let helper = world.help(20, &workspace(1, "w")).await;
    world.help(21, &workspace(1, "w")).await;
    let listed = world.runtime.inventory().await.unwrap();
    let container = ContainerId(helper_container(&helper).0);
    world.runtime.remove(&container).await.unwrap();
    let garbage = Garbage::new(
        world.garbage.inner.snapshots.clone(),
        world.workspaces.clone(),
        Arc::new(ListedBefore {
            engine: world.runtime.clone(),
            listed,
        }),
        world.store.clone(),
        world.blobs.clone(),
    );
    let world = World { garbage, ..world };
    for mode in [PruneMode::Measure, PruneMode::Remove] {
        let all = now(mode, OnlyCopies::Remove);
        assert_eq!(world.collect(all).await, [("helpers", 1, 0)], "{mode:?}");
    }
}

#[tokio::test]
async fn the_collector_leaves_what_is_young() {
    let world = world().await;
    world.help(20, &workspace(1, "w")).await;
    let after = |grace_ms: i64| {
        let grace = Duration::from_millis(grace_ms.unsigned_abs());
        Collect::in_the_background(grace)
    };
    assert_eq!(world.collect(after(NOW_MS + 1)).await, []);
    assert_eq!(world.collect(after(NOW_MS)).await, [("helpers", 1, 0)]);
}

/// After the store was lost the engine is all there is.
#[tokio::test]
async fn what_can_be_adopted_stays_with_all_it_is_made_of() {
    let world = world().await;
    let lost = Workspace {
        base: Some(ImageRef::of(&snapshot(7, 4).id)),
        ..workspace(4, "lost")
    };
    world.runtime.add_committed(&snapshot(7, 4).id);
    world.runtime.create(&world.plan(&lost)).await.unwrap();
    world.links.prepare(&lost.id).await.unwrap();
    world.links.close(&lost.id).await;
    let all = now(PruneMode::Remove, OnlyCopies::Remove);
    assert_eq!(world.collect(all).await, []);
    world.runtime.lose(&lost.id);
    let left = [("volumes", 1, 0), ("images", 1, 0), ("links", 1, 0)];
    assert_eq!(world.collect(all).await, left);
}
