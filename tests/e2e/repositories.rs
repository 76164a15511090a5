//! Several repositories side by side in one workspace.

use compyd_proto::v1::SetupState;
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    repository::{Repository, sample_script},
    sessions::request,
};
use serde_json::Value;

/// A repository that knows its name; its setup says so in the home directory.
fn repository(daemon: &Daemon, name: &str) -> Repository {
    let setup = format!("[setup]\ninitialize = [\"echo {name} >> ~/setups\"]\n");
    let who = format!("{name}\n");
    let files = [("compy.toml", setup.as_str()), ("who", who.as_str())];
    Repository::with_files(daemon.directory().join(name), &files)
}

/// Runs a script in the directory of a repository.
async fn sh(daemon: &Daemon, workspace: &str, repository: &str, script: &str) -> String {
    let mut exec = command(workspace, &["bash", "-c", script]);
    exec.cwd = format!("/workspace/{repository}");
    let ran = daemon.exec(exec).await.unwrap();
    assert_eq!(ran.code(), Some(0), "{repository}: {script}: {ran:?}");
    ran.text()
}

/// Where a repository is, what it has, and what was done in it.
async fn look(daemon: &Daemon, workspace: &str, repository: &str) -> String {
    const LOOK: &str = "git rev-parse --show-toplevel HEAD; cat who; git status --porcelain";
    sh(daemon, workspace, repository, LOOK).await
}

async fn looks(daemon: &Daemon, workspace: &str) -> [String; 2] {
    let one = look(daemon, workspace, "one").await;
    [one, look(daemon, workspace, "two").await]
}

/// What the daemon says is in a workspace: names and commits.
async fn known(daemon: &Daemon, workspace: &str) -> Vec<(String, String)> {
    let workspace = daemon.workspace_now(workspace).await;
    let repositories = workspace.repositories.into_iter();
    repositories.map(|it| (it.name, it.commit)).collect()
}

async fn ctl(daemon: &Daemon, args: &[&str]) {
    let _ = daemon.compyctl(args).await.expect_code(0);
}

#[tokio::test]
async fn repositories_live_side_by_side_and_in_every_copy_of_their_workspace() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let (one, two) = (repository(&daemon, "one"), repository(&daemon, "two"));
    let both = ["--repo", one.arg(), "--repo", two.arg()];
    daemon.workspace("both", &both).await;
    // The second one comes when the first is at work already.
    daemon.workspace("later", &["--repo", one.arg()]).await;
    sh(&daemon, "later", "one", "echo unfinished >> who").await;
    ctl(&daemon, &["workspace", "add-repo", "later", two.arg()]).await;

    let heads = [&one, &two].map(|repository| repository.git(&["rev-parse", "HEAD"]));
    let [first, second] = &heads;
    let expected = [
        ("one".to_owned(), first.clone()),
        ("two".to_owned(), second.clone()),
    ];
    for workspace in ["both", "later"] {
        assert_eq!(known(&daemon, workspace).await, expected, "{workspace}");
        // Each was set up by its own file, once.
        let setups = sh(&daemon, workspace, "one", "cat ~/setups").await;
        assert_eq!(setups, "one\ntwo", "{workspace}");
        for repository in daemon.workspace_now(workspace).await.repositories {
            let state = repository.setup.as_ref().map(|setup| setup.state());
            let done = [SetupState::Ran, SetupState::Restored];
            assert!(
                state.is_some_and(|state| done.contains(&state)),
                "{workspace}: {repository:?}"
            );
        }
    }
    assert_eq!(
        looks(&daemon, "both").await,
        [
            format!("/workspace/one\n{first}\none"),
            format!("/workspace/two\n{second}\ntwo")
        ]
    );
    assert_eq!(
        looks(&daemon, "later").await,
        [
            format!("/workspace/one\n{first}\none\nunfinished\n M who"),
            format!("/workspace/two\n{second}\ntwo")
        ]
    );
    // A session works on one of them, and nobody guesses on which.
    let model = format!("scripted:{}", sample_script().display());
    let start = request("both", &model);
    let refused = daemon.sessions().start_session(start).await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("one, two"), "{refused}");

    // A commit in the first, something unfinished in the second.
    let commit =
        "echo more >> who; git -c user.name=T -c user.email=t@example.com commit -qam more";
    sh(&daemon, "both", "one", commit).await;
    sh(&daemon, "both", "two", "echo more >> who; echo new > new").await;
    let before = looks(&daemon, "both").await;
    assert!(!before[0].contains(first.as_str()), "{before:?}");
    assert!(before[1].ends_with("M who\n?? new"), "{before:?}");
    let taken = ["-o", "json", "workspace", "snapshot", "both"];
    let taken = daemon.compyctl(&taken).await.expect_code(0).json();
    let names: Vec<&Value> = (taken["repositories"].as_array().unwrap().iter())
        .map(|repository| &repository["name"])
        .collect();
    assert_eq!(names, ["one", "two"]);
    let id = taken["id"].as_str().unwrap();

    let wreck = "rm -rf ../one who new";
    sh(&daemon, "both", "two", wreck).await;
    let fork = ["workspace", "fork", "both", "copy", "--snapshot", id];
    ctl(&daemon, &fork).await;
    assert_eq!(looks(&daemon, "copy").await, before);
    assert_eq!(known(&daemon, "copy").await, expected);
    let restore = ["workspace", "restore", "both", id, "--no-backup", "--yes"];
    ctl(&daemon, &restore).await;
    assert_eq!(looks(&daemon, "both").await, before);
    assert_eq!(known(&daemon, "both").await, expected);
    // The copy goes its own way.
    sh(&daemon, "copy", "one", "echo copied > who").await;
    assert_eq!(looks(&daemon, "both").await, before);
}
