//! Snapshots taken through agents that say what a test tells them: which root
//! file systems are committed, and when their layers are made one.

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
    adapters::local_agent::LocalAgent,
    domain::snapshot::{ImageOrigin, SnapshotReason, hash::Fingerprint, journal::ImageRef},
    ports::{
        agent::AgentPort,
        chunks::Chunk,
        contract::store::snapshot,
        links::LinksPort,
        runtime::{ContainerStatus, RuntimePort as _},
        store::StorePort as _,
        trees::{
            CaptureEvent, CapturedEntry, Extent, KnownFiles, RestoreExtent, RestoreItem,
            RestoredTree, TreeEntry, TreeEntryKind, TreeFingerprint, TreesPort,
        },
        tunnel::TunnelPort,
    },
};

/// Agents of helpers. Volumes are empty.
#[derive(Default)]
struct Script {
    /// Fingerprints to be answered; without one the look fails.
    looks: Mutex<VecDeque<TreeFingerprint>>,
    /// What `/` of a base image holds, and of an image.
    base: Vec<CapturedEntry>,
    image: Vec<CaptureEvent>,
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
        _: KnownFiles,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        match directory {
            "/" => events(self.image.clone()),
            _ => events(vec![ended()]),
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

    async fn fingerprint(&self, _: &str, _: Option<&str>) -> Result<TreeFingerprint, AgentError> {
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
    let script = Arc::new(script);
    let agent = LocalAgent::with_trees(script.clone()).unwrap();
    let links = Arc::new(OneAgent(Arc::new(agent)));
    let world = world_of(
        links,
        SnapshotsOptions {
            layers_max,
            ..SnapshotsOptions::default()
        },
    )
    .await;
    world.snapshots.settle().await.unwrap();
    (world, script)
}

impl World {
    async fn take(&self) -> Snapshot {
        let taken = self
            .snapshots
            .take(&self.workspace.id, None, SnapshotReason::Manual)
            .await
            .unwrap();
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
