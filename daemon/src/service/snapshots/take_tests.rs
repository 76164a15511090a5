//! Snapshots taken through agents that say what a test tells them: which root
//! file systems are committed, when their layers are made one, and which files are
//! left out.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::broadcast;

use super::tests::{World, world_of};
use super::*;
use crate::{
    adapters::{local_agent::LocalAgent, memory::MemoryRuntime},
    domain::{
        snapshot::{ImageOrigin, SnapshotReason, hash::Fingerprint, journal::ImageRef},
        stage::Stage,
        workspace_event::Happening,
    },
    ports::{
        agent::AgentPort,
        chunks::Chunk,
        contract::store::snapshot,
        links::LinksPort,
        runtime::{ContainerStatus, RuntimePort as _},
        snapshot_runtime::{ROOT_CHANGES_DIRECTORY, volume_directory},
        store::StorePort as _,
        trees::{
            CaptureEvent, CapturedEntry, Extent, KnownFiles, RestoreExtent, RestoreItem,
            RestoredTree, TreeEntry, TreeEntryKind, TreeFingerprint, TreesPort, WriteOut,
        },
        tunnel::TunnelPort,
    },
    service::events::{EventItem, EventQuery, Following},
};

/// Agents of helpers. Volumes are empty unless something is said of them.
#[derive(Default)]
struct Script {
    /// Fingerprints to be answered; without one the look fails.
    looks: Mutex<VecDeque<TreeFingerprint>>,
    /// What `/` of a base image holds, and of an image.
    base: Vec<CapturedEntry>,
    image: Vec<CaptureEvent>,
    /// What other directories hold.
    held: HashMap<&'static str, Vec<CaptureEvent>>,
    /// As of when what is known of the work volume was asked with, and whether
    /// it was to be written out.
    asked: Mutex<Vec<(i64, WriteOut)>>,
    /// What was written into `/`; refused when `None`.
    written: Mutex<Option<Vec<RestoreItem>>>,
}

fn ended() -> CaptureEvent {
    CaptureEvent::Ended { as_of_ns: 1 }
}

fn events(events: Vec<CaptureEvent>) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
    stream::iter(events.into_iter().map(Ok)).boxed()
}

#[async_trait]
impl TreesPort for Script {
    fn capture(
        &self,
        directory: &str,
        known: KnownFiles,
        write_out: WriteOut,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        if directory == volume_directory(CapturedVolume::Work) {
            let asked = (known.as_of_ns, write_out);
            self.asked.lock().unwrap().push(asked);
            if !self.held.contains_key(directory) {
                let as_of_ns = match write_out {
                    WriteOut::First => 1,
                    WriteOut::No => 2,
                };
                return events(vec![CaptureEvent::Ended { as_of_ns }]);
            }
        }
        match directory {
            "/" => events(self.image.clone()),
            other => events(self.held.get(other).cloned().unwrap_or(vec![ended()])),
        }
    }

    fn look(&self, _: &str) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        let entries = self.base.iter().cloned();
        let entries = entries.map(|entry| CaptureEvent::Entry(Box::new(entry)));
        events(entries.chain([ended()]).collect())
    }

    async fn restore(
        &self,
        directory: &str,
        extent: RestoreExtent,
        items: BoxStream<'static, RestoreItem>,
    ) -> Result<RestoredTree, AgentError> {
        assert_eq!((directory, extent), ("/", RestoreExtent::Delta));
        let items: Vec<_> = items.collect().await;
        let entry = |item: &&RestoreItem| matches!(item, RestoreItem::Entry(_));
        let entries = items.iter().filter(entry).count() as u64;
        match &mut *self.written.lock().unwrap() {
            Some(written) => written.extend(items),
            None => return Err(AgentError::Unreachable("it is gone".to_owned())),
        }
        Ok(RestoredTree {
            entries,
            files: KnownFiles::default(),
        })
    }

    async fn fingerprint(
        &self,
        _: &str,
        _: Option<&str>,
        _: WriteOut,
    ) -> Result<TreeFingerprint, AgentError> {
        let look = self.looks.lock().unwrap().pop_front();
        look.ok_or_else(|| AgentError::Unreachable("it is gone".to_owned()))
    }
}

