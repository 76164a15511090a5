//! People in the loop: pause, resume, cancel, answer, watch, list.

use compyd_proto::v1::{
    AnswerSessionRequest, CancelSessionRequest, ListSessionsRequest, PauseSessionRequest,
    SessionEvent, SessionState, TodoState, Verify, WatchSessionRequest, Workflow,
    session_event::Event, watch_session_response::Item,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::sample_script,
    request_id,
    script::{Script, call},
    sessions::{request, story},
};
use serde_json::json;

async fn pause(daemon: &Daemon, id: &str) {
    let pause = PauseSessionRequest {
        request_id: request_id(),
        session_id: id.to_owned(),
    };
    daemon.sessions().pause_session(pause).await.unwrap();
}

async fn states(daemon: &Daemon, state: SessionState) -> Vec<String> {
    let list = ListSessionsRequest {
        state: state.into(),
        ..Default::default()
    };
    let answer = daemon.sessions().list_sessions(list).await.unwrap();
    let sessions = answer.into_inner().sessions;
    sessions.into_iter().map(|session| session.id).collect()
}

#[tokio::test]
async fn a_paused_session_stands_still_over_a_restart_and_goes_on() {
    let Some(mut daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let model = Script::load(&sample_script())
        .slowed(300)
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    daemon
        .event_when(&id, "the model's second answer", |event| {
            matches!(&event.event, Some(Event::ModelAnswered(_))) && event.sequence > 8
        })
        .await;
    pause(&daemon, &id).await;
    let paused = daemon
        .session_when(&id, "pause", |session| {
            session.state() == SessionState::Paused
        })
        .await;
    assert_eq!(states(&daemon, SessionState::Paused).await, [id.as_str()]);
    assert_eq!(
        states(&daemon, SessionState::Running).await,
        Vec::<String>::new()
    );
    // Again is the same; and nothing happens while it stands.
    pause(&daemon, &id).await;
    daemon.restart().await;
    let after = daemon.session(&id).await;
    assert_eq!(
        (after.state(), after.last_sequence),
        (SessionState::Paused, paused.last_sequence)
    );
    let code = daemon.compyctl(&["session", "watch", &id]).await.code;
    assert_eq!(code, 4, "a person is needed");
    daemon.resume(&id).await;
    daemon.verified(&id).await;
}

#[tokio::test]
async fn a_cancelled_session_ends_what_it_runs_and_stays_ended() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let script = Script::new().tool("run_command", json!({"command": "sleep 1234"}));
    let id = daemon.play(&script).await;
    daemon
        .event_when(&id, "the command", |event| {
            matches!(&event.event, Some(Event::ToolStarted(_)))
        })
        .await;
    let sleeps = "ps -eo args | grep -c '^sleep 1234' || true";
    compyd_tests::wait::until("the sleep", compyd_tests::wait::PATIENCE, async || {
        (daemon.shell("w", sleeps).await.text() != "0").then_some(())
    })
    .await;
    let ran = daemon.compyctl(&["session", "cancel", &id]).await;
    let _ = ran.expect_code(0);
    let session = daemon.rested(&id).await;
    assert_eq!(session.state(), SessionState::Cancelled);
    assert_eq!(
        daemon.shell("w", sleeps).await.text(),
        "0",
        "the command lives on"
    );
    // Again is the same; resuming is refused, and says why.
    let cancel = CancelSessionRequest {
        request_id: request_id(),
        session_id: id.clone(),
        reason: String::new(),
    };
    daemon.sessions().cancel_session(cancel).await.unwrap();
    let refused = daemon.compyctl(&["session", "resume", &id]).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("SESSION_ENDED"),
        "{}",
        refused.stderr
    );
    // Its repository is free for the next one.
    let model = format!("scripted:{}", sample_script().display());
    let next = daemon.start_session(request("w", &model)).await;
    daemon.verified(&next).await;
}

#[tokio::test]
async fn a_person_verifies_when_the_session_says_so() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let model = Script::load(&sample_script());
    // Rejected once, the model claims again.
    let turns = model.turns();
    let again = json!({"tool_calls": [{"name": "todo_claim", "arguments": {"id": 1}}]});
    let model = model
        .before_turn(turns - 1, again)
        .write(daemon.directory());
    let mut start = request("w", &model);
    if let Some(options) = &mut start.options {
        options.verify = Verify::Manual.into();
    }
    let id = daemon.start_session(start).await;
    let waiting = daemon.rested(&id).await;
    assert_eq!(
        waiting.state(),
        SessionState::Waiting,
        "{}",
        waiting.state_reason
    );
    let question = waiting.question.clone().expect("it asks");
    assert_eq!(question.todo_id, 1);
    assert_eq!(states(&daemon, SessionState::Waiting).await, [id.as_str()]);
    // A question that is not open cannot be answered.
    let answer = |question_id: &str, accept, text: &str| AnswerSessionRequest {
        request_id: request_id(),
        session_id: id.clone(),
        question_id: question_id.to_owned(),
        accept,
        text: text.to_owned(),
    };
    let refused = daemon
        .sessions()
        .answer_session(answer("q-9999", true, ""))
        .await;
    assert!(refused.is_err());
    let no = answer(&question.id, false, "show me a run");
    daemon.sessions().answer_session(no).await.unwrap();
    let waiting = daemon
        .session_when(&id, "ask again", |session| {
            session.state() == SessionState::Waiting
                && session
                    .question
                    .as_ref()
                    .is_some_and(|asked| asked.id != question.id)
        })
        .await;
    assert_eq!(waiting.todos.len(), 1);
    let _ = daemon
        .compyctl(&["session", "answer", &id, "--yes", "--text", "fine"])
        .await
        .expect_code(0);
    let events = daemon.verified(&id).await;
    let session = daemon.session(&id).await;
    assert_eq!(session.todos[0].state(), TodoState::Verified);
    let told = events.iter().any(|event| {
        matches!(&event.event, Some(Event::ToolEnded(ended))
            if ended.name == "todo_claim" && ended.content.contains("show me a run"))
    });
    assert!(
        told,
        "the person's words reach the model:\n{}",
        story(&events)
    );
}

