//! Connections of workspaces to the world: each is decided, resolved, dialled
//! and carried here, and each decision is told.
//!
//! ```text
//! link up -> its wanted connections, one task each:
//!   host -> rules of the workspace -> addresses -> their rules -> dial one of
//!   exactly these -> carry, first bytes checked -> end
//! ```
//!
//! An open connection stands in the register under its target. The register is
//! written before the rules are read, and read after the rules are changed, so
//! that no connection outlives rules that refuse it.

mod carry;
mod fetches;
mod stand_in;
mod totals;

#[cfg(test)]
mod tests;

use core::net::{IpAddr, SocketAddr};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, broadcast, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    carry::Ended,
    totals::{Book, Counters},
};
pub use self::{stand_in::HostAccess, totals::EgressTotals};
use crate::{
    domain::{
        credential::StandIn,
        egress::{
            AddressRules, Denial, EgressDecision, EgressOutcome, Host, Network, Policy, Target,
        },
        ids::WorkspaceId,
    },
    ports::{
        clock::ClockPort,
        tunnel::{BoxedBytes, Linked, MOST_TUNNELS, Refusal, Wanted},
        world::{WorldError, WorldPort},
    },
    service::audit::Audit,
};

/// For all addresses of a host together; the agent waits longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Decisions that a watcher may be behind.
const DECISIONS: usize = 1_024;

/// Who knows what a workspace may reach.
pub trait EgressRules: Send + Sync {
    /// The rules of a workspace and its name, as they are now; `None` when
    /// there is no such workspace.
    fn rules(&self, workspace: &WorkspaceId) -> Option<(Policy, String)>;
}

/// What an operator decides about egress.
#[derive(Debug, Clone)]
pub struct EgressOptions {
    /// Networks that are reached although they are not public.
    pub allow_networks: Vec<Network>,
    /// How long a connection may stand still in both directions.
    pub idle_timeout: Duration,
}

impl Default for EgressOptions {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            // Longer than servers keep idle connections, and a push may wait
            // for long hooks.
            idle_timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

struct Inner {
    options: EgressOptions,
    rules: Arc<dyn EgressRules>,
    world: Arc<dyn WorldPort>,
    clock: Arc<dyn ClockPort>,
    tasks: TaskTracker,
    decisions: broadcast::Sender<EgressDecision>,
    /// Where decisions are recorded too, once that is named.
    audit: OnceLock<Audit>,
    /// Who speaks with hosts for workspaces, once that is named.
    hosts: OnceLock<HostAccess>,
    next_id: AtomicU64,
    book: Book,
    /// Connections that are decided on or open. Held for a look-up only.
    register: Mutex<HashMap<u64, Entry>>,
}

struct Entry {
    workspace: WorkspaceId,
    target: Target,
    /// Cancelled when the rules refuse it.
    refused: CancellationToken,
}

impl Egress {
    /// A service without connections; what carries them runs on `tasks`.
    #[must_use]
    pub fn new(
        options: EgressOptions,
        rules: Arc<dyn EgressRules>,
        world: Arc<dyn WorldPort>,
        clock: Arc<dyn ClockPort>,
        tasks: TaskTracker,
    ) -> Self {
        let (decisions, _) = broadcast::channel(DECISIONS);
        Self {
            inner: Arc::new(Inner {
                options,
                rules,
                world,
                clock,
                tasks,
                decisions,
                audit: OnceLock::new(),
                hosts: OnceLock::new(),
                next_id: AtomicU64::new(0),
                book: Book::default(),
                register: Mutex::default(),
            }),
        }
    }

    /// Names the audit log, once; until then nothing is recorded there.
    pub fn set_audit(&self, audit: Audit) {
        if self.inner.audit.set(audit).is_err() {
            tracing::warn!("the audit log of connections was named twice");
        }
    }

    /// Serves every link that comes up, until `shutdown`, which also cuts what
    /// is open: the world's end of a connection cannot outlive the daemon.
    pub async fn run(&self, mut links: mpsc::Receiver<Linked>, shutdown: CancellationToken) {
        while let Some(Some(linked)) = shutdown.run_until_cancelled(links.recv()).await {
            let (service, shutdown) = (self.clone(), shutdown.clone());
            // On cancel: dropped anywhere. On error: logged, the link is gone.
            self.inner.tasks.spawn(async move {
                shutdown
                    .run_until_cancelled(service.serve(linked, &shutdown))
                    .await
            });
        }
    }