/// The same agent in every container.
struct OneAgent(Arc<LocalAgent>);

#[async_trait]
impl LinksPort for OneAgent {
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
        Ok(self.0.clone())
    }
    fn current(&self, _: &WorkspaceId) -> Option<Arc<dyn AgentPort>> {
        Some(self.0.clone())
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

async fn world(script: Script, layers_max: u32) -> (World, Arc<Script>) {
    let options = SnapshotsOptions {
        layers_max,
        ..SnapshotsOptions::default()
    };
    world_with(script, options).await
}

async fn world_with(script: Script, options: SnapshotsOptions) -> (World, Arc<Script>) {
    let script = Arc::new(script);
    let agent = LocalAgent::with_trees(script.clone()).unwrap();
    let links = Arc::new(OneAgent(Arc::new(agent)));
    let world = world_of(links, options).await;
    world.snapshots.settle().await.unwrap();
    (world, script)
}

impl World {
    async fn take(&self) -> Snapshot {
        self.take_for(SnapshotReason::Manual).await.unwrap()
    }

    /// Whatever comes of it, everything is in order afterwards.
    async fn take_for(&self, reason: SnapshotReason) -> Result<Snapshot, SnapshotsError> {
        let taken = self.snapshots.take(&self.workspace.id, None, reason).await;
        assert_eq!(self.store.operations().await, Ok(vec![]));
        assert_eq!(self.runtime.helpers(), 0, "no helper is left");
        let container = self.runtime.find(&self.workspace.id).await.unwrap();
        assert_eq!(container.unwrap().status, ContainerStatus::Running);
        taken
    }
}

fn looks(of: &[(&str, u64)]) -> Mutex<VecDeque<TreeFingerprint>> {
    // The first look is made while the workspace runs, and does not count.
    let twice = of.iter().flat_map(|look| [("running", 9), *look]);
    let looks = twice.map(|(content, entries)| TreeFingerprint {
        fingerprint: Fingerprint::of(content.as_bytes()),
        entries,
        begun_ns: 10,
        // By when the container was frozen everything was written out.
        changed_ns: 9,
    });
    Mutex::new(looks.collect())
}

#[tokio::test]
async fn a_root_file_system_is_committed_when_it_changed_or_cannot_be_looked_at() {
    let script = Script {
        looks: looks(&[("one", 3), ("one", 3), ("two", 3)]),
        ..Script::default()
    };
    let (world, _) = world(script, 40).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(world.take().await);
    }
    let origins: Vec<_> = taken.iter().map(|taken| taken.image.origin).collect();
    use ImageOrigin::{Committed, Shared};
    assert_eq!(origins, [Committed, Shared, Committed, Committed]);
    let entries = |taken: &Snapshot| taken.root.as_ref().map(|root| root.entries);
    let seen: Vec<_> = taken.iter().map(entries).collect();
    assert_eq!(seen, [Some(3), Some(3), Some(3), None]);
    // Each has a name of its own, so that the others can be deleted.
    let names = world.runtime.committed().await.unwrap();
    for taken in &taken {
        assert!(names.contains(&ImageRef::of(&taken.id)));
    }
}

#[tokio::test]
async fn a_look_at_a_root_file_system_that_was_being_written_does_not_last() {
    let script = Script {
        looks: looks(&[("one", 3), ("one", 3), ("one", 3)]),
        ..Script::default()
    };
    // In the first pause something is younger than the last writing out.
    script.looks.lock().unwrap()[1].changed_ns = 10;
    let (world, _) = world(script, 40).await;
    let mut origins = Vec::new();
    for _ in 0..3 {
        origins.push(world.take().await.image.origin);
    }
    use ImageOrigin::{Committed, Shared};
    assert_eq!(origins, [Committed, Committed, Shared]);
}

