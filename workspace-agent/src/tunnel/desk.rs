//! Where a wanted connection waits for the daemon's verdict.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compyd_proto::agent as wire;
use compyd_proto::agent::verdict::Outcome;
use compyd_proto::link::MAX_TUNNELS;
use compyd_proto::pipe::Pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use crate::errors::{AgentError, Reason};

/// The world's end of a tunnelled connection.
pub(crate) type WorldPipe = Pipe<Streaming<wire::ConnectRequest>, wire::TunnelBytes>;

/// Announcements that the daemon has not taken yet.
const ANNOUNCEMENTS: usize = 64;
/// A link that was just made has its daemon listening this soon.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the daemon to look a name up and to connect; its own limits are shorter.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);

/// The connections that wait, and who decides on them. A cheap handle.
#[derive(Clone)]
pub(crate) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where wanted connections are announced; the daemon's `Accept` has the
    /// other end. `None` until a daemon has listened.
    listener: watch::Sender<Option<mpsc::Sender<wire::Wanted>>>,
    /// Who waits for which verdict. Held for a look-up only.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_id: AtomicU64,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What came of a wanted connection, and how to carry it.
struct Answer {
    outcome: Outcome,
    pipe: WorldPipe,
}

/// What a program wants to be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) protocol: wire::TunnelProtocol,
}

/// A connection to the world. The place is given back with it.
pub(crate) struct World {
    pub(crate) pipe: WorldPipe,
    pub(crate) place: OwnedSemaphorePermit,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NoWorld {
    /// The daemon's rules refuse it.
    Denied(wire::TunnelDenied),
    /// It is allowed and did not come about.
    Failed(wire::TunnelFailed),
    /// No daemon listens.
    NoDaemon,
    /// There are as many connections as there may be.
    Full,
}

impl Desk {
    /// A desk without connections. What carries them runs on `tasks` and ends
    /// with `stop`.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (listener, _) = watch::channel(None);
        Self {
            inner: Arc::new(Inner {
                listener,
                waiting: Mutex::default(),
                next_id: AtomicU64::new(1),
                places: Arc::new(Semaphore::new(MAX_TUNNELS)),
                tasks,
                stop,
            }),
        }
    }

    /// Carries a connection, or serves a program, until the agent ends. Dropped
    /// anywhere; an error is for the work itself to tell.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Makes the caller the one who decides; the one before it sees its
    /// announcements end.
    pub(crate) fn listen(&self) -> mpsc::Receiver<wire::Wanted> {
        let (sender, announcements) = mpsc::channel(ANNOUNCEMENTS);
        self.inner.listener.send_replace(Some(sender));
        announcements
    }

    /// Announces a connection and waits for the verdict.
    ///
    /// Cancel safety: dropped, the verdict finds nobody and the daemon is told.
    pub(crate) async fn ask(&self, want: Want) -> Result<World, NoWorld> {
        let Ok(place) = self.inner.places.clone().try_acquire_owned() else {
            return Err(NoWorld::Full);
        };
        let listener = self.listener().await.ok_or(NoWorld::NoDaemon)?;
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.inner.waiting().insert(id, answer);
        let _waiting = Waiting { desk: self, id };
        let wanted = wire::Wanted {
            id,
            host: want.host,
            port: want.port.into(),
            protocol: want.protocol.into(),
        };
        let verdict = async {
            listener.send(wanted).await.ok()?;
            tokio::select! {
                answer = answered => answer.ok(),
                // A link that is lost decides nothing any more.
                () = listener.closed() => None,
            }
        };
        let answer = match tokio::time::timeout(VERDICT_TIMEOUT, verdict).await {
            Ok(answer) => answer.ok_or(NoWorld::NoDaemon)?,
            Err(_) => {
                return Err(NoWorld::Failed(wire::TunnelFailed {
                    kind: wire::TunnelFailure::Timeout.into(),
                    message: "the daemon did not decide in time".into(),
                }));
            }
        };
        match answer.outcome {
            Outcome::Allowed(_) => Ok(World {
                pipe: answer.pipe,
                place,
            }),
            Outcome::Denied(denied) => Err(NoWorld::Denied(denied)),
            Outcome::Failed(failed) => Err(NoWorld::Failed(failed)),
        }
    }

    async fn listener(&self) -> Option<mpsc::Sender<wire::Wanted>> {
        let mut listener = self.inner.listener.subscribe();
        let alive = |sender: &Option<mpsc::Sender<wire::Wanted>>| {
            sender.as_ref().is_some_and(|sender| !sender.is_closed())
        };
        let found = tokio::time::timeout(LISTENER_TIMEOUT, listener.wait_for(alive)).await;
        found.ok()?.ok()?.clone()
    }

    /// Hands a verdict, and the call that carries the connection, to whoever
    /// waits for it.
    pub(crate) fn answer(
        &self,
        verdict: wire::Verdict,
        bytes: Streaming<wire::ConnectRequest>,
    ) -> Result<mpsc::Receiver<wire::TunnelBytes>, AgentError> {
        let id = verdict.id;
        let outcome = verdict.outcome.ok_or_else(|| {
            AgentError::new(
                Reason::SpecInvalid,
                format!("the verdict on connection {id} says nothing"),
            )
        })?;
        let unknown = || {
            AgentError::new(
                Reason::ConnectionUnknown,
                format!("nobody waits for connection {id} any more"),
            )
        };
        let waiting = self.inner.waiting().remove(&id).ok_or_else(unknown)?;
        let (pipe, outgoing) = Pipe::new(bytes);
        waiting
            .send(Answer { outcome, pipe })
            .map_err(|_| unknown())?;
        Ok(outgoing)
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an entry back when nobody waits for it any more.
struct Waiting<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.desk.inner.waiting().remove(&self.id);
    }
}
