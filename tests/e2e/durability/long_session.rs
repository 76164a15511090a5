//! A session of more than 60 steps with several calls in most turns, a snapshot
//! and a pull request, and what it must come to whatever happened meanwhile.

use std::collections::BTreeMap;

use compyd_proto::v1::{Session, SessionEvent, SessionState, TodoState, session_event::Event};
use compyd_tests::{
    daemon::Daemon,
    repository::{Repository, git, sample_script},
    script::{Script, call},
    sessions::{request, story},
};
use serde_json::{Value, json};

/// Where every command of the script leaves a line, outside the repository.
pub(super) const MARKS: &str = "/workspace/marks";
/// The command that takes a while, by its mark.
pub(super) const SLOW: &str = "m02";
/// Steps that such a session has at least.
pub(super) const STEPS_MIN: usize = 60;

/// A repository beside the session's, to which only what is approved is pushed.
const ELSEWHERE: &str = "/workspace/elsewhere.git";
/// Where the approved command leaves its mark.
const APPROVED: &str = "/workspace/approved";
/// The credential that a command of a guarded session prints, and its value.
pub(super) const CANARY: (&str, &str) = ("token", "canary_T0ken_9d41c6b07e3a");

/// Marks of the script's commands, in order.
const COMMANDS: usize = 20;
/// Files that are written and then edited.
const NOTES: usize = 6;

fn mark(number: usize) -> String {
    format!("m{number:02}")
}

/// The marks of all commands, in order.
pub(super) fn marks() -> impl Iterator<Item = String> {
    (1..=COMMANDS).map(mark)
}

/// A command that leaves its mark each time it runs.
fn command(number: usize, slow_s: u32) -> Value {
    let seconds = if mark(number) == SLOW { slow_s } else { 0 };
    let name = mark(number);
    call(
        "run_command",
        json!({"command": format!("echo {name} >> {MARKS}; sleep {seconds}")}),
    )
}

fn read(path: &str) -> Value {
    call("read_file", json!({"path": path}))
}

fn grep(pattern: &str) -> Value {
    call("grep", json!({"pattern": pattern}))
}

fn list(path: &str) -> Value {
    call("list_directory", json!({"path": path}))
}

/// The sample's script, and around it turns of several calls each.
pub(super) fn script() -> Script {
    script_with(1)
}

/// The same, whose [slow](SLOW) command takes so many seconds.
pub(super) fn script_with(slow_s: u32) -> Script {
    let mut numbers = 1..=COMMANDS;
    let mut next = move || command(numbers.next().expect("as many as are counted"), slow_s);
    let understand = [
        vec![next(), read("README.md"), list("tests"), grep("import")],
        vec![next(), read("pyproject.toml"), list("textkit"), next()],
        vec![next(), grep("separator"), read("textkit/words.py")],
        vec![next(), grep("def test"), read("tests/test_slug.py")],
    ];
    let locate = [
        vec![next(), read("tests/test_words.py"), grep("split_words")],
        vec![next(), read("textkit/__init__.py"), next()],
    ];
    let modify = (1..=NOTES).map(|number| {
        let path = format!("notes/{number}.md");
        let edit = json!([{"old_text": "draft", "new_text": "final"}]);
        let content = format!("draft {number}\n");
        vec![
            call("write_file", json!({"path": path, "content": content})),
            next(),
            read(&path),
            call("edit_file", json!({"path": path, "replacements": edit})),
            next(),
        ]
    });
    let modify: Vec<Vec<Value>> = modify.collect();
    // From the end, so that places stay what they are.
    let before = |script: Script, turn: usize, turns: Vec<Vec<Value>>| {
        let turns = turns.into_iter().rev();
        turns.fold(script, |script, calls| {
            script.before_turn(turn, json!({"tool_calls": calls}))
        })
    };
    let script = Script::load(&sample_script());
    let script = before(script, 7, modify);
    let script = before(script, 4, locate.into());
    before(script, 1, understand.into())
}

/// The same script with two more commands: one that prints a credential, and one
/// that a person has to approve.
pub(super) fn guarded_script() -> Script {
    let push = format!("git push {ELSEWHERE} HEAD:work && echo approved >> {APPROVED}");
    let guarded = vec![
        call(
            "run_command",
            json!({"command": "env | sed -n 's/^TOKEN=/the token is /p'"}),
        ),
        call(
            "think",
            json!({"content": "git push sends textkit/slug.py and the rest to elsewhere.git"}),
        ),
        call("run_command", json!({"command": push})),
    ];
    script().before_turn(1, json!({"tool_calls": guarded}))
}

/// A workspace with a fresh copy of the sample, a credential, and a place to push
/// to.
pub(super) async fn prepare_guarded(daemon: &Daemon, name: &str) {
    prepare(daemon, name).await;
    let (credential, value) = CANARY;
    let set = [
        "credential",
        "set",
        credential,
        "--workspace",
        name,
        "--kind",
        "value",
    ];
    let client = daemon.client().args(set).stdin(value.as_bytes());
    let _ = client.run().await.expect_code(0);
    let made = format!("git init -q --bare {ELSEWHERE}");
    let made = daemon.shell(name, &made).await;
    assert_eq!(made.code(), Some(0), "{}", made.text());
}

