//! Workspaces: persistent machines, each a desired state in the store and a
//! container found by label.
//!
//! ```text
//!             create                     stop
//!   (nothing) ------> Running <------------------- Stopped
//!                        |   `-------------------->   |
//!                        |        start, or use       |
//!                        `------------.  .------------'
//!                                delete\/
//!                                   Deleted ---> (nothing)
//! ```
//!
//! A request writes the desired state first and then acts. What a kill or an
//! absent engine leaves undone the reconciler settles: it compares desire and
//! engine at start, when the engine says that something changed, when a link is
//! lost, and periodically. Every act is idempotent, and one lock a workspace keeps them apart.
//!
//! This service knows ports only: no engine, no wire, no store by name.

mod activity;
mod checkout;
mod credentials;
mod disk;
mod egress;
mod error;
mod exec;
mod fetches;
mod git_login;
mod git_setup;
mod git_source;
mod idle;
mod index;
mod lifecycle;
mod pause;
mod port;
mod rebuild;
mod recheckout;
mod reconcile;
mod repositories;
mod setup;
mod snapshots;
mod view;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub(in crate::service) use self::idle::Idling;
use self::{
    activity::Activity, disk::Disks, git_source::GitSource, index::Index,
    reconcile::settle::Revival, repositories::Adding,
};
pub use self::{
    activity::UseGuard,
    credentials::WorkspaceCredentials,
    disk::OverLimit,
    error::WorkspacesError,
    exec::Follow,
    fetches::Fetches,
    git_source::{GitSourceError, GitSourceOptions},
    idle::UpdateWorkspace,
    port::{CleanCopies, CleanFork},
    rebuild::Salvage,
    repositories::{AddRepository, AddedRepository, Asker, RepositoryOrigin},
    setup::{Again, BakedSetups, SetupChoice},
    view::WorkspaceView,
    watch::Change,
};
pub(in crate::service) use self::{
    checkout::archive_of, setup::command_spec as setup_command_spec,
};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{SessionId, WorkspaceId, WorkspaceName},
        workspace::{Limits, NetworkMode, Workspace},
    },
    ports::{
        clock::ClockPort,
        links::LinksPort,
        runtime::{EXTRA_CA_FILE, RuntimePort},
        store::{StoreError, StorePort},
    },
    service::{events::Events, redaction::Redactions},
};

/// What an operator decides about workspaces.
#[derive(Debug, Clone)]
pub struct WorkspacesOptions {
    /// Image of a workspace that names none.
    pub default_image: String,
    /// Limits of a workspace that names none.
    pub default_limits: Limits,
    /// A CA bundle on the host that workspaces shall trust. It takes the place
    /// of the image's own for most tools, so it must be complete.
    pub extra_ca_file: Option<PathBuf>,
    /// What a workspace without a network may reach that says nothing.
    pub default_egress: Policy,
    /// After how long without use one is stopped that says nothing; `None`
    /// means never.
    pub idle_stop: Option<Duration>,
    /// What is kept out of what is recorded and said of workspaces.
    pub redactions: Redactions,
    /// How repositories are fetched.
    pub git: GitSourceOptions,
    /// How often desire and engine are compared when nothing happens.
    pub reconcile_every: Duration,
    /// How long a container's processes may take to end on TERM.
    pub stop_grace: Duration,
    /// How long a container that was started may take until its agent answers.
    pub agent_timeout: Duration,
}

impl Default for WorkspacesOptions {
    fn default() -> Self {
        Self {
            default_image: "compy/base:latest".to_owned(),
            default_limits: Limits {
                cpu_millis: 2_000,
                memory_bytes: 4 << 30,
                pids: 4_096,
                disk_bytes: 0,
            },
            extra_ca_file: None,
            default_egress: Policy::None,
            idle_stop: None,
            redactions: Redactions::default(),
            git: GitSourceOptions::default(),
            reconcile_every: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            agent_timeout: Duration::from_secs(20),
        }
    }
}

