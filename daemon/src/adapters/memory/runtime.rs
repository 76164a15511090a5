//! An engine in memory: containers that are only states.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        orphans::{EngineObject, Maker, Role},
        setup::StartStamp,
        snapshot::{
            CapturedVolume,
            copies::VolumeRef,
            hash::TreeHash,
            journal::{ContainerRef, Generation, ImageRef},
            layers::{BaseImage, ImageLayers},
        },
    },
    ports::{
        inventory::{Discarded, InventoryPort},
        runtime::{
            ChangeKind, ContainerId, ContainerPlan, ContainerState, ContainerStatus,
            ContainerSummary, ContainerUsage, EngineInfo, ImageInfo, OverlayVolumes, RuntimeChange,
            RuntimeError, RuntimePort,
        },
        snapshot_runtime::{
            CommittedImage, CopyVolume, HelperPlan, ImageHelperPlan, NewVolume, RootChanges,
            SnapshotRuntimePort, helper_container, helper_id,
        },
    },
};

/// Changes that one who hears them may be behind.
const CHANGES_KEPT: usize = 64;

/// An engine in memory. Tests can take it down, and do to its containers what a
/// person with a shell can.
#[derive(Debug, Default)]
pub struct MemoryRuntime {
    /// Held for one operation, never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Replaced when the engine goes down, which ends what hears it.
    changes: broadcast::Sender<RuntimeChange>,
    down: bool,
    /// Calls that are answered before the engine goes down.
    answers_left: Option<u32>,
    /// Content ids by name.
    images: BTreeMap<String, String>,
    /// Paths that images declare as volumes.
    declared: BTreeMap<String, Vec<String>>,
    containers: BTreeMap<String, ContainerState>,
    volumes: BTreeSet<(WorkspaceId, Generation)>,
    committed: BTreeSet<ImageRef>,
    /// Copies of trees, and which generations lie over each.
    copies: BTreeMap<VolumeRef, BTreeSet<(WorkspaceId, Generation)>>,
    /// Layers of images, where there are more than one.
    layers: BTreeMap<String, u32>,
    /// Names of helpers, and the images of those that see one.
    helpers: BTreeMap<String, Option<String>>,
    /// Whose volumes helpers reach.
    helpers_of: BTreeMap<String, WorkspaceId>,
    /// Names of what is not let go.
    stuck: BTreeSet<String>,
    made: u32,
    starts: u32,
    /// CPU time that containers say they have used.
    cpu_ns: u64,
    /// What every container's root file system uses.
    root_bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            changes: broadcast::channel(CHANGES_KEPT).0,
            down: false,
            answers_left: None,
            images: BTreeMap::new(),
            declared: BTreeMap::new(),
            containers: BTreeMap::new(),
            volumes: BTreeSet::new(),
            committed: BTreeSet::new(),
            copies: BTreeMap::new(),
            layers: BTreeMap::new(),
            helpers: BTreeMap::new(),
            helpers_of: BTreeMap::new(),
            stuck: BTreeSet::new(),
            made: 0,
            starts: 0,
            cpu_ns: 0,
            root_bytes: 0,
        }
    }
}

impl MemoryRuntime {
    /// An engine with one image.
    #[must_use]
    pub fn with_image(reference: &str) -> Self {
        let runtime = Self::default();
        runtime.add_image(reference);
        runtime
    }

    /// From now on every call fails with [`RuntimeError::Unavailable`].
    pub fn take_down(&self) {
        let mut state = self.lock();
        state.down = true;
        state.changes = broadcast::channel(CHANGES_KEPT).0;
    }

    /// As [`take_down`](Self::take_down), after this many more answers.
    pub fn take_down_after(&self, answers: u32) {
        self.lock().answers_left = Some(answers);
    }

    /// The engine answers again. Its containers have lived on.
    pub fn answer_again(&self) {
        let mut state = self.lock();
        state.down = false;
        state.answers_left = None;
    }

