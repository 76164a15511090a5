//! The one place that knows concrete types: it builds the adapters, wires the
//! services and owns the order of start and shutdown.
//!
//! ```text
//! prepare: data directory -> lock -> sockets
//! run:     store, blobs -> services -> serve -> (shutdown) stop accepting
//!          -> tell those who work -> wait for the grace -> close the store
//! ```

mod listen;
mod lock;
pub mod logs;
pub mod report;
pub mod signals;

#[cfg(test)]
mod tests;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    listen::{BoundSocket, ListenError},
    lock::{DataDirLock, LockError},
};
#[cfg(feature = "test-util")]
use crate::adapters::forge::lossy::LossyForge;
use crate::{
    adapters::{
        agent::{LinkHub, LinkHubOptions},
        audit::{AuditOptions, FileAudit},
        blobs::FileBlobs,
        certificates::CertificateError,
        chunks::FileChunks,
        clock::SystemClock,
        disk_space,
        docker::{DockerImages, DockerOptions, DockerRuntime},
        forge::local::LocalForge,
        git_relay::GitRelay,
        master_key::{MasterKeySource, SystemMasterKey},
        model,
        sled::{SledOptions, SledStore},
        world::SystemWorld,
    },
    api::{
        grpc::{
            activity::ActivityApi,
            approval::ApprovalApi,
            artifact::ArtifactApi,
            credential::CredentialApi,
            policy::PolicyApi,
            requests::Requests,
            server::{self, CallerLimits, ConnectionBounds, Door, Services},
            session::{SessionApi, SessionDefaults},
            setup::SetupApi,
            snapshot::SnapshotApi,
            system::{DaemonInfo, SystemApi},
            token::AccessApi,
            workspace::WorkspaceApi,
        },
        metrics,
    },
    config::{KeySource, Settings},
    domain::audit::Kind,
    domain::recovery::{Catalogue, CatalogueError},
    domain::session::options::SessionLimits,
    ports::{
        audit::AuditError,
        blobs::{BlobError, BlobPort},
        chunks::{ChunkError, ChunkPort},
        clock::ClockPort,
        forge::ForgePort,
        runtime::RuntimePort,
        snapshot_runtime::SnapshotRuntimePort,
        store::{StoreError, StorePort},
        tunnel::Linked,
    },
    service::{
        access::{Tokens, subjects::KnownSubjects},
        artifacts::Artifacts,
        audit::Audit,
        ci::LocalCi,
        commands::Commands,
        credentials::{CredentialError, Credentials, Lost},
        doctor::{Doctor, Keys, Subjects},
        egress::{Egress, EgressOptions, HostAccess},
        events::record_connections,
        garbage::Garbage,
        git::BundleSpace,
        idle::stop_idle_workspaces,
        observation::{Observation, Watched},
        policies::{Policies, PoliciesError},
        proof::Prover,
        redaction::Redactions,
        sessions::{
            Gatekeeper, ModelFactory, Patience, SessionError, SessionSettings, Sessions, World,
        },
        snapshots::{Snapshots, SnapshotsOptions, archive::Archives},
        stats::Stats,
        workspaces::{
            GitSourceOptions, WorkspacePorts, Workspaces, WorkspacesOptions, extra_ca_environment,
        },
    },
};

