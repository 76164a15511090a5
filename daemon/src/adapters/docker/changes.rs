//! What the engine says happens to its containers and volumes.

use std::{
    collections::HashMap,
    future::ready,
    time::{SystemTime, UNIX_EPOCH},
};

use bollard::{
    Docker,
    models::{EventMessage, EventMessageTypeEnum as Subject},
    query_parameters::EventsOptions,
};
use futures_util::{StreamExt as _, stream::BoxStream};

use super::{LABEL_DAEMON, LABEL_WORKSPACE, errors::unavailable, helper, workspace_of_volume};
use crate::{
    domain::ids::WorkspaceId,
    ports::runtime::{ChangeKind, RuntimeChange, RuntimeError},
};

/// Follows the engine from now on, for the objects of one daemon.
pub(super) async fn follow(
    docker: Docker,
    daemon: String,
) -> Result<BoxStream<'static, RuntimeChange>, RuntimeError> {
    docker.ping().await.map_err(|error| unavailable(&error))?;
    // The connection is made when somebody listens; nothing is missed between.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.map_or(0, |since| since.as_secs()).to_string();
    let options = EventsOptions {
        since: Some(since),
        filters: Some(filters()),
        ..Default::default()
    };
    let events = docker.events(Some(options));
    Ok(events
        .take_while(|event| ready(event.is_ok()))
        .filter_map(move |event| ready(event.ok().and_then(|event| read(event, &daemon))))
        .boxed())
}

/// The engine knows no label of a volume any more when it says that the volume
/// is gone, so labels are looked at here.
fn filters() -> HashMap<String, Vec<String>> {
    let of = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let actions = ["start", "die", "oom", "pause", "unpause", "destroy"];
    HashMap::from([
        ("type".to_owned(), of(&["container", "volume"])),
        ("event".to_owned(), of(&actions)),
    ])
}

/// `None` for what is not a workspace of this daemon.
fn read(event: EventMessage, daemon: &str) -> Option<RuntimeChange> {
    let actor = event.actor?;
    let action = event.action?;
    match event.typ? {
        Subject::CONTAINER => {
            let labels = actor.attributes?;
            if labels.get(LABEL_DAEMON)? != daemon || helper::is_helper(Some(&labels)) {
                return None;
            }
            let workspace: WorkspaceId = labels.get(LABEL_WORKSPACE)?.parse().ok()?;
            let kind = match action.as_str() {
                "start" => ChangeKind::Started,
                "die" => ChangeKind::Ended,
                "oom" => ChangeKind::OutOfMemory,
                "pause" => ChangeKind::Paused,
                "unpause" => ChangeKind::Resumed,
                "destroy" => ChangeKind::ContainerRemoved,
                _ => return None,
            };
            Some(RuntimeChange { workspace, kind })
        }
        // Of another daemon's volume nobody here knows the workspace.
        Subject::VOLUME if action == "destroy" => Some(RuntimeChange {
            workspace: workspace_of_volume(&actor.id?)?,
            kind: ChangeKind::VolumeRemoved,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::{super::LABEL_DEFINITION, *};

    const WORKSPACE: &str = "ws-0197b1c2d3e47f5a8b6c7d8e9f001122";

    fn event(subject: Subject, action: &str, id: &str, labels: &[(&str, &str)]) -> EventMessage {
        let attributes = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        EventMessage {
            typ: Some(subject),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: Some(attributes.collect()),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_happens_to_workspaces_of_this_daemon_is_heard() {
        let workspace: WorkspaceId = WORKSPACE.parse().unwrap();
        let ours = [(LABEL_DAEMON, "us"), (LABEL_WORKSPACE, WORKSPACE)];
        let theirs = [(LABEL_DAEMON, "them"), (LABEL_WORKSPACE, WORKSPACE)];
        let helper = [ours[0], ours[1], (helper::LABEL_HELPER, "us")];
        let from_a_helper = [&helper[..], &[(LABEL_DEFINITION, "{}")]].concat();
        let volume = format!("compy-{WORKSPACE}-2-work");
        let table = [
            (
                event(Subject::CONTAINER, "die", "c", &ours),
                Some(ChangeKind::Ended),
            ),
            (
                event(Subject::CONTAINER, "destroy", "c", &ours),
                Some(ChangeKind::ContainerRemoved),
            ),
            (event(Subject::CONTAINER, "die", "c", &theirs), None),
            (event(Subject::CONTAINER, "die", "c", &helper), None),
            (
                event(Subject::CONTAINER, "die", "c", &from_a_helper),
                Some(ChangeKind::Ended),
            ),
            (event(Subject::CONTAINER, "die", "c", &[]), None),
            (
                event(Subject::VOLUME, "destroy", &volume, &[]),
                Some(ChangeKind::VolumeRemoved),
            ),
            (
                event(Subject::VOLUME, "destroy", "compy-agent-1", &[]),
                None,
            ),
            (event(Subject::VOLUME, "mount", &volume, &[]), None),
        ];
        for (event, kind) in table {
            let expected = kind.map(|kind| RuntimeChange {
                workspace: workspace.clone(),
                kind,
            });
            assert_eq!(read(event.clone(), "us"), expected, "{event:?}");
        }
    }
}
