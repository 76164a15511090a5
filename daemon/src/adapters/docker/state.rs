//! A container as the port describes it.

use std::collections::HashMap;

use bollard::models::ContainerInspectResponse;

use super::{LABEL_BASE, LABEL_DEFINITION, LABEL_GENERATION, LABEL_WORKSPACE};
use crate::domain::ids::WorkspaceId;
use crate::domain::setup::StartStamp;
use crate::domain::snapshot::journal::{Generation, ImageRef};
use crate::ports::runtime::{ContainerId, ContainerState, ContainerStatus, ContainerSummary};

/// Reads an inspection; `None` when its label is not a workspace's id.
pub(super) fn read(inspected: ContainerInspectResponse) -> Option<ContainerState> {
    let labels = inspected.config.and_then(|config| config.labels)?;
    let (workspace, generation) = identity(&labels)?;
    let definition = labels
        .get(LABEL_DEFINITION)
        .and_then(|json| serde_json::from_str(json).ok());
    let base = base(&labels);
    let state = inspected.state.unwrap_or_default();
    let id = inspected.id?;
    let started_at = state.started_at.unwrap_or_default();
    Some(ContainerState {
        start: StartStamp(format!("{id} {started_at}")),
        id: ContainerId(id),
        workspace,
        definition,
        generation,
        base,
        status: status(state.status.map(|status| status.to_string())),
        pid: state.pid.and_then(|pid| pid.try_into().ok()).unwrap_or(0),
    })
}

/// Reads a line of a list; `None` when its label is not a workspace's id.
pub(super) fn summarize(listed: bollard::models::ContainerSummary) -> Option<ContainerSummary> {
    let labels = listed.labels?;
    let (workspace, generation) = identity(&labels)?;
    Some(ContainerSummary {
        id: ContainerId(listed.id?),
        workspace,
        generation,
        base: base(&labels),
        status: status(listed.state.map(|state| state.to_string())),
    })
}

fn base(labels: &HashMap<String, String>) -> Option<ImageRef> {
    let base = labels.get(LABEL_BASE).filter(|base| !base.is_empty());
    base.map(|base| ImageRef(base.clone()))
}

fn identity(labels: &HashMap<String, String>) -> Option<(WorkspaceId, Generation)> {
    let workspace = labels.get(LABEL_WORKSPACE)?.parse().ok()?;
    let generation = labels
        .get(LABEL_GENERATION)
        .and_then(|number| number.parse().ok())
        .map_or(Generation::FIRST, Generation);
    Some((workspace, generation))
}

/// The engine's word, which is the same in a list and in an inspection.
fn status(word: Option<String>) -> ContainerStatus {
    match word.as_deref() {
        Some("created") => ContainerStatus::Created,
        Some("running" | "stopping") => ContainerStatus::Running,
        Some("paused") => ContainerStatus::Paused,
        Some("restarting") => ContainerStatus::Restarting,
        Some("exited") => ContainerStatus::Exited,
        // `removing`, `dead`, and what nobody knows.
        Some(_) | None => ContainerStatus::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_engine_has_a_meaning_and_what_is_on_its_way_out_is_broken() {
        for (word, meaning) in [
            ("created", ContainerStatus::Created),
            ("running", ContainerStatus::Running),
            ("stopping", ContainerStatus::Running),
            ("paused", ContainerStatus::Paused),
            ("restarting", ContainerStatus::Restarting),
            ("exited", ContainerStatus::Exited),
            ("removing", ContainerStatus::Broken),
            ("dead", ContainerStatus::Broken),
            ("of a later engine", ContainerStatus::Broken),
        ] {
            assert_eq!(status(Some(word.to_owned())), meaning, "{word}");
        }
        assert_eq!(status(None), ContainerStatus::Broken);
    }
}
