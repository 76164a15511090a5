//! Workspaces and repositories on the wire.

use compyd_proto::v1 as wire;
use tonic::Status;

use super::{
    super::{
        status::{invalid, invalid_id},
        time::timestamp,
    },
    some,
};
use crate::{
    domain::{
        egress::{Policy, PolicyKind},
        idle::{IdleStop, SHORTEST},
        ids::{RepositoryName, SnapshotId, WorkspaceId},
        setup::{SetupResult, SetupState, WorkspaceSetup},
        workspace::{Limits, NetworkMode, Observed, Repository},
    },
    service::workspaces::{CreateWorkspace, UpdateWorkspace, WorkspaceView},
};

/// A workspace to make, once it has an id.
///
/// # Errors
/// `NAME_INVALID`, `EGRESS_INVALID`.
pub fn create(
    request: &wire::CreateWorkspaceRequest,
) -> Result<impl FnOnce(WorkspaceId) -> CreateWorkspace + Send + use<>, Status> {
    let name = request
        .name
        .parse()
        .map_err(|error| invalid_id("NAME_INVALID", &error))?;
    let limits = request.limits.unwrap_or_default();
    let network = match request.network() {
        wire::NetworkMode::Unspecified | wire::NetworkMode::None => NetworkMode::None,
        wire::NetworkMode::Bridge => NetworkMode::Bridge,
    };
    let (image, user) = (some(&request.image), some(&request.user));
    let egress = egress(request.egress.as_ref())?;
    let idle_stop = idle_stop(request.idle_stop.as_ref())?;
    Ok(move |id| CreateWorkspace {
        id,
        name,
        image,
        limits: Limits {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            disk_bytes: limits.disk_bytes,
        },
        network,
        user,
        egress,
        idle_stop,
    })
}

/// When a workspace is stopped that nobody uses; unset means the default.
///
/// # Errors
/// `IDLE_STOP_INVALID`.
pub fn idle_stop(given: Option<&wire::IdleStop>) -> Result<IdleStop, Status> {
    use wire::idle_stop::When;
    match given.and_then(|given| given.when) {
        None => Ok(IdleStop::Default),
        Some(When::Never(true)) => Ok(IdleStop::Never),
        Some(When::AfterMs(ms)) if u128::from(ms) >= SHORTEST.as_millis() => {
            Ok(IdleStop::AfterMs(ms))
        }
        Some(When::Never(false) | When::AfterMs(_)) => Err(invalid(
            "IDLE_STOP_INVALID",
            "an idle time is at least a second",
            "give a time of at least 1000 ms, or never",
        )),
    }
}

/// What to change of a workspace.
///
/// # Errors
/// `IDLE_STOP_INVALID`.
pub fn update(request: &wire::UpdateWorkspaceRequest) -> Result<UpdateWorkspace, Status> {
    let given = request.idle_stop.as_ref();
    Ok(UpdateWorkspace {
        idle_stop: given.map(|given| idle_stop(Some(given))).transpose()?,
        disk_bytes: request.disk_bytes,
    })
}

fn idle_stop_to_wire(idle_stop: IdleStop) -> wire::IdleStop {
    use wire::idle_stop::When;
    wire::IdleStop {
        when: match idle_stop {
            IdleStop::Default => None,
            IdleStop::Never => Some(When::Never(true)),
            IdleStop::AfterMs(ms) => Some(When::AfterMs(ms)),
        },
    }
}

/// What a workspace may reach; `None` means the default.
///
/// # Errors
/// `EGRESS_INVALID`.
pub fn egress(given: Option<&wire::Egress>) -> Result<Option<Policy>, Status> {
    let Some(given) = given else {
        return Ok(None);
    };
    let kind = match given.policy() {
        wire::EgressPolicy::Unspecified if given.allow.is_empty() => return Ok(None),
        // Whoever names hosts wants them.
        wire::EgressPolicy::Unspecified | wire::EgressPolicy::AllowList => PolicyKind::AllowList,
        wire::EgressPolicy::None => PolicyKind::None,
        wire::EgressPolicy::Open => PolicyKind::Open,
    };
    let policy = Policy::new(kind, &given.allow).map_err(|error| {
        invalid(
            "EGRESS_INVALID",
            error.to_string(),
            "allow HOST or *.DOMAIN, each with an optional :PORT, under the allow-list policy",
        )
    })?;
    Ok(Some(policy))
}

