//! The engine is absent, stops and comes back under a running session.

use std::time::Duration;

use compyd_proto::v1::{SessionState, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::Programs,
    repository::{Repository, sample_script},
    script::Script,
    second_engine::SecondEngine,
    sessions::{request, story},
    skip::skip,
    wait,
};

#[tokio::test]
async fn an_engine_that_comes_late_and_goes_at_times_costs_no_session() {
    if Programs::beside_the_test().agent.is_none() {
        skip("there is no static agent: make agent");
        return;
    }
    let mut engine = match SecondEngine::prepare().await {
        Ok(engine) => engine,
        Err(why) => {
            skip(why);
            return;
        }
    };
    // Absent: the daemon serves, and says what is missing.
    let daemon = Daemon::start_bare(Options::default().engine(engine.host())).await;
    let early = daemon.compyctl(&["workspace", "create", "early"]).await;
    assert_eq!(early.code, 1);
    assert!(
        early.stderr.contains("ENGINE_UNAVAILABLE"),
        "{}",
        early.stderr
    );

    // There: no restart of the daemon is needed.
    if let Err(why) = engine.start().await {
        skip(why);
        return;
    }
    engine.load_image().await;
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let model = Script::load(&sample_script())
        .slowed(700)
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    daemon
        .event_when(&id, "the session in MODIFY", |event| {
            matches!(&event.event, Some(Event::StageEntered(entered)) if entered.stage == 4)
        })
        .await;
    let before = daemon.events(&id, 0).await;

    // Gone, with everything that ran in it: the session waits, and says so.
    engine.stop().await;
    let broken = daemon.compyctl(&["doctor"]).await;
    assert_ne!(broken.code, 0, "{}", broken.text());
    let waiting = daemon.session(&id).await;
    assert!(
        matches!(
            waiting.state(),
            SessionState::Running | SessionState::Paused
        ),
        "{}",
        waiting.state_reason
    );

    // Back: the session goes on where it was.
    engine.start().await.expect("it started before");
    wait::until("a sound doctor", Duration::from_secs(60), async || {
        let report = daemon.compyctl(&["-o", "json", "doctor"]).await.json();
        let checks = report["checks"].as_array().unwrap();
        let engine = checks
            .iter()
            .find(|check| check["name"] == "engine")
            .unwrap();
        (engine["verdict"] == "ok").then_some(())
    })
    .await;
    let mut session = daemon.rested(&id).await;
    for _ in 0..5 {
        if session.state() != SessionState::Paused {
            break;
        }
        daemon.resume(&id).await;
        session = daemon.rested(&id).await;
    }
    let events = daemon.events(&id, 0).await;
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{}",
        session.state_reason,
        story(&events)
    );
    assert_eq!(story(&before), story(&events[..before.len()]));
    drop(daemon);
}
