use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{rings::GONE_KEPT, rings::KEPT, *};
use crate::{
    adapters::memory::{ManualClock, MemoryStore},
    domain::{
        egress::{Denial, EgressDecision, EgressOutcome, Host, Policy, Protocol, Target},
        workspace_event::{EgressSeen, EgressVerdict},
    },
    ports::contract::store::workspace,
    service::egress::EgressRules,
};

async fn events(store: &Arc<MemoryStore>) -> Events {
    let clock = Arc::new(ManualClock::at(1_000));
    Events::open(store.clone(), clock, Redactions::default())
        .await
        .unwrap()
}

fn all(workspace: Option<&Workspace>, after: u64) -> EventQuery {
    EventQuery {
        workspace: workspace.map(|workspace| workspace.id.clone()),
        after,
        since_ms: None,
        following: Following::No,
    }
}

/// Numbers of the events, and gaps, in order.
async fn numbers(events: &Events, query: EventQuery) -> Vec<Result<u64, (u64, u64)>> {
    let items: Vec<_> = events.read(query).collect().await;
    let number = |item| match item {
        EventItem::Event(event) => Ok(event.sequence),
        EventItem::Gap { after, before } => Err((after, before)),
    };
    items
        .into_iter()
        .map(|item| number(item.unwrap()))
        .collect()
}

fn connection(count: u64) -> Happening {
    Happening::Egress(EgressSeen {
        target: "a.example:443".to_owned(),
        protocol: "socks".to_owned(),
        verdict: EgressVerdict::Failed {
            reason: "it is a test".to_owned(),
        },
        count,
    })
}