/// What is approved was done once, and the credential was in the command's hands
/// and is in nobody else's.
pub(super) async fn guarded_well(daemon: &Daemon, workspace: &str, id: &str) {
    let events = daemon.events(id, 0).await;
    let told = story(&events);
    let asked = |event: &&SessionEvent| matches!(event.event, Some(Event::QuestionAsked(_)));
    assert_eq!(events.iter().filter(asked).count(), 1, "asked once\n{told}");
    let answered = |event: &&SessionEvent| matches!(event.event, Some(Event::QuestionAnswered(_)));
    assert_eq!(events.iter().filter(answered).count(), 1, "{told}");
    let approved = daemon.shell(workspace, &format!("cat {APPROVED}")).await;
    assert_eq!(approved.text(), "approved", "{told}");
    let pushed = format!("git -C {ELSEWHERE} rev-list --count work");
    assert_eq!(
        daemon.shell(workspace, &pushed).await.code(),
        Some(0),
        "{told}"
    );
    let printed = events.iter().any(|event| {
        matches!(&event.event, Some(Event::ToolEnded(ended))
            if ended.content.contains("the token is [redacted:token]"))
    });
    assert!(printed, "the command had the credential\n{told}");
}

/// A session on a fresh copy of the sample in a fresh workspace of this name.
pub(super) async fn start(daemon: &Daemon, name: &str, model: &str) -> String {
    prepare(daemon, name).await;
    daemon.start_session(request(name, model)).await
}

/// A workspace with a fresh copy of the sample.
pub(super) async fn prepare(daemon: &Daemon, name: &str) {
    let repository = Repository::sample(daemon.directory().join(name));
    daemon.workspace(name, &["--repo", repository.arg()]).await;
}

/// What became of the calls of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// All of them did what they were asked.
    Done,
    /// One command was under way when its machine went away.
    LostOne,
}

/// The session has ended as it ends when nothing happens to it: every call of the
/// script answered once and in order, nothing done twice, nothing lost.
pub(super) async fn ended_well(
    daemon: &Daemon,
    workspace: &str,
    id: &str,
    calls: Calls,
) -> Vec<SessionEvent> {
    ended_as(daemon, workspace, id, calls, &script()).await
}

/// The same of a session that plays this script, which has all of [`script`].
pub(super) async fn ended_as(
    daemon: &Daemon,
    workspace: &str,
    id: &str,
    calls: Calls,
    script: &Script,
) -> Vec<SessionEvent> {
    let session = daemon.ended(id).await;
    let events = daemon.events(id, 0).await;
    let told = story(&events);
    let why = &session.state_reason;
    assert_eq!(session.state(), SessionState::Verified, "{why}\n{told}");
    assert_eq!(session.last_sequence, events.len() as u64, "{told}");
    nothing_is_left_open_or_done_twice(&events);
    let steps = steps(&events);
    assert!(steps >= STEPS_MIN, "{steps} steps\n{told}");
    let asked: Vec<String> = script.call_names();
    let ended: Vec<(&str, bool)> = (events.iter())
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) => Some((ended.name.as_str(), ended.outcome == 1)),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = ended.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, asked, "{told}");
    let lost = ended.iter().filter(|(_, well)| !well).count();
    // The script runs a test that fails on purpose, once.
    let expected = 1 + usize::from(calls == Calls::LostOne);
    assert_eq!(lost, expected, "calls that failed\n{told}");
    the_world_is_as_it_should_be(daemon, workspace, &session, &told).await;
    events
}

async fn the_world_is_as_it_should_be(
    daemon: &Daemon,
    workspace: &str,
    session: &Session,
    told: &str,
) {
    let marks = daemon.shell(workspace, &format!("cat {MARKS}")).await;
    let expected: Vec<String> = self::marks().collect();
    assert_eq!(marks.text(), expected.join("\n"), "{told}");
    let states: Vec<TodoState> = session.todos.iter().map(|todo| todo.state()).collect();
    assert_eq!(states, [TodoState::Verified], "{told}");
    let proved = session.proof.as_ref().is_some_and(|proof| proof.proved);
    assert!(proved, "{told}");

    let forge = daemon.data_dir().join("forge").join(&session.workspace_id);
    let bare = forge.join(format!("{}.git", session.repository));
    let branch = &session.branch;
    let range = format!("main..{branch}");
    assert_eq!(git(&bare, &["rev-list", "--count", &range]), "1", "{told}");
    let changed = git(&bare, &["diff", "--name-only", "main", branch]);
    let mut files: Vec<String> = (1..=NOTES).map(|note| format!("notes/{note}.md")).collect();
    files.push("textkit/slug.py".to_owned());
    assert_eq!(changed.lines().collect::<Vec<_>>(), files, "{told}");
    for note in 1..=NOTES {
        let file = format!("{branch}:notes/{note}.md");
        assert_eq!(git(&bare, &["show", &file]), format!("final {note}"));
    }
    let pull = session
        .pull_request
        .as_ref()
        .expect("it has a pull request");
    assert_eq!(pull.number, 1, "one pull request\n{told}");
    assert!(
        pull.checks
            .iter()
            .all(|check| check.completed && check.passed)
    );
    for artifact in daemon.artifacts_of(&session.id).await {
        let bytes = daemon.artifact(&artifact.id).await;
        let hash = blake3::hash(&bytes).to_string();
        assert_eq!(hash, artifact.hash, "{artifact:?}");
    }
}

/// Calls that act on the workspace, calls of the model, and work of the daemon's.
pub(super) fn steps(events: &[SessionEvent]) -> usize {
    let begins = |event: &&SessionEvent| {
        matches!(
            event.event,
            Some(Event::ToolStarted(_) | Event::CheckStarted(_))
        )
    };
    events.iter().filter(begins).count()
}

/// Every tool call that began has ended once, and there is one commit.
fn nothing_is_left_open_or_done_twice(events: &[SessionEvent]) {
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
    let told = story(events);
    assert!(!begun.is_empty());
    assert_eq!(begun, ended, "calls begun and calls ended:\n{told}");
    assert!(begun.values().all(|count| *count == 1), "{begun:?}");
    let commits = events
        .iter()
        .filter(|event| matches!(event.event, Some(Event::Committed(_))));
    assert_eq!(commits.count(), 1, "{told}");
}