/// Links that came up and are not served yet.
const LINKS_WAITING: usize = 64;
/// How often old requests are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// While the engine does not answer.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Why the daemon did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {}: {message}; set data_dir to one that this account may write", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        message: String,
    },
    /// Another daemon has the data directory, or that cannot be found out.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The content of snapshots cannot be opened.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The stored credentials cannot be opened, so that nothing could be kept from
    /// showing them.
    #[error("cannot open the stored credentials: {0}")]
    Credentials(#[from] CredentialError),
    /// No host could be trusted.
    #[error("cannot set up TLS: {0}")]
    Tls(std::io::Error),
    /// Sessions of the past cannot be listed.
    #[error("cannot bring sessions back: {0}")]
    Sessions(#[from] SessionError),
    /// The file of a person's own failures cannot be read.
    #[error("cannot read {}, which recovery.patterns_file names: {message}", file.display())]
    PatternsFile {
        /// The file.
        file: PathBuf,
        /// The cause.
        message: String,
    },
    /// The failures in it cannot be used.
    #[error("{0}; mend it in the file that recovery.patterns_file names")]
    Catalogue(#[from] CatalogueError),
    /// The policy file cannot be used.
    #[error(transparent)]
    Policy(#[from] PoliciesError),
    /// There is no certificate to serve with.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    /// A part of the daemon panicked.
    #[error("a part of the daemon failed: {0}; this is a bug, please report it with the log")]
    Bug(tokio::task::JoinError),
}

/// A daemon that may start: the data directory is its own and its sockets are
/// bound. Dropped, it gives them back.
#[derive(Debug)]
pub struct Prepared {
    lock: DataDirLock,
    sockets: Vec<BoundSocket>,
    metrics: Option<TcpListener>,
    redactions: Redactions,
}

impl Prepared {
    /// Takes the data directory and binds every socket, before any work.
    ///
    /// # Errors
    /// [`AppError::DataDir`], [`AppError::Lock`], [`AppError::Listen`].
    pub async fn new(settings: &Settings) -> Result<Self, AppError> {
        listen::allow_files();
        make_private_dir(&settings.data_dir)?;
        let lock = DataDirLock::take(&settings.data_dir)?;
        let mut sockets = Vec::new();
        for address in &settings.listen {
            sockets.push(BoundSocket::bind(address).await?);
        }
        let metrics = match settings.metrics {
            Some(address) => Some(listen::bind_metrics(address).await?),
            None => None,
        };
        Ok(Self {
            lock,
            sockets,
            metrics,
            redactions: Redactions::default(),
        })
    }

    /// With redactions that somebody else uses as well, as the logs do: the daemon
    /// tells them of its credentials.
    #[must_use]
    pub fn with_redactions(mut self, redactions: Redactions) -> Self {
        self.redactions = redactions;
        self
    }

    /// Where clients are served, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.sockets.iter().map(BoundSocket::address).collect()
    }
}

/// What everything else is built from.
struct Parts {
    store: Arc<SledStore>,
    blobs: Arc<FileBlobs>,
    chunks: Arc<dyn ChunkPort>,
    audit: Audit,
    runtime: Arc<DockerRuntime>,
    clock: Arc<dyn ClockPort>,
    credentials: Credentials,
    redactions: Redactions,
    /// Work that outlives its request; waited for at shutdown.
    tasks: TaskTracker,
    /// Told at shutdown; whoever works stops at the next safe point.
    stop: CancellationToken,
}

/// Runs the daemon until `shutdown` is ready, and then for the grace at most.
///
/// # Errors
/// See [`AppError`]; a shutdown that was asked for is no error.
pub async fn run(
    settings: Settings,
    prepared: Prepared,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AppError> {
    for warning in &settings.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let parts = open(&settings, prepared.redactions.clone()).await?;
    let addresses = prepared.addresses();
    let Prepared {
        lock,
        sockets,
        metrics,
        redactions: _,
    } = prepared;
    // What is on record from now on was done by this daemon.
    let started = parts.audit.entry(Kind::Daemon, "daemon");
    let started = started
        .with("event", "started")
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("pid", std::process::id())
        .with("listen", addresses.clone());
    match parts.audit.record_durably(started).await {
        Err(error) if !error.is_disk_full() => return Err(error.into()),
        // It is refused later what may not be done without a record.
        Err(error) => tracing::warn!(%error, "the start is not on record"),
        Ok(_) => {}
    }
    let (services, door, observation) = services(&settings, &parts).await?;
    if let Some(listener) = metrics {
        // On cancel: what is being told is cut.
        let (tasks, stop) = (parts.tasks.clone(), parts.stop.clone());
        parts
            .tasks
            .spawn(metrics::serve(listener, observation, tasks, stop));
    }

    let stop_accepting = CancellationToken::new();
    let certificates = listen::certificates(&settings, &sockets)?;
    let (listeners, guards) = listen::into_listeners(sockets, certificates.as_ref());
    if let Some(certificates) = certificates {
        // On cancel: the next start makes another one.
        parts.tasks.spawn(certificates.renew(parts.stop.clone()));
    }
    let stop = stop_accepting.clone();
    let mut serving = tokio::spawn(server::serve(services, door, listeners, stop));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %settings.data_dir.display(),
        listen = %addresses.join(" "),
        "compyd is ready"
    );

    let early = tokio::select! {
        () = shutdown => None,
        ended = &mut serving => Some(ended),
    };
    tracing::info!(grace = ?settings.shutdown_grace, "shutting down");
    stop_accepting.cancel();
    parts.stop.cancel();
    parts.tasks.close();
    let result = match early {
        Some(ended) => ended,
        None => drain(&settings, &parts, &mut serving).await,
    };
    // The sockets' files go before the lock, so that the next daemon never
    // removes ours or finds ours in its way.
    drop(guards);
    let stopped = parts.audit.entry(Kind::Daemon, "daemon");
    parts.audit.record(stopped.with("event", "stopped"));
    parts.audit.log().close().await;
    parts.store.close().await;
    drop(lock);
    tracing::info!("compyd has stopped");
    match result {
        Ok(served) => Ok(served?),
        Err(error) if error.is_cancelled() => Ok(()),
        Err(error) => Err(AppError::Bug(error)),
    }
}

type Served = Result<Result<(), server::ServeError>, tokio::task::JoinError>;

/// Waits for calls and work under way, for the grace at most, and reports what
/// did not finish.
async fn drain(
    settings: &Settings,
    parts: &Parts,
    serving: &mut tokio::task::JoinHandle<Result<(), server::ServeError>>,
) -> Served {
    let finished = timeout(settings.shutdown_grace, async {
        parts.tasks.wait().await;
        (&mut *serving).await
    })
    .await;
    if let Ok(result) = finished {
        return result;
    }
    tracing::warn!(
        tasks = parts.tasks.len(),
        calls_open = !serving.is_finished(),
        "the grace is over; what is left is cut off and goes on at the next start"
    );
    serving.abort();
    serving.await
}

async fn open(settings: &Settings, redactions: Redactions) -> Result<Parts, AppError> {
    let low_water_bytes = settings.disk.low_water_bytes;
    let store = SledOptions {
        low_water_bytes,
        ..SledOptions::in_dir(settings.data_dir.join("store"))
    };
    let blobs = settings.data_dir.join("blobs");
    let chunks = settings.data_dir.join("chunks");
    let runtime = runtime(settings, identity(settings)?);
    let scratch = settings.data_dir.join("scratch");
    // What a killed daemon left there is of no use to anybody.
    match std::fs::remove_dir_all(&scratch) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(AppError::DataDir {
                dir: scratch,
                message: error.to_string(),
            });
        }
    }
    make_private_dir(&scratch)?;
    let clock: Arc<dyn ClockPort> = Arc::new(SystemClock);
    let audit = AuditOptions::below(&settings.data_dir, low_water_bytes, clock.clone());
    let opened = tokio::task::spawn_blocking(move || -> Result<_, AppError> {
        Ok((
            SledStore::open(store)?,
            FileBlobs::open(blobs, low_water_bytes)?,
            FileChunks::open(chunks, low_water_bytes)?,
            FileAudit::open(audit)?,
        ))
    });
    let (store, blobs, chunks, audit) = opened.await.map_err(AppError::Bug)??;
    let (store, clock) = (Arc::new(store), Arc::new(SystemClock));
    let told = redactions.clone();
    // For tests that show what would be found.
    #[cfg(feature = "test-util")]
    let told = match settings.data_dir.join("redaction-off").exists() {
        true => Redactions::default(),
        false => told,
    };
    let audit = Audit::new(Arc::new(audit), clock.clone(), redactions.clone());
    let credentials = Credentials::open(
        store.clone(),
        Arc::new(SystemMasterKey::new(key_source(settings))),
        clock.clone(),
        audit.clone(),
        told,
        match settings.credentials.forget_lost {
            true => Lost::Forget,
            false => Lost::Refuse,
        },
    );
    Ok(Parts {
        credentials: credentials.await?,
        redactions,
        store,
        blobs: Arc::new(blobs),
        chunks: Arc::new(chunks),
        audit,
        runtime: Arc::new(runtime),
        clock,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    })
}

