//! Real faults inside real sessions, and what comes of them.
//!
//! The model is scripted: it goes on only where the daemon named the type of the
//! failure, as its advice says, and then does the task. Nothing prints a failure
//! that does not happen: a file system is full, a process is killed, a server
//! refuses.

mod commands;
mod own_work;
mod provider;
mod tally;

use std::collections::BTreeSet;

use compyd_proto::v1::{Session, SessionEvent, SessionState, session_event::Event};
use serde_json::{Value, json};

pub use self::{provider::Provider, tally::Tally};
use crate::{
    daemon::{Daemon, Options},
    repository::Repository,
    script::{Script, call},
    sessions::story,
};

/// A policy under which the faults can be brought about.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/recovery/policy.toml");
/// How long the daemon's own checks may take in these sessions.
const CHECK_TIMEOUT: &str = "60s";

/// What has to come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session does its task all the same, and it is proved.
    Recovered,
    /// A person is asked.
    Escalated,
}

/// A fault and what came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The type of the failure.
    pub class: &'static str,
    /// What was done.
    pub fault: &'static str,
    /// What should have come of it.
    pub wanted: End,
    /// What did; `None` for anything else.
    pub end: Option<End>,
    /// The session's story.
    pub story: String,
}

/// A daemon in which the faults can be brought about.
#[must_use]
pub fn options(provider: &Provider) -> Options {
    Options::default()
        .set("session.check_timeout", CHECK_TIMEOUT)
        .set("policy.file", POLICY)
        .set("model.openai_base_url", provider.base_url())
        .env("OPENAI_API_KEY", "none")
}

/// Brings every fault about and gives each outcome to `each` as it comes.
pub async fn bring_about(daemon: &Daemon, provider: &Provider, mut each: impl FnMut(Outcome)) {
    own_work::bring_about(daemon, &mut each).await;
    provider.bring_about(daemon, &mut each).await;
    commands::bring_about(daemon, &mut each).await;
}

/// A workspace of its own for a repository with these files.
async fn workspace(daemon: &Daemon, name: &str, files: &[(&str, &str)]) {
    let repository = Repository::with_files(daemon.directory().join(name).join("app"), files);
    daemon.workspace(name, &["--repo", repository.arg()]).await;
}

async fn delete(daemon: &Daemon, workspace: &str) {
    let _ = daemon
        .compyctl(&["workspace", "delete", workspace, "--yes"])
        .await;
}

/// How a session at rest stands.
fn ended(session: &Session) -> Option<End> {
    match session.state() {
        SessionState::Verified => Some(End::Recovered),
        SessionState::Waiting | SessionState::Paused => Some(End::Escalated),
        SessionState::Unspecified
        | SessionState::Running
        | SessionState::Interrupted
        | SessionState::Failed
        | SessionState::Cancelled => None,
    }
}

/// The types of failures that the daemon's own work has in a log.
fn types_of_work(events: &[SessionEvent]) -> BTreeSet<&str> {
    let mut types = BTreeSet::new();
    for event in events {
        match &event.event {
            Some(Event::CheckEnded(ended)) => {
                types.extend(ended.failures.iter().map(String::as_str));
            }
            Some(Event::ProofMade(made)) => {
                types.extend(made.failures.iter().map(String::as_str));
            }
            _ => {}
        }
    }
    types
}

fn told(session: &Session, events: &[SessionEvent]) -> String {
    format!("{}\n{}", session.state_reason, story(events))
}

fn run(line: &str) -> Value {
    call("run_command", json!({"command": line, "timeout_s": 120}))
}

fn think(content: &str) -> Value {
    call("think", json!({"content": content}))
}

fn read(path: &str) -> Value {
    call("read_file", json!({"path": path}))
}

fn edit(path: &str, old: &str, new: &str) -> Value {
    call(
        "edit_file",
        json!({"path": path, "replacements": [{"old_text": old, "new_text": new}]}),
    )
}

fn advance() -> Value {
    call("advance", json!({"summary": "done"}))
}

/// A turn that is only taken when the daemon told this.
fn when_told(script: Script, pattern: &str, calls: &[Value]) -> Script {
    script.line(json!({"expect": pattern, "tool_calls": calls}))
}

const PYTEST: &str = "python -m pytest -q";
const BROKEN: &str = "def add(a, b):\n    return a - b\n";
const TEST: &str = "from sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n";

/// The change that the task wants, a run that shows it, and the end of the work.
fn fixed(script: Script) -> Script {
    changed(script, &[edit("sums.py", "a - b", "a + b")])
}

fn changed(script: Script, changes: &[Value]) -> Script {
    let before = think("git has the old sums.py; it is to be changed, and then the tests pass");
    let after = [
        run(PYTEST),
        think("python -m pytest -q passes with sums.py as it is now"),
        advance(),
    ];
    script.calls([&[before], changes, &after].concat())
}
