//! Every service of the API, from the parts.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    AppError,
    doctor::doctor_of,
    parts::Parts,
    sessions::{policies, session_defaults, sessions},
    workspaces::{archives, snapshots, workspaces},
};
use crate::{
    adapters::disk_space,
    api::grpc::{
        activity::ActivityApi,
        approval::ApprovalApi,
        artifact::ArtifactApi,
        credential::CredentialApi,
        policy::PolicyApi,
        requests::Requests,
        server::{CallerLimits, ConnectionBounds, Door, Services},
        session::SessionApi,
        setup::SetupApi,
        snapshot::SnapshotApi,
        system::{DaemonInfo, SystemApi},
        token::AccessApi,
        workspace::WorkspaceApi,
    },
    config::Settings,
    ports::{blobs::BlobPort, store::StorePort},
    service::{
        access::{Tokens, subjects::KnownSubjects},
        idle::stop_idle_workspaces,
        observation::{Observation, Watched},
        stats::Stats,
    },
};

/// How often old requests are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// Every service, who may come in to them, and what is told of them all; what runs
/// by itself is started.
pub(super) async fn services(
    settings: &Settings,
    parts: &Parts,
) -> Result<(Services, Door, Observation), AppError> {
    let store: Arc<dyn StorePort> = parts.store.clone();
    let blobs: Arc<dyn BlobPort> = parts.blobs.clone();
    let (clock, tasks, stop) = (&parts.clock, &parts.tasks, &parts.stop);
    let requests = Requests::new(store.clone(), clock.clone(), tasks.clone());
    parts.keep(|stop| forget_requests(requests.clone(), stop));
    let (audit, upkeep) = (parts.audit.clone(), settings.audit);
    // On cancel: what is due is done by the next start.
    parts.keep(|stop| async move { audit.run_upkeep(upkeep, stop).await });

    let (workspaces, egress) = workspaces(settings, parts).await?;
    let (snapshots, garbage) = snapshots(settings, parts, &workspaces);
    let policies = policies(settings, parts).await?;
    let sessions = sessions(settings, parts, &workspaces, policies.clone())?;
    workspaces.set_users(Arc::new(sessions.clone()));
    sessions.resume_all().await?;
    // From here on it is known which sessions work where.
    parts
        .keep(|stop| stop_idle_workspaces(workspaces.clone(), egress.clone(), clock.clone(), stop));

    let started_at_ms = clock.now_ms();
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
    let tokens = Tokens::open(store.clone(), clock.clone()).await?;
    let keeping = tokens.clone();
    // On cancel: what is known is written.
    parts.keep(|stop| async move { keeping.run_upkeep(stop).await });
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
        access: AccessApi::new(tokens, workspaces.clone(), clock.clone(), requests.clone()),
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
            tasks.clone(),
            stop.clone(),
        ),
        artifact: ArtifactApi::new(store.clone(), blobs),
        policy: PolicyApi::new(policies.clone()),
        credential: CredentialApi::new(
            parts.credentials.clone(),
            workspaces.clone(),
            clock.clone(),
            requests.clone(),
        ),
        setup: SetupApi::new(workspaces.clone(), requests.clone()),
        snapshot: SnapshotApi::new(
            snapshots.clone(),
            archives(settings, parts, snapshots),
            workspaces.clone(),
            requests.clone(),
            tasks.clone(),
        ),
        activity: ActivityApi::new(
            workspaces.clone(),
            Stats::new(workspaces.clone(), egress.clone()),
            stop.clone(),
        ),
        workspace: WorkspaceApi::new(
            workspaces,
            egress,
            policies,
            requests.clone(),
            tasks.clone(),
            stop.clone(),
        ),
        session: SessionApi::new(sessions, store, requests, session_defaults(settings)),
    };
    Ok((services, door, observation))
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