fn key_source(settings: &Settings) -> MasterKeySource {
    match settings.credentials.key.clone() {
        KeySource::File(file) => MasterKeySource::File(file),
        KeySource::Given(text) => MasterKeySource::Given(text),
        KeySource::Command(argv) => MasterKeySource::Command(argv),
    }
}

/// Every service, from the parts; what runs by itself is started.
async fn services(
    settings: &Settings,
    parts: &Parts,
) -> Result<(Services, Door, Observation), AppError> {
    let store: Arc<dyn StorePort> = parts.store.clone();
    let blobs: Arc<dyn BlobPort> = parts.blobs.clone();
    let requests = Requests::new(store.clone(), parts.clock.clone(), parts.tasks.clone());
    let (remembering, stop) = (requests.clone(), parts.stop.clone());
    parts.tasks.spawn(forget_requests(remembering, stop));
    let (tunnels, links) = tokio::sync::mpsc::channel(LINKS_WAITING);
    let workspaces = workspaces(settings, parts, tunnels).await?;
    workspaces.events().set_audit(parts.audit.clone());
    let (audit, upkeep, stop) = (parts.audit.clone(), settings.audit, parts.stop.clone());
    // On cancel: what is due is done by the next start.
    parts
        .tasks
        .spawn(async move { audit.run_upkeep(upkeep, stop).await });
    let egress = Egress::new(
        EgressOptions {
            allow_networks: settings.egress.allow_networks.clone(),
            ..EgressOptions::default()
        },
        Arc::new(workspaces.clone()),
        Arc::new(SystemWorld),
        parts.clock.clone(),
        parts.tasks.clone(),
    );
    egress.set_audit(parts.audit.clone());
    let extra_ca_file = settings.workspace.extra_ca_file.as_deref();
    egress.set_hosts(HostAccess {
        credentials: Arc::new(parts.credentials.clone()),
        git: Arc::new(GitRelay::new(extra_ca_file, parts.tasks.clone()).map_err(AppError::Tls)?),
    });
    workspaces.set_credentials(Arc::new(parts.credentials.clone()));
    let (gateway, stop) = (egress.clone(), parts.stop.clone());
    parts
        .tasks
        .spawn(async move { gateway.run(links, stop).await });
    parts.tasks.spawn(record_connections(
        workspaces.events().clone(),
        egress.decisions(),
        Arc::new(workspaces.clone()),
        parts.stop.clone(),
    ));
    let (looking, stop) = (workspaces.clone(), parts.stop.clone());
    parts
        .tasks
        .spawn(async move { looking.watch_disks(stop).await });
    parts.tasks.spawn(stop_idle_workspaces(
        workspaces.clone(),
        egress.clone(),
        parts.clock.clone(),
        parts.stop.clone(),
    ));
    let snapshots = snapshots(settings, parts, &workspaces);
    workspaces.set_baked_setups(Arc::new(snapshots.clone()));
    workspaces.set_salvage(Arc::new(snapshots.clone()));
    workspaces.set_clean_copies(Arc::new(snapshots.clone()));
    let stop = parts.stop.clone();
    // On cancel: what is under way is finished by the next start.
    parts
        .tasks
        .spawn(repair(snapshots.clone(), workspaces.clone(), stop));
    let garbage = Garbage::new(
        snapshots.clone(),
        workspaces.clone(),
        parts.runtime.clone(),
        store.clone(),
        blobs.clone(),
    );
    let (collector, gc, stop) = (garbage.clone(), settings.gc.clone(), parts.stop.clone());
    // On cancel: nothing that is needed is ever missing in between.
    parts
        .tasks
        .spawn(async move { collector.run_collector(gc.every, gc.grace, stop).await });

    let catalogue = Arc::new(catalogue(settings)?);
    let policies = Policies::open(settings.session.policy_file.clone())?;
    policies.record_start(&parts.audit).await?;
    let (watched, audit, stop) = (policies.clone(), parts.audit.clone(), parts.stop.clone());
    // On cancel: nothing is under way that matters.
    parts
        .tasks
        .spawn(async move { watched.reload_when_changed(audit, stop).await });
    let gatekeeper = Gatekeeper::new(policies.clone());
    let sessions = sessions(settings, catalogue, gatekeeper, parts, &workspaces);
    workspaces.set_users(Arc::new(sessions.clone()));
    sessions.resume_all().await?;

    let started_at_ms = parts.clock.now_ms();
    let watched = Watched {
        started_at_ms,
        data_dir: settings.data_dir.clone(),
        low_water_bytes: settings.disk.low_water_bytes,
        free_bytes: disk_space::free_bytes,
    };
    let observation = Observation::new(workspaces.clone(), sessions.clone(), watched);
    let info = DaemonInfo {
        started_at_ms,
        data_dir: settings.data_dir.clone(),
        default_model: (settings.model.default.as_ref())
            .map_or_else(String::new, ToString::to_string),
        default_image: settings.workspace.image.clone(),
    };
    let tokens = Tokens::open(store.clone(), parts.clock.clone()).await?;
    let (keeping, stop) = (tokens.clone(), parts.stop.clone());
    // On cancel: what is known is written.
    parts
        .tasks
        .spawn(async move { keeping.run_upkeep(stop).await });
    let door = Door {
        subjects: Arc::new(KnownSubjects::new(
            workspaces.clone(),
            sessions.clone(),
            store.clone(),
        )),
        tokens: tokens.clone(),
        limits: CallerLimits {
            calls_per_second: settings.remote.calls_per_second,
            streams: settings.remote.streams,
            message_bytes: settings.remote.message_bytes,
        },
        connections: ConnectionBounds {
            total: settings.remote.connections,
            per_address: settings.remote.connections_per_address,
            per_token: settings.remote.connections_per_token,
        },
    };
    let services = Services {
        access: AccessApi::new(
            tokens,
            workspaces.clone(),
            parts.clock.clone(),
            requests.clone(),
        ),
        audit: parts.audit.clone(),
        system: SystemApi::new(
            info,
            Arc::new(doctor_of(settings, parts.runtime.clone())),
            garbage,
            requests.clone(),
        ),
        approval: ApprovalApi::new(
            sessions.clone(),
            requests.clone(),
            parts.tasks.clone(),
            parts.stop.clone(),
        ),
        artifact: ArtifactApi::new(store.clone(), blobs),
        policy: PolicyApi::new(policies),
        credential: CredentialApi::new(
            parts.credentials.clone(),
            workspaces.clone(),
            parts.clock.clone(),
            requests.clone(),
        ),
        setup: SetupApi::new(workspaces.clone(), requests.clone()),
        snapshot: SnapshotApi::new(
            snapshots.clone(),
            archives(settings, parts, snapshots),
            workspaces.clone(),
            requests.clone(),
            parts.tasks.clone(),
        ),
        activity: ActivityApi::new(
            workspaces.clone(),
            Stats::new(workspaces.clone(), egress.clone()),
            parts.stop.clone(),
        ),
        workspace: WorkspaceApi::new(
            workspaces,
            egress,
            requests.clone(),
            parts.tasks.clone(),
            parts.stop.clone(),
        ),
        session: SessionApi::new(sessions, store, requests, session_defaults(settings)),
    };
    Ok((services, door, observation))
}

