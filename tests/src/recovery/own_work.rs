//! The daemon's own work that fails: its checks, git and the forge, CI.

use compyd_proto::v1::{Session, SessionEvent, SessionOptions, Workflow, session_event::Event};
use serde_json::{Value, json};

use super::{
    BROKEN, End, Outcome, PYTEST, TEST, advance, changed, delete, edit, ended, read,
    run as command, think, told, types_of_work, when_told, workspace,
};
use crate::{
    daemon::Daemon,
    repository::git,
    script::{Script, call, todo},
    sessions::request,
};

/// A session that meets some faults.
struct Job {
    name: &'static str,
    files: Vec<(&'static str, String)>,
    /// Run in the workspace before the session: its clean twins do not have it.
    before: &'static str,
    lint: &'static str,
    /// Type, and what was done.
    meets: &'static [(&'static str, &'static str)],
    script: Script,
}

/// Plays sessions that meet every fault.
pub(super) async fn bring_about(daemon: &Daemon, each: &mut impl FnMut(Outcome)) {
    for job in [up_to_the_push(), ci()] {
        let files: Vec<(&str, &str)> = (job.files.iter())
            .map(|(name, content)| (*name, content.as_str()))
            .collect();
        workspace(daemon, job.name, &files).await;
        let played = play(daemon, &job).await;
        delete(daemon, job.name).await;
        let types = types_of_work(&played.events);
        let proved = ended(&played.session) == Some(End::Recovered);
        for (class, fault) in job.meets {
            let (wanted, is_right) = match *class {
                REJECTED => (End::Escalated, played.asked),
                _ => (End::Recovered, true),
            };
            each(Outcome {
                class,
                fault,
                wanted,
                end: (proved && is_right && types.contains(class)).then_some(wanted),
                story: told(&played.session, &played.events),
            });
        }
    }
}

const REJECTED: &str = "PUSH_REJECTED";

/// Validation that fails in three ways, a branch in the way of the daemon's own,
/// and a forge that rejects the push.
fn up_to_the_push() -> Job {
    let slow = "[time.sleep(1) for _ in iter(int, 1)] and a + b";
    let script = up_to_validation(edit("sums.py", "a - b", "a * b"));
    let script = understood(script, "ASSERTION_ERROR");
    let script = script.calls([
        think("sums.py multiplies; I try a slow way"),
        edit("sums.py", "a * b", slow),
        think("sums.py adds; the daemon's own tests will show it"),
        advance(),
    ]);
    let script = understood(script, "TIMEOUT");
    let script = changed(
        script,
        &[
            edit("sums.py", slow, "a + b"),
            command(
                "git config user.name a; git config user.email a@b; \
                 echo ours > notes.txt; git commit -qm ours notes.txt; git merge other || true",
            ),
        ],
    );
    let script = understood(script, "MERGE_CONFLICT");
    let mends = "printf 'ours\\ntheirs\\n' > notes.txt; git branch compy";
    Job {
        name: "up-to-the-push",
        files: vec![
            ("sums.py", format!("import time\n\n\n{BROKEN}")),
            ("test_sums.py", TEST.to_owned()),
            ("notes.txt", "first\n".to_owned()),
        ],
        before: "cd /workspace/app && git config user.name a && git config user.email a@b && \
                 git switch -qc other && echo theirs > notes.txt && git commit -qam theirs && \
                 git switch -q main",
        lint: "",
        meets: &[
            (
                "ASSERTION_ERROR",
                "tests that fail in the daemon's validation",
            ),
            ("TIMEOUT", "tests that never end in the daemon's validation"),
            (
                "MERGE_CONFLICT",
                "a merge that was not ended, in the daemon's validation",
            ),
            (
                "BRANCH_EXISTS",
                "a branch that is in the way of the daemon's own",
            ),
            (REJECTED, "a branch of the forge that has gone on"),
        ],
        script: changed(script, &[command(mends)]),
    }
}

/// Code that needs what only the session's workspace has, in four ways.
fn ci() -> Job {
    let long = format!("# {}\n", "long ".repeat(20));
    let waits = "while not os.path.exists(os.path.expanduser('~/ready')):\n    time.sleep(0.1)\n";
    let opens = "READY = open(os.path.expanduser('~/ready')).read()\n";
    let looks = "    os.stat(os.path.expanduser('~/ready'))\n";
    let body = BROKEN.replace("    return", &format!("{looks}    return"));
    let lint = "import os, sys\n\
                rules = os.path.expanduser('~/width')\n\
                width = int(open(rules).read()) if os.path.exists(rules) else 80\n\
                long = [n for n, line in enumerate(open('sums.py'), 1) if len(line) > width]\n\
                for n in long:\n    print(f'sums.py:{n}:{width}: E501 line too long')\n\
                sys.exit(bool(long))\n";
    let script = up_to_validation(edit("sums.py", "a - b", "a + b"));
    let script = understood(script, "CI_LINT_FAILED: [^]]*\\]\\s*\\[CI_TIMEOUT");
    let script = changed(
        script,
        &[edit("sums.py", &long, ""), edit("sums.py", waits, "")],
    );
    let script = understood(script, "CI_BUILD_FAILED");
    let script = changed(script, &[edit("sums.py", opens, "")]);
    let script = understood(script, "CI_TEST_FAILED");
    let script = changed(script, &[edit("sums.py", looks, "")]);
    Job {
        name: "ci",
        files: vec![
            (
                "sums.py",
                format!("import os, time\n{long}{waits}{opens}\n\n{body}"),
            ),
            ("test_sums.py", TEST.to_owned()),
            ("lint.py", lint.to_owned()),
        ],
        before: "touch ~/ready; echo 200 > ~/width",
        lint: "python lint.py",
        meets: &[
            (
                "CI_LINT_FAILED",
                "lint that fails with the project's own rules",
            ),
            (
                "CI_TIMEOUT",
                "tests that wait in a clean workspace for what never comes",
            ),
            (
                "CI_BUILD_FAILED",
                "code that cannot be imported in a clean workspace",
            ),
            (
                "CI_TEST_FAILED",
                "tests that pass only where a file of the workspace is",
            ),
        ],
        script,
    }
}

/// The stage after a failure of the daemon's work, once its type was told.
fn understood(script: Script, class: &str) -> Script {
    let calls = [
        think("sums.py is wrong in another way; what failed says how"),
        advance(),
    ];
    when_told(script, &format!(r"\[{class}: "), &calls)
}

/// Every stage up to the daemon's validation.
fn up_to_validation(change: Value) -> Script {
    let is_there = json!([{"type": "file_exists", "path": "sums.py"}]);
    Script::new()
        .calls([
            read("sums.py"),
            think("sums.py subtracts where it should add"),
            advance(),
        ])
        .calls([todo("add adds", is_there), advance()])
        .calls([read("test_sums.py"), advance()])
        .calls([
            think("sums.py: a - b has to become a sum"),
            change,
            command(PYTEST),
            think("sums.py adds; the daemon's own tests will show it"),
            call("todo_claim", json!({"id": 1, "evidence": PYTEST})),
            advance(),
        ])
}

/// A session at its end.
struct Played {
    session: Session,
    events: Vec<SessionEvent>,
    /// Whether a person was asked with all that is known.
    asked: bool,
}

async fn play(daemon: &Daemon, job: &Job) -> Played {
    let prepared = daemon.shell(job.name, job.before).await;
    assert_eq!(prepared.code(), Some(0), "{}", prepared.text());
    let mut start = request(job.name, &job.script.write(daemon.directory()));
    start.task = "add subtracts; fix it".to_owned();
    start.options = Some(SessionOptions {
        workflow: Workflow::Swe.into(),
        lint_command: job.lint.to_owned(),
        ..start.options.unwrap_or_default()
    });
    let id = daemon.start_session(start).await;
    let asked = match job.meets.iter().any(|(class, _)| *class == REJECTED) {
        true => rejected(daemon, &id).await,
        false => false,
    };
    Played {
        session: daemon.rested(&id).await,
        events: daemon.events(&id, 0).await,
        asked,
    }
}

/// Somebody else's commit is on the session's branch of the forge before its own
/// gets there. A person is needed; once the branch is out of the way the session
/// goes on. Gives whether the person was told everything.
async fn rejected(daemon: &Daemon, id: &str) -> bool {
    let branch = loop {
        let events = daemon.events(id, 0).await;
        let committed = events.into_iter().find_map(|event| match event.event {
            Some(Event::Committed(committed)) => Some(committed.branch),
            _ => None,
        });
        if let Some(branch) = committed {
            break branch;
        }
        if crate::sessions::rests(daemon.session(id).await.state()) {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let session = daemon.session(id).await;
    let forge = daemon.data_dir().join("forge").join(&session.workspace_id);
    let forge = forge.join(format!("{}.git", session.repository));
    std::fs::create_dir_all(&forge).expect("the forge's directory can be made");
    git(&forge, &["init", "--quiet", "--bare"]);
    let tree = git(&forge, &["hash-object", "-t", "tree", "-w", "/dev/null"]);
    let other = git(&forge, &["commit-tree", &tree, "-m", "somebody else's"]);
    let reference = format!("refs/heads/{branch}");
    git(&forge, &["update-ref", &reference, &other]);
    let session = daemon.rested(id).await;
    git(&forge, &["update-ref", "-d", &reference]);
    let reason = &session.state_reason;
    let asked = ended(&session) == Some(End::Escalated)
        && reason.contains(&branch)
        && reason.contains("[PUSH_REJECTED: ");
    if asked {
        daemon.resume(id).await;
    }
    asked
}
