//! Listeners for agents: one directory and one socket for each workspace.
//!
//! ```text
//! <dir>/<workspace id>/daemon.sock      mounted read-only at /run/compy/link
//! ```
//!
//! The directory lives as long as the workspace: a container holds its inode.
//! The socket is new before every start. An admitted connection replaces the
//! one before it, so an agent that dials again is never turned away.

use std::{
    collections::HashMap,
    fs::Permissions,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixListener as StdUnixListener},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    net::UnixListener,
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    AgentLink, admission,
    link::{LinkContext, Serves},
};
use crate::{
    domain::{exec::SpoolLimits, ids::WorkspaceId, workspace::NetworkMode},
    ports::{
        agent::AgentPort,
        command_secrets::CommandSecretsPort,
        links::{LinkError, LinksPort},
        runtime::RuntimePort,
        tunnel::{Linked, TunnelPort},
    },
};

const SOCKET_NAME: &str = "daemon.sock";
/// After a dialler was refused or the kernel had no connection to give.
const AFTER_A_REFUSAL: Duration = Duration::from_millis(50);
const LOST_LINKS_REMEMBERED: usize = 256;

/// Where agents dial, and what every command of theirs is given.
#[derive(Clone)]
pub struct LinkHubOptions {
    /// Directory of this hub; made when missing. Others must be able to walk
    /// through it and nothing more, the engine above all.
    pub dir: PathBuf,
    /// Variables of every command, before its own: containers carry none.
    pub environment: Vec<(String, Vec<u8>)>,
    /// What commands may know besides; `None` means nothing.
    pub secrets: Option<Arc<dyn CommandSecretsPort>>,
    /// What the output of commands may take in each workspace.
    pub spool: SpoolLimits,
    /// Who is told of each link that can carry tunnels; `None` leaves programs
    /// without the world.
    pub tunnels: Option<mpsc::Sender<Linked>>,
}

/// Listeners and links of all workspaces. A cheap handle.
#[derive(Clone)]
pub struct LinkHub {
    inner: Arc<Inner>,
}

struct Inner {
    options: LinkHubOptions,
    runtime: Arc<dyn RuntimePort>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    lost: broadcast::Sender<WorkspaceId>,
    /// Open doors by workspace. Held for a look-up or an exchange, never over
    /// an await.
    doors: Mutex<HashMap<WorkspaceId, Door>>,
}

/// One workspace's listener and what came of it.
struct Door {
    closed: CancellationToken,
    visitor: watch::Sender<Visitor>,
}

#[derive(Clone, Default)]
struct Visitor {
    link: Option<Arc<AgentLink>>,
    /// Why the last dialler was turned away.
    refused: Option<String>,
}

impl LinkHub {
    /// A hub without listeners. Its tasks run on `tasks` and end with
    /// `shutdown`.
    #[must_use]
    pub fn new(
        options: LinkHubOptions,
        runtime: Arc<dyn RuntimePort>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (lost, _) = broadcast::channel(LOST_LINKS_REMEMBERED);
        Self {
            inner: Arc::new(Inner {
                options,
                runtime,
                tasks,
                shutdown,
                lost,
                doors: Mutex::new(HashMap::new()),
            }),
        }
    }

    fn dir(&self, workspace: &WorkspaceId) -> PathBuf {
        self.inner.options.dir.join(workspace.as_str())
    }

    /// Opens a new door; the one before it is closed.
    fn open(&self, workspace: &WorkspaceId) -> Result<PathBuf, LinkError> {
        let dir = self.dir(workspace);
        let listener = listen(&dir).map_err(|error| LinkError::Listen {
            dir: dir.display().to_string(),
            message: error.to_string(),
        })?;
        let closed = self.inner.shutdown.child_token();
        let (visitor, _) = watch::channel(Visitor::default());
        let door = Door {
            closed: closed.clone(),
            visitor: visitor.clone(),
        };
        if let Some(before) = self.inner.doors().insert(workspace.clone(), door) {
            before.close();
        }
        let reception = Reception {
            inner: self.inner.clone(),
            workspace: workspace.clone(),
            visitor,
            closed: closed.clone(),
        };
        // On cancel: may be dropped anywhere. On error: logged, goes on.
        self.inner
            .tasks
            .spawn(async move { closed.run_until_cancelled(reception.run(listener)).await });
        Ok(dir)
    }
}