fn snapshots(settings: &Settings, parts: &Parts, workspaces: &Workspaces) -> Snapshots {
    let runtime: Arc<dyn SnapshotRuntimePort> = parts.runtime.clone();
    let options = SnapshotsOptions {
        overlays: settings.snapshots.overlays,
        copies_max_bytes: settings.snapshots.copies_max_bytes,
        layers_max: settings.snapshots.layers_max,
        #[cfg(feature = "test-util")]
        hold_file: Some(settings.data_dir.join("hold")),
    };
    let snapshots = Snapshots::new(workspaces.clone(), runtime, parts.chunks.clone(), options);
    snapshots.set_redactions(parts.redactions.clone());
    snapshots
}

fn archives(settings: &Settings, parts: &Parts, snapshots: Snapshots) -> Archives {
    let images = DockerImages::new(
        parts.runtime.clone(),
        settings.data_dir.join("scratch"),
        settings.disk.low_water_bytes,
    );
    Archives::new(snapshots, Arc::new(images), parts.tasks.clone())
}

/// Settles what earlier daemons cut off as soon as the engine answers, and then
/// keeps workspaces and what snapshots leave as they should be.
async fn repair(snapshots: Snapshots, workspaces: Workspaces, stop: CancellationToken) {
    let settled = async {
        while let Err(error) = snapshots.settle().await {
            tracing::warn!(%error, "operations on snapshots cannot be settled");
            tokio::time::sleep(SETTLE_AGAIN).await;
        }
    };
    if stop.run_until_cancelled(settled).await.is_some() {
        workspaces.resume_setups();
        tokio::join!(
            workspaces.run_reconciler(stop.clone()),
            snapshots.run_upkeep(stop)
        );
    }
}

