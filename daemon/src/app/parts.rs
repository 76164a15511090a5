//! What everything else is built from: the stores, the engine, the credentials.

use std::{future::Future, path::Path, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::AppError;
use crate::{
    adapters::{
        audit::{AuditOptions, FileAudit},
        blobs::FileBlobs,
        chunks::FileChunks,
        clock::SystemClock,
        disk_space,
        docker::{DockerOptions, DockerRuntime},
        master_key::{MasterKeySource, SystemMasterKey},
        sled::{SledOptions, SledStore},
    },
    config::{KeySource, Settings},
    ports::{chunks::ChunkPort, clock::ClockPort},
    service::{
        audit::Audit,
        credentials::{Credentials, Lost},
        redaction::Redactions,
    },
};

/// What everything else is built from.
pub(super) struct Parts {
    pub(super) store: Arc<SledStore>,
    pub(super) blobs: Arc<FileBlobs>,
    pub(super) chunks: Arc<dyn ChunkPort>,
    pub(super) audit: Audit,
    pub(super) runtime: Arc<DockerRuntime>,
    pub(super) clock: Arc<dyn ClockPort>,
    pub(super) credentials: Credentials,
    pub(super) redactions: Redactions,
    /// Work that outlives its request; waited for at shutdown.
    pub(super) tasks: TaskTracker,
    /// Told at shutdown; whoever works stops at the next safe point.
    pub(super) stop: CancellationToken,
}

impl Parts {
    /// Starts work that goes on until it is told to stop.
    pub(super) fn keep<Work>(&self, work: impl FnOnce(CancellationToken) -> Work)
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(work(self.stop.clone()));
    }
}

/// Opens them all; what a killed daemon left in the scratch directory goes.
pub(super) async fn open(settings: &Settings, redactions: Redactions) -> Result<Parts, AppError> {
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

/// The engine of these settings; it is reached at the first call.
pub(super) fn runtime(settings: &Settings, identity: String) -> DockerRuntime {
    DockerRuntime::new(DockerOptions {
        host: settings.engine.host.clone(),
        daemon: identity,
        agent_binary: settings.workspace.agent_file.clone(),
        labels: settings.engine.labels.clone(),
    })
}

/// What the engine's objects carry to say whose they are: made once, kept in
/// the data directory, the same when that is moved.
pub(super) fn identity(settings: &Settings) -> Result<String, AppError> {
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

/// Makes a directory that only this account may enter.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), AppError> {
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
