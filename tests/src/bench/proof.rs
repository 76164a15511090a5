//! What a proof costs beyond running the tests.

use std::time::Instant;

use compyd_proto::v1::{SessionEvent, SessionState, Workflow, session_event::Event};
use serde_json::json;

use super::{Better, Field, Measured, Report};
use crate::{
    repository::Repository,
    script::{Script, call, todo},
    sessions::{request, story},
};

const ROUNDS: usize = 6;
const TESTS: usize = 40;
const RUN: &str = "cd /workspace/sums && python -m pytest -q";

/// Measures the proof of a fix, the base run not counted, beside the same tests
/// run by hand.
pub async fn measure(field: &Field, report: &mut Report) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let repository = repository(field);
    for round in 0..ROUNDS {
        let name = format!("proof-{round}");
        let daemon = &field.daemon;
        daemon.workspace(&name, &["--repo", repository.arg()]).await;
        let mut request = request(&name, &script().write(&field.directory));
        request.task = "add subtracts; fix it".to_owned();
        if let Some(options) = &mut request.options {
            options.workflow = Workflow::None.into();
        }
        let id = daemon.start_session(request).await;
        let session = daemon.rested(&id).await;
        let events = daemon.events(&id, 0).await;
        assert_eq!(
            session.state(),
            SessionState::Verified,
            "{}",
            story(&events)
        );
        ours.push(proof_ms(&events));
        for _ in 0..2 {
            let begun = Instant::now();
            let ran = daemon.shell(&name, RUN).await;
            theirs.push(begun.elapsed().as_secs_f64() * 1e3);
            assert_eq!(ran.code(), Some(0), "{}", ran.text());
        }
        let delete = ["workspace", "delete", &name, "--yes"];
        let _ = daemon.compyctl(&delete).await.expect_code(0);
    }
    report.add(
        Measured {
            name: "proof of 40 tests | the same tests by hand",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "at most 1500 ms more",
        // Ours less theirs, at the median.
        |ours, ratio| ours.p50 * (1.0 - ratio) <= 1_500.0,
    );
}

fn repository(field: &Field) -> Repository {
    let mut tests = "from sums import add\n".to_owned();
    for number in 0..TESTS {
        tests.push_str(&format!(
            "\n\ndef test_{number}():\n    assert add({number}, 1) == {}\n",
            number + 1
        ));
    }
    let files = [
        ("sums.py", "def add(a, b):\n    return a - b\n"),
        ("test_sums.py", tests.as_str()),
    ];
    Repository::with_files(field.directory.join("sums"), &files)
}

fn script() -> Script {
    Script::new()
        .calls([
            todo("add adds", json!([{"type": "file_exists", "path": "sums.py"}])),
            call("read_file", json!({"path": "sums.py"})),
            call("think", json!({"content": "sums.py subtracts where it should add"})),
        ])
        .tool(
            "edit_file",
            json!({"path": "sums.py", "replacements": [{"old_text": "a - b", "new_text": "a + b"}]}),
        )
        .tool("run_command", json!({"command": "python -m pytest -q"}))
        .calls([
            call("think", json!({"content": "python -m pytest -q passes with sums.py as it is"})),
            call("todo_claim", json!({"id": 1, "evidence": "40 passed"})),
            call("advance", json!({})),
        ])
}

/// From the beginning of the proof to its end, in milliseconds.
fn proof_ms(events: &[SessionEvent]) -> f64 {
    let at = |event: &SessionEvent| {
        let time = event.time.unwrap_or_default();
        time.seconds as f64 * 1e3 + f64::from(time.nanos) / 1e6
    };
    let begun = events.iter().find(
        |event| matches!(&event.event, Some(Event::CheckStarted(check)) if check.name == "proof"),
    );
    let ended = (events.iter()).find(|event| matches!(&event.event, Some(Event::ProofMade(_))));
    let (begun, ended) = begun.zip(ended).expect("a verified session was proved");
    at(ended) - at(begun)
}
