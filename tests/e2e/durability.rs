//! The daemon dies at any moment, the machine under a session too: it goes on
//! where it was, ends as it would have ended, and does nothing twice.

use std::{collections::BTreeMap, time::Duration};

use compyd_proto::v1::{Session, SessionEvent, SessionState, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::torture,
    repository::{Repository, git, sample_script},
    script::{Script, call},
    sessions::{outline, request, story},
    wait,
};
use serde_json::json;

/// Where every command of the script leaves a line, outside the repository.
const MARKS: &str = "/workspace/marks";
/// Boundaries killed at in `make test`; all of them under `make torture`.
const SAMPLED: usize = 8;

/// The sample's script with commands that leave a mark each time they run, one
/// of them slow enough to be killed in.
fn script() -> Script {
    let mark = |name: &str, seconds: &str| {
        call(
            "run_command",
            json!({"command": format!("echo {name} >> {MARKS}; sleep {seconds}")}),
        )
    };
    Script::load(&sample_script())
        .before_turn(
            1,
            json!({"tool_calls": [mark("one", "0"), mark("two", "1")]}),
        )
        .before_turn(4, json!({"tool_calls": [mark("three", "0.3")]}))
        .before_turn(9, json!({"tool_calls": [mark("four", "0")]}))
}

struct Arena {
    daemon: Daemon,
    model: String,
    runs: usize,
}

impl Arena {
    async fn new() -> Option<Self> {
        let daemon = Daemon::start(Options::default()).await?;
        let model = script().write(daemon.directory());
        Some(Self {
            daemon,
            model,
            runs: 0,
        })
    }

    /// A session on a fresh copy of the sample in a fresh workspace.
    async fn start(&mut self) -> (String, String) {
        self.runs += 1;
        let name = format!("run-{}", self.runs);
        let repository = Repository::sample(self.daemon.directory().join(&name));
        self.daemon
            .workspace(&name, &["--repo", repository.arg()])
            .await;
        let id = self.daemon.start_session(request(&name, &self.model)).await;
        (name, id)
    }

    /// What a session that ended well must show, however often it was killed.
    async fn ended_well(&self, workspace: &str, id: &str) -> Vec<SessionEvent> {
        let session = self.daemon.ended(id).await;
        let events = self.daemon.events(id, 0).await;
        assert_eq!(
            session.state(),
            SessionState::Verified,
            "{}\n{}",
            session.state_reason,
            story(&events)
        );
        nothing_is_done_twice(&session, &events);
        let marks = self.daemon.shell(workspace, &format!("cat {MARKS}")).await;
        assert_eq!(marks.text(), "one\ntwo\nthree\nfour", "{}", story(&events));
        let forge = self
            .daemon
            .data_dir()
            .join("forge")
            .join(&session.workspace_id);
        let bare = forge.join(format!("{}.git", session.repository));
        let range = format!("main..{}", session.branch);
        assert_eq!(
            git(&bare, &["rev-list", "--count", &range]),
            "1",
            "one commit"
        );
        assert_eq!(
            session.pull_request.map(|pull| pull.number),
            Some(1),
            "one pull request"
        );
        events
    }
}

/// Every tool call that began has ended once, and every check.
fn nothing_is_done_twice(session: &Session, events: &[SessionEvent]) {
    let mut begun = BTreeMap::<&str, usize>::new();
    let mut ended = BTreeMap::<&str, usize>::new();
    for event in events {
        match &event.event {
            Some(Event::ToolStarted(started)) => *begun.entry(&started.step_id).or_default() += 1,
            Some(Event::ToolEnded(over)) if begun.contains_key(over.step_id.as_str()) => {
                *ended.entry(&over.step_id).or_default() += 1;
            }
            _ => {}
        }
    }
    assert!(!begun.is_empty());
    assert_eq!(
        begun,
        ended,
        "calls begun and calls ended:\n{}",
        story(events)
    );
    assert!(begun.values().all(|count| *count == 1), "{begun:?}");
    let commits = events
        .iter()
        .filter(|event| matches!(event.event, Some(Event::Committed(_))));
    assert_eq!(commits.count(), 1, "{}", story(events));
    assert_eq!(session.last_sequence, events.len() as u64);
}

