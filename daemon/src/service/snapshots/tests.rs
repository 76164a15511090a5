//! Operations that were cut off at each step of the journal, settled against
//! an engine and a store in memory.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::*;
use crate::{
    adapters::memory::{ManualClock, MemoryAudit, MemoryChunks, MemoryRuntime, MemoryStore},
    domain::{
        audit::{Entry, Kind},
        idle::IdleStop,
        setup::{SetupIngredients, SetupKey, SetupSource},
        snapshot::{
            Snapshot, SnapshotReason, VolumeTree,
            copies::TreeCopy,
            hash::TreeHash,
            journal::{ContainerRef, DeleteStep, ForkStep, ImageRef, RestoreStep, SnapshotStep},
            retention::Retention,
        },
        upkeep::{Notice, Refill},
        workspace::{Desired, Workspace},
    },
    ports::{
        agent::AgentPort,
        chunks::{Chunk, ChunkPin, PruneMode},
        contract::store::{snapshot, workspace},
        links::LinksPort,
        runtime::{ContainerStatus, RuntimePort as _},
        snapshot_runtime::CopyVolume,
        store::StorePort,
        trees::{Extent, TreeEntry, TreeEntryKind},
        tunnel::TunnelPort,
    },
    service::{
        audit::Audit,
        redaction::Redactions,
        workspaces::{BakedSetups as _, Salvage as _, WorkspacePorts, WorkspacesOptions},
    },
};

/// Nobody ever dials.
struct NoLinks;

#[async_trait]
impl LinksPort for NoLinks {
    async fn prepare(&self, _: &WorkspaceId) -> Result<PathBuf, LinkError> {
        Ok("/links".into())
    }
    async fn ensure(&self, _: &WorkspaceId) -> Result<(), LinkError> {
        Ok(())
    }
    async fn connected(
        &self,
        _: &WorkspaceId,
        _: Duration,
    ) -> Result<Arc<dyn AgentPort>, LinkError> {
        let hint = String::new();
        Err(LinkError::Timeout { seconds: 0, hint })
    }
    fn current(&self, _: &WorkspaceId) -> Option<Arc<dyn AgentPort>> {
        None
    }
    fn tunnel(&self, _: &WorkspaceId) -> Option<Arc<dyn TunnelPort>> {
        None
    }
    async fn close(&self, _: &WorkspaceId) {}
    async fn remove(&self, _: &WorkspaceId) -> Result<(), LinkError> {
        Ok(())
    }
    async fn unattended(&self) -> Result<Vec<WorkspaceId>, LinkError> {
        Ok(Vec::new())
    }
    fn lost(&self) -> broadcast::Receiver<WorkspaceId> {
        broadcast::channel(1).1
    }
}

pub(super) struct World {
    pub(super) store: Arc<MemoryStore>,
    pub(super) runtime: Arc<MemoryRuntime>,
    pub(super) workspaces: Workspaces,
    pub(super) chunks: Arc<MemoryChunks>,
    pub(super) snapshots: Snapshots,
    pub(super) workspace: Workspace,
}

pub(super) async fn world() -> World {
    world_of(Arc::new(NoLinks), SnapshotsOptions::default()).await
}

/// A running workspace at its first generation, with a snapshot.
pub(super) async fn world_of(links: Arc<dyn LinksPort>, options: SnapshotsOptions) -> World {
    let store = Arc::new(MemoryStore::default());
    let workspace = workspace(1, "w");
    store.add_workspace(&workspace).await.unwrap();
    store.put_snapshot(&snapshot(5, 1)).await.unwrap();
    let runtime = Arc::new(MemoryRuntime::with_image(&workspace.definition.image));
    runtime.add_committed(&snapshot(5, 1).id);
    let ports = WorkspacePorts {
        store: store.clone(),
        runtime: runtime.clone(),
        links,
        clock: Arc::new(ManualClock::at(1)),
    };
    let workspaces = WorkspacesOptions::default();
    let workspaces = Workspaces::open(workspaces, ports, TaskTracker::new());
    let workspaces = workspaces.await.unwrap();
    let plan = workspaces.plan(&workspace, "/links".into());
    let container = runtime.create(&plan).await.unwrap();
    runtime.start(&container).await.unwrap();
    let chunks = Arc::new(MemoryChunks::default());
    let snapshots = Snapshots::new(workspaces.clone(), runtime.clone(), chunks.clone(), options);
    World {
        store,
        runtime,
        workspaces,
        chunks,
        snapshots,
        workspace,
    }
}

impl World {
    /// What a kill at this point of an operation would have left in the
    /// journal.
    pub(super) async fn cut_off(&self, workspace: &WorkspaceId, progress: Progress) {
        let operation = Operation {
            id: OperationId::from_uuid(Uuid::from_u128(9)),
            workspace: workspace.clone(),
            begun_at_ms: 1,
            progress,
        };
        self.store.put_operation(&operation).await.unwrap();
    }

    /// The state of the container, its generation, generations with volumes,
    /// images of snapshots, snapshots.
    async fn seen(&self) -> (ContainerStatus, u32, usize, usize, usize) {
        assert_eq!(self.store.operations().await, Ok(vec![]), "it has ended");
        let container = self
            .runtime
            .find(&self.workspace.id)
            .await
            .unwrap()
            .unwrap();
        (
            container.status,
            container.generation.0,
            self.runtime.volumes(),
            self.runtime.committed().await.unwrap().len(),
            self.store.snapshots(None).await.unwrap().len(),
        )
    }

