//! The audit log of a real daemon: linked, chained over a kill, and verified by
//! who did not write it.

use std::{collections::BTreeSet, path::Path};

use compyd_proto::v1::{Session, SessionState};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::Repository,
    script::Script,
    sessions::{request, rests},
    wait,
};
use serde_json::{Value, json};

/// Records that match, the newest first.
async fn search(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let base = ["-o", "json", "audit", "search", "--limit", "10000"];
    let arguments = [base.as_slice(), arguments].concat();
    let ran = daemon.compyctl(&arguments).await.expect_code(0);
    let text = ran.text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exports the log with its checkpoint beside it.
async fn export(daemon: &Daemon, name: &str) -> (String, String) {
    let file = daemon.directory().join(format!("{name}.jsonl"));
    let held = daemon.directory().join(format!("{name}.checkpoint"));
    let (file, held) = (file.display().to_string(), held.display().to_string());
    let arguments = ["audit", "export", &file, "--checkpoint", &held];
    let _ = daemon.compyctl(&arguments).await.expect_code(0);
    (file, held)
}

/// Changes a byte in the middle of a file.
fn edit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_session_is_on_record_over_a_kill_and_an_edited_byte_is_found() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("repository"));
    let arguments = ["--repo", repository.arg()];
    daemon.workspace("audited", &arguments).await;
    let script = Script::new()
        .tool("glob", json!({"pattern": "*.py"}))
        .tool("run_command", json!({"command": "echo first > /tmp/mark"}))
        .tool("run_command", json!({"command": "sleep 3; echo a-needle"}))
        .tool("no_such_tool", json!({}))
        .write(daemon.directory());
    let mut start = request("audited", &script);
    if let Some(options) = &mut start.options {
        options.workflow = compyd_proto::v1::Workflow::None.into();
    }
    let (file, held) = export(&daemon, "before").await;
    let id = daemon.start_session(start).await;

    // Killed while the second command runs.
    wait::until("the second command's record", wait::PATIENCE, async || {
        let begun = search(&daemon, &["--session", &id, "--kind", "tool_started"]).await;
        let is_second = |record: &Value| record["detail"].to_string().contains("a-needle");
        begun.iter().any(is_second).then_some(())
    })
    .await;
    daemon.restart().await;
    // It was interrupted, and goes on by itself.
    let has_ended =
        |session: &Session| rests(session.state()) && session.state() != SessionState::Interrupted;
    let _ = daemon.session_when(&id, "end", has_ended).await;

    let verified = daemon.compyctl(&["audit", "verify"]).await.expect_code(0);
    assert!(verified.text().contains("are as they were written"));
    let calls = search(&daemon, &["--session", &id, "--kind", "tool_call"]).await;
    let ran: Vec<&Value> = calls
        .iter()
        .filter(|record| record["tool"] == "run_command")
        .collect();
    assert_eq!(ran.len(), 2, "each once, whatever the kill: {calls:?}");
    for record in &ran {
        assert_eq!(record["caller"], "model");
        assert_eq!(record["outcome"], "ok");
        assert!(record["step_id"].as_str().unwrap().starts_with(&id));
        assert_eq!(record["exec_id"], record["step_id"], "a step's command");
        assert_eq!(
            record["detail"]["result_sha256"].as_str().unwrap().len(),
            64
        );
    }
    let needle = search(&daemon, &["--text", "echo a-needle"]).await;
    assert!(needle.len() >= 2, "begun and ended: {needle:?}");
    let refused = search(&daemon, &["--session", &id, "--outcome", "denied"]).await;
    assert!(
        refused
            .iter()
            .any(|record| record["tool"] == "no_such_tool"),
        "{refused:?}"
    );
    let uid = format!("uid:{}", nix::unistd::getuid());
    let of_us = search(&daemon, &["--caller", &uid, "--kind", "api_call"]).await;
    let methods: BTreeSet<&str> = of_us
        .iter()
        .filter_map(|record| record["tool"].as_str())
        .collect();
    for method in [
        "WorkspaceService/CreateWorkspace",
        "SessionService/StartSession",
        "AuditService/SearchAudit",
    ] {
        assert!(methods.contains(method), "{method} in {methods:?}");
    }
    let starts = search(&daemon, &["--kind", "daemon", "--text", "started"]).await;
    assert_eq!(starts.len(), 2, "a start for each life: {starts:?}");

    // Verified by who did not write it, with what was held since the beginning.
    let (whole, newest) = export(&daemon, "after").await;
    for checkpoint in [&held, &newest] {
        let arguments = ["audit", "verify", &whole, "--checkpoint", checkpoint];
        let _ = daemon.compyctl(&arguments).await.expect_code(0);
    }
    let arguments = ["audit", "verify", &file, "--checkpoint", &newest];
    let cut = daemon.compyctl(&arguments).await.expect_code(1);
    assert!(cut.stderr.contains("its end is missing"), "{}", cut.stderr);
    edit(Path::new(&whole));
    let edited = daemon.compyctl(&["audit", "verify", &whole]).await;
    let edited = edited.expect_code(1);
    assert!(
        edited.stderr.contains("does not verify"),
        "{}",
        edited.stderr
    );

    // And where it lies.
    daemon.terminate().await;
    let directory = daemon.data_dir().join("audit");
    let files = std::fs::read_dir(&directory).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    edit(
        &files
            .find(|file| file.extension() == Some("jsonl".as_ref()))
            .unwrap(),
    );
    daemon.start_again();
    let status = daemon.wait().await;
    assert!(!status.success(), "a daemon does not go on over it");
    assert!(daemon.log().contains("the audit log is damaged"));
}