async fn workspaces(
    settings: &Settings,
    parts: &Parts,
    tunnels: tokio::sync::mpsc::Sender<Linked>,
) -> Result<Workspaces, AppError> {
    let extra_ca_file = settings.workspace.extra_ca_file.clone();
    let environment = match extra_ca_file {
        Some(_) => extra_ca_environment(),
        None => Vec::new(),
    };
    let links = LinkHub::new(
        LinkHubOptions {
            dir: settings.data_dir.join("links"),
            environment,
            secrets: Some(Arc::new(parts.credentials.clone())),
            spool: settings.exec,
            tunnels: Some(tunnels),
        },
        parts.runtime.clone(),
        parts.tasks.clone(),
        parts.stop.clone(),
    );
    let options = WorkspacesOptions {
        default_image: settings.workspace.image.clone(),
        default_limits: settings.workspace.limits,
        idle_stop: settings.workspace.idle_stop,
        extra_ca_file,
        default_egress: settings.egress.default.clone(),
        redactions: parts.redactions.clone(),
        git: GitSourceOptions {
            scratch_dir: Some(settings.data_dir.join("scratch")),
            allow_file_urls: settings.repository.allow_file_urls,
            ..GitSourceOptions::default()
        },
        ..WorkspacesOptions::default()
    };
    let ports = WorkspacePorts {
        store: parts.store.clone(),
        runtime: parts.runtime.clone(),
        links: Arc::new(links),
        clock: parts.clock.clone(),
    };
    Ok(Workspaces::open(options, ports, parts.tasks.clone()).await?)
}

