//! `compy.toml`: done once and kept, at each start, told to the model, and what
//! the daemon proves with.

use std::time::Duration;

use compyd::adapters::model::{
    fake_provider::{FakeProvider, WireDialect},
    scripted::Transcript,
};
use compyd_proto::v1::{SessionState, SetupState, WorkspaceState};
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    repository::{Repository, sample_script},
    sessions::{request, story},
    wait,
};

use crate::model_http::{model, settings};

/// Installs into the home directory, beside the repository's files and, as
/// root, into the root file system; counts its runs and starts.
const FILE: &str = r#"
[setup]
initialize = [
  "echo run >> ~/runs; cp lock ~/installed; mkdir -p built && cp lock built/",
  { run = "id -u > /opt/root-was-here", user = "root" },
]
inputs = ["lock"]
maintenance = ["echo start >> ~/starts"]
"#;

/// What the setup has left, and the commit that is checked out.
const LOOK: &str = "cat ~/runs ~/installed built/lock /opt/root-was-here; wc -l < ~/starts; \
                    git status --porcelain; git log --format=%s -1; git remote";

fn repository(daemon: &Daemon, name: &str, file: &str) -> Repository {
    let files = [
        ("compy.toml", file),
        ("lock", "1\n"),
        (".gitignore", "built/\n"),
    ];
    Repository::with_files(daemon.directory().join(name), &files)
}

async fn sh(daemon: &Daemon, workspace: &str, script: &str) -> String {
    let mut exec = command(workspace, &["bash", "-c", script]);
    exec.cwd = "/workspace/app".to_owned();
    let ran = daemon.exec(exec).await.unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {ran:?}");
    ran.text()
}

/// Adds the repository as `app` and gives what is said of its setup.
async fn add(daemon: &Daemon, workspace: &str, repository: &Repository) -> String {
    let arguments = [
        "workspace",
        "add-repo",
        workspace,
        repository.arg(),
        "--name",
        "app",
    ];
    daemon.compyctl(&arguments).await.expect_code(0).stderr
}

async fn setup_state(daemon: &Daemon, workspace: &str) -> SetupState {
    let workspace = daemon.workspace_now(workspace).await;
    let repository = workspace.repositories.first();
    repository
        .and_then(|repository| repository.setup.as_ref())
        .map_or(SetupState::Unspecified, |setup| setup.state())
}

#[tokio::test]
async fn the_second_workspace_of_a_repository_starts_from_the_first_ones_setup() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let app = repository(&daemon, "app", FILE);
    daemon.workspace("one", &[]).await;
    let said = add(&daemon, "one", &app).await;
    assert!(said.contains("the result is kept as sn-"), "{said}");
    assert_eq!(
        sh(&daemon, "one", LOOK).await,
        "run\n1\n1\n0\n1\nfirst",
        "{said}"
    );

    // Another commit with the same lock file: nothing runs again.
    std::fs::write(app.path().join("news"), "second\n").unwrap();
    app.commit("second");
    daemon.workspace("two", &[]).await;
    let said = add(&daemon, "two", &app).await;
    assert!(said.contains("the workspace started from sn-"), "{said}");
    assert_eq!(sh(&daemon, "two", LOOK).await, "run\n1\n1\n0\n1\nsecond");
    let identity = "cat /etc/hostname /etc/machine-id";
    assert_ne!(
        sh(&daemon, "one", identity).await,
        sh(&daemon, "two", identity).await
    );
    assert_eq!(setup_state(&daemon, "two").await, SetupState::Restored);

    // At each start, and not when the daemon comes back.
    let starts = async |daemon: &Daemon| sh(daemon, "two", "wc -l < ~/starts").await;
    daemon.restart().await;
    assert_eq!(starts(&daemon).await, "1");
    let _ = daemon
        .compyctl(&["workspace", "stop", "two"])
        .await
        .expect_code(0);
    assert_eq!(starts(&daemon).await, "2");

    // Another lock file: it is run anew, and kept beside the first.
    std::fs::write(app.path().join("lock"), "2\n").unwrap();
    app.commit("third");
    daemon.workspace("three", &[]).await;
    let said = add(&daemon, "three", &app).await;
    assert!(said.contains("the result is kept as sn-"), "{said}");
    assert_eq!(sh(&daemon, "three", LOOK).await, "run\n2\n2\n0\n1\nthird");

    // Without the snapshot there is nothing to start from.
    let shown = daemon.workspace_now("three").await;
    let kept = shown.repositories[0].setup.clone().unwrap().snapshot_id;
    let delete = ["snapshot", "delete", &kept, "--yes"];
    let _ = daemon.compyctl(&delete).await.expect_code(0);
    daemon.workspace("four", &[]).await;
    let said = add(&daemon, "four", &app).await;
    assert!(said.contains("the result is kept as sn-"), "{said}");
    assert_eq!(sh(&daemon, "four", "cat ~/runs").await, "run");
}

