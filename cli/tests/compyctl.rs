//! The real `compyctl` against a scripted daemon: an in-process tonic server on
//! a unix socket. Exit codes and bytes are compared exactly.

// Helpers beside the tests fail as loudly as the tests do.
#![allow(clippy::unwrap_used)]

mod fake_daemon;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use compyd_proto::v1::session_event::Event;
use compyd_proto::v1::{
    Check, CheckVerdict, ExecExit, Proof, ProofRun, Question, Session, SessionEvent,
    SessionOptions, SessionState, Stage, StateChanged, Todo, TodoState, exec_exit::How,
};
use fake_daemon::{ExecScript, FakeDaemon, Part, Relay};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// No test takes longer; a hang becomes a failure.
const LIMIT: Duration = Duration::from_secs(60);

fn compyctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compyctl"));
    command
        .arg("--endpoint")
        .arg(format!("unix://{}", socket.display()))
        .args(arguments)
        .env_remove("COMPY_MODEL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(daemon: &FakeDaemon, arguments: &[&str]) -> Output {
    let child = compyctl(&daemon.socket(), arguments).spawn().unwrap();
    tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .expect("compyctl hangs")
        .unwrap()
}

async fn run_with_input(daemon: &FakeDaemon, arguments: &[&str], input: Vec<u8>) -> Output {
    let mut child = compyctl(&daemon.socket(), arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = async move {
        // A command that ends early closes its input.
        let _ = stdin.write_all(&input).await;
        drop(stdin);
    };
    let (output, ()) = tokio::time::timeout(LIMIT, async {
        tokio::join!(child.wait_with_output(), feeding)
    })
    .await
    .expect("compyctl hangs");
    output.unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {:?}\n{}",
            String::from_utf8_lossy(&output.stdout),
            stderr(output)
        )
    })
}

fn exited(how: How) -> Part {
    Part::Exit(ExecExit {
        how: Some(how),
        duration_ms: 1,
        leftover_processes: 0,
        out_of_memory: false,
    })
}

/// Bytes without a period that a chunk could hide.
fn noise(length: usize, mut seed: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..length {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.push((seed >> 33) as u8);
    }
    bytes.into()
}

#[tokio::test]
async fn exec_passes_both_outputs_and_the_exit_status_through_untouched() {
    let (out, err) = (noise(3_000_000, 1), noise(70_001, 2));
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![ExecScript::of([
        Part::Stdout(out.clone()),
        Part::Stderr(err.clone()),
        exited(How::Code(42)),
    ])]);
    let output = run(&daemon, &["workspace", "exec", "w", "--", "prog", "-x"]).await;
    assert_eq!(code(&output), 42);
    assert!(output.stdout == out, "standard output differs");
    assert!(output.stderr == err, "standard error differs");
}