#[tokio::test]
async fn events_are_numbered_over_restarts_and_read_by_workspace_and_time() {
    let store = Arc::new(MemoryStore::new());
    let (api, web) = (workspace(1, "api"), workspace(2, "web"));
    let first = events(&store).await;
    first.record(&api, Happening::Created).await;
    first.record(&web, Happening::Created).await;
    let second = events(&store).await;
    second.record(&api, Happening::Paused).await;
    assert_eq!(numbers(&second, all(None, 0)).await, [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(numbers(&second, all(Some(&api), 0)).await, [Ok(1), Ok(3)]);
    assert_eq!(numbers(&second, all(Some(&api), 1)).await, [Ok(3)]);
    let late = EventQuery {
        since_ms: Some(1_001),
        ..all(None, 0)
    };
    assert_eq!(numbers(&second, late).await, []);
}

#[tokio::test]
async fn a_busy_network_pushes_out_neither_the_life_cycle_nor_other_workspaces() {
    let store = Arc::new(MemoryStore::new());
    let (api, web) = (workspace(1, "api"), workspace(2, "web"));
    for known in [&api, &web] {
        store.add_workspace(known).await.unwrap();
    }
    let events = events(&store).await;
    events.record(&api, Happening::Created).await;
    events.record(&web, Happening::Created).await;
    for number in 0..KEPT as u64 + 5 {
        events.record(&api, connection(number)).await;
    }
    assert_eq!(numbers(&events, all(Some(&web), 0)).await, [Ok(2)]);
    let api_events = numbers(&events, all(Some(&api), 0)).await;
    // The first five connections, 3 to 7, are gone, and that is said.
    assert_eq!(api_events[..3], [Ok(1), Err((1, 8)), Ok(8)]);
    assert_eq!(api_events.len(), KEPT + 2);
    // A reader who had come further misses nothing.
    assert_eq!(
        numbers(&events, all(Some(&api), 7)).await[..2],
        [Ok(8), Ok(9)]
    );
    let everything = numbers(&events, all(None, 0)).await;
    assert_eq!(everything[..4], [Ok(1), Ok(2), Err((2, 8)), Ok(8)]);
    assert_eq!(
        store.workspace_events(0, 10_000).await.unwrap().len(),
        KEPT + 2
    );
}

#[tokio::test]
async fn what_happened_to_deleted_workspaces_is_kept_for_a_bounded_number_of_them() {
    let store = Arc::new(MemoryStore::new());
    let first = events(&store).await;
    for number in 0..GONE_KEPT as u128 + 2 {
        let gone = workspace(number, "gone");
        first.record(&gone, Happening::Created).await;
        first.record(&gone, Happening::Deleted).await;
    }
    let kept = |events: Events| async move {
        let mut kept = numbers(&events, all(None, 0)).await;
        kept.remove(0)
    };
    assert_eq!(kept(first).await, Err((0, 5)));
    // A restart finds the same ones gone.
    let second = events(&store).await;
    let one_more = workspace(9_999, "gone");
    second.record(&one_more, Happening::Deleted).await;
    assert_eq!(kept(second).await, Err((0, 7)));
}

#[tokio::test]
async fn a_follower_gets_what_happens_and_is_told_what_could_not_be_recorded() {
    let store = Arc::new(MemoryStore::new());
    let events = events(&store).await;
    let api = workspace(1, "api");
    let query = EventQuery {
        following: Following::Yes,
        ..all(Some(&api), 0)
    };
    let mut following = events.read(query);
    assert!(
        following.next().now_or_never().is_none(),
        "nothing happened"
    );
    events.record(&api, Happening::Created).await;
    let first = following.next().await.unwrap().unwrap();
    let EventItem::Event(first) = first else {
        panic!("{first:?}");
    };
    assert_eq!((first.sequence, first.at_ms), (1, 1_000));

    store.fill_disk();
    events.record(&api, Happening::Paused).await;
    assert!(
        following.next().now_or_never().is_none(),
        "it is not on disk"
    );
    store.free_disk();
    events.record(&api, Happening::Resumed).await;
    let gap = following.next().await.unwrap().unwrap();
    assert_eq!(
        gap,
        EventItem::Gap {
            after: 1,
            before: 3
        }
    );
    let third = following.next().await.unwrap().unwrap();
    assert!(matches!(third, EventItem::Event(event) if event.what == Happening::Resumed));
}

#[tokio::test]
async fn a_number_that_was_never_given_is_a_gap_backwards() {
    let store = Arc::new(MemoryStore::new());
    let events = events(&store).await;
    events
        .record(&workspace(1, "api"), Happening::Created)
        .await;
    assert_eq!(numbers(&events, all(None, 70)).await, [Err((70, 2))]);
}

struct Names;

impl EgressRules for Names {
    fn rules(&self, _: &WorkspaceId) -> Option<(Policy, String)> {
        Some((Policy::None, "api".to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn decisions_are_grouped_and_those_that_were_missed_are_counted() {
    let store = Arc::new(MemoryStore::new());
    let events = events(&store).await;
    let (tell, decisions) = broadcast::channel(4);
    let stop = CancellationToken::new();
    let recording = tokio::spawn(record_connections(
        events.clone(),
        decisions,
        Arc::new(Names),
        stop.clone(),
    ));
    let target = |host: &str| Target {
        host: Host::parse(host).unwrap(),
        port: 443,
    };
    let decision = |number, host: &str| EgressDecision {
        at_ms: 7,
        workspace: WorkspaceId::from_uuid(Uuid::from_u128(1)),
        number,
        target: target(host).to_string(),
        protocol: Protocol::Connect,
        outcome: EgressOutcome::Denied(Denial::NotListed(target(host))),
    };
    let quiet = || tokio::time::sleep(Duration::from_secs(2));
    for (number, host) in [(1, "a.example"), (2, "b.example"), (3, "a.example")] {
        tell.send(decision(number, host)).unwrap();
    }
    quiet().await;
    // The channel holds four of these six.
    for number in 4..10 {
        tell.send(decision(number, "c.example")).unwrap();
    }
    quiet().await;
    tell.send(decision(10, "d.example")).unwrap();
    stop.cancel();
    recording.await.unwrap();

    let recorded = store.workspace_events(0, 100).await.unwrap();
    let told: Vec<_> = recorded
        .into_iter()
        .map(|event| match event.what {
            Happening::Egress(seen) => (seen.target, seen.count),
            Happening::EgressMissed { count } => ("missed".to_owned(), count),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ("a.example:443", 2),
        ("b.example:443", 1),
        ("missed", 2),
        ("c.example:443", 4),
        ("d.example:443", 1),
    ];
    assert_eq!(told, expected.map(|(text, count)| (text.to_owned(), count)));
}
