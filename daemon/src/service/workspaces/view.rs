//! A workspace as it is seen: its record beside what the engine and the link
//! say.

use std::sync::Arc;

use crate::{
    domain::{
        workspace::{Desired, Observed, Workspace},
        workspace_event::StopCause,
    },
    ports::runtime::{ContainerId, ContainerStatus, ContainerSummary, RuntimeError},
};

/// A workspace and what it is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceView {
    /// Its record.
    pub workspace: Arc<Workspace>,
    /// What it is seen doing.
    pub observed: Observed,
    /// What that means for a person, where there is more to say.
    pub reason: Option<String>,
    /// Its container, where there is one.
    pub container: Option<ContainerId>,
}

/// Whether an agent is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    Down,
}

impl WorkspaceView {
    /// What is seen of a workspace.
    pub(super) fn new(
        workspace: Arc<Workspace>,
        container: Option<ContainerSummary>,
        link: Link,
    ) -> Self {
        let status = container.as_ref().map(|container| container.status);
        let (observed, reason) = observe(workspace.desired, status, link);
        let notice = (workspace.upkeep.notice.as_ref()).map(ToString::to_string);
        Self {
            reason: reason
                .map(str::to_owned)
                .or_else(|| why_stopped(&workspace, observed))
                .or_else(|| workspace.setup.problem())
                .or(notice),
            workspace,
            observed,
            container: container.map(|container| container.id),
        }
    }

    /// What can be said while the engine does not answer.
    pub(super) fn blind(workspace: Arc<Workspace>, error: &RuntimeError) -> Self {
        let observed = match workspace.desired {
            Desired::Running => Observed::Starting,
            Desired::Stopped => Observed::Stopped,
            Desired::Paused => Observed::Paused,
            Desired::Deleted => Observed::Deleting,
        };
        Self {
            workspace,
            observed,
            reason: Some(error.to_string()),
            container: None,
        }
    }
}

/// What people are told of a workspace that was stopped for a reason of its own.
fn why_stopped(workspace: &Workspace, observed: Observed) -> Option<String> {
    if observed != Observed::Stopped || workspace.desired != Desired::Stopped {
        return None;
    }
    match workspace.stop_cause? {
        StopCause::Request => None,
        cause @ (StopCause::Idle { .. } | StopCause::PauseLost) => {
            Some(format!("{cause}; the next use starts it"))
        }
    }
}

fn observe(
    desired: Desired,
    status: Option<ContainerStatus>,
    link: Link,
) -> (Observed, Option<&'static str>) {
    if desired == Desired::Deleted {
        return (Observed::Deleting, None);
    }
    match (status, link) {
        (Some(ContainerStatus::Running), _) if desired == Desired::Stopped => {
            (Observed::Running, Some("it is being stopped"))
        }
        (Some(ContainerStatus::Running), Link::Up) => (Observed::Running, None),
        (Some(ContainerStatus::Running), Link::Down) => (
            Observed::Starting,
            Some("the container runs, its agent has not connected"),
        ),
        (Some(ContainerStatus::Restarting), _) => (Observed::Starting, None),
        (Some(ContainerStatus::Paused), _) if desired == Desired::Paused => (
            Observed::Paused,
            Some("paused on request; use is refused until `compyctl workspace resume`"),
        ),
        (Some(ContainerStatus::Paused), _) => (
            Observed::Paused,
            Some("the container is paused; starting the workspace goes on"),
        ),
        (Some(ContainerStatus::Created | ContainerStatus::Exited), _) => {
            let reason = match desired {
                Desired::Running => {
                    Some("the container is not running; it is started at the next use")
                }
                Desired::Paused => Some(
                    "it was paused, and the processes that were frozen have ended; it is started at the next use",
                ),
                Desired::Stopped | Desired::Deleted => None,
            };
            (Observed::Stopped, reason)
        }
        (Some(ContainerStatus::Broken), _) => (
            Observed::Missing,
            Some("the engine could not remove the container; it is being made again"),
        ),
        (None, _) => (
            Observed::Missing,
            Some("the engine has no container for it; it is being made again"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_a_container_has_one_meaning() {
        use ContainerStatus as C;
        let table = [
            (
                Desired::Running,
                Some(C::Running),
                Link::Up,
                Observed::Running,
            ),
            (
                Desired::Running,
                Some(C::Running),
                Link::Down,
                Observed::Starting,
            ),
            (
                Desired::Running,
                Some(C::Restarting),
                Link::Down,
                Observed::Starting,
            ),
            (
                Desired::Running,
                Some(C::Paused),
                Link::Up,
                Observed::Paused,
            ),
            (
                Desired::Running,
                Some(C::Created),
                Link::Down,
                Observed::Stopped,
            ),
            (
                Desired::Paused,
                Some(C::Paused),
                Link::Down,
                Observed::Paused,
            ),
            (
                Desired::Paused,
                Some(C::Exited),
                Link::Down,
                Observed::Stopped,
            ),
            (
                Desired::Stopped,
                Some(C::Exited),
                Link::Down,
                Observed::Stopped,
            ),
            (
                Desired::Stopped,
                Some(C::Broken),
                Link::Down,
                Observed::Missing,
            ),
            (Desired::Stopped, None, Link::Down, Observed::Missing),
            (
                Desired::Deleted,
                Some(C::Running),
                Link::Up,
                Observed::Deleting,
            ),
            (Desired::Deleted, None, Link::Down, Observed::Deleting),
        ];
        for (desired, status, link, expected) in table {
            let (observed, _) = observe(desired, status, link);
            assert_eq!(observed, expected, "{desired:?} {status:?} {link:?}");
        }
    }

    #[test]
    fn a_container_that_should_run_and_does_not_says_what_comes() {
        let (_, reason) = observe(Desired::Running, Some(ContainerStatus::Exited), Link::Down);
        assert!(reason.unwrap().contains("next use"));
        let (_, reason) = observe(Desired::Stopped, Some(ContainerStatus::Exited), Link::Down);
        assert_eq!(reason, None);
    }
}
