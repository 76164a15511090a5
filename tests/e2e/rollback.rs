//! Sessions put back to a stage's snapshot, resumed after whatever stopped them,
//! and what becomes of the snapshots they take.

use std::time::Duration;

use compyd_proto::v1::{
    ListSnapshotsRequest, PauseSessionRequest, SessionState, Snapshot, SnapshotReason, Stage,
    TodoState, session_event::Event, snapshot_service_client::SnapshotServiceClient,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    request_id,
    script::{Script, call},
    sessions::{request, story},
    wait,
};
use serde_json::{Value, json};

/// The sample's session that goes astray in MODIFY, asks, and does it well after
/// it was rolled back.
fn astray() -> Script {
    let wrong = json!([{"old_text": "len(longer) >= max_length", "new_text": "False"}]);
    let right =
        json!([{"old_text": "len(longer) >= max_length", "new_text": "len(longer) > max_length"}]);
    let think = |content: &str| call("think", json!({"content": content}));
    let edit = |change: &Value| {
        call(
            "edit_file",
            json!({"path": "textkit/slug.py", "replacements": change}),
        )
    };
    let run = |command: &str| call("run_command", json!({"command": command}));
    Script::new()
        .calls([
            call("read_file", json!({"path": "textkit/slug.py"})),
            run("mkdir -p ~/kept && echo early > ~/kept/early"),
            call("advance", json!({})),
        ])
        .calls([
            call("todo_add", json!({"items": [{"text": "slugify keeps what just fits", "criteria": [{"type": "tests_pass"}]}]})),
            call("advance", json!({})),
        ])
        .calls([
            call("read_file", json!({"path": "textkit/slug.py"})),
            call("advance", json!({})),
        ])
        .calls([
            think("textkit/slug.py: never cut at all"),
            call("todo_start", json!({"id": 1})),
            edit(&wrong),
            run("echo late > ~/kept/late; echo x > /opt/installed; rm README.md"),
        ])
        .tool("ask_person", json!({"question": "is this right?"}))
        // After the rollback.
        .calls([
            call("read_file", json!({"path": "textkit/slug.py"})),
            run("ls ~/kept /opt README.md"),
            think("textkit/slug.py: >= leaves out what just fits"),
            edit(&right),
            run("python -m pytest -q"),
        ])
        .calls([
            think("python -m pytest -q passes with textkit/slug.py as it is now"),
            call("todo_claim", json!({"id": 1})),
        ])
        .tool("advance", json!({}))
}

async fn snapshots(daemon: &Daemon, workspace: &str) -> Vec<Snapshot> {
    let request = ListSnapshotsRequest {
        workspace: workspace.to_owned(),
    };
    let mut client = SnapshotServiceClient::new(daemon.channel());
    let answer = client.list_snapshots(request).await.unwrap();
    answer.into_inner().snapshots
}

async fn prepared(name: &str) -> Option<Daemon> {
    let daemon = Daemon::start(Options::default()).await?;
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace(name, &["--repo", repository.arg()]).await;
    Some(daemon)
}

async fn refused(daemon: &Daemon, args: &[&str], code: &str) -> String {
    let ran = daemon.compyctl(args).await;
    assert_ne!(ran.code, 0, "{args:?}");
    assert!(ran.stderr.contains(code), "{args:?}: {}", ran.stderr);
    ran.stderr
}