#[tokio::test]
async fn each_end_of_a_command_has_its_exit_code() {
    let table = [
        (How::Code(0), 0),
        (How::Code(255), 255),
        (How::Signal(9), 137),
        (How::TimedOutMs(5), 124),
        (How::NotStarted("prog: Permission denied".into()), 126),
        (
            How::NotStarted("prog: No such file or directory".into()),
            127,
        ),
        (How::Unknown("the agent was killed".into()), 125),
    ];
    for (how, expected) in table {
        let daemon = FakeDaemon::start().await;
        daemon.on_exec(vec![ExecScript::of([exited(how.clone())])]);
        let output = run(&daemon, &["workspace", "exec", "w", "--", "prog"]).await;
        assert_eq!(code(&output), expected, "{how:?}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_is_taken_up_at_its_offsets() {
    let (out, err) = (noise(2_500_000, 3), noise(400_000, 4));
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![
        ExecScript::of([
            Part::Stdout(out.slice(..1_234_567)),
            Part::Stderr(err.slice(..99_999)),
            Part::Cut,
        ]),
        // A clean end without an exit is a cut, too.
        ExecScript::of([Part::Stdout(out.slice(1_234_567..2_000_000)), Part::End]),
        ExecScript::of([
            Part::Stdout(out.slice(2_000_000..)),
            Part::Stderr(err.slice(99_999..)),
            exited(How::Code(7)),
        ]),
    ]);
    let output = run(&daemon, &["workspace", "exec", "w", "--", "prog"]).await;
    assert_eq!(code(&output), 7, "{}", stderr(&output));
    assert!(output.stdout == out, "standard output differs");
    assert!(output.stderr == err, "standard error differs");
    let execs = daemon.execs();
    assert_eq!(execs.len(), 3);
    let id = execs[0].start.as_ref().unwrap().request_id.clone();
    for (exec, offsets) in execs[1..]
        .iter()
        .zip([(1_234_567, 99_999), (2_000_000, 99_999)])
    {
        let attach = exec.attach.as_ref().unwrap();
        assert_eq!(attach.exec_id, id);
        assert_eq!((attach.stdout_offset, attach.stderr_offset), offsets);
    }
}

#[tokio::test]
async fn a_cut_before_the_first_answer_starts_again_under_the_same_id() {
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![
        ExecScript {
            attached: false,
            ..ExecScript::of([Part::Cut])
        },
        ExecScript::of([exited(How::Code(0))]),
    ]);
    let output = run(&daemon, &["workspace", "exec", "w", "--", "prog"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let execs = daemon.execs();
    assert_eq!(
        execs[0].start.as_ref().unwrap().request_id,
        execs[1].start.as_ref().unwrap().request_id
    );
}

#[tokio::test]
async fn standard_input_arrives_whole_although_the_connection_breaks() {
    let input = noise(5_000_000, 5);
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![
        ExecScript::of([Part::ReadInput(1_500_000), Part::Cut]),
        ExecScript::of([Part::ReadInputToEnd, exited(How::Code(0))]),
    ]);
    let output = run_with_input(
        &daemon,
        &["workspace", "exec", "w", "--", "cat"],
        input.to_vec(),
    )
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(daemon.input() == input, "standard input differs");
}

#[tokio::test]
async fn an_exec_that_the_daemon_refuses_exits_125_and_says_why() {
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![ExecScript {
        attached: false,
        ..ExecScript::of([Part::Refuse("WORKSPACE_UNKNOWN")])
    }]);
    let output = run(&daemon, &["workspace", "exec", "w", "--", "prog"]).await;
    assert_eq!(code(&output), 125);
    assert!(
        stderr(&output).contains("(WORKSPACE_UNKNOWN)"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("try: do the right thing"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn an_interrupt_is_forwarded_to_the_command() {
    let daemon = FakeDaemon::start().await;
    daemon.on_exec(vec![ExecScript::of([
        Part::Stdout(Bytes::from_static(b"up")),
        Part::AwaitSignal,
        exited(How::Signal(2)),
    ])]);
    let child = compyctl(&daemon.socket(), &["workspace", "exec", "w", "--", "prog"])
        .spawn()
        .unwrap();
    daemon
        .until("the command waits for a signal", |d| d.awaits_signal())
        .await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code(&output), 130);
    assert_eq!(daemon.signals(), [2]);
}

#[tokio::test]
async fn an_interrupt_before_the_daemon_answers_is_the_commands_all_the_same() {
    let daemon = FakeDaemon::start().await;
    daemon.hold_answers(true);
    daemon.on_exec(vec![ExecScript::of([
        Part::AwaitSignal,
        exited(How::Signal(2)),
    ])]);
    let mut child = compyctl(&daemon.socket(), &["workspace", "exec", "w", "--", "prog"])
        .spawn()
        .unwrap();
    daemon
        .until("the command is asked for", |d| !d.execs().is_empty())
        .await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut told = [0; 3];
    let said = child.stderr.as_mut().unwrap().read_exact(&mut told);
    let _ = tokio::time::timeout(LIMIT, said).await.unwrap().unwrap();
    daemon.hold_answers(false);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code(&output), 130);
    assert_eq!(daemon.signals(), [2]);
}

fn session(state: SessionState) -> Session {
    let mut session = Session {
        id: "se-1".into(),
        task: "fix it".into(),
        workspace_name: "w".into(),
        repository: "r".into(),
        state_reason: "because".into(),
        options: Some(SessionOptions {
            model: "scripted:demo.json".into(),
            ..SessionOptions::default()
        }),
        started_at: Some(prost_types::Timestamp {
            seconds: 100,
            nanos: 0,
        }),
        ..Session::default()
    };
    session.set_state(state);
    session
}

fn event(sequence: u64, summary: &str, event: Event) -> SessionEvent {
    SessionEvent {
        sequence,
        time: Some(prost_types::Timestamp {
            seconds: 100 + i64::try_from(sequence).unwrap(),
            nanos: 0,
        }),
        stage: Stage::Modify.into(),
        summary: summary.into(),
        event: Some(event),
    }
}

fn changed(sequence: u64, state: SessionState) -> SessionEvent {
    event(
        sequence,
        &format!("the session is {}", state.as_str_name()),
        Event::StateChanged(StateChanged {
            state: state.into(),
            reason: "because".into(),
        }),
    )
}

#[tokio::test]
async fn run_exits_by_the_sessions_end_and_only_verified_is_0() {
    let table = [
        (SessionState::Verified, 0),
        (SessionState::Failed, 3),
        (SessionState::Cancelled, 3),
        (SessionState::Waiting, 4),
        (SessionState::Paused, 4),
        (SessionState::Interrupted, 4),
    ];
    for (state, expected) in table {
        let daemon = FakeDaemon::start().await;
        let mut ended = session(state);
        if state == SessionState::Waiting {
            ended.question = Some(Question {
                id: "q".into(),
                text: "is it good?".into(),
                todo_id: 1,
                approval: None,
            });
        }
        daemon.set_session(ended);
        daemon.on_watch(vec![vec![
            changed(1, SessionState::Running),
            changed(2, state),
        ]]);
        let output = run(
            &daemon,
            &["run", "fix it", "--workspace", "w", "-o", "json"],
        )
        .await;
        assert_eq!(code(&output), expected, "{state:?}: {}", stderr(&output));
        let result = json(&output);
        assert_eq!(result["exit_code"], expected);
        assert_eq!(result["session"]["id"], "se-1");
        assert_eq!(result["session"]["scripted"], true);
        assert!(
            stderr(&output).contains("THE MODEL IS SCRIPTED"),
            "{}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("[00:02] MODIFY"),
            "{}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn run_prints_verdict_todos_and_proof_for_people() {
    let daemon = FakeDaemon::start().await;
    let mut ended = session(SessionState::Verified);
    ended.todos.push(Todo {
        id: 1,
        text: "keep the last word".into(),
        state: TodoState::Verified.into(),
        ..Todo::default()
    });
    ended.proof = Some(Proof {
        proved: true,
        reason: "all runs agree".into(),
        runs: vec![ProofRun {
            name: "base".into(),
            argv: vec!["python".into(), "-m".into(), "pytest".into()],
            ended: "exit 1".into(),
            passed: 11,
            failed: 2,
            verdict: "failed".into(),
            ..ProofRun::default()
        }],
        ..Proof::default()
    });
    daemon.set_session(ended);
    daemon.on_watch(vec![vec![changed(1, SessionState::Verified)]]);
    let output = run(&daemon, &["run", "fix it", "--workspace", "w"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "VERIFIED: se-1 (because)",
        "THE MODEL WAS SCRIPTED",
        "[x] 1. keep the last word",
        "PROVED: all runs agree",
        "base  exit 1  11      2       0        failed   python -m pytest",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(stderr(&output).contains("compyctl session show se-1"));
}

#[tokio::test]
async fn watching_goes_on_after_a_cut_without_repeating_an_event() {
    let daemon = FakeDaemon::start().await;
    daemon.set_session(session(SessionState::Running));
    // The fake ends each list with a cut, the last with the session's end.
    daemon.on_watch(vec![
        vec![
            changed(1, SessionState::Running),
            changed(2, SessionState::Running),
        ],
        vec![
            changed(2, SessionState::Running),
            changed(3, SessionState::Verified),
        ],
    ]);
    daemon.set_session_at_end(session(SessionState::Verified));
    let output = run(&daemon, &["session", "watch", "se-1", "-o", "json"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(daemon.watched_after(), [0, 2]);
    for time in ["[00:01]", "[00:02]", "[00:03]"] {
        assert_eq!(
            stderr(&output).matches(time).count(),
            1,
            "{time}: {}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn an_answer_reaches_the_session() {
    let daemon = FakeDaemon::start().await;
    daemon.set_session(session(SessionState::Running));
    let output = run(
        &daemon,
        &[
            "session",
            "answer",
            "se-1",
            "--no",
            "--text",
            "try again",
            "-o",
            "json",
        ],
    )
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let answer = daemon.answer().unwrap();
    assert_eq!((answer.accept, answer.text.as_str()), (false, "try again"));
    assert_eq!(json(&output)["state"], "running");
}

#[tokio::test]
async fn a_todo_is_verified_or_rejected_only_when_it_is_asked_about() {
    let daemon = FakeDaemon::start().await;
    let todo = |id, state: TodoState| Todo {
        id,
        state: state.into(),
        ..Todo::default()
    };
    daemon.set_session(Session {
        todos: vec![todo(1, TodoState::Pending), todo(2, TodoState::Verifying)],
        question: Some(Question {
            id: "q7".to_owned(),
            text: "Do you accept it?".to_owned(),
            todo_id: 2,
            approval: None,
        }),
        ..session(SessionState::Waiting)
    });
    let verify = async |words: &[&str]| {
        let arguments = [&["session", "verify", "se-1"], words].concat();
        let output = run(&daemon, &arguments).await;
        (code(&output), stderr(&output))
    };
    let (left, said) = verify(&["3"]).await;
    assert_eq!(left, 2, "{said}");
    assert!(
        said.contains("no todo 3") && said.contains("1, 2"),
        "{said}"
    );
    let (left, said) = verify(&["1"]).await;
    assert_eq!(left, 1, "{said}");
    for part in ["is pending", "session verify se-1 2"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(verify(&["2", "--reject", ""]).await.0, 2);
    let both = ["2", "--note", "x", "--reject", "y"];
    assert_eq!(verify(&both).await.0, 2);
    assert!(daemon.answer().is_none(), "nothing was answered yet");

    let (left, said) = verify(&["2", "--reject", "no run shows it"]).await;
    assert_eq!(left, 0, "{said}");
    let answer = daemon.answer().unwrap();
    assert_eq!(
        (
            answer.question_id.as_str(),
            answer.accept,
            answer.text.as_str()
        ),
        ("q7", false, "no run shows it")
    );
    let (left, said) = verify(&["2", "--note", "seen"]).await;
    assert_eq!(left, 0, "{said}");
    let answer = daemon.answer().unwrap();
    assert_eq!((answer.accept, answer.text.as_str()), (true, "seen"));
}

#[tokio::test]
async fn nobody_at_the_endpoint_exits_5() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.sock");
    for arguments in [
        &["workspace", "list"][..],
        &["run", "fix it", "--workspace", "w"][..],
        &["doctor"][..],
    ] {
        let output = compyctl(&socket, arguments).output().await.unwrap();
        assert_eq!(code(&output), 5, "{arguments:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("start it with `compyd`"),
            "{}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn usage_errors_exit_2_before_anything_is_asked_of_the_daemon() {
    let daemon = FakeDaemon::start().await;
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "-q"]).await;
    let missing = directory.path().join("missing");
    let huge = directory.path().join("huge");
    std::fs::write(&huge, "x".repeat(64 * 1024 + 1)).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let cases: [(Vec<String>, &str); 8] = [
        (
            vec!["run".into(), "  ".into(), "--workspace".into(), "w".into()],
            "the task is empty",
        ),
        (
            vec![
                "run".into(),
                "--task-file".into(),
                text(&huge),
                "--workspace".into(),
                "w".into(),
            ],
            "longer than 64 KiB",
        ),
        (vec!["run".into(), "t".into()], "--workspace"),
        (
            vec!["run".into(), "t".into(), "--repo".into(), text(&missing)],
            "cannot be found",
        ),
        (
            vec!["run".into(), "t".into(), "--repo".into(), text(&plain)],
            "not a usable git repository",
        ),
        (
            vec!["run".into(), "t".into(), "--repo".into(), text(&empty)],
            "has no commits",
        ),
        (
            vec![
                "run".into(),
                "t".into(),
                "--workspace".into(),
                "w".into(),
                "--test".into(),
                "a 'b".into(),
            ],
            "missing closing quote",
        ),
        (
            vec!["workspace".into(), "delete".into(), "w".into()],
            "--yes",
        ),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(&daemon, &arguments).await;
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(expected),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(daemon.mutations(), 0);
}

async fn git(directory: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn run_bundles_a_repository_into_a_new_workspace_under_a_free_name() {
    let daemon = FakeDaemon::start().await;
    daemon.set_session(session(SessionState::Verified));
    daemon.on_watch(vec![vec![changed(1, SessionState::Verified)]]);
    daemon.take_name("my-lib");
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("My Lib");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q", "-b", "trunk"]).await;
    std::fs::write(repository.join("a.txt"), "committed").unwrap();
    git(&repository, &["add", "."]).await;
    git(&repository, &["commit", "-q", "-m", "first"]).await;
    std::fs::write(repository.join("b.txt"), "not committed").unwrap();
    let output = run(
        &daemon,
        &[
            "run",
            "fix it",
            "--repo",
            repository.to_str().unwrap(),
            "--cpus",
            "0.5",
            "-o",
            "json",
        ],
    )
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("1 uncommitted change"),
        "{}",
        stderr(&output)
    );
    let created = daemon.created();
    assert_eq!(created.name, "my-lib-2");
    assert_eq!(created.limits.unwrap().cpu_millis, 500);
    let (start, bundle) = daemon.repository();
    assert_eq!(
        (start.workspace.as_str(), start.reference.as_str()),
        ("my-lib-2", "trunk")
    );
    let file = directory.path().join("received.bundle");
    std::fs::write(&file, &bundle).unwrap();
    let clone = directory.path().join("clone");
    git(
        directory.path(),
        &[
            "clone",
            "-q",
            "-b",
            "trunk",
            file.to_str().unwrap(),
            clone.to_str().unwrap(),
        ],
    )
    .await;
    assert_eq!(
        std::fs::read_to_string(clone.join("a.txt")).unwrap(),
        "committed"
    );
    assert!(!clone.join("b.txt").exists());
}

#[tokio::test]
async fn a_client_that_is_killed_in_an_upload_leaves_no_bundle() {
    let daemon = FakeDaemon::start().await;
    daemon.hold_answers(true);
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("lib");
    let temporary = directory.path().join("tmp");
    std::fs::create_dir(&repository).unwrap();
    std::fs::create_dir(&temporary).unwrap();
    git(&repository, &["init", "-q"]).await;
    git(
        &repository,
        &["commit", "-q", "--allow-empty", "-m", "first"],
    )
    .await;
    let add = ["workspace", "add-repo", "w", repository.to_str().unwrap()];
    let mut child = compyctl(&daemon.socket(), &add)
        .env("TMPDIR", &temporary)
        .spawn()
        .unwrap();
    daemon
        .until("the bundle is there", FakeDaemon::has_repository)
        .await;
    child.kill().await.unwrap();
    assert!(daemon.repository().1.starts_with(b"# v"));
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_session_that_cannot_start_leaves_no_workspace_behind() {
    let daemon = FakeDaemon::start().await;
    daemon.refuse_sessions("MODEL_MISSING");
    let output = run(
        &daemon,
        &["run", "fix it", "--repo", "https://example.org/a/lib.git"],
    )
    .await;
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("(MODEL_MISSING)"),
        "{}",
        stderr(&output)
    );
    assert_eq!(daemon.deleted(), ["lib"]);
}

#[tokio::test]
async fn a_mutating_call_is_retried_under_the_same_id_while_the_daemon_says_not_now() {
    let daemon = FakeDaemon::start().await;
    daemon.fail_creates(2);
    let output = run(&daemon, &["workspace", "create", "w", "-o", "json"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(json(&output)["name"], "w");
    let ids = daemon.create_ids();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn an_error_without_details_is_told_and_not_retried() {
    let daemon = FakeDaemon::start().await;
    let output = run(&daemon, &["session", "show", "se-unknown"]).await;
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).starts_with("error: something odd (Unknown)\n  try: "),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn the_thinking_of_a_session_is_shown_with_its_rates() {
    let daemon = FakeDaemon::start().await;
    let output = run(&daemon, &["session", "cognition", "se-1"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "1 of 2 (50 %)",
        "1 of 1 (100 %)",
        "T1",
        "refused: todo_claim",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let output = run(&daemon, &["session", "cognition", "se-1", "-o", "json"]).await;
    let view = json(&output);
    assert_eq!(view["compliance"]["rate"], 0.5);
    assert_eq!(view["timeline"][0]["stage"], "MODIFY");
}

#[tokio::test]
async fn doctor_exits_by_the_worst_check() {
    for (verdict, expected) in [
        (CheckVerdict::Ok, 0),
        (CheckVerdict::Warning, 0),
        (CheckVerdict::Failed, 1),
    ] {
        let daemon = FakeDaemon::start().await;
        daemon.set_checks(vec![Check {
            name: "engine".into(),
            verdict: verdict.into(),
            found: "found it".into(),
            advice: "fix it".into(),
        }]);
        let output = run(&daemon, &["doctor", "-o", "json"]).await;
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert_eq!(json(&output)["checks"][0]["name"], "engine");
    }
}

#[tokio::test]
async fn cp_takes_a_directory_there_and_back_unchanged() {
    let daemon = FakeDaemon::start().await;
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("src");
    std::fs::create_dir_all(source.join("deep")).unwrap();
    let content = noise(2_000_000, 6);
    std::fs::write(source.join("deep/data"), &content).unwrap();
    std::os::unix::fs::symlink("deep/data", source.join("link")).unwrap();
    let back = directory.path().join("back");
    let output = run(
        &daemon,
        &["workspace", "cp", source.to_str().unwrap(), "w:/data/there"],
    )
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(daemon.upload_directory(), "/data");
    let output = run(
        &daemon,
        &["workspace", "cp", "w:/data/there", back.to_str().unwrap()],
    )
    .await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        std::fs::read(back.join("deep/data")).unwrap() == content,
        "content differs"
    );
    assert_eq!(
        std::fs::read_link(back.join("link")).unwrap().to_str(),
        Some("deep/data")
    );
}

#[tokio::test]
async fn an_artifact_is_written_byte_by_byte() {
    let daemon = FakeDaemon::start().await;
    let content = noise(2_200_000, 7);
    daemon.set_artifact(content.clone());
    let output = run(&daemon, &["artifact", "get", "ar-1"]).await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(output.stdout == content, "content differs");
}

#[tokio::test]
async fn a_daemon_that_restarts_loses_no_byte_of_a_command() {
    let out = noise(4_000_000, 8);
    let daemon = FakeDaemon::start().await;
    let mut relay = Relay::to(&daemon);
    daemon.on_exec(vec![
        ExecScript::of([Part::Stdout(out.slice(..2_500_000)), Part::AwaitSignal]),
        ExecScript::of([Part::StdoutRest(out.clone()), exited(How::Code(3))]),
    ]);
    let child = compyctl(&relay.socket(), &["workspace", "exec", "w", "--", "prog"])
        .spawn()
        .unwrap();
    // Read while the connection goes: nobody holds the command back.
    let reading = tokio::spawn(child.wait_with_output());
    daemon
        .until("the first part was sent", |d| d.awaits_signal())
        .await;
    relay.go_away();
    // Nobody answers for a while, so that dialling again fails, too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    relay.come_back();
    let output = tokio::time::timeout(LIMIT, reading)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(output.stdout == out, "standard output differs");
    assert_eq!(daemon.execs().len(), 2);
}

#[tokio::test]
async fn watching_survives_a_restart_of_the_daemon() {
    let daemon = FakeDaemon::start().await;
    let mut relay = Relay::to(&daemon);
    daemon.set_session(session(SessionState::Running));
    daemon.on_watch(vec![vec![changed(1, SessionState::Running)]]);
    let child = compyctl(&relay.socket(), &["session", "watch", "se-1", "-o", "json"])
        .spawn()
        .unwrap();
    daemon
        .until("the session is watched", |d| !d.watched_after().is_empty())
        .await;
    relay.go_away();
    daemon.on_watch(vec![vec![
        changed(1, SessionState::Running),
        changed(2, SessionState::Verified),
    ]]);
    daemon.set_session_at_end(session(SessionState::Verified));
    relay.come_back();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("[00:02]").count(), 1);
}

#[tokio::test]
async fn egress_is_set_and_shown_with_its_hosts() {
    let daemon = FakeDaemon::start().await;
    let allowed = ["--allow", "a.example", "--allow", "*.b.example:8080"];
    let mut arguments = vec!["-o", "json", "workspace", "egress", "w"];
    arguments.extend(allowed);
    let output = run(&daemon, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["egress"], "allow");
    assert_eq!(
        shown["allow"],
        serde_json::json!(["a.example", "*.b.example:8080"])
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("2 open connection(s) were cut"), "{said}");

    let mut arguments = vec!["workspace", "create", "w2", "--egress", "allow"];
    arguments.extend(allowed);
    assert_eq!(run(&daemon, &arguments).await.status.code(), Some(0));
    let egress = daemon.created().egress.unwrap();
    assert_eq!(egress.policy(), compyd_proto::v1::EgressPolicy::AllowList);
    assert_eq!(egress.allow, ["a.example", "*.b.example:8080"]);
    run(&daemon, &["workspace", "create", "w3"]).await;
    assert_eq!(daemon.created().egress, None);
}

#[tokio::test]
async fn a_forwarded_port_carries_bytes_and_half_closes() {
    let daemon = FakeDaemon::start().await;
    let mut forward = compyctl(&daemon.socket(), &["workspace", "port-forward", "w", "7:0"])
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(LIMIT, lines.next_line())
        .await
        .unwrap();
    let line = line.unwrap().unwrap();
    let address = line.split(' ').nth(1).unwrap();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let sent = vec![7; 1_000_000];
        let expected = sent.clone();
        let (mut from, mut to) = stream.split();
        let mut received = Vec::new();
        let (written, read) = tokio::join!(
            async {
                to.write_all(&sent).await?;
                to.shutdown().await
            },
            tokio::time::timeout(LIMIT, from.read_to_end(&mut received)),
        );
        written.unwrap();
        read.unwrap().unwrap();
        assert!(received == expected);
    }
    forward.kill().await.unwrap();
}

#[tokio::test]
async fn set_changes_what_is_named_and_nothing_else() {
    let daemon = FakeDaemon::start().await;
    let set = async |more: &[&str]| {
        let arguments = [&["-o", "json", "workspace", "set", "w"], more].concat();
        let output = run(&daemon, &arguments).await;
        assert_eq!(code(&output), 0, "{output:?}");
        let shown = json(&output);
        (
            shown["idle_stop"].clone(),
            shown["disk_limit_bytes"].clone(),
        )
    };
    let idle = |text: &str| serde_json::Value::from(text);
    assert_eq!(
        set(&["--idle-stop", "90m"]).await,
        (idle("1h 30m"), 7.into())
    );
    assert_eq!(
        set(&["--idle-stop", "never", "--disk", "0"]).await,
        (idle("never"), 0.into())
    );
    assert_eq!(
        set(&["--disk", "20M"]).await,
        (idle("default"), (20 << 20).into())
    );
    for wrong in [
        &["workspace", "set", "w"][..],
        &["workspace", "set", "w", "--idle-stop", "1ms"],
    ] {
        let output = run(&daemon, wrong).await;
        assert_eq!(code(&output), 2, "{output:?}");
    }
}