    /// The engine answers again. Its containers have ended meanwhile.
    pub fn bring_back(&self) {
        self.answer_again();
        let mut state = self.lock();
        for container in state.containers.values_mut() {
            if container.status == ContainerStatus::Running {
                container.status = ContainerStatus::Exited;
                container.pid = 0;
            }
        }
    }

    /// From now on the engine refuses to remove what has this name: a container,
    /// an image, a copy, or [`HELPERS`](Self::HELPERS).
    pub fn get_stuck(&self, name: &str) {
        self.lock().stuck.insert(name.to_owned());
    }

    /// From now on the engine removes everything again.
    pub fn come_loose(&self) {
        self.lock().stuck.clear();
    }

    /// Stands for every helper, those of earlier processes included.
    pub const HELPERS: &str = "helpers";

    /// Puts a workspace's container into a state, as a person could, and says
    /// so.
    pub fn set_status(&self, workspace: &WorkspaceId, status: ContainerStatus) {
        self.set_status_silently(workspace, status);
        let kind = match status {
            ContainerStatus::Running => ChangeKind::Started,
            ContainerStatus::Paused => ChangeKind::Paused,
            ContainerStatus::Created
            | ContainerStatus::Restarting
            | ContainerStatus::Exited
            | ContainerStatus::Broken => ChangeKind::Ended,
        };
        self.lock().tell(workspace, kind);
    }

    /// The same where nobody hears of it.
    pub fn set_status_silently(&self, workspace: &WorkspaceId, status: ContainerStatus) {
        for container in self.lock().containers.values_mut() {
            if container.workspace == *workspace {
                container.status = status;
            }
        }
    }

    /// How many hear of changes.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.lock().changes.receiver_count()
    }

    /// What a workspace's container does, whether the engine answers or not.
    #[must_use]
    pub fn status(&self, workspace: &WorkspaceId) -> Option<ContainerStatus> {
        let state = self.lock();
        let mut containers = state.containers.values();
        let found = containers.find(|container| container.workspace == *workspace);
        found.map(|container| container.status)
    }

    /// Removes a workspace's container, as a person could.
    pub fn lose(&self, workspace: &WorkspaceId) {
        self.lock()
            .containers
            .retain(|_, container| container.workspace != *workspace);
        self.lock().tell(workspace, ChangeKind::ContainerRemoved);
    }

    /// Removes a workspace's volumes, as a person could.
    pub fn lose_volumes(&self, workspace: &WorkspaceId) {
        self.lock().volumes.retain(|(of, _)| of != workspace);
        self.lock().tell(workspace, ChangeKind::VolumeRemoved);
    }

    /// Removes an image, as a person could.
    pub fn lose_image(&self, reference: &str) {
        let mut state = self.lock();
        state.images.remove(reference);
        state.committed.remove(&ImageRef(reference.to_owned()));
    }

    /// What containers say that their root file systems use, from now on.
    pub fn set_root_bytes(&self, bytes: u64) {
        self.lock().root_bytes = bytes;
    }

    /// How many containers were started so far.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.lock().starts
    }

    /// How many generations of workspaces have volumes.
    #[must_use]
    pub fn volumes(&self) -> usize {
        self.lock().volumes.len()
    }

    /// How many helpers are there.
    #[must_use]
    pub fn helpers(&self) -> usize {
        self.lock().helpers.len()
    }

    /// How many layers an image has.
    #[must_use]
    pub fn layers_of(&self, image: &ImageRef) -> u32 {
        self.lock().layers_of(&image.0)
    }

    /// Puts an image there.
    pub fn add_image(&self, reference: &str) {
        let id = format!("memory:{reference}");
        self.lock().images.insert(reference.to_owned(), id);
    }

    /// An image declares volumes from now on, none of them at a place of ours.
    pub fn declare_volumes(&self, reference: &str, paths: &[&str]) {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self.lock().declared.insert(reference.to_owned(), paths);
    }

    /// Puts an image of a snapshot there, as a commit of a container does that
    /// was made from an image with one layer.
    pub fn add_committed(&self, snapshot: &SnapshotId) {
        self.lock().commit(snapshot, 2);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let mut state = self.lock();
        match state.answers_left.as_mut() {
            Some(0) => state.down = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if state.down {
            return Err(RuntimeError::Unavailable("it is down".to_owned()));
        }
        Ok(state)
    }
}