#[tokio::test]
async fn a_session_that_went_astray_goes_on_from_a_stages_snapshot() {
    let Some(mut daemon) = prepared("w").await else {
        return;
    };
    let model = astray().write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    let waiting = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(waiting.state(), SessionState::Waiting, "{}", story(&events));
    let with_snapshot: Vec<Stage> = (waiting.stages.iter())
        .filter(|stage| !stage.snapshot_id.is_empty())
        .map(|stage| stage.stage())
        .collect();
    assert_eq!(with_snapshot, [Stage::Understand, Stage::Modify]);

    // A stage without a snapshot is refused with those that have one.
    let rollback = |to| ["session", "rollback", &id, "--to", to];
    let why = refused(&daemon, &rollback("VALIDATE"), "STAGE_WITHOUT_SNAPSHOT").await;
    assert!(why.contains("UNDERSTAND#1, MODIFY#1"), "{why}");
    refused(&daemon, &rollback("nonsense"), "is no stage").await;

    // Nothing takes a snapshot that the session needs.
    let needed: Vec<String> = (waiting.stages.iter())
        .map(|stage| stage.snapshot_id.clone())
        .filter(|id| !id.is_empty())
        .collect();
    let delete = ["snapshot", "delete", &needed[0], "--yes"];
    refused(&daemon, &delete, "SNAPSHOT_NEEDED").await;
    let prune = ["snapshot", "prune", "--older-than", "1s", "--yes"];
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let _ = daemon.compyctl(&prune).await.expect_code(0);
    let there = snapshots(&daemon, "w").await;
    let has = |id: &String| there.iter().any(|snapshot| snapshot.id == *id);
    assert!(needed.iter().all(has), "{there:?}");

    // Back to the plan, before the first edit; killed in the middle of it.
    let _ = daemon.compyctl(&rollback("MODIFY")).await.expect_code(0);
    daemon.restart().await;
    let session = daemon.ended(&id).await;
    let after = daemon.events(&id, 0).await;
    let told = story(&after);
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{told}",
        session.state_reason
    );
    assert_eq!(
        story(&events),
        story(&after[..events.len()]),
        "the log only grows"
    );
    assert_eq!(session.todos.len(), 1);
    assert_eq!(session.todos[0].state(), TodoState::Verified);
    // What was done since is undone, what was done before is there.
    let ran: Vec<&str> = (after.iter())
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) if ended.name == "run_command" => {
                Some(ended.content.as_str())
            }
            _ => None,
        })
        .collect();
    let listed = ran
        .iter()
        .find(|content| content.contains("early"))
        .unwrap();
    assert!(listed.contains("README.md"), "{listed}");
    assert!(
        !listed.contains("late") && !listed.contains("installed"),
        "{listed}"
    );
    let unanswered = after.iter().any(|event| {
        matches!(&event.event, Some(Event::ToolEnded(ended))
            if ended.name == "ask_person" && ended.content.contains("rolled"))
    });
    assert!(unanswered, "{told}");

    // The session has ended: its snapshots are let go but the one that its
    // workspace was last at, and what the rollback replaced stays.
    refused(&daemon, &rollback("MODIFY"), "SESSION_ENDED").await;
    wait::until("snapshots let go", wait::PATIENCE, async || {
        let left = snapshots(&daemon, "w").await;
        let stages = left
            .iter()
            .filter(|one| one.reason() == SnapshotReason::Stage);
        (stages.count() <= 1).then_some(())
    })
    .await;
    let left = snapshots(&daemon, "w").await;
    let kept = left
        .iter()
        .filter(|one| one.reason() == SnapshotReason::BeforeRestore);
    assert_eq!(kept.count(), 1, "{left:?}");
}

#[tokio::test]
async fn a_labelled_snapshot_outlives_its_session() {
    let Some(daemon) = prepared("w").await else {
        return;
    };
    let model = astray().write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    let waiting = daemon.rested(&id).await;
    let first = &waiting.stages[0].snapshot_id;
    let label = ["-o", "json", "snapshot", "label", first, "the start"];
    let labelled = daemon.compyctl(&label).await.expect_code(0).json();
    assert_eq!(labelled["label"], "the start");
    let _ = daemon
        .compyctl(&["session", "cancel", &id])
        .await
        .expect_code(0);
    // One more, so that the workspace is at none of the session's.
    let _ = daemon
        .compyctl(&["workspace", "snapshot", "w"])
        .await
        .expect_code(0);
    wait::until("snapshots let go", wait::PATIENCE, async || {
        let left = snapshots(&daemon, "w").await;
        let stages = left
            .iter()
            .filter(|one| one.reason() == SnapshotReason::Stage);
        let ids: Vec<&String> = stages.map(|one| &one.id).collect();
        (ids == [first]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whatever_stopped_a_session_it_is_resumed_until_it_has_ended() {
    let Some(mut daemon) = prepared("w").await else {
        return;
    };
    let model = Script::load(&sample_script())
        .slowed(400)
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    let resume = ["session", "resume", &id];
    // Running: it is left as it is.
    let _ = daemon.compyctl(&resume).await.expect_code(0);
    refused(
        &daemon,
        &["session", "rollback", &id, "--to", "MODIFY"],
        "SESSION_RUNNING",
    )
    .await;

    // Paused by a person, over a kill and over a polite end of the daemon.
    let pause = PauseSessionRequest {
        request_id: request_id(),
        session_id: id.clone(),
    };
    daemon.sessions().pause_session(pause).await.unwrap();
    daemon.restart().await;
    assert_eq!(daemon.session(&id).await.state(), SessionState::Paused);
    daemon.terminate().await;
    daemon.restart().await;
    assert_eq!(daemon.session(&id).await.state(), SessionState::Paused);

    // Interrupted, and its model is not to be had: it says so, and goes on once
    // it is.
    let _ = daemon.compyctl(&resume).await.expect_code(0);
    let file = model.strip_prefix("scripted:").unwrap().to_owned();
    let away = format!("{file}.away");
    std::fs::rename(&file, &away).unwrap();
    daemon.restart().await;
    let paused = daemon.rested(&id).await;
    assert_eq!(paused.state(), SessionState::Paused);
    assert!(
        paused.state_reason.contains("resume"),
        "{}",
        paused.state_reason
    );
    std::fs::rename(&away, &file).unwrap();
    let _ = daemon.compyctl(&resume).await.expect_code(0);

    let session = daemon.ended(&id).await;
    let told = story(&daemon.events(&id, 0).await);
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{told}",
        session.state_reason
    );

    // Ended is ended, and says what to do.
    let why = refused(&daemon, &resume, "SESSION_ENDED").await;
    assert!(
        why.contains("verified") && why.contains("compyctl run"),
        "{why}"
    );
}