#[tokio::test]
async fn watching_from_any_number_misses_nothing_and_repeats_nothing() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let model = format!("scripted:{}", sample_script().display());
    let id = daemon.start_session(request("w", &model)).await;
    // Followed live, cut and taken up again after every fifth event.
    let mut seen = Vec::new();
    'ended: loop {
        let after_sequence = seen.len() as u64;
        let watch = WatchSessionRequest {
            session_id: id.clone(),
            after_sequence,
            no_follow: false,
        };
        let mut stream = daemon
            .sessions()
            .watch_session(watch)
            .await
            .unwrap()
            .into_inner();
        let mut new = 0;
        while new < 5 {
            match stream.message().await.unwrap() {
                Some(message) => {
                    if let Some(Item::Event(event)) = message.item {
                        seen.push(event);
                        new += 1;
                    }
                }
                None => break 'ended,
            }
        }
    }
    let whole = daemon.events(&id, 0).await;
    assert_eq!(seen, whole);
    let tail = daemon.events(&id, whole.len() as u64 - 3).await;
    assert_eq!(tail, whole[whole.len() - 3..]);
    assert_eq!(daemon.events(&id, whole.len() as u64).await, []);
}

#[tokio::test]
async fn a_todo_that_nothing_can_check_is_verified_by_a_person_who_sees_its_evidence() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let claim = |evidence: &str| call("todo_claim", json!({"id": 1, "evidence": evidence}));
    let think = |what: &str| {
        call(
            "think",
            json!({"content": format!("{what} textkit/slug.py")}),
        )
    };
    let run = || call("run_command", json!({"command": "python -m pytest -q"}));
    let script = Script::new()
        .calls([
            call("todo_add", json!({"items": [{"text": "the words of a slug read well"}]})),
            call("read_file", json!({"path": "textkit/slug.py"})),
            think("an off-by-one in"),
        ])
        .tool(
            "edit_file",
            json!({"path": "textkit/slug.py", "replacements": [
                {"old_text": "len(longer) >= max_length", "new_text": "len(longer) > max_length"}]}),
        )
        .calls([run(), think("the tests pass with"), claim("")])
        .calls([claim("it reads well")])
        .calls([run(), think("what a person said of"), claim("pytest: 13 passed")])
        .tool("advance", json!({"summary": "done"}));
    let mut start = request("w", &script.write(daemon.directory()));
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
    }
    let id = daemon.start_session(start).await;
    let verify = async |words: &[&str]| {
        let arguments = [&["session", "verify", &id], words].concat();
        daemon.compyctl(&arguments).await
    };
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(session.state(), SessionState::Waiting, "{}", story(&events));
    let question = session.question.unwrap();
    assert!(question.text.contains("it reads well"), "{}", question.text);
    let claims = |events: &[SessionEvent]| -> Vec<String> {
        let ended = events.iter().filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) if ended.name == "todo_claim" => Some(ended),
            _ => None,
        });
        ended.map(|ended| ended.content.clone()).collect()
    };
    // Without evidence nobody was asked.
    let answers = claims(&events);
    assert!(
        matches!(answers.as_slice(), [refused] if refused.contains("claim it with `evidence`")),
        "{answers:?}"
    );
    assert_eq!(verify(&["2"]).await.code, 2);

    let _ = verify(&["1", "--reject", "which run shows it?"])
        .await
        .expect_code(0);
    let session = daemon
        .session_when(&id, "ask again", |session| {
            let open = session.question.as_ref();
            open.is_some_and(|asked| asked.id != question.id)
        })
        .await;
    let question = session.question.unwrap();
    assert!(question.text.contains("13 passed"), "{}", question.text);
    let answers = claims(&daemon.events(&id, 0).await);
    assert!(
        answers[1].contains("rejected") && answers[1].contains("which run shows it?"),
        "the reason goes to the model: {answers:?}"
    );

    let _ = verify(&["1", "--note", "that one"]).await.expect_code(0);
    let events = daemon.verified(&id).await;
    let answers = claims(&events);
    assert!(answers[2].contains("that one"), "{answers:?}");
    // What is settled cannot be verified again.
    assert_eq!(verify(&["1"]).await.code, 1);
}
