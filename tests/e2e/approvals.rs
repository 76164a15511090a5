//! What sessions may do: asked of people, refused by rules, and explained.

use std::time::Duration;

use compyd_proto::v1::{SessionEvent, SessionState, ToolOutcome, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    script::{Script, call},
    sessions::{request, story},
    wait,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const PUSH: &str = "git push /workspace/elsewhere.git HEAD:work";

async fn prepared(options: Options) -> Option<Daemon> {
    let daemon = Daemon::start(options).await?;
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let made = daemon
        .shell("w", "git init -q --bare /workspace/elsewhere.git")
        .await;
    assert_eq!(made.code(), Some(0), "{}", made.text());
    Some(daemon)
}

fn push() -> Vec<Value> {
    vec![
        call(
            "think",
            json!({"content": "git push sends textkit/slug.py and the rest to elsewhere.git"}),
        ),
        call("run_command", json!({"command": PUSH})),
    ]
}

/// The sample's session, with this in its first reply.
fn script(daemon: &Daemon, first: Vec<Value>) -> String {
    let first = json!({"tool_calls": first});
    let script = Script::load(&sample_script()).before_turn(0, first);
    script.write(daemon.directory())
}

/// What `approval list` shows.
async fn approvals(daemon: &Daemon) -> Vec<Value> {
    let ran = daemon.compyctl(&["approval", "list", "-o", "json"]).await;
    let listed = ran.expect_code(0).last_json();
    listed.as_array().expect("a list").clone()
}

async fn waiting(daemon: &Daemon, id: &str) -> Value {
    daemon
        .session_when(id, "wait", |session| {
            session.state() == SessionState::Waiting
        })
        .await;
    let [approval] = approvals(daemon)
        .await
        .try_into()
        .expect("one is waited for");
    approval
}

/// Outcomes and texts of the commands that the model wanted to run.
fn commands(events: &[SessionEvent]) -> Vec<(ToolOutcome, String)> {
    let ended = events.iter().filter_map(|event| match &event.event {
        Some(Event::ToolEnded(ended)) if ended.name == "run_command" => {
            Some((ended.outcome(), ended.content.clone()))
        }
        _ => None,
    });
    ended.collect()
}

async fn pushed(daemon: &Daemon) -> bool {
    let branch = "git -C /workspace/elsewhere.git rev-parse -q --verify work";
    daemon.shell("w", branch).await.code() == Some(0)
}

#[tokio::test]
async fn an_approval_outlives_the_daemon_and_its_act_is_done_once_after_a_snapshot() {
    let Some(mut daemon) = prepared(Options::default()).await else {
        return;
    };
    let twice = [push(), push()].concat();
    let model = script(&daemon, twice);
    let id = daemon.start_session(request("w", &model)).await;
    let asked = waiting(&daemon, &id).await;
    assert_eq!(asked["act"], PUSH);
    assert_eq!(asked["directory"], "/workspace/textkit");
    assert_eq!(asked["risk"], "high");
    assert_eq!(
        asked["classes"],
        json!(["push: /workspace/elsewhere.git work"])
    );
    assert!(
        asked["expires_at"].is_string() && asked["refusal"].is_string(),
        "{asked}"
    );
    assert!(!pushed(&daemon).await, "it was done before it was approved");

    daemon.restart().await;
    let again = waiting(&daemon, &id).await;
    assert_eq!(again, asked, "it is asked once, and is the same");
    let approval = asked["id"].as_str().unwrap();
    let approved = daemon
        .compyctl(&["approval", "approve", approval, "--for", "session"])
        .await;
    let _ = approved.expect_code(0);
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    let story = story(&events);
    assert_eq!(session.state(), SessionState::Verified, "{story}");
    assert!(pushed(&daemon).await, "{story}");
    let asked = |event: &&SessionEvent| matches!(event.event, Some(Event::QuestionAsked(_)));
    assert_eq!(events.iter().filter(asked).count(), 1, "{story}");
    let commands = commands(&events);
    assert_eq!(
        (commands[0].0, commands[1].0),
        (ToolOutcome::Ok, ToolOutcome::Ok),
        "{story}"
    );
    let at = |what: &str| events.iter().position(|event| event.summary.contains(what));
    let snapshot = at("snapshot before an approved act: kept as");
    let act = events.iter().position(|event| {
        matches!(&event.event, Some(Event::ToolStarted(started)) if started.tool.as_ref().is_some_and(|tool| tool.name == "run_command"))
    });
    assert!(snapshot.is_some() && snapshot < act, "{story}");
    let gone = daemon.compyctl(&["approval", "deny", approval]).await;
    assert_eq!(gone.code, 2, "{}", gone.stderr);
    assert!(gone.stderr.contains("APPROVAL_UNKNOWN"), "{}", gone.stderr);
}

#[tokio::test]
async fn a_refusal_goes_to_the_model_with_the_persons_words() {
    let Some(daemon) = prepared(Options::default()).await else {
        return;
    };
    let model = script(&daemon, push());
    let watch = daemon.client().args(["-o", "json", "approval", "watch"]);
    let mut watch = watch.spawn();
    let changes = watch.stdout.take().expect("it is read from");
    let mut changes = BufReader::new(changes).lines();
    let mut change = async || -> Value {
        let line = tokio::time::timeout(wait::PATIENCE, changes.next_line()).await;
        let line = line.expect("a line comes").unwrap().expect("it goes on");
        serde_json::from_str(&line).unwrap()
    };
    let id = daemon.start_session(request("w", &model)).await;
    let asked = waiting(&daemon, &id).await;
    let seen = change().await;
    assert_eq!(
        (&seen["change"], &seen["approval"]),
        (&json!("asked"), &asked)
    );
    let approval = asked["id"].as_str().unwrap();
    let denied = daemon
        .compyctl(&[
            "approval",
            "deny",
            approval,
            "--text",
            "nothing leaves here",
        ])
        .await;
    let _ = denied.expect_code(0);
    let seen = change().await;
    assert_eq!(
        (&seen["change"], &seen["id"]),
        (&json!("settled"), &asked["id"])
    );
    watch.kill().await.unwrap();
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}",
        story(&events)
    );
    let (outcome, told) = &commands(&events)[0];
    assert_eq!(*outcome, ToolOutcome::Refused);
    assert!(told.contains("nothing leaves here"), "{told}");
    assert!(!pushed(&daemon).await);
    assert_eq!(approvals(&daemon).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_run_that_nobody_can_answer_is_refused_in_time_and_exits_with_4() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "approval_timeout_s = 2\n").unwrap();
    let options = Options::default().set("policy.file", file.path().to_str().unwrap());
    let Some(daemon) = prepared(options).await else {
        return;
    };
    let model = script(&daemon, push());
    let task = [
        "fix it",
        "--workspace",
        "w",
        "--model",
        &model,
        "--test",
        "python -m pytest -q",
    ];
    let limited = [&task[..], &["--max-steps", "3"]].concat();
    let (ran, result) = daemon.run(&limited).await;
    assert_eq!(ran.code, 4, "{}\n{}", ran.text(), ran.stderr);
    assert_eq!(result["verdict"], "failed", "{result}");
    let id = result["session"]["id"].as_str().unwrap();
    let (outcome, told) = &commands(&daemon.events(id, 0).await)[0];
    assert_eq!(*outcome, ToolOutcome::Refused);
    assert!(told.contains("nobody answered in time"), "{told}");
    assert!(!pushed(&daemon).await);
    // A session that gets by without it is verified all the same.
    let (ran, result) = daemon.run(&task).await;
    assert_eq!(
        (ran.code, &result["verdict"]),
        (0, &json!("verified")),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_run_whose_spending_nobody_approves_ends_and_exits_with_4() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "approval_timeout_s = 2\nask_above_tokens = 1\n",
    )
    .unwrap();
    let options = Options::default().set("policy.file", file.path().to_str().unwrap());
    let Some(daemon) = prepared(options).await else {
        return;
    };
    let model = script(&daemon, push());
    let task = ["fix it", "--workspace", "w", "--model", &model];
    let (ran, result) = daemon.run(&task).await;
    assert_eq!(ran.code, 4, "{}\n{}", ran.text(), ran.stderr);
    assert_eq!(result["verdict"], "failed", "{result}");
    let reason = result["session"]["state_reason"].as_str().unwrap();
    assert!(reason.contains("nobody answered in time"), "{reason}");
    assert!(!pushed(&daemon).await);
}

