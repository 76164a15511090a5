//! What a session stands on goes away under it: its container, the engine, the
//! provider in the middle of a reply, the forge after it has done its part.

use compyd::adapters::model::{
    fake_provider::{FakeProvider, WireDialect},
    scripted::Transcript,
};
use compyd_proto::v1::{Session, SessionEvent, SessionState, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::Programs,
    second_engine::SecondEngine,
    sessions::story,
    skip::skip,
    wait,
};
use serde_json::json;

use super::long_session::{Calls, MARKS, SLOW, ended_well, script, script_with, start};
use crate::model_http::{model, settings};

/// Seconds of a command that is killed long before.
const ENDLESS: u32 = 120;
/// Turns before which a reply is cut, in stages of the model's and between.
const CUT_BEFORE: [usize; 5] = [0, 2, 6, 9, 14];

/// Waits until the slow command has left its mark, so that what it did is known,
/// and is still under way.
async fn in_the_slow_command(daemon: &Daemon, workspace: &str, id: &str) {
    daemon
        .event_when(id, "the slow command", |event| {
            matches!(&event.event, Some(Event::ToolStarted(started))
                if started.tool.as_ref().is_some_and(|tool| tool.arguments.contains(SLOW)))
        })
        .await;
    wait::until("the second mark", wait::PATIENCE, async || {
        let marks = daemon.shell(workspace, &format!("cat {MARKS}")).await;
        marks.text().ends_with(SLOW).then_some(())
    })
    .await;
}

/// Resumes the session as often as a person would who mends what it names.
async fn resumed(daemon: &Daemon, id: &str) -> Session {
    let mut session = daemon.ended(id).await;
    for _ in 0..5 {
        if session.state() != SessionState::Paused {
            break;
        }
        assert!(
            session.state_reason.contains("resume"),
            "{}",
            session.state_reason
        );
        daemon.resume(id).await;
        session = daemon.ended(id).await;
    }
    session
}

/// The command that was under way is told as lost: its fate is not made up.
fn one_command_is_lost(events: &[SessionEvent]) {
    let lost = events.iter().find_map(|event| match &event.event {
        Some(Event::ToolEnded(ended))
            if ended.name == "run_command"
                && ended.outcome != 1
                && !ended.content.contains("pytest")
                && !ended.content.contains("FAILED") =>
        {
            Some(ended.content.clone())
        }
        _ => None,
    });
    let lost = lost.unwrap_or_else(|| panic!("no command was lost:\n{}", story(events)));
    assert!(!lost.contains("[exit 0"), "{lost}");
}

#[tokio::test]
async fn a_container_killed_under_a_session_costs_the_command_and_no_more() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let model = script_with(ENDLESS).write(daemon.directory());
    let id = start(&daemon, "w", &model).await;
    in_the_slow_command(&daemon, "w", &id).await;
    let container = daemon.workspace_now("w").await.container_id;
    daemon.engine().await.kill(&container).await;
    resumed(&daemon, &id).await;
    let events = ended_well(&daemon, "w", &id, Calls::LostOne).await;
    one_command_is_lost(&events);
}

#[tokio::test]
async fn an_engine_killed_under_a_session_costs_the_command_and_no_more() {
    if Programs::beside_the_test().agent.is_none() {
        skip("there is no static agent: make agent");
        return;
    }
    let mut engine = match SecondEngine::prepare().await {
        Ok(engine) => engine,
        Err(why) => return skip(why),
    };
    if let Err(why) = engine.start().await {
        return skip(why);
    }
    engine.load_image().await;
    let daemon = Daemon::start_bare(Options::default().engine(engine.host())).await;
    let model = script_with(ENDLESS).write(daemon.directory());
    let id = start(&daemon, "w", &model).await;
    in_the_slow_command(&daemon, "w", &id).await;
    engine.kill().await;
    engine.start().await.expect("it started before");
    resumed(&daemon, &id).await;
    let events = ended_well(&daemon, "w", &id, Calls::LostOne).await;
    one_command_is_lost(&events);
}

#[tokio::test]
async fn a_provider_that_cuts_its_replies_is_asked_again_and_nothing_else_is() {
    let turns = script().turns();
    // From the end, so that places stay what they are.
    let with_cuts = CUT_BEFORE.into_iter().rev().fold(script(), |script, turn| {
        script.before_turn(turn, json!({"fault": "cut"}))
    });
    let transcript = Transcript::parse(&with_cuts.text()).unwrap();
    let provider = FakeProvider::playing(WireDialect::OpenAi, transcript).await;
    let options = settings(&provider, WireDialect::OpenAi);
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    let id = start(&daemon, "w", model(WireDialect::OpenAi)).await;
    let events = ended_well(&daemon, "w", &id, Calls::Done).await;
    assert_eq!(provider.violations(), Vec::<String>::new());
    assert_eq!(provider.requests().len(), turns + CUT_BEFORE.len());
    let failed = events
        .iter()
        .filter(|event| matches!(event.event, Some(Event::ModelFailed(_))));
    assert_eq!(failed.count(), CUT_BEFORE.len(), "{}", story(&events));
}

#[tokio::test]
async fn a_forge_whose_answers_are_lost_has_one_branch_one_pull_request_and_its_checks() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    // Each is done, and who asked is told `502 Bad Gateway`.
    let lost = daemon.data_dir().join("forge-loses");
    let calls = [
        "publish",
        "open_pull_request",
        "open_pull_request",
        "report_check",
    ];
    std::fs::write(&lost, calls.join("\n")).unwrap();
    let model = script().write(daemon.directory());
    let id = start(&daemon, "w", &model).await;
    let events = ended_well(&daemon, "w", &id, Calls::Done).await;
    let left = std::fs::read_to_string(&lost).unwrap();
    assert_eq!(left, "", "answers that were not lost");
    let failed: Vec<&str> = (events.iter())
        .filter_map(|event| match &event.event {
            Some(Event::CheckEnded(ended)) if event.summary.contains("502") => {
                Some(ended.name.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!(failed.len(), calls.len(), "{failed:?}\n{}", story(&events));
}
