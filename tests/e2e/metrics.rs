//! Metrics as Prometheus scrapes them from a real daemon.

use std::{collections::BTreeMap, time::Duration};

use compyd::metrics::exposition::{Family, parse, value};
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::command,
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The address in the line that says where metrics are served.
fn address(daemon: &Daemon) -> String {
    let log = daemon.log();
    let (_, rest) = log
        .split_once("http://127.0.0.1:")
        .expect("metrics are served");
    let (port, _) = rest.split_once("/metrics").unwrap();
    format!("127.0.0.1:{port}")
}

/// The head and the body of an answer.
async fn ask(daemon: &Daemon, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address(daemon)).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

pub(crate) async fn scrape(daemon: &Daemon) -> BTreeMap<String, Family> {
    let (head, body) = ask(daemon, "GET", "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let media_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.contains(media_type), "{head}");
    parse(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

#[tokio::test]
async fn a_scrape_of_a_real_daemon_is_sound_and_tells_what_it_does() {
    let options = Options::default().set("metrics.listen", "0");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    daemon.workspace("stopped", &[]).await;
    let stop = ["workspace", "stop", "stopped"];
    let _ = daemon.compyctl(&stop).await.expect_code(0);
    let snapshot = ["workspace", "snapshot", "w"];
    let _ = daemon.compyctl(&snapshot).await.expect_code(0);
    assert_ne!(
        daemon.compyctl(&["workspace", "show", "none"]).await.code,
        0
    );
    let sleep = [
        "workspace",
        "exec",
        "w",
        "--detach",
        "--",
        "sleep",
        "100000",
    ];
    let _ = daemon.compyctl(&sleep).await.expect_code(0);
    let curl = ["sh", "-c", "curl -s http://example.test/ || true"];
    let _ = daemon.exec(command("w", &curl)).await.unwrap();

    // What the engine and the agents do not say in time is not there.
    let families = wait::until(
        "the engine's and the agent's part",
        wait::PATIENCE,
        async || {
            let families = scrape(&daemon).await;
            let whole = ["compy_workspaces", "compy_commands_running"];
            let is_whole = whole.iter().all(|name| families.contains_key(*name));
            is_whole.then_some(families)
        },
    )
    .await;
    let of = |name: &str, labels: &[(&str, &str)]| {
        value(&families, name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
    };
    let state = |desired, state| {
        of(
            "compy_workspaces",
            &[("desired", desired), ("state", state)],
        )
    };
    assert_eq!(
        (state("running", "running"), state("stopped", "stopped")),
        (1., 1.)
    );
    assert_eq!(of("compy_agent_links", &[]), 1.);
    assert_eq!(of("compy_commands_running", &[]), 1.);
    assert_eq!(of("compy_engine_up", &[]), 1.);
    let containers = [("object", "containers"), ("result", "ok")];
    assert!(of("compy_engine_request_duration_seconds_count", &containers) >= 3.);
    assert_eq!(of("compy_snapshots", &[]), 1.);
    assert_eq!(of("compy_snapshots_taken_total", &[]), 1.);
    assert_eq!(of("compy_snapshots_failed_total", &[]), 0.);
    assert_eq!(of("compy_snapshot_pause_seconds_count", &[]), 1.);
    assert!(of("compy_store_writes_total", &[]) >= 3.);
    let records = [("file", "records")];
    assert!(of("compy_store_sync_duration_seconds_count", &records) >= 1.);
    assert!(of("compy_reconciler_last_good_look_timestamp_seconds", &[]) > 1e9);
    assert!(of("compy_reconciler_looks_total", &[("result", "ok")]) >= 1.);
    assert!(of("compy_disk_free_bytes", &[]) > 0.);
    assert_eq!(of("compy_disk_low", &[]), 0.);
    assert!(of("compy_egress_connections_total", &[("outcome", "denied")]) >= 1.);
    assert!(of("process_resident_memory_bytes", &[]) > 1e6);
    let call = |method: &str, code| {
        let method = format!("/compy.v1.WorkspaceService/{method}");
        of(
            "compy_grpc_calls_total",
            &[("method", &method), ("code", code)],
        )
    };
    assert!(call("CreateWorkspace", "Ok") >= 2.);
    assert!(call("GetWorkspace", "NotFound") >= 1.);

    // What goes up goes up, and what is over is not told any more.
    let delete = ["workspace", "delete", "stopped", "--yes"];
    let _ = daemon.compyctl(&delete).await.expect_code(0);
    wait::until("one is gone", wait::PATIENCE, async || {
        let families = scrape(&daemon).await;
        let stopped = [("desired", "stopped"), ("state", "stopped")];
        value(&families, "compy_workspaces", &stopped)
            .is_none()
            .then_some(())
    })
    .await;
    let (head, _) = ask(&daemon, "POST", "/metrics").await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, _) = ask(&daemon, "GET", "/").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_told_and_keeps_nobody_waiting() {
    let engine = "unix:///nonexistent/docker.sock";
    let options = Options::default()
        .engine(engine)
        .set("metrics.listen", "127.0.0.1:0");
    let daemon = Daemon::start_bare(options).await;
    wait::until("the engine is asked", Duration::from_secs(20), async || {
        let families = scrape(&daemon).await;
        let up = value(&families, "compy_engine_up", &[]);
        let failed = families.get("compy_engine_request_duration_seconds");
        let failed = failed.is_some_and(|family| {
            let is_failed = |labels: &BTreeMap<String, String>| labels["result"] == "failed";
            family
                .samples
                .iter()
                .any(|(_, labels, _)| is_failed(labels))
        });
        (up == Some(0.) && failed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_served_unless_it_is_asked_for() {
    let daemon = Daemon::start_bare(Options::default()).await;
    assert!(!daemon.log().contains("metrics are served"));
}
