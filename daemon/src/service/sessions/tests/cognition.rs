//! What is said of a session's thinking once it has ended.

use super::*;
use crate::domain::cognition::{CognitiveEvent, Compliance, Point, Report, Temptation};

const ADDS: &str = "try:\n    import numpy\n    import requests\nexcept ImportError:\n    pass\n\n\n\
                    def add(a, b, c=0):\n    return a + b + c\n";

fn think(content: &str) -> ToolCall {
    call("think", json!({"content": content}))
}

/// A session that declares its packages, on its way to a proof by these calls.
async fn reported(replies: Vec<Vec<ToolCall>>) -> (Arc<SessionState>, Report) {
    reported_with(&[("requirements.txt", "requests>=2\n")], replies).await
}

/// The same with these files beside the sample.
async fn reported_with(
    files: &[(&str, &str)],
    replies: Vec<Vec<ToolCall>>,
) -> (Arc<SessionState>, Report) {
    let fixture = Fixture::new().await;
    let repository = fixture.repository();
    for (path, content) in files {
        let path = repository.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "declare"]);
    let options = SessionOptions {
        workflow: WorkflowKind::None,
        ..options()
    };
    let daemon = fixture.daemon(script(replies));
    let started = daemon.sessions.start(fixture.start(options)).await.unwrap();
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    let state = daemon.wait_until(started.state.id(), at_rest).await;
    let report = daemon.sessions.cognition(state.id()).await.unwrap();
    (state, report)
}

#[tokio::test]
async fn temptations_are_reported_with_what_shows_them() {
    let look = call("read_file", json!({"path": "test_sums.py"}));
    let write = call("write_file", json!({"path": "sums.py", "content": ADDS}));
    let (state, report) = reported(vec![
        vec![todo(json!([])), read(), look, reason()],
        vec![
            write,
            think("T6: numpy is no requirement of sums.py, and nothing needs it"),
            replace("test_sums.py", "class Sums", "# Sums.\nclass Sums"),
        ],
        look_and_claim(),
        vec![advance()],
    ])
    .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let met = Temptation::ALL.map(|temptation| report.temptations[&temptation].met);
    assert_eq!(met, [0, 0, 1, 0, 0, 1, 1, 0]);
    let evidence: Vec<&str> = (report.timeline.iter())
        .filter_map(|entry| match &entry.event {
            CognitiveEvent::TemptationMet { evidence, .. } => Some(evidence.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        evidence,
        [
            "sums.py imports numpy, which the project does not declare",
            "add in sums.py is changed and was not searched for",
            "test_sums.py is a test that exists",
        ]
    );
    assert_eq!(report.temptations[&Temptation::T6].recognised, 1);
    assert_eq!(report.recognition_rate(), Some(1.0 / 3.0));
    for point in [Point::FirstEdit, Point::TestEdit] {
        let once = Compliance {
            met: 1,
            reasoned: 1,
        };
        assert_eq!(report.points[&point], once, "{point:?}");
    }
    assert_eq!(report.compliance().rate(), Some(1.0));
}

#[tokio::test]
async fn packages_are_declared_by_the_manifests_above_a_file() {
    let write =
        |path: &str, content: &str| call("write_file", json!({"path": path, "content": content}));
    let (_, report) = reported_with(
        &[
            ("requirements.txt", "requests>=2\n"),
            ("checks/helpers.py", "x = 1\n"),
            (
                "packages/web/package.json",
                "{\"dependencies\": {\"lodash\": \"4\"}}\n",
            ),
            ("packages/web/src/parts/a.js", "export const a = 1\n"),
        ],
        vec![
            vec![read(), reason()],
            vec![write(
                "packages/web/b.js",
                "import 'lodash'\nimport 'parts/a'\n",
            )],
            vec![write("packages/web/c.js", "import 'left-pad'\n")],
            vec![write("checks/more.py", "import helpers\nimport sums\n")],
            vec![write("made.py", "x = 1\n")],
            vec![write("uses.py", "import made\n")],
            vec![write("lost.py", "import helpers\n")],
        ],
    )
    .await;
    let evidence: Vec<&str> = (report.timeline.iter())
        .filter_map(|entry| match &entry.event {
            CognitiveEvent::TemptationMet {
                temptation: Temptation::T6,
                evidence,
            } => Some(evidence.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        evidence,
        [
            "packages/web/c.js imports left-pad, which the project does not declare",
            "lost.py imports helpers, which the project does not declare",
        ]
    );
}

#[tokio::test]
async fn who_looks_first_meets_no_temptation() {
    let grep = call("grep", json!({"pattern": "add"}));
    let write = call(
        "write_file",
        json!({"path": "sums.py", "content": ADDS.replace("    import numpy\n", "")}),
    );
    let (state, report) = reported(vec![
        vec![todo(json!([])), read(), grep, reason()],
        vec![write],
        look_and_claim(),
        vec![advance()],
    ])
    .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let met = report.temptations.values().map(|count| count.met);
    assert_eq!(met.sum::<u32>(), 0, "{:#?}", report.timeline);
    assert_eq!(report.recognition_rate(), None);
}

#[tokio::test]
async fn a_claim_that_no_test_stands_behind_is_refused_and_reported() {
    let (state, report) = reported(vec![
        vec![todo(json!([])), read(), reason()],
        vec![fix(), run("true"), reason(), claim()],
        look_and_claim(),
        vec![advance()],
    ])
    .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert_eq!(report.temptations[&Temptation::T1].met, 1);
    let completion = report.points[&Point::Completion];
    assert_eq!(completion.met, completion.reasoned);
}