#[tokio::test]
async fn a_setup_that_fails_says_what_and_is_run_again_once_it_is_mended() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let file =
        "[setup]\ninitialize = [\"echo looking; test -e ~/mended || { echo gone >&2; exit 3; }\"]";
    let app = repository(&daemon, "app", file);
    daemon.workspace("w", &[]).await;
    let arguments = ["workspace", "add-repo", "w", app.arg()];
    let failed = daemon.compyctl(&arguments).await;
    assert_ne!(failed.code, 0);
    for part in [
        "its setup failed",
        "exit 3",
        "looking",
        "gone",
        "workspace setup",
    ] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    let shown = daemon.workspace_now("w").await;
    assert_eq!(shown.state(), WorkspaceState::Running);
    assert!(shown.state_reason.contains("the setup of app failed"));
    assert_eq!(setup_state(&daemon, "w").await, SetupState::Failed);
    sh(&daemon, "w", "touch ~/mended").await;
    let again = daemon
        .compyctl(&["workspace", "setup", "w"])
        .await
        .expect_code(0);
    assert!(again.text().contains("done"), "{}", again.text());
    assert_eq!(setup_state(&daemon, "w").await, SetupState::Ran);
    assert_eq!(daemon.workspace_now("w").await.state_reason, "");

    // A person sees the mistakes of a file before anybody else does.
    let wrong = daemon.directory().join("wrong.toml");
    std::fs::write(&wrong, "[setup]\ninitialise = []\n").unwrap();
    let check = ["setup", "check", wrong.to_str().unwrap()];
    let said = daemon.compyctl(&check).await.expect_code(1).text();
    assert!(said.contains(":2: unknown key `initialise`"), "{said}");
    let sound = app.path().join("compy.toml");
    let check = ["setup", "check", sound.to_str().unwrap()];
    let _ = daemon.compyctl(&check).await.expect_code(0);
}

#[tokio::test]
async fn a_kill_of_the_daemon_in_the_middle_of_a_setup_runs_nothing_twice() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let file = "[setup]\ninitialize = [\"echo run >> ~/runs; \
                while ! test -e ~/go; do sleep 0.1; done; echo end >> ~/runs\"]";
    let app = repository(&daemon, "app", file);
    daemon.workspace("w", &[]).await;
    let mut client = daemon
        .client()
        .args(["workspace", "add-repo", "w", app.arg()])
        .spawn();
    wait::until("the setup runs", Duration::from_secs(60), async || {
        (setup_state(&daemon, "w").await == SetupState::Initializing
            && daemon.log().contains("setting a repository up"))
        .then_some(())
    })
    .await;
    let runs = "cat ~/runs 2>/dev/null || :";
    wait::until("the command runs", Duration::from_secs(60), async || {
        (sh(&daemon, "w", runs).await == "run").then_some(())
    })
    .await;
    client.kill().await.unwrap();
    daemon.restart().await;
    sh(&daemon, "w", "touch ~/go").await;
    wait::until("the setup ends", Duration::from_secs(120), async || {
        (setup_state(&daemon, "w").await == SetupState::Ran).then_some(())
    })
    .await;
    assert_eq!(sh(&daemon, "w", runs).await, "run\nend");
}

#[tokio::test]
async fn a_session_knows_what_the_base_says_and_is_proved_with_its_commands() {
    let dialect = WireDialect::OpenAi;
    let transcript = Transcript::load(&sample_script()).unwrap();
    let provider = FakeProvider::playing(dialect, transcript).await;
    let Some(daemon) = Daemon::start(settings(&provider, dialect)).await else {
        return;
    };
    let app = Repository::sample(daemon.directory().join("app"));
    // The test command needs what `initialize` has made outside the repository,
    // in the session's workspace and in the clean one of its CI. What the linter
    // finds was there before.
    let file = r#"
[setup]
initialize = ["mkdir -p /workspace/plugins && touch /workspace/plugins/installed_once.py"]
[commands]
test = "env PYTHONPATH=/workspace/plugins python -m pytest -q -p installed_once"
lint = "grep -q polished NOTES.md"
[knowledge]
text = "Prefer small functions."
files = ["NOTES.md"]
"#;
    std::fs::write(app.path().join("compy.toml"), file).unwrap();
    std::fs::write(app.path().join("NOTES.md"), "Slugs are lower case.\n").unwrap();
    let rules = "Every slug is pronounceable.\n";
    std::fs::write(app.path().join("AGENTS.md"), rules).unwrap();
    app.commit("a setup file");
    daemon.workspace("w", &["--repo", app.arg()]).await;
    let mut start = request("w", model(dialect));
    start.options.as_mut().unwrap().test_command = String::new();
    let id = daemon.start_session(start).await;
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{}",
        session.state_reason,
        story(&events)
    );
    assert_eq!(provider.violations(), Vec::<String>::new());
    let requests = provider.requests();
    let told = |at: usize| requests[at].body.to_string();
    for at in [0, requests.len() - 1] {
        for part in [
            "Prefer small functions.",
            "Slugs are lower case.",
            rules.trim(),
            "<project-notes>",
        ] {
            assert_eq!(told(at).matches(part).count(), 1, "{part} in request {at}");
        }
    }
    let proof = session.proof.unwrap();
    let ran_it =
        |run: &compyd_proto::v1::ProofRun| run.argv.join(" ").contains("-p installed_once");
    assert!(
        !proof.runs.is_empty() && proof.runs.iter().all(ran_it),
        "{proof:?}"
    );
    // CI ran the linter that the file names, and does not blame the session.
    let checks = session.pull_request.unwrap().checks;
    let lint = checks.iter().find(|check| check.name == "lint");
    let lint = lint.unwrap_or_else(|| panic!("nothing linted: {checks:?}"));
    assert!(lint.completed && !lint.passed, "{lint:?}");
    assert!(
        lint.summary.contains("failed on the base as well"),
        "{lint:?}"
    );
}