impl Inner {
    fn doors(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    fn close(self) {
        self.closed.cancel();
        if let Some(link) = self.visitor.send_replace(Visitor::default()).link {
            link.cut();
        }
    }
}

#[async_trait]
impl LinksPort for LinkHub {
    async fn prepare(&self, workspace: &WorkspaceId) -> Result<PathBuf, LinkError> {
        self.open(workspace)
    }

    async fn ensure(&self, workspace: &WorkspaceId) -> Result<(), LinkError> {
        if self.inner.doors().contains_key(workspace) {
            return Ok(());
        }
        self.open(workspace).map(|_| ())
    }

    async fn connected(
        &self,
        workspace: &WorkspaceId,
        timeout: Duration,
    ) -> Result<Arc<dyn AgentPort>, LinkError> {
        let timed_out = |hint| LinkError::Timeout {
            seconds: timeout.as_secs(),
            hint,
        };
        let deadline = Instant::now() + timeout;
        loop {
            let mut visitor = match self.inner.doors().get(workspace) {
                Some(door) => door.visitor.subscribe(),
                None => return Err(timed_out("; nothing listens for it".to_owned())),
            };
            let wait = visitor.wait_for(|visitor| visitor.link.is_some());
            let seen = tokio::time::timeout_at(deadline, wait).await;
            match seen.map(|seen| seen.ok().and_then(|seen| seen.link.clone())) {
                Ok(Some(link)) => return Ok(link),
                // A new door was opened in the meantime: wait at that one.
                Ok(None) => {}
                Err(_) => {
                    let refused = visitor.borrow().refused.clone();
                    return Err(timed_out(refused.map_or_else(String::new, |why| {
                        format!("; the last dialler was refused: {why}")
                    })));
                }
            }
        }
    }

    fn current(&self, workspace: &WorkspaceId) -> Option<Arc<dyn AgentPort>> {
        let doors = self.inner.doors();
        let link = doors.get(workspace)?.visitor.borrow().link.clone()?;
        Some(link)
    }

    fn tunnel(&self, workspace: &WorkspaceId) -> Option<Arc<dyn TunnelPort>> {
        let doors = self.inner.doors();
        let link = doors.get(workspace)?.visitor.borrow().link.clone()?;
        link.has_tunnels().then_some(link as Arc<dyn TunnelPort>)
    }

    async fn close(&self, workspace: &WorkspaceId) {
        let door = self.inner.doors().remove(workspace);
        if let Some(door) = door {
            door.close();
        }
    }

    async fn remove(&self, workspace: &WorkspaceId) -> Result<(), LinkError> {
        self.close(workspace).await;
        let dir = self.dir(workspace);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LinkError::Listen {
                dir: dir.display().to_string(),
                message: error.to_string(),
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn unattended(&self) -> Result<Vec<WorkspaceId>, LinkError> {
        let dir = &self.inner.options.dir;
        let failed = |error: std::io::Error| LinkError::Listen {
            dir: dir.display().to_string(),
            message: error.to_string(),
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            // Made with the first link.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut unattended = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok());
            unattended.extend(id.filter(|id| !self.inner.doors().contains_key(id)));
        }
        Ok(unattended)
    }

    fn lost(&self) -> broadcast::Receiver<WorkspaceId> {
        self.inner.lost.subscribe()
    }
}

/// A new socket in a directory that stays.
fn listen(dir: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o711))?;
    let path = dir.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Through the directory's descriptor: an address has room for 107 bytes,
    // and data directories may be deeper than that.
    let opened = std::fs::File::open(dir)?;
    let address = format!("/proc/self/fd/{}/{SOCKET_NAME}", opened.as_raw_fd());
    let listener = StdUnixListener::bind(address)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Receives the diallers of one door, one after the other.
struct Reception {
    inner: Arc<Inner>,
    workspace: WorkspaceId,
    visitor: watch::Sender<Visitor>,
    closed: CancellationToken,
}

impl Reception {
    async fn run(&self, listener: UnixListener) {
        loop {
            let outcome = match listener.accept().await {
                Ok((stream, _)) => self.receive(stream).await,
                Err(error) => Err(format!("accept failed: {error}")),
            };
            if let Err(why) = outcome {
                tracing::warn!(workspace_id = %self.workspace, %why, "dialler refused");
                self.visitor
                    .send_modify(|visitor| visitor.refused = Some(why));
                tokio::time::sleep(AFTER_A_REFUSAL).await;
            }
        }
    }