    /// The services of the next daemon, over the same store and engine.
    async fn restarted(&self) -> (Workspaces, Snapshots) {
        let ports = WorkspacePorts {
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            links: Arc::new(NoLinks),
            clock: Arc::new(ManualClock::at(1)),
        };
        let workspaces = WorkspacesOptions::default();
        let workspaces = Workspaces::open(workspaces, ports, TaskTracker::new());
        let workspaces = workspaces.await.unwrap();
        let (runtime, chunks) = (self.runtime.clone(), self.chunks.clone());
        let options = SnapshotsOptions::default();
        let snapshots = Snapshots::new(workspaces.clone(), runtime, chunks, options);
        (workspaces, snapshots)
    }

    fn generation(&self) -> Generation {
        self.workspaces.resolve("w").unwrap().generation
    }

    /// Makes the workspace's container from the snapshot.
    pub(super) async fn use_snapshot(&self) {
        let next = self.next();
        self.workspaces.save(next.clone()).await.unwrap();
        let plan = self.workspaces.plan(&next, "/links".into());
        let container = self.runtime.create(&plan).await.unwrap();
        self.runtime.start(&container).await.unwrap();
    }

    fn next(&self) -> Workspace {
        Workspace {
            generation: self.workspace.generation.next(),
            base: Some(ImageRef::of(&snapshot(5, 1).id)),
            ..self.workspace.clone()
        }
    }
}

