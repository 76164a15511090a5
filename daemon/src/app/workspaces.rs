//! Workspaces, the way out of them, and their snapshots, with all that keeps them
//! as they should be.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{AppError, parts::Parts};
use crate::{
    adapters::{
        agent::{LinkHub, LinkHubOptions},
        docker::DockerImages,
        git_relay::GitRelay,
        world::SystemWorld,
    },
    config::Settings,
    ports::{snapshot_runtime::SnapshotRuntimePort, tunnel::Linked},
    service::{
        egress::{Egress, EgressOptions, HostAccess},
        events::record_connections,
        garbage::Garbage,
        snapshots::{Snapshots, SnapshotsOptions, archive::Archives},
        workspaces::{
            GitSourceOptions, WorkspacePorts, Workspaces, WorkspacesOptions, extra_ca_environment,
        },
    },
};

/// Links that came up and are not served yet.
const LINKS_WAITING: usize = 64;
/// While the engine does not answer.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// Workspaces and their way out.
pub(super) async fn workspaces(
    settings: &Settings,
    parts: &Parts,
) -> Result<(Workspaces, Egress), AppError> {
    let (tunnels, links) = mpsc::channel(LINKS_WAITING);
    let workspaces = opened(settings, parts, tunnels).await?;
    workspaces.events().set_audit(parts.audit.clone());
    workspaces.set_credentials(Arc::new(parts.credentials.clone()));
    let looking = workspaces.clone();
    parts.keep(|stop| async move { looking.watch_disks(stop).await });
    let egress = egress(settings, parts, &workspaces, links)?;
    Ok((workspaces, egress))
}

fn egress(
    settings: &Settings,
    parts: &Parts,
    workspaces: &Workspaces,
    links: mpsc::Receiver<Linked>,
) -> Result<Egress, AppError> {
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
    workspaces.set_fetches(Arc::new(egress.clone()));
    let extra_ca_file = settings.workspace.extra_ca_file.as_deref();
    egress.set_hosts(HostAccess {
        credentials: Arc::new(parts.credentials.clone()),
        git: Arc::new(GitRelay::new(extra_ca_file, parts.tasks.clone()).map_err(AppError::Tls)?),
    });
    let gateway = egress.clone();
    parts.keep(|stop| async move { gateway.run(links, stop).await });
    parts.keep(|stop| {
        let (events, decisions) = (workspaces.events().clone(), egress.decisions());
        record_connections(events, decisions, Arc::new(workspaces.clone()), stop)
    });
    Ok(egress)
}

/// Snapshots of them, and what collects what nothing needs any more.
pub(super) fn snapshots(
    settings: &Settings,
    parts: &Parts,
    workspaces: &Workspaces,
) -> (Snapshots, Garbage) {
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
    workspaces.set_baked_setups(Arc::new(snapshots.clone()));
    workspaces.set_salvage(Arc::new(snapshots.clone()));
    workspaces.set_clean_copies(Arc::new(snapshots.clone()));
    // On cancel: what is under way is finished by the next start.
    parts.keep(|stop| repair(snapshots.clone(), workspaces.clone(), stop));
    let garbage = Garbage::new(
        snapshots.clone(),
        workspaces.clone(),
        parts.runtime.clone(),
        parts.store.clone(),
        parts.blobs.clone(),
    );
    let (collector, gc) = (garbage.clone(), settings.gc.clone());
    // On cancel: nothing that is needed is ever missing in between.
    parts.keep(|stop| async move { collector.run_collector(gc.every, gc.grace, stop).await });
    (snapshots, garbage)
}

/// Snapshots as files.
pub(super) fn archives(settings: &Settings, parts: &Parts, snapshots: Snapshots) -> Archives {
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

async fn opened(
    settings: &Settings,
    parts: &Parts,
    tunnels: mpsc::Sender<Linked>,
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