    async fn receive(&self, stream: tokio::net::UnixStream) -> Result<(), String> {
        let container = admission::admit(&self.inner.runtime, &self.workspace, &stream).await?;
        let definition = container.definition.as_ref();
        let context = LinkContext {
            environment: self.inner.options.environment.clone(),
            secrets: self.inner.options.secrets.clone(),
            spool: self.inner.options.spool,
            network: definition.map_or(NetworkMode::None, |definition| definition.network),
            // A helper is of no definition.
            serves: match definition {
                Some(_) => Serves::Workspace,
                None => Serves::Volumes,
            },
        };
        let link = AgentLink::establish(stream, &self.workspace, context).await?;
        tracing::info!(
            workspace_id = %self.workspace,
            boot_id = link.boot_id(),
            agent_version = %link.version(),
            "agent linked"
        );
        let link = Arc::new(link);
        self.watch_end(link.clone());
        let before = self.visitor.send_replace(Visitor {
            link: Some(link.clone()),
            refused: None,
        });
        if let Some(before) = before.link {
            before.cut();
        }
        if let Some(tunnels) = &self.inner.options.tunnels
            && link.has_tunnels()
        {
            let linked = Linked {
                workspace: self.workspace.clone(),
                tunnel: link,
            };
            // Nobody listens during shutdown.
            let _ = tunnels.send(linked).await;
        }
        Ok(())
    }

    /// Takes a link away when its connection ends, unless another has taken its
    /// place.
    fn watch_end(&self, link: Arc<AgentLink>) {
        let ended = link.ended();
        let link = Arc::downgrade(&link);
        let visitor = self.visitor.clone();
        let inner = self.inner.clone();
        let workspace = self.workspace.clone();
        let closed = self.closed.clone();
        // On cancel: may be dropped. Nothing fails here.
        self.inner.tasks.spawn(async move {
            if closed
                .run_until_cancelled(ended.cancelled())
                .await
                .is_none()
            {
                return;
            }
            let was_current = visitor.send_if_modified(|visitor| {
                let current = visitor
                    .link
                    .as_ref()
                    .is_some_and(|now| std::ptr::eq(Arc::as_ptr(now), link.as_ptr()));
                if current {
                    visitor.link = None;
                }
                current
            });
            if was_current {
                tracing::info!(workspace_id = %workspace, "agent's link lost");
                // Nobody listens during start and shutdown.
                let _ = inner.lost.send(workspace);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::adapters::memory::MemoryRuntime;

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_link_waits_on_at_a_door_that_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let options = LinkHubOptions {
            dir: dir.path().to_owned(),
            environment: Vec::new(),
            secrets: None,
            spool: SpoolLimits::default(),
            tunnels: None,
        };
        let hub = LinkHub::new(
            options,
            Arc::new(MemoryRuntime::default()),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let workspace = WorkspaceId::from_uuid(Uuid::now_v7());
        hub.prepare(&workspace).await.unwrap();
        let begun = Instant::now();
        let wait = hub.connected(&workspace, Duration::from_secs(30));
        let (waited, ()) = tokio::join!(wait, async {
            hub.prepare(&workspace).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            hub.prepare(&workspace).await.unwrap();
        });
        assert!(matches!(waited, Err(LinkError::Timeout { .. })));
        assert_eq!(begun.elapsed().as_secs(), 30);

        let wait = hub.connected(&workspace, Duration::from_secs(30));
        let (waited, ()) = tokio::join!(wait, hub.close(&workspace));
        let error = waited.err().unwrap().to_string();
        assert!(error.contains("nothing listens"), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 30);
    }
}