/// The failures that are known: the daemon's, and a person's own.
fn catalogue(settings: &Settings) -> Result<Catalogue, AppError> {
    let own = match &settings.session.patterns_file {
        Some(file) => {
            Some(
                std::fs::read_to_string(file).map_err(|error| AppError::PatternsFile {
                    file: file.clone(),
                    message: error.to_string(),
                })?,
            )
        }
        None => None,
    };
    Ok(Catalogue::with(own.as_deref())?)
}

/// Sessions and the parts of the world that they act on.
fn sessions(
    settings: &Settings,
    catalogue: Arc<Catalogue>,
    gatekeeper: Gatekeeper,
    parts: &Parts,
    workspaces: &Workspaces,
) -> Sessions {
    let store: Arc<dyn StorePort> = parts.store.clone();
    let artifacts = Artifacts::new(store.clone(), parts.blobs.clone(), parts.clock.clone())
        .with_redactions(parts.redactions.clone());
    let commands = Commands::new(Arc::new(workspaces.clone()), artifacts)
        .with_check_timeout(settings.session.check_timeout);
    let forge: Arc<dyn ForgePort> = Arc::new(LocalForge::new(
        settings.data_dir.join("forge"),
        store.clone(),
    ));
    #[cfg(feature = "test-util")]
    let forge: Arc<dyn ForgePort> = Arc::new(LossyForge::new(
        forge,
        settings.data_dir.join("forge-loses"),
    ));
    let bundles = BundleSpace {
        parent: settings.data_dir.join("scratch"),
        max_bytes: settings.session.bundle_max_bytes,
    };
    let world = World {
        store,
        commands: commands.clone(),
        prover: Prover::new(commands.clone()),
        forge: forge.clone(),
        ci: LocalCi::new(commands, forge, bundles.clone()),
        bundles,
        catalogue,
        audit: parts.audit.clone(),
        gatekeeper,
    };
    Sessions::new(
        parts.clock.clone(),
        world,
        model_factory(settings, parts.redactions.clone()),
        SessionSettings {
            of_a_day: settings.budget.of_a_day,
            patience: Patience {
                model_tries: settings.model.retries + 1,
                ..Patience::default()
            },
            ..SessionSettings::default()
        },
        parts.tasks.clone(),
        parts.stop.clone(),
    )
}

fn session_defaults(settings: &Settings) -> SessionDefaults {
    let max_time_ms = settings.session.max_time.as_millis();
    SessionDefaults {
        model: settings.model.default.as_ref().map(ToString::to_string),
        edit_formats: settings.model.edit_formats.clone(),
        limits: SessionLimits {
            max_steps: settings.session.max_steps,
            max_time_ms: u64::try_from(max_time_ms).unwrap_or(u64::MAX),
            max_output_tokens: settings.model.max_output_tokens,
            ..SessionLimits::default()
        },
        budget: settings.budget.of_a_session,
        prices: settings.budget.prices.clone(),
        windows: settings.model.windows.clone(),
        compact_percent: settings.model.compact_percent,
        rules_tokens: settings.session.rules_tokens,
        days_cost_money: settings.budget.of_a_day.money.is_some(),
    }
}

