//! A task goes in, a proved pull request comes out; and nothing less than the
//! daemon's own proof counts as done.

use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, git, sample_script},
    script::{Script, call, todo},
};
use serde_json::{Value, json};

const TASK: &str = "slugify drops the last word when max_length equals its length; fix it";
const TEST: &str = "python -m pytest -q";

fn model() -> String {
    format!("scripted:{}", sample_script().display())
}

fn texts<'a>(values: &'a Value, key: &str) -> Vec<&'a str> {
    let values = values.as_array().expect("a list");
    values
        .iter()
        .filter_map(|value| value[key].as_str())
        .collect()
}

#[tokio::test]
async fn a_task_becomes_a_proved_pull_request() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    let base = repository.git(&["rev-parse", "HEAD"]);
    let model = model();
    let (ran, result) = daemon
        .run(&[
            TASK,
            "--repo",
            repository.arg(),
            "--test",
            TEST,
            "--model",
            &model,
        ])
        .await;
    let ran = ran.expect_code(0);
    assert_eq!(result["verdict"], "verified", "{}", ran.stderr);
    assert_eq!(result["exit_code"], 0);
    let session = &result["session"];
    let id = session["id"].as_str().unwrap();
    assert_eq!(session["stage"], "COMPLETE");
    assert_eq!(session["scripted"], true);
    assert_eq!(session["base_commit"], base.as_str());
    assert_eq!(
        texts(&session["stages"], "stage"),
        [
            "UNDERSTAND",
            "PLAN",
            "LOCATE",
            "MODIFY",
            "VALIDATE",
            "PR",
            "CI",
            "COMPLETE"
        ]
    );
    assert_eq!(texts(&session["todos"], "state"), ["verified"]);

    // The proof: what failed before passes now, and no test was changed.
    let proof = &session["proof"];
    assert_eq!(proof["proved"], true);
    let runs: Vec<_> = proof["runs"].as_array().unwrap().iter().collect();
    let seen: Vec<_> = runs
        .iter()
        .map(|run| {
            (
                run["name"].as_str().unwrap(),
                run["failed"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("base", 1), ("branch", 0)]);
    let fixed = proof["fail_to_pass"].as_array().unwrap();
    assert!(
        fixed.len() == 1 && fixed[0].as_str().unwrap().contains("just_fits"),
        "{fixed:?}"
    );
    assert_eq!(proof["changed_test_files"], json!([]));

    // The pull request, on the daemon's own forge.
    let pull = &session["pull_request"];
    assert_eq!(
        (&pull["number"], &pull["base"]),
        (&json!(1), &json!("main"))
    );
    let checks = pull["checks"].as_array().unwrap();
    assert!(
        !checks.is_empty() && checks.iter().all(|check| check["state"] == "passed"),
        "{checks:?}"
    );
    assert!(pull["body"].as_str().unwrap().contains("max_length"));
    let branch = session["branch"].as_str().unwrap();
    let forge = find_bare(&daemon);
    assert_eq!(
        git(&forge, &["rev-list", "--count", &format!("main..{branch}")]),
        "1"
    );
    assert_eq!(
        git(&forge, &["rev-parse", branch]),
        session["head_commit"].as_str().unwrap()
    );
    assert_eq!(git(&forge, &["rev-parse", "main"]), base);
    // The person's own repository is as it was.
    assert_eq!(repository.git(&["rev-parse", "HEAD"]), base);
    assert_eq!(repository.git(&["status", "--porcelain"]), "");

    artifacts_are_listed_and_fetched(&daemon, id).await;
    the_timeline_is_told_again(&daemon, id).await;
}

async fn artifacts_are_listed_and_fetched(daemon: &Daemon, id: &str) {
    let list = async |more: &[&str]| {
        let mut args = vec!["-o", "json", "artifact", "list", id];
        args.extend(more);
        daemon.compyctl(&args).await.expect_code(0).json()
    };
    let all = list(&[]).await;
    let of_stage = list(&["--stage", "VALIDATE"]).await;
    let diffs = list(&["--type", "diff"]).await;
    let evidence = list(&["--type", "evidence"]).await;
    assert!(all.as_array().unwrap().len() > of_stage.as_array().unwrap().len());
    assert!(!of_stage.as_array().unwrap().is_empty());
    assert!(
        texts(&of_stage, "stage")
            .iter()
            .all(|stage| *stage == "VALIDATE")
    );
    assert!(
        texts(&evidence, "type")
            .iter()
            .all(|kind| *kind == "evidence")
    );
    let reports = list(&["--stage", "VALIDATE", "--type", "test-report"]).await;
    assert!(
        texts(&reports, "type")
            .iter()
            .all(|kind| *kind == "test_report")
    );
    let titles = texts(&reports, "title");
    for what in ["report", "JUnit file"] {
        let title = format!("{what} of {TEST}");
        assert!(titles.contains(&title.as_str()), "{title}: {titles:?}");
    }
    let get = async |list: &Value| {
        let last = texts(list, "id").pop().expect("there is one").to_owned();
        daemon
            .compyctl(&["artifact", "get", &last])
            .await
            .expect_code(0)
            .text()
    };
    let diff = get(&diffs).await;
    assert!(
        diff.contains("-        if max_length is not None and len(longer) >= max_length:")
            && diff.contains("+        if max_length is not None and len(longer) > max_length:"),
        "{diff}"
    );
    let evidence: Value = serde_json::from_str(&get(&evidence).await).expect("evidence is JSON");
    assert!(evidence.is_object(), "{evidence}");
    for artifact in daemon.artifacts_of(id).await {
        let bytes = daemon.artifact(&artifact.id).await;
        assert_eq!(bytes.len() as u64, artifact.size_bytes, "{artifact:?}");
        assert_eq!(
            blake3::hash(&bytes).to_string(),
            artifact.hash,
            "{artifact:?}"
        );
    }
}

async fn the_timeline_is_told_again(daemon: &Daemon, id: &str) {
    let watched = daemon
        .compyctl(&["session", "watch", id])
        .await
        .expect_code(0);
    let told = format!("{}{}", watched.text(), watched.stderr);
    for stage in ["UNDERSTAND", "MODIFY", "VALIDATE", "CI", "COMPLETE"] {
        assert!(told.contains(stage), "no {stage} in:\n{told}");
    }
    let shown = daemon
        .compyctl(&["session", "show", id])
        .await
        .expect_code(0)
        .text();
    for part in ["verified", "branch", "COMPLETE"] {
        assert!(shown.contains(part), "no {part:?} in:\n{shown}");
    }
    let verified = daemon
        .compyctl(&["-o", "json", "session", "list", "--state", "verified"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(texts(&verified, "id"), [id]);
    let failed = daemon
        .compyctl(&["-o", "json", "session", "list", "--state", "failed"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(failed, json!([]));
}

/// The only bare repository below the daemon's data.
fn find_bare(daemon: &Daemon) -> std::path::PathBuf {
    let mut open = vec![daemon.data_dir()];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if path.extension().is_some_and(|extension| extension == "git") && is_directory {
                found.push(path);
            } else if is_directory {
                open.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "one repository on the forge: {found:?}");
    found.remove(0)
}

#[tokio::test]
async fn a_script_that_fits_another_tree_ends_unverified() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    repository.git(&["mv", "textkit/slug.py", "textkit/slugs.py"]);
    let init = repository.path().join("textkit/__init__.py");
    let text = std::fs::read_to_string(&init).unwrap();
    std::fs::write(&init, text.replace("textkit.slug ", "textkit.slugs ")).unwrap();
    repository.commit("rename slug.py");
    let model = model();
    let (ran, result) = daemon
        .run(&[
            TASK,
            "--repo",
            repository.arg(),
            "--test",
            TEST,
            "--model",
            &model,
        ])
        .await;
    let ran = ran.expect_code(3);
    assert_eq!(result["verdict"], "failed", "{}", ran.stderr);
    assert_eq!(result["session"]["pull_request"], Value::Null);
    assert_eq!(result["session"]["proof"], Value::Null);
    assert_ne!(texts(&result["session"]["todos"], "state"), ["verified"]);
}

#[tokio::test]
async fn the_free_workflow_proves_and_publishes_nothing() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    let script = Script::new()
        .calls([
            todo("slugify keeps what just fits", json!([{"type": "tests_pass"}])),
            call("read_file", json!({"path": "textkit/slug.py"})),
            call("think", json!({"content": "textkit/slug.py: >= leaves out what just fits"})),
        ])
        .tool(
            "edit_file",
            json!({"path": "textkit/slug.py", "replacements": [
                {"old_text": "len(longer) >= max_length", "new_text": "len(longer) > max_length"}]}),
        )
        .tool("run_command", json!({"command": TEST}))
        .calls([
            call("think", json!({"content": "every test of tests/test_slug.py passes"})),
            call("todo_claim", json!({"id": 1})),
        ])
        .tool("advance", json!({}));
    let model = script.write(daemon.directory());
    let (ran, result) = daemon
        .run(&[
            TASK,
            "--repo",
            repository.arg(),
            "--test",
            TEST,
            "--model",
            &model,
            "--workflow",
            "none",
        ])
        .await;
    let ran = ran.expect_code(0);
    let session = &result["session"];
    assert_eq!(session["proof"]["proved"], true, "{}", ran.stderr);
    assert_eq!(session["pull_request"], Value::Null);
    assert_eq!(
        texts(&session["stages"], "stage"),
        ["MODIFY", "VALIDATE", "PR", "COMPLETE"]
    );
}
