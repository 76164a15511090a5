//! Pausing, stopping what is idle, and what tells of it.

use futures_util::StreamExt as _;

use super::*;
use crate::{
    domain::{
        idle::IdleStop,
        workspace_event::{Happening, StartCause, StopCause},
    },
    service::events::{EventItem, EventQuery, Following},
};

/// What was recorded of a workspace, oldest first.
async fn happenings(workspaces: &Workspaces, id: &WorkspaceId) -> Vec<Happening> {
    let query = EventQuery {
        workspace: Some(id.clone()),
        after: 0,
        since_ms: None,
        following: Following::No,
    };
    let items: Vec<_> = workspaces.events().read(query).collect().await;
    let what = |item: Result<EventItem, _>| match item.unwrap() {
        EventItem::Event(event) => event.what,
        gap @ EventItem::Gap { .. } => panic!("{gap:?}"),
    };
    items.into_iter().map(what).collect()
}

#[tokio::test]
async fn a_paused_workspace_refuses_use_until_it_is_resumed_also_after_a_restart() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = workspaces
        .create(create("a"))
        .await
        .unwrap()
        .workspace
        .id
        .clone();
    for _ in 0..2 {
        let paused = workspaces.pause(&id).await.unwrap();
        assert_eq!(paused.observed, Observed::Paused);
        assert!(paused.reason.unwrap().contains("resume"));
    }
    let refused = workspaces.agent(&id).await.err().unwrap();
    assert!(matches!(refused, WorkspacesError::Paused(_)), "{refused}");

    let workspaces = bench.daemon().await;
    workspaces.reconcile().await.unwrap();
    assert_eq!(bench.runtime.status(&id), Some(ContainerStatus::Paused));
    let refused = workspaces.agent(&id).await.err().unwrap();
    assert!(matches!(refused, WorkspacesError::Paused(_)), "{refused}");

    let running = workspaces.resume(&id).await.unwrap();
    assert_eq!(running.observed, Observed::Running);
    workspaces.agent(&id).await.unwrap();
    let expected = [Happening::Created, Happening::Paused, Happening::Resumed];
    assert_eq!(happenings(&workspaces, &id).await, expected);
}

#[tokio::test]
async fn what_is_paused_and_loses_its_processes_is_stopped_says_so_and_starts_on_use() {
    // The engine restarts; somebody removes the container; the engine fails to.
    for found in [
        Some(ContainerStatus::Exited),
        None,
        Some(ContainerStatus::Broken),
    ] {
        let bench = Bench::new();
        let workspaces = bench.daemon().await;
        let id = workspaces
            .create(create("a"))
            .await
            .unwrap()
            .workspace
            .id
            .clone();
        workspaces.pause(&id).await.unwrap();
        match found {
            Some(status) => bench.runtime.set_status(&id, status),
            None => bench.runtime.lose(&id),
        }
        workspaces.reconcile().await.unwrap();
        let view = workspaces.get(&id).await.unwrap();
        assert_eq!(view.observed, Observed::Stopped, "{found:?}");
        assert!(view.reason.unwrap().contains("was paused"));
        workspaces.agent(&id).await.unwrap();
        let mut seen = happenings(&workspaces, &id).await;
        let repaired = seen.len();
        seen.retain(|what| !matches!(what, Happening::Repaired { .. }));
        let repaired = repaired - seen.len();
        assert_eq!(
            repaired,
            usize::from(found != Some(ContainerStatus::Exited))
        );
        let expected = [
            Happening::Created,
            Happening::Paused,
            Happening::Stopped {
                cause: StopCause::PauseLost,
            },
            Happening::Started {
                cause: StartCause::Use,
            },
        ];
        assert_eq!(seen, expected, "{found:?}");
    }
}

#[tokio::test]
async fn a_stopped_workspace_is_neither_paused_nor_resumed() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = workspaces
        .create(create("a"))
        .await
        .unwrap()
        .workspace
        .id
        .clone();
    workspaces.stop(&id).await.unwrap();
    for refused in [workspaces.pause(&id).await, workspaces.resume(&id).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, WorkspacesError::Stopped(_)), "{refused}");
    }
    assert_eq!(bench.runtime.status(&id), Some(ContainerStatus::Exited));
}

#[tokio::test]
async fn an_idle_workspace_is_stopped_over_a_restart_unless_somebody_holds_it() {
    const AFTER: Duration = Duration::from_secs(60);
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let mut request = create("a");
    request.idle_stop = IdleStop::AfterMs(60_000);
    let id = workspaces
        .create(request)
        .await
        .unwrap()
        .workspace
        .id
        .clone();
    let idling = workspaces.idling();
    assert_eq!((idling[0].id.clone(), idling[0].after), (id.clone(), AFTER));
    workspaces.flush_uses().await.unwrap();

    // Half of the time in one life, half in the next one.
    bench.clock.advance(AFTER / 2);
    let workspaces = bench.daemon().await;
    workspaces.reconcile().await.unwrap();
    assert!(!workspaces.stop_idle(&id, AFTER).await.unwrap());
    bench.clock.advance(AFTER / 2);
    let in_use = workspaces.use_of(&id);
    assert!(
        !workspaces.stop_idle(&id, AFTER).await.unwrap(),
        "it is held"
    );
    drop(in_use);
    bench.clock.advance(AFTER);
    assert!(workspaces.stop_idle(&id, AFTER).await.unwrap());

    assert_eq!(bench.runtime.status(&id), Some(ContainerStatus::Exited));
    let view = workspaces.get(&id).await.unwrap();
    assert_eq!(view.observed, Observed::Stopped);
    assert!(view.reason.unwrap().contains("nobody used it for 60 s"));
    assert_eq!(workspaces.idling(), []);
    workspaces.agent(&id).await.unwrap();
    let stopped = Happening::Stopped {
        cause: StopCause::Idle { after_ms: 60_000 },
    };
    let happened = happenings(&workspaces, &id).await;
    assert!(happened.contains(&stopped), "{happened:?}");
}

#[tokio::test]
async fn a_watcher_gets_every_workspace_once_and_then_what_changes() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = workspaces
        .create(create("a"))
        .await
        .unwrap()
        .workspace
        .id
        .clone();
    let mut changes = workspaces.watch();
    let mut seen = async || {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.next()).await;
        match change.expect("a change comes").unwrap() {
            Change::Changed(view) => {
                format!("{} {:?}", view.workspace.definition.name, view.observed)
            }
            Change::Removed(id) => format!("{id} removed"),
            Change::AllSent => "all sent".to_owned(),
        }
    };
    assert_eq!(seen().await, "a Running");
    assert_eq!(seen().await, "all sent");
    workspaces.pause(&id).await.unwrap();
    assert_eq!(seen().await, "a Paused");
    workspaces.delete(&id, false).await.unwrap();
    let mut last = seen().await;
    // It may be seen on its way.
    if last == "a Deleting" {
        last = seen().await;
    }
    assert_eq!(last, format!("{id} removed"));
}

#[tokio::test]
async fn what_an_older_daemon_stored_reads_back() {
    let mut record =
        serde_json::to_value(crate::ports::contract::store::workspace(1, "a")).unwrap();
    let fields = record.as_object_mut().unwrap();
    fields.remove("idle_stop");
    fields.remove("stop_cause");
    fields["definition"]["limits"]
        .as_object_mut()
        .unwrap()
        .remove("disk_bytes");
    let read: Workspace = serde_json::from_value(record).unwrap();
    assert_eq!(read, crate::ports::contract::store::workspace(1, "a"));
}