impl State {
    fn remove_volumes_of(&mut self, made: &(WorkspaceId, Generation)) {
        self.volumes.remove(made);
        for users in self.copies.values_mut() {
            users.remove(made);
        }
    }

    fn let_go(&self, name: &str) -> Result<(), RuntimeError> {
        if !self.stuck.contains(name) {
            return Ok(());
        }
        Err(RuntimeError::Refused {
            action: "remove",
            subject: name.to_owned(),
            message: "device or resource busy".to_owned(),
        })
    }

    fn tell(&self, workspace: &WorkspaceId, kind: ChangeKind) {
        let workspace = workspace.clone();
        // Nobody may be listening.
        let _ = self.changes.send(RuntimeChange { workspace, kind });
    }

    fn container(&mut self, id: &ContainerId) -> Result<&mut ContainerState, RuntimeError> {
        self.containers
            .get_mut(&id.0)
            .ok_or_else(|| RuntimeError::ContainerMissing(id.0.clone()))
    }

    fn layers_of(&self, image: &str) -> u32 {
        self.layers.get(image).copied().unwrap_or(1)
    }

    fn commit(&mut self, snapshot: &SnapshotId, layers: u32) -> CommittedImage {
        let image = ImageRef::of(snapshot);
        let id = format!("memory:{}", image.0);
        self.images.insert(image.0.clone(), id.clone());
        self.layers.insert(image.0.clone(), layers);
        self.committed.insert(image);
        CommittedImage {
            id,
            size_bytes: 2,
            new_bytes: 1,
        }
    }

    /// Gives an image another name; says what its content id is.
    fn name(&mut self, image: &str, name: &ImageRef) -> Option<String> {
        let id = self.images.get(image)?.clone();
        let layers = self.layers_of(image);
        self.images.insert(name.0.clone(), id.clone());
        self.layers.insert(name.0.clone(), layers);
        self.committed.insert(name.clone());
        Some(id)
    }
}