fn helper() -> ContainerRef {
    ContainerRef("compy-helper".to_owned())
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_is_gone_or_whole_and_nothing_is_paused() {
    for (step, paused, whole) in [
        (SnapshotStep::Begun, false, false),
        (SnapshotStep::Resumed, false, false),
        (
            SnapshotStep::Pausing {
                container: ContainerRef("container-1".to_owned()),
            },
            true,
            false,
        ),
        (
            SnapshotStep::Storing {
                manifest: Box::new(snapshot(6, 1)),
            },
            false,
            true,
        ),
    ] {
        let world = world().await;
        let taken = snapshot(6, 1).id;
        world.runtime.add_committed(&taken);
        if paused {
            let id = &world.workspace.id;
            world.runtime.set_status(id, ContainerStatus::Paused);
        }
        let progress = Progress::Snapshot {
            snapshot: taken.clone(),
            helper: helper(),
            image: ImageRef::of(&taken),
            step: step.clone(),
        };
        world.cut_off(&world.workspace.id, progress).await;
        world.snapshots.settle().await.unwrap();
        let there = if whole { 2 } else { 1 };
        let expected = (ContainerStatus::Running, 1, 1, there, there);
        assert_eq!(world.seen().await, expected, "{step:?}");
    }
}

#[tokio::test]
async fn a_restore_that_was_cut_off_is_undone_before_the_swap_and_finished_after_it() {
    let world_with = async |step: RestoreStep, both: bool| {
        let world = world().await;
        if both {
            let plan = world.workspaces.plan(&world.next(), "/links".into());
            world.runtime.create(&plan).await.unwrap();
        }
        let progress = Progress::Restore {
            snapshot: snapshot(5, 1).id,
            helper: helper(),
            new: world.next().generation,
            step,
        };
        world.cut_off(&world.workspace.id, progress).await;
        world
    };
    for step in [RestoreStep::Begun, RestoreStep::Filled] {
        let world = world_with(step.clone(), true).await;
        world.snapshots.settle().await.unwrap();
        let expected = (ContainerStatus::Running, 1, 1, 1, 1);
        assert_eq!(world.seen().await, expected, "{step:?}");
    }
    for made in [false, true] {
        let record = Box::new(world().await.next());
        let old = Generation::FIRST;
        let world = world_with(RestoreStep::Swapping { old, record }, made).await;
        world.snapshots.settle().await.unwrap();
        let expected = (ContainerStatus::Created, 2, 1, 1, 1);
        assert_eq!(world.seen().await, expected, "made: {made}");
        let record = world.store.workspace(&world.workspace.id).await.unwrap();
        assert_eq!(record, Some(world.next()));
    }
    let cleaning = RestoreStep::Cleaning {
        old: Generation::FIRST,
    };
    let world = world_with(cleaning, true).await;
    world.workspaces.save(world.next()).await.unwrap();
    world.snapshots.settle().await.unwrap();
    let expected = (ContainerStatus::Created, 2, 1, 1, 1);
    assert_eq!(world.seen().await, expected);

    // Another restore came before the undo of this one, and is what is used.
    let world = world_with(RestoreStep::Filled, true).await;
    world.workspaces.save(world.next()).await.unwrap();
    world.snapshots.settle().await.unwrap();
    let used = world.runtime.find(&world.workspace.id).await.unwrap();
    assert_eq!(used.unwrap().generation, world.next().generation);
    assert_eq!(world.store.operations().await, Ok(vec![]));
}

#[tokio::test]
async fn a_fork_that_was_cut_off_is_gone_or_there() {
    for adding in [false, true] {
        let world = world().await;
        let record = Workspace {
            generation: Generation::FIRST,
            base: Some(ImageRef::of(&snapshot(5, 1).id)),
            ..workspace(2, "f")
        };
        let plan = world.workspaces.plan(&record, "/links".into());
        world.runtime.create(&plan).await.unwrap();
        let progress = Progress::Fork {
            snapshot: snapshot(5, 1).id,
            helper: helper(),
            step: match adding {
                true => ForkStep::Adding {
                    record: Box::new(record.clone()),
                },
                false => ForkStep::Filled,
            },
        };
        world.cut_off(&record.id, progress).await;
        world.snapshots.settle().await.unwrap();
        let volumes = if adding { 2 } else { 1 };
        let expected = (ContainerStatus::Running, 1, volumes, 1, 1);
        assert_eq!(world.seen().await, expected);
        let found = world.workspaces.resolve("f").ok();
        assert_eq!(found.as_deref(), adding.then_some(&record));
    }
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_finished() {
    let image = ImageRef::of(&snapshot(5, 1).id);
    // Before the manifest went, and after it.
    for listed in [true, false] {
        let world = world().await;
        let snapshot = snapshot(5, 1).id;
        if !listed {
            world.store.remove_snapshot(&snapshot).await.unwrap();
        }
        let step = DeleteStep::Begun {
            image: Some(image.clone()),
        };
        let progress = Progress::Delete { snapshot, step };
        world.cut_off(&world.workspace.id, progress).await;
        world.snapshots.settle().await.unwrap();
        let expected = (ContainerStatus::Running, 1, 1, 0, 0);
        assert_eq!(world.seen().await, expected);
    }
}

#[tokio::test]
async fn nothing_is_done_before_what_was_cut_off_is_settled() {
    let world = world().await;
    let id = snapshot(5, 1).id;
    world.runtime.take_down();
    assert!(world.snapshots.settle().await.is_err());
    let refused = world.snapshots.delete(&id).await;
    assert!(matches!(refused, Err(SnapshotsError::Unsettled)));
    world.runtime.bring_back();
    world.snapshots.settle().await.unwrap();
    world.snapshots.delete(&id).await.unwrap();
    let again = world.snapshots.delete(&id).await;
    assert!(matches!(again, Err(SnapshotsError::Unknown(unknown)) if unknown == id));
}

#[tokio::test]
async fn what_the_engine_does_not_let_go_keeps_nothing_else_from_being_settled() {
    let world = world().await;
    let (kept, gone) = (snapshot(6, 1).id, snapshot(7, 1).id);
    world.runtime.add_committed(&kept);
    world.runtime.add_committed(&gone);
    let tree = TreeHash::of(b"of nobody");
    let stuck_copy = world.runtime.create_copy(&tree).await.unwrap();
    world.runtime.create_copy(&tree).await.unwrap();
    let progress = Progress::Snapshot {
        snapshot: snapshot(8, 1).id,
        helper: helper(),
        image: ImageRef::of(&snapshot(8, 1).id),
        step: SnapshotStep::Begun,
    };
    world.cut_off(&world.workspace.id, progress).await;
    for name in [
        MemoryRuntime::HELPERS,
        &helper().0,
        &ImageRef::of(&kept).0,
        &stuck_copy.0,
    ] {
        world.runtime.get_stuck(name);
    }
    world.snapshots.settle().await.unwrap();
    let images = [&snapshot(5, 1).id, &kept].map(ImageRef::of);
    assert_eq!(world.runtime.committed().await, Ok(images.to_vec()));
    let copies = world.runtime.copies().await.unwrap();
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].volume, stuck_copy);
    assert!(world.snapshots.ready().is_ok());
    world.runtime.come_loose();
    world.snapshots.keep_up().await;
    let expected = (ContainerStatus::Running, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
    assert_eq!(world.runtime.copies().await, Ok(vec![]));
}

#[tokio::test]
async fn a_frozen_workspace_goes_on_before_anything_else_is_settled() {
    let world = world().await;
    let id = &world.workspace.id;
    world.runtime.set_status(id, ContainerStatus::Paused);
    let pausing = Progress::Snapshot {
        snapshot: snapshot(6, 1).id,
        helper: helper(),
        image: ImageRef::of(&snapshot(6, 1).id),
        step: SnapshotStep::Pausing {
            container: ContainerRef("container-1".to_owned()),
        },
    };
    world.cut_off(id, pausing).await;
    // One answer, and then a long silence.
    world.runtime.take_down_after(1);
    assert!(world.snapshots.settle().await.is_err());
    assert_eq!(world.runtime.status(id), Some(ContainerStatus::Running));
    // A person pauses it meanwhile, which is nobody's business.
    world.runtime.answer_again();
    world.runtime.set_status(id, ContainerStatus::Paused);
    world.snapshots.settle().await.unwrap();
    let expected = (ContainerStatus::Paused, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
}

#[tokio::test]
async fn a_setup_whose_snapshot_a_kill_kept_from_its_entry_is_kept_by_that_one() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let mut unused = world.workspace.clone();
    unused.setup.pristine = true;
    world.workspaces.save(unused).await.unwrap();
    let taken = Snapshot {
        reason: SnapshotReason::Setup,
        ..snapshot(6, 1)
    };
    world.store.put_snapshot(&taken).await.unwrap();
    let key = SetupKey::of(&SetupIngredients {
        image_id: "image",
        user: None,
        source: SetupSource::Vouched("https://host/app"),
        repository: &"app".parse().unwrap(),
        initialize: &[],
        inputs: &[],
    });
    // Nothing could be taken now: no agent answers.
    let kept = world.snapshots.keep(&world.workspace.id, &key).await;
    assert_eq!(kept, Ok(Some(taken.id.clone())));
    assert_eq!(world.store.baked_setup(&key).await, Ok(Some(taken.id)));
    assert_eq!(world.store.snapshots(None).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_snapshot_whose_helper_does_not_come_up_leaves_nothing() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let id = &world.workspace.id;
    let taken = world.snapshots.take(id, None, SnapshotReason::Manual).await;
    assert!(taken.is_err());
    let expected = (ContainerStatus::Running, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
    assert_eq!(world.workspace.desired, Desired::Running);
}

#[tokio::test]
async fn the_image_of_a_deleted_snapshot_stays_while_a_workspace_is_made_from_it() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    world.workspaces.save(world.next()).await.unwrap();
    let id = snapshot(5, 1).id;
    world.snapshots.delete(&id).await.unwrap();
    assert_eq!(world.runtime.committed().await, Ok(vec![ImageRef::of(&id)]));
    world
        .workspaces
        .save(world.workspace.clone())
        .await
        .unwrap();
    world.snapshots.keep_up().await;
    assert_eq!(world.runtime.committed().await, Ok(vec![]));
}

#[tokio::test]
async fn an_image_goes_with_the_last_workspace_that_is_made_from_it() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    world.workspaces.save(world.next()).await.unwrap();
    world.snapshots.delete(&snapshot(5, 1).id).await.unwrap();
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn({
        let (snapshots, stop) = (world.snapshots.clone(), stop.clone());
        async move { snapshots.run_upkeep(stop).await }
    });
    let id = &world.workspace.id;
    world.workspaces.delete(id, false).await.unwrap();
    let gone = async {
        while !world.runtime.committed().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
    stop.cancel();
    upkeep.await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_undone_is_undone_while_the_daemon_runs() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    // The container is found and the helper made; then nothing answers, neither
    // the start of the helper nor what would undo it.
    world.runtime.take_down_after(2);
    let id = &world.workspace.id;
    let taken = world.snapshots.take(id, None, SnapshotReason::Manual).await;
    assert!(taken.is_err());
    world.snapshots.keep_up().await;
    assert_eq!(world.store.operations().await.unwrap().len(), 1);
    world.runtime.answer_again();
    world.snapshots.keep_up().await;
    let expected = (ContainerStatus::Running, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
}

/// A tree with one file of these bytes, stored; its chunks are kept by the pin.
async fn stored_tree(chunks: &MemoryChunks, content: &[u8]) -> (VolumeTree, ChunkPin) {
    let mut writer = chunks.writer().await.unwrap();
    let chunk = Chunk::of(Bytes::copy_from_slice(content)).unwrap();
    let root = TreeEntry {
        kind: TreeEntryKind::Directory.into(),
        mode: 0o755,
        ..TreeEntry::default()
    };
    let file = TreeEntry {
        path: Bytes::from_static(b"file"),
        kind: TreeEntryKind::File.into(),
        mode: 0o644,
        size_bytes: content.len() as u64,
        extents: vec![Extent {
            length: content.len() as u64,
            hash: Bytes::copy_from_slice(chunk.hash.as_bytes()),
        }],
        ..TreeEntry::default()
    };
    writer.put(chunk).await.unwrap();
    let tree = listing::write(&[root, file], &mut *writer).await.unwrap();
    (tree, writer.finish().await.unwrap().pin)
}

/// A snapshot whose volumes hold what the chunks have, and nothing else.
fn with_tree(number: u128, tree: &VolumeTree) -> Snapshot {
    Snapshot {
        volumes: BTreeMap::from([(CapturedVolume::Work, tree.clone())]),
        created_at_ms: number as i64,
        label: None,
        ..snapshot(number, 1)
    }
}

#[tokio::test]
async fn pruning_takes_what_nothing_names_and_leaves_all_that_something_does() {
    let world = world().await;
    let refused = world.snapshots.prune(Prune::everything(PruneMode::Remove));
    assert!(matches!(refused.await, Err(SnapshotsError::Unsettled)));
    world.snapshots.settle().await.unwrap();
    let (listed, _) = stored_tree(&world.chunks, b"of a snapshot").await;
    let (unstored, _) = stored_tree(&world.chunks, b"of an operation").await;
    let (_pinned, pin) = stored_tree(&world.chunks, b"of one being taken").await;
    let (_, _) = stored_tree(&world.chunks, b"of nobody").await;
    world
        .store
        .put_snapshot(&with_tree(5, &listed))
        .await
        .unwrap();
    let storing = Progress::Snapshot {
        snapshot: snapshot(8, 1).id,
        helper: helper(),
        image: ImageRef::of(&snapshot(8, 1).id),
        step: SnapshotStep::Storing {
            manifest: Box::new(with_tree(8, &unstored)),
        },
    };
    world.cut_off(&world.workspace.id, storing).await;
    assert_eq!(world.chunks.len(), 8);
    let would = Prune::everything(PruneMode::Measure);
    let would = world.snapshots.prune(would).await.unwrap();
    assert_eq!((would.chunks, world.chunks.len()), (2, 8));
    let gave = Prune::everything(PruneMode::Remove);
    let gave = world.snapshots.prune(gave.clone()).await.unwrap();
    assert_eq!((gave.chunks, world.chunks.len()), (2, 6));
    assert_eq!((&gave, gave.snapshots.len()), (&would, 0));
    drop(pin);
    let gave = Prune::everything(PruneMode::Remove);
    assert_eq!(world.snapshots.prune(gave).await.unwrap().chunks, 2);
    for tree in [listed, unstored] {
        assert_eq!(listing::read(&tree, &*world.chunks).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn snapshots_that_the_rules_let_go_go_with_what_only_they_name() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let (first, _) = stored_tree(&world.chunks, b"first").await;
    let (second, _) = stored_tree(&world.chunks, b"second").await;
    for (number, tree) in [(5, &first), (6, &second)] {
        let manifest = with_tree(number, tree);
        world.store.put_snapshot(&manifest).await.unwrap();
        world.runtime.add_committed(&manifest.id);
    }
    let keep_one = |mode| Prune {
        retention: Retention {
            keep_last: Some(1),
            ..Retention::default()
        },
        ..Prune::everything(mode)
    };
    let would = world.snapshots.prune(keep_one(PruneMode::Measure)).await;
    assert_eq!(world.chunks.len(), 4);
    let gave = world.snapshots.prune(keep_one(PruneMode::Remove)).await;
    let gave = gave.unwrap();
    assert_eq!(would.unwrap(), gave);
    assert_eq!(gave.snapshots, [with_tree(5, &first)]);
    assert_eq!((gave.chunks, world.chunks.len()), (2, 2));
    let (left, kept) = (
        world.store.snapshots(None).await.unwrap(),
        with_tree(6, &second),
    );
    assert_eq!(
        world.runtime.committed().await,
        Ok(vec![ImageRef::of(&kept.id)])
    );
    assert_eq!(left, [kept]);
}

#[tokio::test]
async fn a_snapshot_whose_image_is_gone_is_told_and_one_that_lost_its_name_is_not() {
    let world = world().await;
    let whole = snapshot(5, 1);
    let mut nameless = snapshot(6, 1);
    nameless.image.id = "memory:nameless".to_owned();
    world.runtime.add_image("memory:nameless");
    let gone = snapshot(7, 1);
    let all = [whole, nameless, gone.clone()];
    let missing = world.snapshots.without_image(&all).await;
    assert_eq!(missing, HashSet::from([gone.id]));
    world.runtime.take_down();
    assert_eq!(world.snapshots.without_image(&all).await, HashSet::new());
}

#[tokio::test]
async fn nothing_is_pruned_while_a_snapshot_cannot_be_read() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let (mut tree, _) = stored_tree(&world.chunks, b"content").await;
    tree.hash = TreeHash::of(b"another");
    let broken = with_tree(5, &tree);
    world.store.put_snapshot(&broken).await.unwrap();
    let pruned = world.snapshots.prune(Prune::everything(PruneMode::Remove));
    assert!(matches!(
        pruned.await,
        Err(SnapshotsError::Unreadable { snapshot, .. }) if snapshot == broken.id
    ));
    assert_eq!(world.chunks.len(), 2);
    world.snapshots.delete(&broken.id).await.unwrap();
    let pruned = world.snapshots.prune(Prune::everything(PruneMode::Remove));
    assert_eq!(pruned.await.unwrap().chunks, 2);
}

#[tokio::test]
async fn a_fork_whose_name_was_taken_while_it_was_cut_off_leaves_nothing() {
    let world = world().await;
    let record = workspace(2, "w");
    let plan = world.workspaces.plan(&record, "/links".into());
    world.runtime.create(&plan).await.unwrap();
    let progress = Progress::Fork {
        snapshot: snapshot(5, 1).id,
        helper: helper(),
        step: ForkStep::Adding {
            record: Box::new(record.clone()),
        },
    };
    world.cut_off(&record.id, progress).await;
    world.snapshots.settle().await.unwrap();
    let expected = (ContainerStatus::Running, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
    assert_eq!(world.runtime.find(&record.id).await, Ok(None));
}

/// A tree with a file, and the manifest of a snapshot that names it.
async fn with_file(world: &World) -> Snapshot {
    let entry = |path: &'static str, kind: TreeEntryKind| TreeEntry {
        path: path.into(),
        kind: kind.into(),
        ..TreeEntry::default()
    };
    let entries = [
        entry("", TreeEntryKind::Directory),
        entry("file", TreeEntryKind::File),
    ];
    let mut writer = world.chunks.writer().await.unwrap();
    let tree = listing::write(&entries, &mut *writer).await.unwrap();
    writer.finish().await.unwrap();
    let manifest = Snapshot {
        volumes: BTreeMap::from([(CapturedVolume::Work, tree)]),
        ..snapshot(5, 1)
    };
    world.store.put_snapshot(&manifest).await.unwrap();
    manifest
}

async fn make_fork(world: &World, manifest: &Snapshot) -> Result<Workspace, SnapshotsError> {
    let record = Workspace {
        base: Some(ImageRef::of(&manifest.id)),
        ..workspace(2, "f")
    };
    let helper = WorkspaceId::from_uuid(Uuid::from_u128(8));
    let made = (world.snapshots)
        .make_volumes(&helper, &record, manifest, copies::Purpose::Fork)
        .await;
    made.map(|()| record)
}

async fn register(world: &World, manifest: &Snapshot) -> VolumeRef {
    let tree = manifest.volumes[&CapturedVolume::Work].clone();
    let volume = world.runtime.create_copy(&tree.hash).await.unwrap();
    let copy = TreeCopy {
        volume: volume.clone(),
        tree,
        used_at_ms: 0,
    };
    world.store.put_tree_copy(&copy).await.unwrap();
    volume
}

#[tokio::test]
async fn a_fork_over_a_copy_that_is_there_starts_no_helper_and_keeps_it() {
    let world = world().await;
    let manifest = with_file(&world).await;
    let copy = register(&world, &manifest).await;
    world.snapshots.settle().await.unwrap();
    // A helper would fail: nobody dials here.
    let record = make_fork(&world, &manifest).await.unwrap();
    let used = CopyVolume {
        volume: copy,
        in_use: true,
    };
    assert_eq!(world.runtime.copies().await, Ok(vec![used.clone()]));
    let registered = world.store.tree_copies().await.unwrap();
    assert_eq!(registered[0].used_at_ms, 1, "it was used just now");
    // Nobody names its tree any more, and something lies over it still.
    world.snapshots.delete(&manifest.id).await.unwrap();
    assert_eq!(world.runtime.copies().await, Ok(vec![used]));
    world
        .runtime
        .remove_generation(&record.id, record.generation)
        .await
        .unwrap();
    world
        .snapshots
        .tidy_copies(PruneMode::Remove)
        .await
        .unwrap();
    assert_eq!(world.runtime.copies().await, Ok(vec![]));
    assert_eq!(world.store.tree_copies().await, Ok(vec![]));
}

#[tokio::test]
async fn a_copy_that_was_not_finished_is_used_by_nobody_and_removed() {
    let world = world().await;
    let manifest = with_file(&world).await;
    world.snapshots.settle().await.unwrap();
    let failed = make_fork(&world, &manifest).await;
    assert!(failed.is_err(), "its helper does not come up");
    assert_eq!(world.runtime.copies().await.unwrap().len(), 1);
    assert!(make_fork(&world, &manifest).await.is_err());
    world.snapshots.settle().await.unwrap();
    assert_eq!(world.runtime.copies().await, Ok(vec![]));
}

#[tokio::test]
async fn a_copy_that_somebody_removed_is_not_lain_over() {
    let world = world().await;
    let manifest = with_file(&world).await;
    let copy = register(&world, &manifest).await;
    world.snapshots.settle().await.unwrap();
    world.runtime.remove_copy(&copy).await.unwrap();
    let failed = make_fork(&world, &manifest).await;
    assert!(failed.is_err(), "it is made anew, by a helper");
}

#[tokio::test]
async fn a_container_that_is_gone_is_made_from_the_newest_snapshot_whose_image_is_there() {
    let world = world().await;
    let at_once = world.snapshots.salvage(&world.workspace).await;
    assert!(at_once.is_err(), "what was cut off is not settled");
    world.snapshots.settle().await.unwrap();
    let (older, newer) = (snapshot(5, 1), snapshot(6, 1));
    world.store.put_snapshot(&newer).await.unwrap();
    let root = async |workspace: &Workspace| {
        let record = world.snapshots.salvage(workspace).await.unwrap();
        let stored = world.store.workspace(&record.id).await.unwrap();
        assert_eq!(stored.as_ref(), Some(&*record));
        match record.upkeep.notice.clone() {
            Some(Notice::Rebuilt { root, volumes }) => {
                assert!(volumes.is_empty(), "{volumes:?} are there");
                assert_eq!(record.base, root.as_ref().map(ImageRef::of));
                root
            }
            other => panic!("{other:?}"),
        }
    };
    // The image of the newer one is not there, unless by its content.
    assert_eq!(root(&world.workspace).await, Some(older.id.clone()));
    world.runtime.add_image(&newer.image.id);
    assert_eq!(root(&world.workspace).await, Some(newer.id.clone()));
    // The one that it was last at comes first.
    let back = Workspace {
        snapshot: Some(older.id.clone()),
        ..world.workspace.clone()
    };
    assert_eq!(root(&back).await, Some(older.id.clone()));
    world.runtime.lose_image(&newer.image.id);
    for snapshot in [&older, &newer] {
        world.runtime.lose_image(&ImageRef::of(&snapshot.id).0);
    }
    assert_eq!(root(&back).await, None, "the image of its definition");
}

#[tokio::test]
async fn volumes_that_are_gone_are_filled_or_new_and_never_forgotten_halfway() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let manifest = with_file(&world).await;
    world.runtime.lose(&world.workspace.id);
    world.runtime.lose_volumes(&world.workspace.id);
    // The helper that would fill them does not come up: they stay marked.
    let failed = world.snapshots.salvage(&world.workspace).await;
    assert!(failed.is_err());
    let id = &world.workspace.id;
    let record = world.store.workspace(id).await.unwrap().unwrap();
    assert_eq!(record.upkeep.refilling, CapturedVolume::ALL.into());
    assert_eq!(record.upkeep.notice, None);
    // Nor does it count that they exist by now.
    assert!(world.runtime.volumes() > 0);
    assert!(world.snapshots.salvage(&record).await.is_err());
    // Nothing to fill them from.
    world.snapshots.delete(&manifest.id).await.unwrap();
    let record = world.snapshots.salvage(&record).await.unwrap();
    let volumes = CapturedVolume::ALL.map(|volume| (volume, Refill::New));
    let notice = Notice::Rebuilt {
        root: None,
        volumes: volumes.into(),
    };
    assert_eq!(record.upkeep.notice, Some(notice));
    assert!(record.upkeep.refilling.is_empty());
}

#[tokio::test]
async fn a_deleted_snapshot_is_on_record_with_the_reason() {
    let world = world().await;
    let log = Arc::new(MemoryAudit::default());
    let clock = Arc::new(ManualClock::at(1));
    let audit = Audit::new(log.clone(), clock, Redactions::default());
    world.workspaces.events().set_audit(audit);
    world.snapshots.settle().await.unwrap();
    let id = snapshot(5, 1).id;
    world.snapshots.delete(&id).await.unwrap();
    world.snapshots.delete(&id).await.unwrap_err();
    let recorded: Vec<Entry> = log
        .entries()
        .into_iter()
        .filter(|entry| entry.detail.get("event") == Some(&"deleted".into()))
        .collect();
    let [deleted] = recorded.as_slice() else {
        panic!("{recorded:?}");
    };
    assert_eq!(deleted.kind, Kind::Snapshot);
    assert_eq!(deleted.workspace, Some(world.workspace.id.to_string()));
    assert_eq!(deleted.detail["snapshot"], id.to_string());
    assert_eq!(deleted.detail["why"], "it was asked for");
}

#[tokio::test]
async fn a_restore_of_an_image_with_volumes_of_its_own_leaves_the_workspace_as_it_is() {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let manifest = with_file(&world).await;
    let image = ImageRef::of(&manifest.id);
    world.runtime.declare_volumes(&image.0, &["/data"]);
    let restore = Restore {
        workspace: world.workspace.id.clone(),
        snapshot: manifest.id.clone(),
        before: Before::Discard(OperationId::from_uuid(Uuid::now_v7())),
        sessions: RunningSessions::Refuse,
    };
    let refused = world.snapshots.restore(restore).await.unwrap_err();
    assert!(refused.to_string().contains("/data"), "{refused}");
    let expected = (ContainerStatus::Running, 1, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
}

/// A restore that keeps nothing, of a request.
fn discarding(world: &World, manifest: &Snapshot, request: u128) -> Restore {
    Restore {
        workspace: world.workspace.id.clone(),
        snapshot: manifest.id.clone(),
        before: Before::Discard(OperationId::from_uuid(Uuid::from_u128(request))),
        sessions: RunningSessions::Refuse,
    }
}

/// A stopped workspace, and a snapshot that is restored without a helper.
async fn stopped(options: SnapshotsOptions) -> (World, Snapshot) {
    let mut world = world_of(Arc::new(NoLinks), options).await;
    world.workspace.desired = Desired::Stopped;
    let record = world.workspace.clone();
    world.workspaces.save(record).await.unwrap();
    let manifest = with_file(&world).await;
    register(&world, &manifest).await;
    world.snapshots.settle().await.unwrap();
    (world, manifest)
}

#[tokio::test]
async fn a_restore_without_a_backup_that_was_done_is_not_done_again_after_a_restart() {
    let (world, manifest) = stopped(SnapshotsOptions::default()).await;
    let restore = |request| discarding(&world, &manifest, request);
    world.snapshots.restore(restore(1)).await.unwrap();
    assert_eq!(world.generation(), Generation(2));
    // Others come after it, and only then its answer is asked for again.
    world.snapshots.restore(restore(2)).await.unwrap();
    let before = world.generation();
    let (workspaces, snapshots) = world.restarted().await;
    snapshots.settle().await.unwrap();
    for request in [1, 2] {
        let again = snapshots.restore(restore(request)).await.unwrap();
        assert_eq!(again.view.workspace.generation, before);
        assert_eq!(again.backup, None);
    }
    snapshots.restore(restore(3)).await.unwrap();
    let record = workspaces.resolve("w").unwrap();
    assert_eq!(record.generation, before.next());
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn a_restore_without_a_backup_that_the_next_daemon_finishes_is_not_done_again() {
    use crate::domain::snapshot::point::Point;
    let dir = tempfile::tempdir().unwrap();
    let hold = dir.path().join("hold");
    std::fs::write(&hold, "restore swapping").unwrap();
    let (world, manifest) = stopped(SnapshotsOptions {
        hold_file: Some(hold.clone()),
        ..SnapshotsOptions::default()
    })
    .await;
    let restore = || discarding(&world, &manifest, 1);
    // It is past the point of no return, and comes no further.
    let held = async {
        let at = |operations: Vec<Operation>| operations.first().map(|o| o.progress.point());
        while at(world.store.operations().await.unwrap()) != Some(Point::RestoreSwapping) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        restored = world.snapshots.restore(restore()) => panic!("{restored:?}"),
        () = held => {}
    }
    std::fs::remove_file(&hold).unwrap();
    let (workspaces, snapshots) = world.restarted().await;
    snapshots.settle().await.unwrap();
    let finished = workspaces.resolve("w").unwrap();
    assert_eq!(finished.generation, Generation(2));
    let again = snapshots.restore(restore()).await.unwrap();
    assert_eq!(again.view.workspace.generation, Generation(2));
    assert_eq!(workspaces.resolve("w").unwrap(), finished);
    assert_eq!(world.runtime.volumes(), 1);
}

#[tokio::test]
async fn what_is_left_to_undo_of_a_restore_is_undone_before_the_next_one() {
    let (world, manifest) = stopped(SnapshotsOptions::default()).await;
    let undone = Progress::Restore {
        snapshot: manifest.id.clone(),
        helper: helper(),
        new: Generation(2),
        step: RestoreStep::Begun,
    };
    world.cut_off(&world.workspace.id, undone).await;
    let restore = || discarding(&world, &manifest, 1);
    world.runtime.get_stuck(&helper().0);
    assert!(world.snapshots.restore(restore()).await.is_err());
    world.runtime.come_loose();
    world.snapshots.restore(restore()).await.unwrap();
    world.snapshots.keep_up().await;
    let expected = (ContainerStatus::Created, 2, 1, 1, 1);
    assert_eq!(world.seen().await, expected);
}

/// What a kill during the swap leaves in the journal, and what the record says
/// by the time it is settled.
async fn settled_after(change: impl FnOnce(&mut Workspace)) -> (World, Workspace) {
    let world = world().await;
    let record = Workspace {
        snapshot: Some(snapshot(5, 1).id),
        ..world.next()
    };
    let progress = Progress::Restore {
        snapshot: snapshot(5, 1).id,
        helper: helper(),
        new: record.generation,
        step: RestoreStep::Swapping {
            old: Generation::FIRST,
            record: Box::new(record.clone()),
        },
    };
    world.cut_off(&world.workspace.id, progress).await;
    let plan = world.workspaces.plan(&record, "/links".into());
    world.runtime.create(&plan).await.unwrap();
    let mut changed = world.workspace.clone();
    change(&mut changed);
    world.workspaces.save(changed).await.unwrap();
    world.snapshots.settle().await.unwrap();
    (world, record)
}

#[tokio::test]
async fn a_restore_that_is_settled_later_keeps_what_was_changed_since() {
    let (world, restored) = settled_after(|record| {
        record.desired = Desired::Stopped;
        record.idle_stop = IdleStop::Never;
        record.definition.limits.pids = 7;
    })
    .await;
    let mut expected = restored;
    expected.desired = Desired::Stopped;
    expected.idle_stop = IdleStop::Never;
    expected.definition.limits.pids = 7;
    let record = world.store.workspace(&expected.id).await.unwrap();
    assert_eq!(record, Some(expected));
    let seen = (ContainerStatus::Created, 2, 1, 1, 1);
    assert_eq!(world.seen().await, seen);
}

#[tokio::test]
async fn a_restore_that_is_settled_later_does_not_write_over_what_came_after_its_swap() {
    let later = snapshot(6, 1).id;
    let (world, restored) = settled_after(|record| {
        record.generation = record.generation.next();
        record.snapshot = Some(later.clone());
    })
    .await;
    let record = world.store.workspace(&restored.id).await.unwrap().unwrap();
    assert_eq!(record.generation, restored.generation);
    assert_eq!(record.snapshot, Some(later));
}

#[tokio::test]
async fn a_restore_of_a_workspace_that_is_to_be_deleted_leaves_nothing_when_it_is_settled() {
    let (world, restored) = settled_after(|record| record.desired = Desired::Deleted).await;
    assert_eq!(world.store.operations().await, Ok(vec![]));
    assert_eq!(world.runtime.volumes(), 0);
    assert_eq!(world.runtime.find(&restored.id).await, Ok(None));
    let record = world.store.workspace(&restored.id).await.unwrap().unwrap();
    assert_eq!(record.desired, Desired::Deleted);
}

/// A snapshot with a parent that a kill cut off when only its manifest was left
/// to be stored, of a workspace that is at `now`.
async fn nearly_taken(now: &SnapshotId) -> (World, Snapshot) {
    let world = world().await;
    let mut record = world.workspace.clone();
    record.snapshot = Some(now.clone());
    world.workspaces.save(record).await.unwrap();
    let manifest = Snapshot {
        parent: Some(snapshot(5, 1).id),
        ..snapshot(6, 1)
    };
    world.runtime.add_committed(&manifest.id);
    let progress = Progress::Snapshot {
        snapshot: manifest.id.clone(),
        helper: helper(),
        image: ImageRef::of(&manifest.id),
        step: SnapshotStep::Storing {
            manifest: Box::new(manifest.clone()),
        },
    };
    world.cut_off(&world.workspace.id, progress).await;
    (world, manifest)
}

#[tokio::test]
async fn a_snapshot_that_settling_finishes_is_the_one_that_its_workspace_was_last_at() {
    let parent = snapshot(5, 1).id;
    let (world, manifest) = nearly_taken(&parent).await;
    world.snapshots.settle().await.unwrap();
    let stored = world.store.snapshot(&manifest.id).await.unwrap().unwrap();
    assert_eq!(stored.parent, Some(parent));
    let record = world.workspaces.resolve("w").unwrap();
    assert_eq!(record.snapshot, Some(manifest.id));

    // Unless it has gone to another since.
    let other = snapshot(7, 1).id;
    let (world, _) = nearly_taken(&other).await;
    world.snapshots.settle().await.unwrap();
    let record = world.workspaces.resolve("w").unwrap();
    assert_eq!(record.snapshot, Some(other));
}

#[tokio::test]
async fn a_snapshot_that_is_asked_for_again_before_it_was_settled_is_finished_and_the_last() {
    let (world, manifest) = nearly_taken(&snapshot(5, 1).id).await;
    // A store that failed in this process: nothing was settled at the start.
    world.snapshots.inner.settled.store(true, Ordering::Release);
    let (id, wanted) = (&world.workspace.id, manifest.id.clone());
    let reason = SnapshotReason::Manual;
    let taken = (world.snapshots.take_as(wanted, id, None, reason).await).unwrap();
    assert_eq!(taken, manifest);
    assert_eq!(world.store.operations().await, Ok(vec![]));
    let record = world.workspaces.resolve("w").unwrap();
    assert_eq!(record.snapshot, Some(manifest.id));
}
