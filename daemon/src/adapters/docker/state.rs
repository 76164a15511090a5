//! A container as the port describes it.

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};

use super::{LABEL_BASE, LABEL_DEFINITION, LABEL_GENERATION, LABEL_WORKSPACE};
use crate::domain::setup::StartStamp;
use crate::domain::snapshot::journal::{Generation, ImageRef};
use crate::ports::runtime::{ContainerId, ContainerState, ContainerStatus};

/// Reads an inspection; `None` when its label is not a workspace's id.
pub(super) fn read(inspected: ContainerInspectResponse) -> Option<ContainerState> {
    let labels = inspected.config.and_then(|config| config.labels)?;
    let workspace = labels.get(LABEL_WORKSPACE)?.parse().ok()?;
    let definition = labels
        .get(LABEL_DEFINITION)
        .and_then(|json| serde_json::from_str(json).ok());
    let generation = labels
        .get(LABEL_GENERATION)
        .and_then(|number| number.parse().ok())
        .map_or(Generation::FIRST, Generation);
    let base = labels
        .get(LABEL_BASE)
        .filter(|base| !base.is_empty())
        .map(|base| ImageRef(base.clone()));
    let state = inspected.state.unwrap_or_default();
    let status = match state.status {
        Some(Status::CREATED) => ContainerStatus::Created,
        Some(Status::RUNNING | Status::STOPPING) => ContainerStatus::Running,
        Some(Status::PAUSED) => ContainerStatus::Paused,
        Some(Status::RESTARTING) => ContainerStatus::Restarting,
        Some(Status::EXITED) => ContainerStatus::Exited,
        Some(Status::REMOVING | Status::DEAD | Status::EMPTY) | None => ContainerStatus::Broken,
    };
    let id = inspected.id?;
    let started_at = state.started_at.unwrap_or_default();
    Some(ContainerState {
        start: StartStamp(format!("{id} {started_at}")),
        id: ContainerId(id),
        workspace,
        definition,
        generation,
        base,
        status,
        pid: state.pid.and_then(|pid| pid.try_into().ok()).unwrap_or(0),
    })
}