#[async_trait]
impl RuntimePort for MemoryRuntime {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        drop(self.up()?);
        Ok(EngineInfo {
            version: "1.0".to_owned(),
            api_version: "1.41".to_owned(),
            root_dir: "/".into(),
            storage_driver: "memory".to_owned(),
            cpus: 1,
            memory_bytes: 1 << 30,
        })
    }

    async fn overlay_volumes(&self, _: &str) -> Result<OverlayVolumes, RuntimeError> {
        drop(self.up()?);
        Ok(OverlayVolumes::Work)
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        let known = self.up()?.images.get(reference).cloned();
        Ok(known.map(|id| ImageInfo {
            id,
            size_bytes: 1,
            user: String::new(),
        }))
    }

    async fn foreign_volumes(
        &self,
        image: &str,
        _: Option<&str>,
    ) -> Result<Vec<String>, RuntimeError> {
        let state = self.up()?;
        if !state.images.contains_key(image) {
            return Err(RuntimeError::ImageMissing(image.to_owned()));
        }
        Ok(state.declared.get(image).cloned().unwrap_or_default())
    }

    async fn create(&self, plan: &ContainerPlan) -> Result<ContainerId, RuntimeError> {
        let mut state = self.up()?;
        let found = state
            .containers
            .values()
            .find(|c| c.workspace == plan.workspace && c.generation == plan.generation);
        if let Some(found) = found {
            return Ok(found.id.clone());
        }
        if !state.images.contains_key(plan.image()) {
            return Err(RuntimeError::ImageMissing(plan.image().to_owned()));
        }
        state.made += 1;
        let id = ContainerId(format!("container-{}", state.made));
        let container = ContainerState {
            id: id.clone(),
            workspace: plan.workspace.clone(),
            definition: Some(plan.definition.clone()),
            generation: plan.generation,
            base: plan.base.clone(),
            status: ContainerStatus::Created,
            pid: 0,
            start: StartStamp(String::new()),
        };
        state.containers.insert(id.0.clone(), container);
        let volumes = (plan.workspace.clone(), plan.generation);
        state.volumes.insert(volumes);
        Ok(id)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        let pid = state.made + 1_000;
        if state.helpers.contains_key(&id.0) {
            return Ok(());
        }
        let start = StartStamp(format!("start {}", state.starts + 1));
        let container = state.container(id)?;
        if container.status != ContainerStatus::Running {
            container.status = ContainerStatus::Running;
            container.pid = pid;
            container.start = start;
            let workspace = container.workspace.clone();
            state.tell(&workspace, ChangeKind::Started);
            state.starts += 1;
        }
        Ok(())
    }

    async fn pause(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        let container = state.container(id)?;
        match container.status {
            ContainerStatus::Running | ContainerStatus::Paused => {
                container.status = ContainerStatus::Paused;
                Ok(())
            }
            ContainerStatus::Created
            | ContainerStatus::Restarting
            | ContainerStatus::Exited
            | ContainerStatus::Broken => Err(RuntimeError::Refused {
                action: "pause",
                subject: id.0.clone(),
                message: "it does not run".to_owned(),
            }),
        }
    }

    async fn usage(&self, id: &ContainerId) -> Result<Option<ContainerUsage>, RuntimeError> {
        let mut state = self.up()?;
        let status = state.container(id)?.status;
        let runs = matches!(status, ContainerStatus::Running | ContainerStatus::Paused);
        state.cpu_ns += 1_000_000;
        Ok(runs.then_some(ContainerUsage {
            cpu_ns: state.cpu_ns,
            memory_bytes: 1 << 20,
            pids: 2,
        }))
    }

    async fn root_bytes(&self, id: &ContainerId) -> Result<u64, RuntimeError> {
        let mut state = self.up()?;
        state.container(id)?;
        Ok(state.root_bytes)
    }

    async fn stop(&self, id: &ContainerId, _: u32) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        let container = state.container(id)?;
        if container.status != ContainerStatus::Created {
            container.status = ContainerStatus::Exited;
            container.pid = 0;
            let workspace = container.workspace.clone();
            state.tell(&workspace, ChangeKind::Ended);
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        state.let_go(&id.0)?;
        if state.helpers.contains_key(&id.0) {
            state.let_go(Self::HELPERS)?;
        }
        if let Some(removed) = state.containers.remove(&id.0) {
            state.tell(&removed.workspace, ChangeKind::ContainerRemoved);
        }
        state.helpers.remove(&id.0);
        Ok(())
    }

    async fn remove_volumes(&self, workspace: &WorkspaceId) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        let of_it = |(of, _): &&(WorkspaceId, Generation)| of == workspace;
        for made in state
            .volumes
            .iter()
            .filter(of_it)
            .cloned()
            .collect::<Vec<_>>()
        {
            state.remove_volumes_of(&made);
        }
        state.tell(workspace, ChangeKind::VolumeRemoved);
        Ok(())
    }

    async fn captured_volumes(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<BTreeSet<CapturedVolume>, RuntimeError> {
        let volumes = (workspace.clone(), generation);
        Ok(match self.up()?.volumes.contains(&volumes) {
            true => CapturedVolume::ALL.into(),
            false => BTreeSet::new(),
        })
    }

    async fn find(&self, workspace: &WorkspaceId) -> Result<Option<ContainerState>, RuntimeError> {
        let state = self.up()?;
        let of = |container: &&ContainerState| container.workspace == *workspace;
        let containers = state.containers.values().filter(of);
        Ok(containers.max_by_key(|c| c.generation).cloned())
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let state = self.up()?;
        Ok(state.containers.values().cloned().map(Into::into).collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, RuntimeChange>, RuntimeError> {
        let changes = BroadcastStream::new(self.up()?.changes.subscribe());
        Ok(changes.filter_map(async |change| change.ok()).boxed())
    }
}

#[async_trait]
impl InventoryPort for MemoryRuntime {
    async fn inventory(&self) -> Result<Vec<EngineObject>, RuntimeError> {
        let state = self.up()?;
        let object = |name: String, role| EngineObject {
            name,
            role,
            made_at_ms: Some(0),
        };
        let containers = state.containers.values().map(|container| {
            let role = Role::Container {
                workspace: container.workspace.clone(),
                generation: container.generation,
                adoptable: container.definition.is_some(),
            };
            object(container.id.0.clone(), role)
        });
        let helpers = state.helpers.keys().map(|name| {
            let role = Role::Helper {
                id: helper_id(&ContainerRef(name.clone())),
                of: state.helpers_of.get(name).cloned(),
                maker: Maker::This,
            };
            object(name.clone(), role)
        });
        let volumes = state.volumes.iter().map(|(workspace, generation)| {
            let role = Role::Volume {
                workspace: workspace.clone(),
                generation: *generation,
            };
            object(format!("{workspace}-{}", generation.0), role)
        });
        Ok(containers.chain(helpers).chain(volumes).collect())
    }

    async fn has(&self, object: &EngineObject) -> Result<bool, RuntimeError> {
        Ok(self.inventory().await?.contains(object))
    }

    async fn discard(&self, object: &EngineObject) -> Result<Discarded, RuntimeError> {
        match &object.role {
            Role::Container { .. } | Role::Helper { .. } => {
                self.remove(&ContainerId(object.name.clone())).await?;
            }
            Role::Volume {
                workspace,
                generation,
            } => {
                let mut state = self.up()?;
                let uses =
                    |c: &ContainerState| c.workspace == *workspace && c.generation == *generation;
                if state.containers.values().any(uses) {
                    return Ok(Discarded::InUse);
                }
                state.remove_volumes_of(&(workspace.clone(), *generation));
            }
            Role::HelperVolume { .. } => {}
        }
        Ok(Discarded::Gone)
    }
}

#[async_trait]
impl SnapshotRuntimePort for MemoryRuntime {
    async fn unpause(&self, container: &ContainerRef) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        if let Some(container) = state.containers.get_mut(&container.0)
            && container.status == ContainerStatus::Paused
        {
            container.status = ContainerStatus::Running;
        }
        Ok(())
    }

    async fn commit(
        &self,
        id: &ContainerId,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let mut state = self.up()?;
        let container = state.container(id)?;
        let base = container.base.clone().map(|base| base.0);
        let layers = base.map_or(1, |base| state.layers_of(&base)) + 1;
        Ok(state.commit(snapshot, layers))
    }

    async fn commit_like(
        &self,
        id: &ContainerId,
        _like: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let mut state = self.up()?;
        let image = state.helpers.get(&id.0).cloned().flatten();
        let image = image.ok_or_else(|| RuntimeError::ContainerMissing(id.0.clone()))?;
        let layers = state.layers_of(&image) + 1;
        Ok(state.commit(snapshot, layers))
    }

    async fn layers(&self, image: &str, made_from: &str) -> Result<ImageLayers, RuntimeError> {
        let state = self.up()?;
        if !state.images.contains_key(image) {
            return Err(RuntimeError::ImageMissing(image.to_owned()));
        }
        let base = BaseImage {
            id: made_from.to_owned(),
            count: 1,
        };
        Ok(ImageLayers {
            count: state.layers_of(image),
            base: Some(base),
        })
    }

    async fn create_image_helper(
        &self,
        plan: &ImageHelperPlan,
    ) -> Result<ContainerId, RuntimeError> {
        let mut state = self.up()?;
        if !state.images.contains_key(&plan.image) {
            return Err(RuntimeError::ImageMissing(plan.image.clone()));
        }
        let name = helper_container(&plan.id).0;
        state.helpers.insert(name.clone(), Some(plan.image.clone()));
        Ok(ContainerId(name))
    }

    async fn root_changes(&self, id: &ContainerId) -> Result<Option<RootChanges>, RuntimeError> {
        self.up()?.container(id)?;
        Ok(Some(RootChanges {
            directory: "/nonexistent".into(),
            shown_at: None,
        }))
    }

    async fn share(
        &self,
        image: &ImageRef,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, RuntimeError> {
        let id = self.up()?.name(&image.0, &ImageRef::of(snapshot));
        Ok(CommittedImage {
            id: id.ok_or_else(|| RuntimeError::ImageMissing(image.0.clone()))?,
            size_bytes: 2,
            new_bytes: 0,
        })
    }

    async fn tag(&self, image: &str, tag: &ImageRef) -> Result<bool, RuntimeError> {
        Ok(self.up()?.name(image, tag).is_some())
    }

    async fn committed(&self) -> Result<Vec<ImageRef>, RuntimeError> {
        Ok(self.up()?.committed.iter().cloned().collect())
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        state.let_go(&image.0)?;
        let used = (state.containers.values()).any(|c| c.base.as_ref() == Some(image));
        if !used {
            state.images.remove(&image.0);
            state.committed.remove(image);
        }
        Ok(())
    }

    async fn create_volumes(
        &self,
        plan: &ContainerPlan,
        volumes: &[NewVolume],
    ) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        let made = (plan.workspace.clone(), plan.generation);
        state.remove_volumes_of(&made);
        for lower in volumes.iter().filter_map(|new| new.lower.as_ref()) {
            let users = state.copies.get_mut(lower);
            let users = users.ok_or_else(|| RuntimeError::Refused {
                action: "make an overlay of",
                subject: lower.0.clone(),
                message: "no such volume".to_owned(),
            })?;
            users.insert(made.clone());
        }
        state.volumes.insert(made);
        Ok(())
    }

    async fn make_roots(&self, _: &ContainerPlan, _: &[NewVolume]) -> Result<(), RuntimeError> {
        drop(self.up()?);
        Ok(())
    }

    async fn create_copy(&self, tree: &TreeHash) -> Result<VolumeRef, RuntimeError> {
        let mut state = self.up()?;
        state.made += 1;
        let volume = VolumeRef(format!("copy-{tree}-{}", state.made));
        state.copies.insert(volume.clone(), BTreeSet::new());
        Ok(volume)
    }

    async fn copies(&self) -> Result<Vec<CopyVolume>, RuntimeError> {
        let state = self.up()?;
        let copies = state.copies.iter().map(|(volume, users)| CopyVolume {
            volume: volume.clone(),
            in_use: !users.is_empty(),
        });
        Ok(copies.collect())
    }

    async fn remove_copy(&self, volume: &VolumeRef) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        state.let_go(&volume.0)?;
        state.copies.remove(volume);
        Ok(())
    }

    async fn create_helper(&self, plan: &HelperPlan) -> Result<ContainerId, RuntimeError> {
        let mut state = self.up()?;
        if !state.images.contains_key(&plan.image) {
            return Err(RuntimeError::ImageMissing(plan.image.clone()));
        }
        let name = plan.container().0;
        state.helpers.insert(name.clone(), None);
        let of = plan.of.workspace.clone();
        state.helpers_of.insert(name.clone(), of);
        Ok(ContainerId(name))
    }

    async fn sweep_helpers(&self) -> Result<(), RuntimeError> {
        self.up()?.let_go(Self::HELPERS)
    }

    async fn remove_generation(
        &self,
        workspace: &WorkspaceId,
        generation: Generation,
    ) -> Result<(), RuntimeError> {
        let mut state = self.up()?;
        (state.containers).retain(|_, c| c.workspace != *workspace || c.generation != generation);
        state.remove_volumes_of(&(workspace.clone(), generation));
        Ok(())
    }
}