/// Variables that make common tools trust the extra CA bundle. Containers carry
/// none, so every command is given them: they belong into the link's options.
#[must_use]
pub fn extra_ca_environment() -> Vec<(String, Vec<u8>)> {
    const NAMES: [&str; 7] = [
        "SSL_CERT_FILE",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "CURL_CA_BUNDLE",
        "CARGO_HTTP_CAINFO",
    ];
    NAMES
        .iter()
        .map(|name| ((*name).to_owned(), EXTRA_CA_FILE.as_bytes().to_vec()))
        .collect()
}

/// Who uses a workspace; set by the owner of sessions.
#[async_trait]
pub trait WorkspaceUsers: Send + Sync {
    /// Sessions that run in a workspace.
    async fn sessions_in(&self, workspace: &WorkspaceId) -> Vec<SessionId>;
    /// Cancels them and waits until they have ended.
    async fn cancel_sessions_in(&self, workspace: &WorkspaceId);
    /// Whether a session still needs what was kept for it.
    async fn need_of(&self, session: &SessionId) -> Need;
}

/// Whether a session still needs what was kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It has not ended, or nobody can say.
    Needed,
    /// It has ended.
    Over,
    /// There is no such session here.
    Unknown,
}

/// A workspace to make.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateWorkspace {
    /// Its id, chosen by the caller: the same id again, after a kill, goes on
    /// with the workspace that was begun.
    pub id: WorkspaceId,
    /// Its name.
    pub name: WorkspaceName,
    /// Reference of the image; `None` means the default.
    pub image: Option<String>,
    /// 0 means the default for each.
    pub limits: Limits,
    /// Its network.
    pub network: NetworkMode,
    /// Account of its commands; `None` means the image's.
    pub user: Option<String>,
    /// What it may reach; `None` means the default.
    pub egress: Option<Policy>,
    /// When it is stopped because nobody uses it.
    pub idle_stop: IdleStop,
}

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Workspaces {
    inner: Arc<Inner>,
}

struct Inner {
    options: WorkspacesOptions,
    store: Arc<dyn StorePort>,
    runtime: Arc<dyn RuntimePort>,
    links: Arc<dyn LinksPort>,
    clock: Arc<dyn ClockPort>,
    tasks: TaskTracker,
    git: GitSource,
    index: Index,
    activity: Activity,
    disks: Disks,
    events: Events,
    users: OnceLock<Arc<dyn WorkspaceUsers>>,
    salvage: OnceLock<Arc<dyn Salvage>>,
    copies: OnceLock<Arc<dyn CleanCopies>>,
    /// The locks of each workspace, made at first use. The map's own lock is
    /// held for a look-up only.
    locks: Mutex<HashMap<WorkspaceId, Locks>>,
    /// When the reconciler last started a workspace by itself.
    revived: Mutex<HashMap<WorkspaceId, Revival>>,
    /// Told when a workspace is gone; the owner of snapshots waits for it.
    gone: Notify,
    adding: Adding,
    baked: OnceLock<Arc<dyn BakedSetups>>,
    credentials: OnceLock<Arc<dyn WorkspaceCredentials>>,
    fetches: OnceLock<Arc<dyn Fetches>>,
    /// Workspaces whose present start this daemon has seen through, maintenance
    /// included: others are let in. Held for a look-up only.
    up: Mutex<HashSet<WorkspaceId>>,
}

/// The locks of a workspace.
#[derive(Debug, Default)]
struct Locks {
    /// Whoever changes its container holds it, for minutes where need be.
    container: Arc<tokio::sync::Mutex<()>>,
    /// Held while its record is written, and by a change of what it may reach
    /// from the look at the record on: that waits for no container.
    record: Arc<tokio::sync::Mutex<()>>,
}

/// The ports that the service acts through.
pub struct WorkspacePorts {
    /// Records.
    pub store: Arc<dyn StorePort>,
    /// The engine.
    pub runtime: Arc<dyn RuntimePort>,
    /// Links to agents.
    pub links: Arc<dyn LinksPort>,
    /// The wall clock.
    pub clock: Arc<dyn ClockPort>,
}

/// Whether others are let into a workspace without a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Yes,
    No,
}