#[test]
fn every_volume_is_read_and_the_one_with_the_most_last() {
    use super::take::READ_FIRST;
    let mut volumes = READ_FIRST;
    assert_eq!(volumes.last(), Some(&CapturedVolume::Work));
    volumes.sort_unstable();
    assert_eq!(volumes, CapturedVolume::ALL);
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn the_helper_is_gone_by_the_time_the_manifest_is_journaled() {
    use crate::domain::snapshot::point::Point;
    let dir = tempfile::tempdir().unwrap();
    let hold = dir.path().join("hold");
    std::fs::write(&hold, "snapshot storing").unwrap();
    let options = SnapshotsOptions {
        hold_file: Some(hold.clone()),
        ..SnapshotsOptions::default()
    };
    let (world, _) = world_with(Script::default(), options).await;
    let storing = async {
        let at = |operations: Vec<Operation>| operations.first().map(|o| o.progress.point());
        while at(world.store.operations().await.unwrap()) != Some(Point::SnapshotStoring) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(world.runtime.helpers(), 0);
        std::fs::remove_file(&hold).unwrap();
    };
    tokio::join!(world.take(), storing);
}

#[tokio::test]
async fn a_helper_that_is_removed_beside_the_rest_and_stays_is_removed_later() {
    let (world, _) = world(Script::default(), 40).await;
    world.runtime.get_stuck(MemoryRuntime::HELPERS);
    let id = &world.workspace.id;
    let taken = world.snapshots.take(id, None, SnapshotReason::Manual).await;
    assert!(matches!(taken, Err(SnapshotsError::FinishedLater(_))));
    assert_eq!(world.store.snapshots(None).await.unwrap().len(), 2);
    world.runtime.come_loose();
    world.snapshots.keep_up().await;
    assert_eq!(world.store.operations().await, Ok(vec![]));
    assert_eq!(world.runtime.helpers(), 0);
}

#[tokio::test]
async fn what_a_pause_read_is_remembered_as_of_the_writing_out_before_it() {
    let (world, script) = world(Script::default(), 40).await;
    for _ in 0..2 {
        world.take().await;
    }
    use WriteOut::{First, No};
    let expected = [(0, First), (1, No), (1, First), (1, No)];
    assert_eq!(*script.asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_container_that_changed_nothing_shares_the_image_it_was_made_from() {
    let script = Script {
        looks: looks(&[("none", 1)]),
        ..Script::default()
    };
    let (world, _) = world(script, 40).await;
    world.use_snapshot().await;
    let taken = world.take().await;
    assert_eq!(taken.image.origin, ImageOrigin::Shared);
    assert_eq!(taken.sizes.new_bytes, 0);
}

fn seen(path: &'static str, kind: TreeEntryKind) -> CapturedEntry {
    CapturedEntry {
        entry: TreeEntry {
            path: Bytes::from_static(path.as_bytes()),
            kind: kind.into(),
            mode: 0o755,
            ..TreeEntry::default()
        },
        same: false,
        key: None,
        mount: false,
    }
}

/// An image that lacks a file of its base, has a new one, and both have `/proc`.
fn layered(written: Option<Vec<RestoreItem>>) -> (Script, Vec<RestoreItem>) {
    let root = || seen("", TreeEntryKind::Directory);
    let proc = |mode| {
        let mut proc = seen("proc", TreeEntryKind::Directory);
        proc.mount = true;
        proc.entry.mode = mode;
        proc
    };
    let content = Bytes::from_static(b"new");
    let chunk = Chunk::of(content.clone()).unwrap();
    let mut new = seen("new", TreeEntryKind::File);
    new.entry.size_bytes = 3;
    new.entry.extents = vec![Extent {
        length: 3,
        hash: chunk.hash.as_bytes().to_vec().into(),
    }];
    let entry = |entry| CaptureEvent::Entry(Box::new(entry));
    let expected = vec![
        RestoreItem::Remove(Bytes::from_static(b"gone")),
        RestoreItem::Entry(Box::new(new.entry.clone())),
        RestoreItem::Content(content),
    ];
    let script = Script {
        base: vec![root(), seen("gone", TreeEntryKind::Fifo), proc(0o555)],
        image: vec![
            entry(root()),
            CaptureEvent::Chunk(chunk),
            entry(new),
            entry(proc(0o700)),
            ended(),
        ],
        written: Mutex::new(written),
        ..Script::default()
    };
    (script, expected)
}

#[tokio::test]
async fn layers_are_made_one_from_what_differs_and_no_more() {
    let (script, expected) = layered(Some(Vec::new()));
    let (world, script) = world(script, 1).await;
    let first = world.take().await;
    assert_eq!(world.runtime.layers_of(&ImageRef::of(&first.id)), 2);
    world.use_snapshot().await;
    let taken = world.take().await;
    assert_eq!(world.runtime.layers_of(&ImageRef::of(&taken.id)), 2);
    assert_eq!(script.written.lock().unwrap().as_ref(), Some(&expected));
}

#[tokio::test]
async fn a_snapshot_is_whole_when_its_layers_cannot_be_made_one() {
    let (script, _) = layered(None);
    let (world, _) = world(script, 1).await;
    world.use_snapshot().await;
    let taken = world.take().await;
    assert_eq!(world.runtime.layers_of(&ImageRef::of(&taken.id)), 3);
    let names = vec![ImageRef::of(&snapshot(5, 1).id), ImageRef::of(&taken.id)];
    assert_eq!(world.runtime.committed().await, Ok(names));
}

const VALUE: &str = "t0ken-of-npm";
const MARKER: &str = "[redacted:npm]";

/// What is looked for in snapshots: nothing yet.
fn redactions(world: &World) -> Redactions {
    let redactions = Redactions::default();
    world.snapshots.set_redactions(redactions.clone());
    redactions
}

/// From now on the value is a credential.
fn store_credential(redactions: &Redactions) {
    redactions.replace(Redactor::new([("npm", VALUE.as_bytes())]));
}

impl World {
    /// What the events of the workspace say of files that were left out.
    async fn told(&self) -> Vec<Vec<String>> {
        let query = EventQuery {
            workspace: Some(self.workspace.id.clone()),
            after: 0,
            since_ms: None,
            following: Following::No,
        };
        let items: Vec<_> = self.workspaces.events().read(query).collect().await;
        let told = items.into_iter().filter_map(|item| match item.unwrap() {
            EventItem::Event(event) => match event.what {
                Happening::SnapshotTaken { left_out, .. } => Some(left_out),
                _ => None,
            },
            EventItem::Gap { .. } => None,
        });
        told.collect()
    }
}

fn automatic() -> SnapshotReason {
    SnapshotReason::Stage {
        session: SessionId::from_uuid(Uuid::from_u128(3)),
        stage: Stage::Modify,
    }
}

/// A directory with these files.
fn tree(files: &[(&'static str, &'static str)]) -> Vec<CaptureEvent> {
    let entry = |entry| CaptureEvent::Entry(Box::new(entry));
    let mut tree = vec![entry(seen("", TreeEntryKind::Directory))];
    for (path, content) in files {
        let chunk = Chunk::of(Bytes::from_static(content.as_bytes())).unwrap();
        let mut file = seen(path, TreeEntryKind::File);
        file.entry.size_bytes = content.len() as u64;
        file.entry.extents = vec![Extent {
            hash: chunk.hash.as_bytes().to_vec().into(),
            length: content.len() as u64,
        }];
        tree.extend([CaptureEvent::Chunk(chunk), entry(file)]);
    }
    tree.push(ended());
    tree
}

fn left_out(path: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(path.to_owned(), MARKER.to_owned())])
}

#[tokio::test]
async fn a_root_file_system_that_did_not_change_is_looked_through_for_a_new_credential() {
    let script = Script {
        looks: looks(&[("same", 3); 5]),
        base: vec![seen("", TreeEntryKind::Directory)],
        image: tree(&[("etc-x", VALUE), ("etc-y", "nothing")]),
        held: HashMap::from([(ROOT_CHANGES_DIRECTORY, tree(&[("etc-x", VALUE)]))]),
        written: Mutex::new(Some(Vec::new())),
        asked: Mutex::default(),
    };
    let (world, script) = world(script, 40).await;
    let redactions = redactions(&world);
    let first = world.take().await;
    assert_eq!(first.image.origin, ImageOrigin::Committed);
    assert_eq!(world.take().await.image.origin, ImageOrigin::Shared);
    store_credential(&redactions);
    let names = world.runtime.committed().await.unwrap();
    let refused = world.take_for(SnapshotReason::Manual).await.unwrap_err();
    assert!(
        matches!(&refused, SnapshotsError::Credential(why)
            if why.contains("/etc-x") && why.contains(MARKER)),
        "{refused}"
    );
    assert_eq!(world.runtime.committed().await.unwrap(), names);

    // The daemon's own lacks the file, and nobody shares its image.
    let taken = world.take_for(automatic()).await.unwrap();
    assert_eq!(taken.left_out, left_out("/etc-x"));
    assert_eq!(taken.image.origin, ImageOrigin::Committed);
    assert_eq!(taken.root, None);
    let written = script.written.lock().unwrap().take().unwrap();
    let written = written.iter().filter_map(|item| match item {
        RestoreItem::Entry(entry) => Some(entry.path.clone()),
        _ => None,
    });
    assert_eq!(written.collect::<Vec<_>>(), ["etc-y"]);
    let refused = world.take_for(SnapshotReason::Manual).await;
    assert!(refused.is_err());
    assert_eq!(world.told().await.last().unwrap(), &["/etc-x"]);
}

#[tokio::test]
async fn what_cannot_be_left_out_of_a_root_file_system_ends_the_snapshot() {
    // The image does not show the file that the container is said to have changed.
    let script = Script {
        looks: looks(&[("same", 3)]),
        base: vec![seen("", TreeEntryKind::Directory)],
        image: tree(&[]),
        held: HashMap::from([(ROOT_CHANGES_DIRECTORY, tree(&[("etc-x", VALUE)]))]),
        written: Mutex::new(Some(Vec::new())),
        asked: Mutex::default(),
    };
    let (world, _) = world(script, 40).await;
    store_credential(&redactions(&world));
    let names = world.runtime.committed().await.unwrap();
    let refused = world.take_for(automatic()).await.unwrap_err();
    assert!(
        matches!(refused, SnapshotsError::Credential(_)),
        "{refused}"
    );
    assert_eq!(world.runtime.committed().await.unwrap(), names);
}

#[tokio::test]
async fn a_file_of_a_volume_with_a_credential_is_left_out_or_refused() {
    let work = tree(&[(".npmrc", VALUE), ("kept", "nothing")]);
    let script = Script {
        looks: looks(&[("one", 3), ("one", 3)]),
        held: HashMap::from([(volume_directory(CapturedVolume::Work), work)]),
        ..Script::default()
    };
    let (world, _) = world(script, 40).await;
    store_credential(&redactions(&world));
    let taken = world.take_for(automatic()).await.unwrap();
    assert_eq!(taken.left_out, left_out("/workspace/.npmrc"));
    assert_eq!(world.told().await, [["/workspace/.npmrc"]]);
    let tree = &taken.volumes[&CapturedVolume::Work];
    let restored = listing::read(tree, &*world.chunks).await.unwrap();
    let restored: Vec<_> = restored.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(restored, ["", "kept"]);

    let refused = world.take_for(SnapshotReason::Manual).await.unwrap_err();
    assert!(
        matches!(&refused, SnapshotsError::Credential(why) if why.contains("/workspace/.npmrc")),
        "{refused}"
    );
    assert_eq!(world.told().await.len(), 1);
}