/// Models are made once for each session, and recorded in a file of its own.
fn model_factory(settings: &Settings, redactions: Redactions) -> ModelFactory {
    let ours = settings.model.clone();
    let mut base = model::ModelSettings {
        openai_base_url: ours.openai_base_url,
        openai_api_key: ours.openai_api_key,
        anthropic_base_url: ours.anthropic_base_url,
        anthropic_api_key: ours.anthropic_api_key,
        idle_timeout: ours.idle_timeout,
        extra_ca_file: settings.workspace.extra_ca_file.clone(),
        stored: model::StoredCredentials::new(move |text| {
            redactions.current().text(text).into_owned()
        }),
        ..model::ModelSettings::default()
    };
    base.retry.max_tries = ours.retries + 1;
    let record_dir = ours.record_dir;
    Arc::new(move |name, session| {
        let mut settings = base.clone();
        settings.record = (record_dir.as_ref()).map(|dir| dir.join(format!("{session}.jsonl")));
        model::build(name, &settings)
    })
}

/// The engine of these settings; it is reached at the first call.
fn runtime(settings: &Settings, identity: String) -> DockerRuntime {
    DockerRuntime::new(DockerOptions {
        host: settings.engine.host.clone(),
        daemon: identity,
        agent_binary: settings.workspace.agent_file.clone(),
        labels: settings.engine.labels.clone(),
    })
}

/// What the engine's objects carry to say whose they are: made once, kept in
/// the data directory, the same when that is moved.
fn identity(settings: &Settings) -> Result<String, AppError> {
    let path = settings.data_dir.join("daemon.id");
    let failed = |error: std::io::Error| AppError::DataDir {
        dir: settings.data_dir.clone(),
        message: format!("daemon.id: {error}"),
    };
    if let Ok(found) = std::fs::read_to_string(&path)
        && !found.trim().is_empty()
    {
        return Ok(found.trim().to_owned());
    }
    let made = uuid::Uuid::new_v4().simple().to_string();
    let unready = settings.data_dir.join("daemon.id.new");
    std::fs::write(&unready, &made)
        .and_then(|()| std::fs::File::open(&unready)?.sync_all())
        .and_then(|()| std::fs::rename(&unready, &path))
        .and_then(|()| disk_space::sync_dir(&settings.data_dir))
        .map_err(failed)?;
    Ok(made)
}

/// A doctor for these settings; `compyd check` asks it without a daemon.
#[must_use]
pub fn doctor(settings: &Settings) -> Doctor {
    doctor_of(settings, Arc::new(runtime(settings, String::new())))
}

fn doctor_of(settings: &Settings, runtime: Arc<dyn RuntimePort>) -> Doctor {
    let model = &settings.model;
    let subjects = Subjects {
        image: settings.workspace.image.clone(),
        agent_file: settings.workspace.agent_file.clone(),
        data_dir: settings.data_dir.clone(),
        low_water_bytes: settings.disk.low_water_bytes,
        config_warnings: settings.warnings.clone(),
        git: "git".into(),
        model: model.default.clone(),
        keys: Keys {
            openai: model.openai_api_key.is_some(),
            openai_elsewhere: model.openai_base_url.is_some(),
            anthropic: model.anthropic_api_key.is_some(),
        },
    };
    Doctor::new(
        subjects,
        runtime,
        Arc::new(SystemClock),
        disk_space::free_bytes_once_made,
    )
}

/// Forgets requests that nobody retries any more. On cancel it ends at once; a
/// failure is logged and tried again in an hour.
async fn forget_requests(requests: Requests, stop: CancellationToken) {
    let mut every = tokio::time::interval(FORGET_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        if let Err(error) = requests.forget().await {
            tracing::warn!(%error, "cannot forget old requests");
        }
    }
}

/// Makes a directory that only this account may enter.
fn make_private_dir(dir: &std::path::Path) -> Result<(), AppError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| AppError::DataDir {
            dir: dir.to_owned(),
            message: error.to_string(),
        })
}
