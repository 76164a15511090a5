//! The proof in the clean copy: what is set up again there, and what a kill of
//! the daemon in its middle costs.

use compyd_proto::v1::{
    SessionEvent, SessionState, WatchSessionRequest, Workflow, session_event::Event,
    session_progress::What, watch_session_response::Item,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::Repository,
    script::{Script, call, todo},
    sessions::{request, story},
};
use serde_json::{Value, json};

const RUN: &str = "python -m pytest -q -s";

/// A session that reads a file, puts this into it, brings about more by a
/// command, runs the tests and claims.
fn script(path: &str, content: &str, more: &str) -> Script {
    Script::new()
        .calls([
            todo("it works", json!([{"type": "file_exists", "path": path}])),
            call("read_file", json!({"path": path})),
            call(
                "think",
                json!({"content": format!("{path} is what is wrong")}),
            ),
        ])
        .tool("write_file", json!({"path": path, "content": content}))
        .tool("run_command", json!({"command": format!("{more}{RUN}")}))
        .calls([
            call(
                "think",
                json!({"content": format!("{RUN} passes with {path}")}),
            ),
            call("todo_claim", json!({"id": 1, "evidence": "1 passed"})),
            call("advance", json!({"summary": "done"})),
        ])
}

async fn start(daemon: &Daemon, files: &[(&str, &str)], script: &Script) -> String {
    let repository = Repository::with_files(daemon.directory().join("app"), files);
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let mut start = request("w", &script.write(daemon.directory()));
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
        options.test_command = RUN.to_owned();
    }
    daemon.start_session(start).await
}

/// The session's events, once it is verified, and its evidence.
async fn proved(daemon: &Daemon, id: &str) -> (Vec<SessionEvent>, Value) {
    let session = daemon.ended(id).await;
    let events = daemon.events(id, 0).await;
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{}",
        session.state_reason,
        story(&events)
    );
    let evidence = session.proof.unwrap().evidence_artifact_id;
    let evidence = daemon.artifact(&evidence).await;
    (events, serde_json::from_slice(&evidence).unwrap())
}

#[tokio::test]
async fn the_setup_runs_again_in_the_copy_when_what_it_depends_on_was_changed() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let setup = "cp words.lock /workspace/words && echo run >> /workspace/setups";
    let file = format!("[setup]\ninitialize = [\"{setup}\"]\ninputs = [\"words.lock\"]\n");
    let files = [
        ("compy.toml", file.as_str()),
        ("words.lock", "one\n"),
        (
            "test_words.py",
            "def test_words():\n    print('setups:', len(open('/workspace/setups').readlines()))\n    \
             assert open('/workspace/words').read() == 'two\\n'\n",
        ),
    ];
    // As a package manager would, once it has written its lock file.
    let installs = "cp words.lock /workspace/words && ";
    let id = start(&daemon, &files, &script("words.lock", "two\n", installs)).await;
    let (_, evidence) = proved(&daemon, &id).await;
    // The copy is of the time before the change: without the setup its words
    // are the old ones.
    assert_eq!(evidence["clean_copy"]["setup"], json!([setup]));
    let branch = &evidence["proof"]["runs"][1];
    assert_eq!(branch["name"], "branch");
    let output = daemon.artifact(branch["artifact"].as_str().unwrap()).await;
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains("setups: 2"), "once in each: {output}");
}

#[tokio::test]
async fn a_person_is_asked_about_what_failed_before_and_fails_still() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let files = [
        ("sums.py", "def add(a, b):\n    return a - b\n"),
        (
            "test_sums.py",
            "from sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n",
        ),
        (
            "test_other.py",
            "def test_of_another_day():\n    assert 1 + 1 == 3\n\n\ndef test_sound():\n    assert True\n",
        ),
    ];
    let fixed = "def add(a, b):\n    return a + b\n";
    let id = start(&daemon, &files, &script("sums.py", fixed, "")).await;
    let session = daemon.rested(&id).await;
    let told = story(&daemon.events(&id, 0).await);
    assert_eq!(session.state(), SessionState::Waiting, "{told}");
    let question = session.question.unwrap().text;
    assert!(question.contains("test_of_another_day"), "{question}");
    assert!(!question.contains("test_sound"), "{question}");
    let answer = ["session", "answer", &id, "--yes"];
    let _ = daemon.compyctl(&answer).await.expect_code(0);
    let (_, evidence) = proved(&daemon, &id).await;
    let proof = &evidence["proof"];
    let names = |key: &str| proof[key].as_array().unwrap().len();
    assert_eq!(names("fail_to_pass"), 1, "{proof}");
    assert_eq!(names("pass_to_pass"), 1, "{proof}");
    assert_eq!(names("known_failures"), 1, "{proof}");
}

#[tokio::test]
async fn a_kill_of_the_daemon_in_the_middle_of_the_proof_runs_nothing_twice() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let files = [
        ("sums.py", "def add(a, b):\n    return a - b\n"),
        (
            "test_sums.py",
            "import time\nfrom sums import add\n\n\ndef test_add():\n    \
             with open('/workspace/runs', 'a+') as runs:\n        \
             runs.write('run\\n')\n        runs.seek(0)\n        \
             print('this is run', len(runs.readlines()), flush=True)\n    \
             assert add(1, 2) == 3\n    time.sleep(2)\n",
        ),
    ];
    let fixed = "def add(a, b):\n    return a + b\n";
    let id = start(&daemon, &files, &script("sums.py", fixed, "")).await;
    // The snapshot has the base's run, so the copy's first is the second.
    in_the_proof(&daemon, &id, "this is run 2").await;
    daemon.restart().await;
    let (events, evidence) = proved(&daemon, &id).await;
    let branch = &evidence["proof"]["runs"][1];
    let output = daemon.artifact(branch["artifact"].as_str().unwrap()).await;
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains("this is run 2"), "{output}");
    let proofs = events.iter().filter(
        |event| matches!(&event.event, Some(Event::CheckStarted(check)) if check.name == "proof"),
    );
    assert_eq!(proofs.count(), 1, "{}", story(&events));
    // The copy is gone, and the session's workspace was not proved in.
    let runs = daemon.shell("w", "wc -l < /workspace/runs").await;
    let model_and_validation = 2;
    assert_eq!(runs.text(), (1 + model_and_validation).to_string());
    let engine = daemon.engine().await;
    let left = engine.containers(Some(daemon.run_name())).await;
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Waits until the session's proof has printed something.
async fn in_the_proof(daemon: &Daemon, id: &str, printed: &str) {
    let watch = WatchSessionRequest {
        session_id: id.to_owned(),
        after_sequence: 0,
        no_follow: false,
    };
    let answer = daemon.sessions().watch_session(watch).await;
    let mut stream = answer.unwrap().into_inner();
    let (mut proving, mut output) = (false, String::new());
    while let Some(message) = stream.message().await.unwrap() {
        match message.item {
            Some(Item::Event(event)) => {
                proving |= matches!(&event.event,
                    Some(Event::CheckStarted(check)) if check.name == "proof");
            }
            Some(Item::Progress(progress)) if proving => {
                if let Some(What::CommandOutput(data)) = progress.what {
                    output.push_str(&String::from_utf8_lossy(&data));
                }
                if output.contains(printed) {
                    return;
                }
            }
            Some(Item::Progress(_)) | None => {}
        }
    }
    panic!("the proof never printed {printed:?}: {output}");
}
