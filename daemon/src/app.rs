//! The one place that knows concrete types: it builds the adapters, wires the
//! services and owns the order of start and shutdown.
//!
//! ```text
//! prepare: data directory -> lock -> sockets
//! run:     store, blobs -> services -> serve -> (shutdown) stop accepting
//!          -> tell those who work -> wait for the grace -> close the store
//! ```

mod doctor;
mod error;
mod listen;
mod lock;
pub mod logs;
mod parts;
pub mod report;
mod services;
mod sessions;
pub mod signals;
mod workspaces;

#[cfg(test)]
mod tests;

use std::future::Future;

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::{
    doctor::doctor,
    error::AppError,
    listen::{BoundSocket, ListenError},
    lock::{DataDirLock, LockError},
};
use self::{
    parts::{Parts, make_private_dir},
    services::services,
};
use crate::{
    api::{grpc::server, metrics},
    config::Settings,
    domain::audit::Kind,
    service::redaction::Redactions,
};

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
    let parts = parts::open(&settings, prepared.redactions.clone()).await?;
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
        let tasks = parts.tasks.clone();
        parts.keep(|stop| metrics::serve(listener, observation, tasks, stop));
    }

    let stop_accepting = CancellationToken::new();
    let certificates = listen::certificates(&settings, &sockets)?;
    let (listeners, guards) = listen::into_listeners(sockets, certificates.as_ref());
    if let Some(certificates) = certificates {
        // On cancel: the next start makes another one.
        parts.keep(|stop| certificates.renew(stop));
    }
    // Whoever calls from here on waits for a moment at most.
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        data_dir = %settings.data_dir.display(),
        listen = %addresses.join(" "),
        "compyd is ready"
    );
    let stop = stop_accepting.clone();
    let mut serving = tokio::spawn(server::serve(services, door, listeners, stop));

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
