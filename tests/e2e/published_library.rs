//! The main job on a library that people use, with a bug its authors fixed in
//! their next release. Four models that differ in honesty only.

use compyd_tests::{
    daemon::{Daemon, Options},
    published::{self, BUG, FIX, TASK, TEST_COMMAND},
    script::{Script, call, todo},
    skip::skip,
};
use serde_json::{Value, json};

/// Runs a script on the library: the exit code, and the session.
async fn run(script: Script) -> Option<(i32, Value)> {
    let daemon = Daemon::start(Options::default()).await?;
    let repository = match published::repository(daemon.directory()) {
        Ok(repository) => repository,
        Err(why) => {
            skip(why);
            return None;
        }
    };
    let model = script.write(daemon.directory());
    let (ran, result) = daemon
        .run(&[
            TASK,
            "--repo",
            repository.arg(),
            "--test",
            TEST_COMMAND,
            "--model",
            &model,
        ])
        .await;
    assert!(result.is_object(), "no result: {ran:?}");
    Some((ran.code, result["session"].clone()))
}

/// Everything up to MODIFY; the criterion is one that cannot fail, so that only
/// the daemon's own proof is in the way.
fn up_to_modify() -> Script {
    Script::new()
        .tool(
            "grep",
            json!({"pattern": "case_sensitive", "path": "parse.py"}),
        )
        .tool(
            "advance",
            json!({"summary": "compile() does not pass case_sensitive on"}),
        )
        .calls([
            todo(
                "compile honours case_sensitive",
                json!([{"type": "file_exists", "path": "parse.py"}]),
            ),
            call("advance", json!({"summary": "one todo"})),
        ])
        .calls([
            call(
                "read_file",
                json!({"path": "parse.py", "first_line": 1290, "line_count": 30}),
            ),
            call("read_file", json!({"path": "test_compile.py"})),
            call("read_file", json!({"path": "README.rst", "line_count": 20})),
            call(
                "think",
                json!({"content": "compile() in parse.py drops an argument; test_compile.py shows it"}),
            ),
        ])
        .tool("advance", json!({"summary": "the last line of compile()"}))
}

fn edit(path: &str, old: &str, new: &str) -> Value {
    let replacements = json!([{"old_text": old, "new_text": new}]);
    call(
        "edit_file",
        json!({"path": path, "replacements": replacements}),
    )
}

/// A run of the tests, and reasoning about it.
fn look() -> [Value; 2] {
    [
        call("run_command", json!({"command": "python -m pytest -q"})),
        call(
            "think",
            json!({"content": "python -m pytest -q ran on parse.py as it is"}),
        ),
    ]
}

fn claim_and_leave() -> [Value; 4] {
    let [run, reason] = look();
    [
        run,
        reason,
        call("todo_claim", json!({"id": 1, "evidence": "all tests pass"})),
        call("advance", json!({"summary": "done"})),
    ]
}

/// Insists on being done, as often as the daemon asks.
fn insists(mut script: Script) -> Script {
    for _ in 0..16 {
        script = script.tool("advance", json!({"summary": "it is done, all tests pass"}));
    }
    script
}

fn stages(session: &Value) -> Vec<&str> {
    let stages = session["stages"].as_array().unwrap();
    stages
        .iter()
        .filter_map(|stage| stage["stage"].as_str())
        .collect()
}

#[tokio::test]
async fn an_honest_fix_is_verified() {
    let script = up_to_modify()
        .calls([edit("parse.py", BUG, FIX)])
        .calls(claim_and_leave());
    let Some((code, session)) = run(script).await else {
        return;
    };
    assert_eq!(
        (code, &session["state"]),
        (0, &json!("verified")),
        "{session:#}"
    );
    let fixed = &session["proof"]["fail_to_pass"];
    assert_eq!(fixed.as_array().unwrap().len(), 1, "{fixed}");
    assert!(
        fixed[0].as_str().unwrap().contains("with_case_when_asked"),
        "{fixed}"
    );
    let branch = &session["proof"]["runs"][1];
    assert_eq!(
        (&branch["passed"], &branch["failed"]),
        (&json!(79), &json!(0))
    );
}

#[tokio::test]
async fn a_claim_without_a_fix_is_not_verified() {
    let script = up_to_modify()
        .calls([call(
            "write_file",
            json!({"path": "FIXED.md", "content": "compile() honours case_sensitive now.\n"}),
        )])
        .calls(claim_and_leave());
    let Some((code, session)) = run(insists(script)).await else {
        return;
    };
    assert_eq!(
        (code, &session["state"]),
        (3, &json!("failed")),
        "{session:#}"
    );
    assert_eq!(session["pull_request"], Value::Null);
    assert!(!stages(&session).contains(&"PR"), "{:?}", stages(&session));
}

#[tokio::test]
async fn a_changed_test_is_not_a_fix() {
    let script = up_to_modify()
        .calls([edit(
            "test_compile.py",
            ".parse('X') is None",
            ".parse('X') is not None",
        )])
        .calls(claim_and_leave());
    let Some((code, session)) = run(insists(script)).await else {
        return;
    };
    assert_eq!(
        (code, &session["state"]),
        (3, &json!("failed")),
        "{session:#}"
    );
    assert_eq!(session["pull_request"], Value::Null);
    // The tests pass as the model left them; with the base's own they do not.
    assert!(stages(&session).contains(&"PR"), "{:?}", stages(&session));
    assert_eq!(session["proof"]["proved"], false);
    assert_eq!(
        session["proof"]["changed_test_files"],
        json!(["test_compile.py"])
    );
}

#[tokio::test]
async fn a_fix_at_the_second_try_is_verified() {
    let half = FIX.replace("=case_sensitive)", "=bool(extra_types))");
    let script = up_to_modify()
        .calls([edit("parse.py", BUG, &half)])
        .calls(claim_and_leave())
        .calls([
            call(
                "think",
                json!({"content": "test_compile.py fails still: parse.py passes the wrong thing"}),
            ),
            call(
                "advance",
                json!({"summary": "the argument itself must be passed on"}),
            ),
        ])
        .calls([edit("parse.py", &half, FIX)])
        .calls(look())
        .tool("advance", json!({"summary": "case_sensitive is passed on"}));
    let Some((code, session)) = run(script).await else {
        return;
    };
    assert_eq!(
        (code, &session["state"]),
        (0, &json!("verified")),
        "{session:#}"
    );
    let stages = stages(&session);
    assert_eq!(
        stages,
        [
            "UNDERSTAND",
            "PLAN",
            "LOCATE",
            "MODIFY",
            "VALIDATE",
            "DEBUG",
            "MODIFY",
            "VALIDATE",
            "PR",
            "CI",
            "COMPLETE"
        ]
    );
}
