//! SIGKILL of the daemon at the boundaries of a session's journal: before an
//! append is durable, when its effect is done and nobody knows, and after it,
//! when nobody has acted on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt as _,
    time::Duration,
};

use compyd::{
    adapters::sled::{SledOptions, SledStore},
    domain::session::event::{Condition, Event, EventBody},
    ports::store::StorePort as _,
};
use compyd_proto::v1::{
    GetSessionRequest, Session, SessionEvent, SessionState, session_event::Event as Wire,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::torture,
    sessions::{outline, request, rests},
};

use super::long_session::{
    CANARY, Calls, ended_as, ended_well, guarded_script, guarded_well, marks, prepare_guarded,
    script, start,
};
use crate::credentials::files_below;

/// Boundaries killed at in `make test`; all of them under `make torture`.
const SAMPLED: u64 = 10;
/// How long one life of the daemon may take.
const LIFE_MAX: Duration = Duration::from_secs(240);

/// Which side of an append the daemon dies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// Where a daemon died.
struct Died {
    side: Side,
    /// The events of the append.
    events: Vec<Event>,
}

impl Died {
    fn read(daemon: &Daemon) -> Self {
        let file = daemon.data_dir().join("died");
        let text = std::fs::read_to_string(&file)
            .expect("it says where it died (a daemon with its feature `test-util`?)");
        std::fs::remove_file(file).unwrap();
        let mut lines = text.lines();
        let side = match lines.next() {
            Some("before") => Side::Before,
            Some("after") => Side::After,
            other => panic!("{other:?} is no side"),
        };
        let events = lines.map(|line| Event::decode(line.as_bytes()).unwrap());
        let events = events.collect();
        Self { side, events }
    }

    /// The last event that is durable.
    fn durable(&self) -> u64 {
        match self.side {
            Side::Before => self.events[0].sequence - 1,
            Side::After => self.events[self.events.len() - 1].sequence,
        }
    }

    /// Whether the next life finds a call of the model's that has no answer. It
    /// gives that up and asks again: the one effect that is made anew.
    fn leaves_the_model_asked(&self) -> bool {
        match self.side {
            Side::Before => matches!(
                self.events[0].body,
                EventBody::ModelAnswered(_) | EventBody::ModelFailed { .. }
            ),
            Side::After => {
                self.events.last().map(|event| &event.body) == Some(&EventBody::ModelAsked)
            }
        }
    }

    /// Whether the next life finds the session waiting for a person.
    fn leaves_it_waiting(&self) -> bool {
        match self.side {
            Side::Before => matches!(self.events[0].body, EventBody::QuestionAnswered { .. }),
            Side::After => self.events.last().is_some_and(|event| {
                matches!(&event.body, EventBody::StateChanged { to, .. } if *to == Condition::Waiting)
            }),
        }
    }

    /// Whether the next life finds the session ended, and has nothing to go on
    /// with.
    fn leaves_it_ended(&self) -> bool {
        let is_end = |event: &Event| matches!(&event.body, EventBody::StateChanged { to, .. } if *to == Condition::Verified);
        self.side == Side::After && self.events.last().is_some_and(is_end)
    }

    /// Number of the first event that the next life adds by driving the session.
    fn next_driven(&self) -> u64 {
        // It is not interrupted: a person's answer comes next.
        if self.leaves_it_waiting() {
            return self.durable() + 1;
        }
        // The session is interrupted, and resumed.
        let resumed = self.durable() + 2;
        match self.leaves_the_model_asked() {
            // The call is given up, what it may cost reserved, and it is asked.
            true => resumed + 4,
            false => resumed + 1,
        }
    }
}

