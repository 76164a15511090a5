//! The daemon as a program: one for its data, private, reachable, and gone when
//! told so.

use std::{os::unix::fs::PermissionsExt, process::Stdio, time::Duration};

use compyd_proto::v1::{
    DiagnoseRequest, GetInfoRequest, ListWorkspacesRequest, SessionState, session_event::Event,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::sample_script,
    script::Script,
    sessions::request,
};
use nix::sys::signal::Signal;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn a_second_daemon_on_the_same_data_says_who_holds_it() {
    let daemon = Daemon::start_bare(Options::default()).await;
    let second = daemon
        .command(&daemon.directory().join("second.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), second)
        .await
        .expect("the second gives up at once")
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    assert!(said.contains(daemon.data_dir().to_str().unwrap()), "{said}");
    // The first one is none the worse.
    daemon.system().get_info(GetInfoRequest {}).await.unwrap();
}

#[tokio::test]
async fn the_socket_belongs_to_its_owner_alone() {
    let daemon = Daemon::start_bare(Options::default()).await;
    let mode = std::fs::metadata(daemon.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[tokio::test]
async fn a_socket_that_a_killed_daemon_left_is_no_obstacle() {
    let mut daemon = Daemon::start_bare(Options::default()).await;
    daemon.kill().await;
    assert!(daemon.socket().exists());
    daemon.restart().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let daemon = Daemon::start_bare(Options::default()).await;
    let health = HealthClient::new(daemon.channel())
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status, 1, "serving");
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(daemon.channel())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let mut names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    names.sort();
    for service in [
        "ArtifactService",
        "SessionService",
        "SystemService",
        "WorkspaceService",
    ] {
        assert!(names.contains(&format!("compy.v1.{service}")), "{names:?}");
    }
}

#[tokio::test]
async fn sigterm_drains_and_leaves_sessions_to_go_on() {
    let Some(mut daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let model = Script::load(&sample_script())
        .slowed(400)
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    daemon
        .event_when(&id, "the first tool", |event| {
            matches!(&event.event, Some(Event::ToolEnded(_)))
        })
        .await;
    daemon.terminate().await;
    daemon.restart().await;
    assert_eq!(daemon.ended(&id).await.state(), SessionState::Verified);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let Some(mut daemon) = Daemon::start(Options::default().set("shutdown_grace", "10m")).await
    else {
        return;
    };
    daemon.workspace("w", &[]).await;
    // A call that would hold a drain for as long as the grace allows.
    let held = compyd_tests::exec::command("w", &["sleep", "600"]);
    let messages = tokio_stream::once(compyd_tests::exec::start(held));
    let _stream = daemon.workspaces().exec(messages).await.unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("shut").await;
    daemon.signal(Signal::SIGTERM);
    let begun = std::time::Instant::now();
    daemon.wait().await;
    assert!(begun.elapsed() < compyd_tests::wait::PATIENCE);
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_named_with_the_nearest_key() {
    let daemon = Daemon::start_bare(Options::default()).await;
    let config = daemon.directory().join("wrong.toml");
    std::fs::write(
        &config,
        "workspace.memroy = \"1GiB\"\nsession.max_steps = 0\nlisten = [\"tcp://0.0.0.0:7\"]\n",
    )
    .unwrap();
    let output = daemon
        .command_with_config(&daemon.directory().join("other.sock"), &config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    // All at once, each with what to do.
    for part in ["workspace.memroy", "workspace.memory", "session.max_steps"] {
        assert!(said.contains(part), "no {part} in:\n{said}");
    }
}

/// The verdict of one of doctor's checks: 1 is well, 2 a warning, 3 failed.
async fn verdict(daemon: &Daemon, check: &str, client_time: Option<i64>) -> (i32, String) {
    let request = DiagnoseRequest {
        client_time: client_time.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
    };
    let checks = daemon
        .system()
        .diagnose(request)
        .await
        .unwrap()
        .into_inner()
        .checks;
    let found = checks.iter().find(|found| found.name == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {checks:?}"));
    (found.verdict, format!("{}; {}", found.found, found.advice))
}

fn now() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[tokio::test]
async fn doctor_finds_a_sound_machine_sound() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let doctor = daemon.compyctl(&["doctor", "-o", "json"]).await;
    let report = doctor.json();
    for check in report["checks"].as_array().unwrap() {
        // Without a model there is something to say, and work goes on.
        let name = check["name"].as_str().unwrap();
        assert!(
            check["verdict"] == "ok" || (check["verdict"] == "warning" && name != "engine"),
            "{check}"
        );
    }
    assert_eq!((doctor.code, &report["ok"]), (0, &serde_json::json!(true)));
}

#[tokio::test]
async fn doctor_names_each_thing_that_is_broken() {
    let missing = "/nonexistent/compy";
    let daemon = Daemon::start_bare(
        Options::default()
            .set("engine.host", format!("unix://{missing}.sock"))
            .set("workspace.agent_file", missing)
            .set("disk.low_water", "1024TiB"),
    )
    .await;
    for (check, word) in [("engine", "docker"), ("agent", missing), ("disk", "free")] {
        let (verdict, said) = verdict(&daemon, check, Some(now())).await;
        assert!(verdict == 3 || verdict == 2, "{check} is {verdict}: {said}");
        assert!(said.to_lowercase().contains(word), "{check}: {said}");
    }
    let (clock, said) = verdict(&daemon, "clock", Some(now() - 86_400)).await;
    assert_ne!(clock, 1, "{said}");
    assert_eq!(verdict(&daemon, "clock", Some(now())).await.0, 1);
    let doctor = daemon.compyctl(&["doctor"]).await;
    assert_ne!(doctor.code, 0, "{}", doctor.text());

    // What cannot work is refused with what to do, not left to time out.
    let daemon =
        Daemon::start_bare(Options::default().set("engine.host", format!("unix://{missing}.sock")))
            .await;
    let create = daemon.compyctl(&["workspace", "create", "w"]).await;
    assert_eq!(create.code, 1);
    assert!(
        create.stderr.contains("ENGINE_UNAVAILABLE"),
        "{}",
        create.stderr
    );
    daemon
        .workspaces()
        .list_workspaces(ListWorkspacesRequest {})
        .await
        .unwrap();
}

#[tokio::test]
async fn doctor_names_a_missing_image() {
    let Some(daemon) =
        Daemon::start(Options::default().set("workspace.image", "compy/nothing:here")).await
    else {
        return;
    };
    let (verdict, said) = verdict(&daemon, "image", None).await;
    assert_ne!(verdict, 1);
    assert!(said.contains("compy/nothing:here"), "{said}");
    let create = daemon.compyctl(&["workspace", "create", "w"]).await;
    assert_eq!(create.code, 1);
    assert!(create.stderr.contains("IMAGE_MISSING"), "{}", create.stderr);
    assert_eq!(
        daemon.engine().await.volumes(Some(daemon.run_name())).await,
        []
    );
}

#[tokio::test]
async fn a_client_without_a_daemon_says_what_to_start() {
    let mut daemon = Daemon::start_bare(Options::default()).await;
    daemon.terminate().await;
    let ran = daemon.compyctl(&["workspace", "list"]).await;
    assert_eq!(ran.code, 5);
    assert!(ran.stderr.contains("compyd"), "{}", ran.stderr);
}