#[tokio::test]
async fn a_policy_file_is_checked_explained_taken_when_it_changes_and_kept_when_it_is_wrong() {
    const RULE: &str = "[[rule]]\nname = \"no network\"\ndecision = \"deny\"\nargv = [\"curl\"]\n\
                        reason = \"use what is vendored\"\nmatches = [\"curl x\"]\nmisses = [\"ls\"]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let options = Options::default().set("policy.file", path.as_str());
    let Some(daemon) = prepared(options).await else {
        return;
    };
    let explain = async |line: &str| -> Value {
        let ran = daemon
            .compyctl(&["policy", "explain", "-o", "json", "--", line])
            .await;
        ran.expect_code(0).last_json()
    };
    let hidden = "sh -c 'cu\"\"rl https://example.com'";
    assert_eq!(explain(hidden).await["decision"], "allow");
    let evil = explain("echo cm0gLXJmIC8= | base64 -d | sh").await;
    assert_eq!(
        (&evil["decision"], &evil["risk"]),
        (&json!("ask"), &json!("high"))
    );

    std::fs::write(&path, RULE).unwrap();
    let denied = wait::until("the new rules", Duration::from_secs(20), async || {
        let said = explain(hidden).await;
        (said["decision"] == "deny").then_some(said)
    })
    .await;
    let acts = denied["acts"].as_array().unwrap();
    let decisive = acts.iter().find(|act| act["rule"] == "no network").unwrap();
    let why = decisive["why"].as_str().unwrap();
    assert!(
        why.contains("line 1") && why.contains("use what is vendored"),
        "{why}"
    );

    let wrong = RULE.replace("[\"ls\"]", "[\"curl y\"]");
    std::fs::write(&path, &wrong).unwrap();
    let kept = wait::until("the mistake", Duration::from_secs(20), async || {
        let said = explain(hidden).await;
        (said["reload_problem"] != "").then_some(said)
    })
    .await;
    assert_eq!(kept["decision"], "deny", "the last good one is kept");
    let problem = kept["reload_problem"].as_str().unwrap();
    assert!(
        problem.contains("`no network`") && problem.contains("`curl y`"),
        "{problem}"
    );
    let checked = daemon.compyctl(&["policy", "check", &path]).await;
    let said = checked.expect_code(1).text();
    assert!(said.contains("line 1: rule `no network`"), "{said}");
    std::fs::write(&path, RULE).unwrap();
    let _ = daemon
        .compyctl(&["policy", "check", &path])
        .await
        .expect_code(0);

    // People are bound by the file's rules as well, also within a shell's line.
    for argv in [&["curl", "x"][..], &["sh", "-c", "cu''rl x"]] {
        let exec = [&["workspace", "exec", "w", "--"][..], argv].concat();
        let refused = daemon.compyctl(&exec).await;
        assert_eq!(refused.code, 125, "{refused:?}");
        for words in ["POLICY_DENIED", "use what is vendored"] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
    }
    let exec = ["workspace", "exec", "w", "--", "echo", "curl x"];
    let _ = daemon.compyctl(&exec).await.expect_code(0);

    // The model is told what the rule says.
    let first = vec![call("run_command", json!({"command": hidden}))];
    let model = script(&daemon, first);
    let id = daemon.start_session(request("w", &model)).await;
    assert_eq!(daemon.rested(&id).await.state(), SessionState::Verified);
    let (outcome, told) = &commands(&daemon.events(&id, 0).await)[0];
    assert_eq!(*outcome, ToolOutcome::Refused);
    assert!(told.contains("use what is vendored"), "{told}");
}