/// One life of the daemon, which is to die at an event; `None` when the session
/// has come to rest before that. It is killed once more, by whoever calls, the
/// first time that it waits for a person.
async fn life(
    daemon: &mut Daemon,
    id: &str,
    side: Side,
    at: u64,
    killed_waiting: &mut bool,
) -> Option<Died> {
    let wanted = daemon.data_dir().join("death");
    let name = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    std::fs::write(&wanted, format!("{name} {at}")).unwrap();
    daemon.start_again();
    let deadline = tokio::time::Instant::now() + LIFE_MAX;
    loop {
        if let Some(status) = daemon.has_ended() {
            assert_eq!(status.signal(), Some(9), "{}", daemon.log());
            let died = Died::read(daemon);
            assert_eq!(died.side, side);
            return Some(died);
        }
        let request = GetSessionRequest {
            session_id: id.to_owned(),
        };
        // It may die while it answers.
        let answer = daemon.sessions().get_session(request).await;
        let session = answer.ok().and_then(|answer| answer.into_inner().session);
        let state = session.map_or(SessionState::Running, |session| session.state());
        if state == SessionState::Waiting && !*killed_waiting {
            daemon.kill().await;
            daemon.start_again();
            *killed_waiting = true;
        } else if state == SessionState::Waiting {
            // It may die of the answer.
            approve(daemon, id).await;
        } else if rests(state) && state != SessionState::Interrupted {
            let _ = std::fs::remove_file(&wanted);
            return None;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "no event {at} in {LIFE_MAX:?}\n{}",
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers the one approval that is waited for; whether the answer was taken.
async fn approve(daemon: &Daemon, id: &str) -> bool {
    let approval = format!("{id}:q1");
    let said = daemon.compyctl(&["approval", "approve", &approval]).await;
    said.code == 0
}

/// A session's log as it is on disk. No daemon may have the store open.
async fn log_on_disk(daemon: &Daemon, id: &str) -> Vec<Vec<u8>> {
    let options = SledOptions::in_dir(daemon.data_dir().join("store"));
    let store = tokio::task::spawn_blocking(|| SledStore::open(options));
    let store = store.await.unwrap().expect("the store can be opened");
    let id = id.parse().unwrap();
    let mut events = Vec::new();
    loop {
        let page = store.events(&id, events.len() as u64 + 1, 500).await;
        let page = page.expect("the log can be read");
        if page.is_empty() {
            store.close().await;
            return events;
        }
        events.extend(page);
    }
}

/// A name for each event that a session has whatever is done to its daemon, by
/// its sequence number. Two runs of a script have the same names.
fn names(log: &[Event]) -> BTreeMap<u64, String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut answers = 0;
    let mut names = BTreeMap::new();
    for event in log {
        let name = match &event.body {
            // Asked again after each kill.
            EventBody::BudgetReserved(_) => Some(format!("reserved {answers}")),
            EventBody::ModelAsked => Some(format!("asked {answers}")),
            EventBody::Created(_) => Some("created".to_owned()),
            EventBody::StageEntered { to, .. } => Some(format!("enter {to}")),
            EventBody::StageLeft { from, .. } => Some(format!("leave {from}")),
            EventBody::MessageAdded { .. } => Some("message".to_owned()),
            EventBody::ModelAnswered(_) => {
                answers += 1;
                Some("answer".to_owned())
            }
            EventBody::ToolStarted { call, .. } => Some(format!("start {}", call.name)),
            EventBody::ToolEnded(ended) => Some(format!("{} {:?}", ended.name, ended.outcome)),
            EventBody::Cognition(_) => Some("cognition".to_owned()),
            EventBody::TodoChanged { todo } => Some(format!("todo {}", todo.state.name())),
            EventBody::WorkStarted { work, .. } => Some(format!("begin {}", work.name())),
            EventBody::WorkEnded { work, .. } => Some(format!("end {}", work.name())),
            EventBody::StateChanged { to, .. } if *to == Condition::Verified => {
                Some("verified".to_owned())
            }
            EventBody::StateChanged { .. } | EventBody::ModelFailed { .. } => None,
            EventBody::QuestionAsked { .. } => Some("approval".to_owned()),
            EventBody::QuestionAnswered { .. } => Some("approved".to_owned()),
            EventBody::BudgetNoted { .. }
            | EventBody::Compacted { .. }
            | EventBody::CircleFound(_) => {
                panic!("the script comes to no such event: {event:?}")
            }
        };
        let Some(name) = name else { continue };
        let again = name.starts_with("reserved") || name.starts_with("asked");
        let count = seen.entry(name.clone()).or_default();
        *count += usize::from(!again);
        names.insert(event.sequence, format!("{name} {count}"));
    }
    names
}

fn decoded(log: &[Vec<u8>]) -> Vec<Event> {
    log.iter()
        .map(|event| Event::decode(event).unwrap())
        .collect()
}

/// The chain verifies after every kill, for the daemon and for who did not write
/// it, and says what was asked and approved, and each command that ran, once.
async fn the_record_is_whole(daemon: &Daemon, id: &str, events: &[SessionEvent], deaths: &[Died]) {
    let _ = daemon.compyctl(&["audit", "verify"]).await.expect_code(0);
    let file = daemon.directory().join("audit.jsonl");
    let held = daemon.directory().join("audit.checkpoint");
    let [file, held] = [&file, &held].map(|path| path.display().to_string());
    let export = ["audit", "export", &file, "--checkpoint", &held];
    let _ = daemon.compyctl(&export).await.expect_code(0);
    let verify = ["audit", "verify", &file, "--checkpoint", &held];
    let _ = daemon.compyctl(&verify).await.expect_code(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let of_session: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["record"].clone())
        .filter(|record| record["session"] == id)
        .collect();
    let count = |kind: &str, key: &str, value: &str| {
        let is_it =
            |record: &&serde_json::Value| record["kind"] == kind && record["detail"][key] == value;
        of_session.iter().filter(is_it).count()
    };
    // A question and its answer are on record before the session's log has them, so
    // they are there once more for each kill in between.
    let before = |is_it: fn(&EventBody) -> bool| {
        let deaths = deaths.iter().filter(|died| died.side == Side::Before);
        deaths
            .filter(|died| died.events.iter().any(|event| is_it(&event.body)))
            .count()
    };
    let asked = before(|body| matches!(body, EventBody::QuestionAsked { .. }));
    assert_eq!(count("approval", "event", "asked"), 1 + asked);
    let answered = before(|body| matches!(body, EventBody::QuestionAnswered { .. }));
    assert_eq!(count("approval", "event", "answered"), 1 + answered);
    let calls = |mark: &str| {
        let is_it = |record: &&serde_json::Value| {
            let command = record["detail"]["arguments"]["command"].as_str();
            record["kind"] == "tool_call" && command.is_some_and(|command| command.contains(mark))
        };
        of_session.iter().filter(is_it).count()
    };
    for mark in marks() {
        // Handed over when the log has the call's end, and written a moment later.
        let ended = ended_at(events, &mark);
        let cut_off = deaths
            .iter()
            .any(|died| (ended..ended + 3).contains(&died.durable()));
        let recorded = calls(&mark);
        assert!(
            recorded == 1 || (recorded == 0 && cut_off),
            "{mark}: {recorded}"
        );
    }
    let starts = text
        .lines()
        .filter(|line| line.contains("\"event\":\"started\""));
    assert!(starts.count() >= 2, "each life is on record");
}

/// Number of the event that ended the command with a mark.
fn ended_at(events: &[SessionEvent], mark: &str) -> u64 {
    let has_mark = |event: &&SessionEvent| {
        matches!(&event.event, Some(Wire::ToolStarted(started))
            if started.tool.as_ref().is_some_and(|tool| tool.arguments.contains(mark)))
    };
    let began = events.iter().find(has_mark).expect("it ran").sequence;
    let is_end = |event: &&SessionEvent| {
        event.sequence > began && matches!(event.event, Some(Wire::ToolEnded(_)))
    };
    events.iter().find(is_end).expect("it ended").sequence
}

/// Nothing that outlives the session has the credential in it.
async fn nobody_has_the_canary(daemon: &Daemon, id: &str) {
    let canary = CANARY.1.as_bytes();
    let has = |bytes: &[u8]| bytes.windows(canary.len()).any(|window| window == canary);
    for artifact in daemon.artifacts_of(id).await {
        assert!(!has(&daemon.artifact(&artifact.id).await), "{artifact:?}");
    }
    assert!(!has(daemon.log().as_bytes()), "the log");
    let mut files = Vec::new();
    files_below(&daemon.data_dir(), &mut files);
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        // What is gone meanwhile is nobody's.
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!has(&bytes), "{}", file.display());
    }
}