impl Workspaces {
    /// Loads the workspaces that the store knows. Work with effects runs on
    /// `tasks`, which the owner waits for at shutdown. Nothing is reconciled
    /// until [`run_reconciler`](Self::run_reconciler).
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn open(
        options: WorkspacesOptions,
        ports: WorkspacePorts,
        tasks: TaskTracker,
    ) -> Result<Self, StoreError> {
        let known = ports.store.workspaces().await?;
        let index = Index::new(repositories::with_provenance(&*ports.store, known).await?);
        let last_uses = ports.store.last_uses().await?;
        let activity = Activity::new(ports.clock.clone(), last_uses);
        let events = Events::open(
            ports.store.clone(),
            ports.clock.clone(),
            options.redactions.clone(),
        )
        .await?;
        let git = GitSource::new(options.git.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                store: ports.store,
                runtime: ports.runtime,
                links: ports.links,
                clock: ports.clock,
                tasks,
                git,
                index,
                activity,
                disks: Disks::default(),
                events,
                users: OnceLock::new(),
                salvage: OnceLock::new(),
                copies: OnceLock::new(),
                locks: Mutex::new(HashMap::new()),
                revived: Mutex::new(HashMap::new()),
                gone: Notify::new(),
                adding: Adding::default(),
                baked: OnceLock::new(),
                credentials: OnceLock::new(),
                fetches: OnceLock::new(),
                up: Mutex::default(),
            }),
        })
    }

    /// What happened to workspaces; whoever does something to one records it.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Names the owner of sessions, once; until then nothing is ever busy.
    pub fn set_users(&self, users: Arc<dyn WorkspaceUsers>) {
        if self.inner.users.set(users).is_err() {
            tracing::warn!("the users of workspaces were named twice");
        }
    }

    /// The workspace with this name or id. An id comes before a name.
    ///
    /// # Errors
    /// [`WorkspacesError::Unknown`].
    pub fn resolve(&self, name_or_id: &str) -> Result<Arc<Workspace>, WorkspacesError> {
        self.inner
            .index
            .resolve(name_or_id)
            .ok_or_else(|| WorkspacesError::unknown(name_or_id))
    }

    fn record(&self, id: &WorkspaceId) -> Result<Arc<Workspace>, WorkspacesError> {
        self.inner
            .index
            .get(id)
            .ok_or_else(|| WorkspacesError::unknown(id.as_str()))
    }

    /// The lock of a workspace; held while its container is changed.
    fn lock_of(&self, id: &WorkspaceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self
            .inner
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.entry(id.clone()).or_default().container.clone()
    }

    /// The lock of a workspace's record; never held over anything but a write.
    fn record_lock_of(&self, id: &WorkspaceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self
            .inner
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.entry(id.clone()).or_default().record.clone()
    }

    /// Whether the present start of a workspace was seen through.
    fn is_up(&self, id: &WorkspaceId) -> bool {
        let up = self.inner.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.contains(id)
    }

    fn note_up(&self, id: &WorkspaceId, up: Up) {
        let mut all = self.inner.up.lock().unwrap_or_else(PoisonError::into_inner);
        match up {
            Up::Yes => all.insert(id.clone()),
            Up::No => all.remove(id),
        };
    }

    /// Writes a record and then shows it; the caller holds the workspace's lock.
    /// What it may reach stays as it is now: that changes without the lock, see
    /// [`set_egress`](Self::set_egress).
    pub(in crate::service) async fn save(
        &self,
        mut workspace: Workspace,
    ) -> Result<Arc<Workspace>, WorkspacesError> {
        let lock = self.record_lock_of(&workspace.id);
        let _held = lock.lock().await;
        if let Some(now) = self.inner.index.get(&workspace.id) {
            workspace.egress.clone_from(&now.egress);
        }
        self.write(workspace).await
    }

    /// The same for a caller who holds the record's lock.
    async fn write(&self, workspace: Workspace) -> Result<Arc<Workspace>, WorkspacesError> {
        self.inner.store.update_workspace(&workspace).await?;
        Ok(self.inner.index.put(workspace))
    }
}