#[tokio::test]
async fn a_daemon_killed_at_every_boundary_ends_the_session_as_if_it_had_lived() {
    let Some(mut arena) = Arena::new().await else {
        return;
    };
    let (workspace, id) = arena.start().await;
    let reference = arena.ended_well(&workspace, &id).await;
    let boundaries = reference.len();
    assert!(
        boundaries > 60,
        "{boundaries} events are no session to be killed in"
    );

    // One session killed over and over, at boundaries spread over its length.
    let step = if torture() { 1 } else { boundaries / SAMPLED };
    let (workspace, id) = arena.start().await;
    let mut kills = 0;
    let mut next = 2;
    while next < boundaries as u64 {
        let session = arena.daemon.session(&id).await;
        if compyd_tests::sessions::rests(session.state())
            && session.state() != SessionState::Interrupted
        {
            break;
        }
        if session.last_sequence >= next {
            arena.daemon.restart().await;
            kills += 1;
            next = session.last_sequence + step as u64;
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let events = arena.ended_well(&workspace, &id).await;
    assert_eq!(outline(&events), outline(&reference));
    assert!(kills >= SAMPLED / 2, "only {kills} kills");
}

#[tokio::test]
async fn a_daemon_killed_in_its_own_work_finds_it_again() {
    let Some(mut arena) = Arena::new().await else {
        return;
    };
    // In each of the daemon's checks, and in a slow command, mid-way.
    let (workspace, id) = arena.start().await;
    let mut killed_in = Vec::new();
    loop {
        let events = arena.daemon.events(&id, 0).await;
        let under_way = match events.last().and_then(|last| last.event.as_ref()) {
            Some(Event::CheckStarted(check)) => Some(check.name.clone()),
            Some(Event::ToolStarted(started)) => started
                .tool
                .as_ref()
                .filter(|tool| tool.arguments.contains("sleep 1"))
                .map(|tool| tool.call_id.clone()),
            _ => None,
        };
        if let Some(name) = under_way.filter(|name| !killed_in.contains(name)) {
            // Somewhere in the middle of it; where exactly does not matter.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..400))).await;
            arena.daemon.restart().await;
            killed_in.push(name);
        }
        let session = arena.daemon.session(&id).await;
        if compyd_tests::sessions::rests(session.state())
            && session.state() != SessionState::Interrupted
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    arena.ended_well(&workspace, &id).await;
    assert!(killed_in.len() >= 5, "killed in {killed_in:?}");
}

#[tokio::test]
async fn a_container_killed_under_a_session_costs_the_command_and_no_more() {
    let Some(mut arena) = Arena::new().await else {
        return;
    };
    let (name, id) = arena.start().await;
    arena
        .daemon
        .event_when(&id, "the slow command", |event| {
            matches!(&event.event, Some(Event::ToolStarted(started))
                if started.tool.as_ref().is_some_and(|tool| tool.arguments.contains("sleep 1")))
        })
        .await;
    // Once it has left its mark, so that what it did is known.
    wait::until("the second mark", Duration::from_secs(20), async || {
        let marks = arena.daemon.shell(&name, &format!("cat {MARKS}")).await;
        marks.text().ends_with("two").then_some(())
    })
    .await;
    let container = arena.daemon.workspace_now(&name).await.container_id;
    arena.daemon.engine().await.kill(&container).await;
    let mut session = arena.daemon.ended(&id).await;
    for _ in 0..3 {
        if session.state() != SessionState::Paused {
            break;
        }
        arena.daemon.resume(&id).await;
        session = arena.daemon.ended(&id).await;
    }
    let events = arena.ended_well(&name, &id).await;
    let lost = events.iter().find_map(|event| match &event.event {
        Some(Event::ToolEnded(ended)) if ended.name == "run_command" && ended.outcome != 1 => {
            Some(ended.content.clone())
        }
        _ => None,
    });
    // Its fate is not made up.
    let lost = lost.unwrap_or_else(|| panic!("no command was lost:\n{}", story(&events)));
    assert!(!lost.contains("[exit 0"), "{lost}");
}