#[tokio::test]
async fn a_daemon_killed_at_every_boundary_ends_the_session_as_if_it_had_lived() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let script = guarded_script();
    let model = script.write(daemon.directory());
    prepare_guarded(&daemon, "reference").await;
    let reference = daemon.start_session(request("reference", &model)).await;
    let is_waiting = |session: &Session| session.state() == SessionState::Waiting;
    let _ = daemon.session_when(&reference, "ask", is_waiting).await;
    assert!(approve(&daemon, &reference).await);
    let as_it_should_be = ended_as(&daemon, "reference", &reference, Calls::Done, &script).await;
    guarded_well(&daemon, "reference", &reference).await;
    let boundaries = as_it_should_be.len() as u64;
    let stride = if torture() { 0 } else { boundaries / SAMPLED };
    prepare_guarded(&daemon, "killed").await;
    daemon.kill().await;
    let reference = decoded(&log_on_disk(&daemon, &reference).await);

    // The first death is before anybody has heard of the session.
    let wanted = daemon.data_dir().join("death");
    daemon.start_again();
    daemon.serves().await;
    std::fs::write(&wanted, "after 1").unwrap();
    let request = request("killed", &model);
    let lost = daemon.sessions().start_session(request.clone()).await;
    assert!(lost.is_err(), "the daemon lives: {lost:?}");
    while daemon.has_ended().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut deaths = vec![Died::read(&daemon)];
    std::fs::remove_file(&wanted).unwrap();
    let EventBody::Created(created) = &deaths[0].events[0].body else {
        panic!("a log begins with its session");
    };
    let id = created.session.to_string();

    // One session killed over and over: on both sides of one append after the
    // other, or of some of them; and once while it waits for a person.
    let mut at = deaths[0].next_driven();
    let mut killed_waiting = false;
    while let Some(died) = life(
        &mut daemon,
        &id,
        Side::Before,
        at + stride,
        &mut killed_waiting,
    )
    .await
    {
        at = died.next_driven();
        deaths.push(died);
        let Some(died) = life(&mut daemon, &id, Side::After, at, &mut killed_waiting).await else {
            break;
        };
        at = died.next_driven();
        deaths.push(died);
    }
    // Who asks again for the session gets this one.
    let again = daemon.start_session(request).await;
    assert_eq!(again, id);
    let events = ended_as(&daemon, "killed", &id, Calls::Done, &script).await;
    assert_eq!(outline(&events), outline(&as_it_should_be));
    assert!(killed_waiting, "it was killed while a person was asked");
    guarded_well(&daemon, "killed", &id).await;
    the_record_is_whole(&daemon, &id, &events, &deaths).await;
    nobody_has_the_canary(&daemon, &id).await;
    let interrupted = events.iter().filter(|event| {
        matches!(&event.event, Some(Wire::StateChanged(changed))
            if changed.state() == SessionState::Interrupted)
    });
    let cut_off = deaths
        .iter()
        .filter(|died| !died.leaves_it_ended() && !died.leaves_it_waiting());
    assert_eq!(
        interrupted.count(),
        cut_off.count(),
        "interruptions in the log"
    );
    daemon.kill().await;
    let log = log_on_disk(&daemon, &id).await;

    // Nothing that was durable when a daemon died is lost or another.
    let durable = deaths.iter().filter(|died| died.side == Side::After);
    for event in durable.clone().flat_map(|died| &died.events) {
        let at = usize::try_from(event.sequence).unwrap() - 1;
        assert_eq!(log[at], event.encode(), "event {}", event.sequence);
    }
    // And the log says how many boundaries there were to be hit.
    let named = names(&decoded(&log));
    let hit: BTreeSet<&String> = durable
        .flat_map(|died| &died.events)
        .filter_map(|event| named.get(&event.sequence))
        .collect();
    let wanted: BTreeSet<String> = names(&reference).into_values().collect();
    let missed: Vec<&String> = wanted.iter().filter(|name| !hit.contains(name)).collect();
    let (hit, wanted) = (hit.len(), wanted.len());
    eprintln!("{} kills, {hit} of {wanted} boundaries", deaths.len());
    if torture() {
        assert!(missed.is_empty(), "not killed at {missed:?}");
        assert!(hit >= wanted && deaths.len() > wanted / 2);
    } else {
        assert!(deaths.len() as u64 >= SAMPLED, "{} kills", deaths.len());
    }
}

#[tokio::test]
async fn a_daemon_killed_in_its_own_work_finds_it_again() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let model = script().write(daemon.directory());
    // In each of the daemon's checks, and in a slow command, mid-way.
    let id = start(&daemon, "w", &model).await;
    let mut killed_in = Vec::new();
    loop {
        let events = daemon.events(&id, 0).await;
        let under_way = match events.last().and_then(|last| last.event.as_ref()) {
            Some(Wire::CheckStarted(check)) => Some(check.name.clone()),
            Some(Wire::ToolStarted(started)) => started
                .tool
                .as_ref()
                .filter(|tool| tool.arguments.contains("sleep 1"))
                .map(|tool| tool.call_id.clone()),
            _ => None,
        };
        if let Some(name) = under_way.filter(|name| !killed_in.contains(name)) {
            // Somewhere in the middle of it; where exactly does not matter.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..400))).await;
            daemon.restart().await;
            killed_in.push(name);
        }
        let state = daemon.session(&id).await.state();
        if rests(state) && state != SessionState::Interrupted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ended_well(&daemon, "w", &id, Calls::Done).await;
    assert!(killed_in.len() >= 5, "killed in {killed_in:?}");
}