/// A port.
///
/// # Errors
/// `PORT_INVALID`.
pub fn port(port: u32) -> Result<u16, Status> {
    let sound = u16::try_from(port).ok().filter(|port| *port != 0);
    sound.ok_or_else(|| {
        invalid(
            "PORT_INVALID",
            format!("there is no port {port}"),
            "give a number from 1 to 65535",
        )
    })
}

/// A workspace as it is seen.
#[must_use]
pub fn view(view: &WorkspaceView) -> wire::Workspace {
    let workspace = &view.workspace;
    let definition = &workspace.definition;
    let state = match view.observed {
        Observed::Starting => wire::WorkspaceState::Starting,
        Observed::Running => wire::WorkspaceState::Running,
        Observed::Stopped => wire::WorkspaceState::Stopped,
        Observed::Paused => wire::WorkspaceState::Paused,
        Observed::Deleting => wire::WorkspaceState::Deleting,
        Observed::Missing => wire::WorkspaceState::Missing,
    };
    let network = match definition.network {
        NetworkMode::None => wire::NetworkMode::None,
        NetworkMode::Bridge => wire::NetworkMode::Bridge,
    };
    wire::Workspace {
        id: workspace.id.to_string(),
        name: definition.name.to_string(),
        image: definition.image.clone(),
        state: state.into(),
        state_reason: view.reason.clone().unwrap_or_default(),
        limits: Some(wire::Limits {
            cpu_millis: definition.limits.cpu_millis,
            memory_bytes: definition.limits.memory_bytes,
            pids: definition.limits.pids,
            disk_bytes: definition.limits.disk_bytes,
        }),
        network: network.into(),
        repositories: (workspace.repositories.iter())
            .map(|of| wire::Repository {
                setup: setup(&workspace.setup, &of.name),
                ..repository(of)
            })
            .collect(),
        created_at: Some(timestamp(workspace.created_at_ms)),
        container_id: view.container.clone().map(|id| id.0).unwrap_or_default(),
        user: definition.user.clone().unwrap_or_default(),
        egress: Some(egress_to_wire(&workspace.egress)),
        idle_stop: Some(idle_stop_to_wire(workspace.idle_stop)),
    }
}

fn egress_to_wire(policy: &Policy) -> wire::Egress {
    let kind = match policy.kind() {
        PolicyKind::None => wire::EgressPolicy::None,
        PolicyKind::AllowList => wire::EgressPolicy::AllowList,
        PolicyKind::Open => wire::EgressPolicy::Open,
    };
    wire::Egress {
        policy: kind.into(),
        allow: policy.hosts().iter().map(ToString::to_string).collect(),
    }
}

/// A repository.
#[must_use]
pub fn repository(repository: &Repository) -> wire::Repository {
    wire::Repository {
        name: repository.name.to_string(),
        source: repository.source.clone(),
        commit: repository.commit.clone(),
        branch: repository.branch.clone(),
        setup: None,
    }
}

/// How far the setup of a repository is.
fn setup(of: &WorkspaceSetup, name: &RepositoryName) -> Option<wire::RepositorySetup> {
    let maintenance = of.maintenance_problems.get(name);
    let state = of.repositories.get(name).map(|setup| &setup.state);
    if maintenance.is_none() && state.is_none() {
        return None;
    }
    let shown = |snapshot: &SnapshotId| snapshot.to_string();
    let (state, snapshot_id, problem) = match state {
        None => (wire::SetupState::Unspecified, None, None),
        Some(SetupState::Restoring { snapshot, .. }) => {
            (wire::SetupState::Restoring, Some(shown(snapshot)), None)
        }
        Some(SetupState::Initializing) => (wire::SetupState::Initializing, None, None),
        Some(SetupState::Done { result }) => match result {
            SetupResult::Running { kept } => {
                (wire::SetupState::Ran, kept.as_ref().map(shown), None)
            }
            SetupResult::Restoring { snapshot } => {
                (wire::SetupState::Restored, Some(shown(snapshot)), None)
            }
        },
        Some(SetupState::Failed { problem }) => {
            (wire::SetupState::Failed, None, Some(problem.clone()))
        }
    };
    Some(wire::RepositorySetup {
        state: state.into(),
        problem: problem.unwrap_or_default(),
        snapshot_id: snapshot_id.unwrap_or_default(),
        maintenance_problem: maintenance.cloned().unwrap_or_default(),
    })
}