    /// Decisions from now on. A receiver that lags misses the oldest.
    #[must_use]
    pub fn decisions(&self) -> broadcast::Receiver<EgressDecision> {
        self.inner.decisions.subscribe()
    }

    /// What was decided and carried for a workspace since the daemon started.
    #[must_use]
    pub fn totals(&self, workspace: &WorkspaceId) -> EgressTotals {
        self.inner.book.totals(workspace)
    }

    /// Cuts the connections of a workspace that its rules, which have changed,
    /// refuse now; returns how many.
    #[must_use]
    pub fn cut_refused(&self, workspace: &WorkspaceId) -> usize {
        let policy = self.inner.policy(workspace);
        let register = self.inner.register();
        let refused = register
            .values()
            .filter(|entry| entry.workspace == *workspace && policy.admit(&entry.target).is_err());
        refused.map(|entry| entry.refused.cancel()).count()
    }

    /// One link's wanted connections, until it ends. The workspace is held
    /// back while it has as many as it may.
    async fn serve(&self, linked: Linked, shutdown: &CancellationToken) {
        let mut wanted = match linked.tunnel.wanted().await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!(workspace_id = %linked.workspace, %error, "no tunnels on this link");
                return;
            }
        };
        let places = Arc::new(Semaphore::new(MOST_TUNNELS));
        while let Ok(place) = places.clone().acquire_owned().await
            && let Some(next) = wanted.next().await
        {
            let next = match next {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(workspace_id = %linked.workspace, %error, "tunnels have ended");
                    return;
                }
            };
            let (service, linked, shutdown) = (self.clone(), linked.clone(), shutdown.clone());
            self.inner.tasks.spawn(async move {
                let _place = place;
                shutdown
                    .run_until_cancelled(service.connection(&linked, next))
                    .await
            });
        }
    }

    /// One wanted connection, from its announcement to its end.
    async fn connection(&self, linked: &Linked, wanted: Wanted) {
        let workspace = &linked.workspace;
        let host = match Host::parse(&wanted.host) {
            Ok(host) => host,
            Err(error) => {
                let shown = format!("{}:{}", wanted.host.escape_debug(), wanted.port);
                let refusal = self.refusal(workspace, error.into());
                return self.refuse(linked, &wanted, shown, refusal).await;
            }
        };
        let named = Target {
            host,
            port: wanted.port,
        };
        let git_host = match StandIn::of(&named) {
            Some(StandIn::SshAgent) => return self.ssh_agent(linked, &wanted).await,
            Some(StandIn::Git(host)) => Some(host),
            None => None,
        };
        let target = match &git_host {
            Some(host) => host.target(),
            None => named.clone(),
        };
        let registered = self.register(workspace, &target);
        let connected = timeout(CONNECT_TIMEOUT, self.connect(workspace, &target)).await;
        let connected = connected.unwrap_or_else(|_| {
            let timeout = WorldError::Timeout(target.to_string());
            Err(Refusal::Failed(timeout))
        });
        let (address, world) = match connected {
            Ok(connected) => connected,
            Err(refusal) => {
                return self
                    .refuse(linked, &wanted, target.to_string(), refusal)
                    .await;
            }
        };
        let told = target.to_string();
        self.tell(
            workspace,
            &wanted,
            told.clone(),
            EgressOutcome::Allowed(address),
        );
        let program = match linked.tunnel.carry(wanted.id).await {
            Ok(program) => program,
            // The program has gone meanwhile.
            Err(error) => {
                return tracing::debug!(workspace_id = %workspace, target = %told, %error, "not carried");
            }
        };
        let world = match git_host {
            Some(host) => self.before_git_host(workspace, host, world),
            None => world,
        };
        let ended = tokio::select! {
            // First: not a byte passes when the rules changed meanwhile.
            biased;
            () = registered.refused.cancelled() => {
                Ended::Denied(Denial::RulesChanged(target.clone()))
            }
            ended = carry::carry(
                &named,
                program,
                world,
                self.inner.options.idle_timeout,
                &registered.counters,
            ) => ended,
        };
        match ended {
            Ended::Denied(denial) => {
                self.tell(workspace, &wanted, told, EgressOutcome::Denied(denial));
            }
            Ended::Closed(traffic) => tracing::debug!(workspace_id = %workspace, target = %told,
                sent_bytes = traffic.sent, received_bytes = traffic.received, "connection closed"),
            Ended::Idle => tracing::info!(workspace_id = %workspace, target = %told,
                "connection cut: nothing moved for too long"),
        }
    }

    /// Decides and dials: exactly the addresses that were decided on.
    async fn connect(
        &self,
        workspace: &WorkspaceId,
        target: &Target,
    ) -> Result<(SocketAddr, BoxedBytes), Refusal> {
        let policy = self.inner.policy(workspace);
        (policy.admit(target)).map_err(|denial| self.refusal(workspace, denial))?;
        let chosen = self.addresses(workspace, target).await?;
        let mut last = WorldError::Unresolved {
            name: target.host.to_string(),
            message: "it has no address".to_owned(),
        };
        for address in chosen {
            let address = SocketAddr::new(address, target.port);
            match self.inner.world.dial(address).await {
                Ok(world) => return Ok((address, world)),
                Err(error) => last = error,
            }
        }
        Err(Refusal::Failed(last))
    }

    /// The addresses of a target that may be dialled, at least one unless it has
    /// none.
    async fn addresses(
        &self,
        workspace: &WorkspaceId,
        target: &Target,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let found = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => (self.inner.world.resolve(name).await).map_err(Refusal::Failed)?,
        };
        let chosen = self.inner.address_rules().choose(target, &found);
        chosen.map_err(|denial| self.refusal(workspace, denial))
    }

    fn refusal(&self, workspace: &WorkspaceId, denial: Denial) -> Refusal {
        let rules = self.inner.rules.rules(workspace);
        let name = rules.map_or_else(|| workspace.to_string(), |(_, name)| name);
        let advice = denial.advice(&name);
        Refusal::Denied { denial, advice }
    }

    async fn refuse(&self, linked: &Linked, wanted: &Wanted, target: String, refusal: Refusal) {
        let outcome = match &refusal {
            Refusal::Denied { denial, .. } => EgressOutcome::Denied(denial.clone()),
            Refusal::Failed(error) => EgressOutcome::Failed(error.to_string()),
        };
        self.tell(&linked.workspace, wanted, target, outcome);
        if let Err(error) = linked.tunnel.refuse(wanted.id, refusal).await {
            tracing::debug!(workspace_id = %linked.workspace, %error, "a refusal was not heard");
        }
    }

    /// Logs a decision and tells whoever watches.
    fn tell(
        &self,
        workspace: &WorkspaceId,
        wanted: &Wanted,
        target: String,
        outcome: EgressOutcome,
    ) {
        let protocol = wanted.protocol.name();
        match &outcome {
            EgressOutcome::Allowed(address) => {
                tracing::info!(workspace_id = %workspace, %target, protocol, %address, "egress allowed");
            }
            EgressOutcome::Denied(denial) => {
                let code = denial.code();
                tracing::info!(workspace_id = %workspace, %target, protocol, code, %denial, "egress denied");
            }
            EgressOutcome::Failed(error) => {
                tracing::info!(workspace_id = %workspace, %target, protocol, %error, "egress failed");
            }
        }
        let counters = self.inner.book.of(workspace);
        counters.decided(&outcome);
        counters.numbered(|number| {
            let decision = EgressDecision {
                at_ms: self.inner.clock.now_ms(),
                workspace: workspace.clone(),
                number,
                target,
                protocol: wanted.protocol,
                outcome,
            };
            if let Some(audit) = self.inner.audit.get() {
                audit.network(&decision);
            }
            // Nobody has to watch.
            let _ = self.inner.decisions.send(decision);
        });
    }

    fn register(&self, workspace: &WorkspaceId, target: &Target) -> Registered<'_> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let refused = CancellationToken::new();
        let entry = Entry {
            workspace: workspace.clone(),
            target: target.clone(),
            refused: refused.clone(),
        };
        self.inner.register().insert(id, entry);
        let counters = self.inner.book.of(workspace);
        counters.opened();
        Registered {
            inner: &self.inner,
            id,
            refused,
            counters,
        }
    }
}

impl Inner {
    fn register(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A workspace that is not known reaches nothing.
    fn policy(&self, workspace: &WorkspaceId) -> Policy {
        let rules = self.rules.rules(workspace);
        rules.map_or(Policy::None, |(policy, _)| policy)
    }

    fn address_rules(&self) -> AddressRules {
        AddressRules {
            allow_networks: self.options.allow_networks.clone(),
            own: self.world.own_addresses(),
        }
    }
}

/// A connection's place in the register.
struct Registered<'a> {
    inner: &'a Inner,
    id: u64,
    refused: CancellationToken,
    counters: Arc<Counters>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.inner.register().remove(&self.id);
        self.counters.closed();
    }
}
