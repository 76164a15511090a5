//! The life of workspaces beyond start and stop: paused, idle, over a limit,
//! watched; and what is told of it afterwards.

use std::time::Duration;

use compyd::metrics::exposition::value;
use compyd_proto::v1::{ExecAttach, ExecRequest, ExecStart, WorkspaceState, exec_request};
use compyd_tests::{
    compyctl::Ran,
    daemon::{Daemon, Options},
    exec::{collect, command, start},
    wait,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tonic_types::StatusExt as _;

use crate::metrics::scrape;

async fn started(more: &[&str]) -> Option<Daemon> {
    let daemon = Daemon::start(Options::default()).await?;
    daemon.workspace("w", more).await;
    Some(daemon)
}

async fn run(daemon: &Daemon, args: &[&str]) -> Ran {
    daemon
        .compyctl(&[&["workspace"], args].concat())
        .await
        .expect_code(0)
}

async fn state(daemon: &Daemon, name: &str) -> (WorkspaceState, String) {
    let workspace = daemon.workspace_now(name).await;
    (workspace.state(), workspace.state_reason)
}

async fn becomes(daemon: &Daemon, name: &str, wanted: WorkspaceState) -> String {
    wait::until("the state", wait::PATIENCE, async || {
        let (state, reason) = state(daemon, name).await;
        (state == wanted).then_some(reason)
    })
    .await
}

/// Events as JSON, one a line.
async fn events(daemon: &Daemon, args: &[&str]) -> Vec<Value> {
    let all = [&["-o", "json", "workspace", "events"], args].concat();
    let ran = daemon.compyctl(&all).await.expect_code(0);
    let lines = ran.text();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn kinds(daemon: &Daemon, name: &str) -> Vec<String> {
    let kind = |event: &Value| {
        let (kind, cause) = (event["kind"].as_str().unwrap(), &event["cause"]);
        match cause.as_str().unwrap() {
            "" => kind.to_owned(),
            cause => format!("{kind} {cause}"),
        }
    };
    events(daemon, &[name]).await.iter().map(kind).collect()
}

fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

async fn refusal(daemon: &Daemon, argv: &[&str]) -> String {
    match daemon.exec(command("w", argv)).await {
        Ok(done) => panic!("it was not refused: {done:?}"),
        Err(status) => reason(&status),
    }
}

fn attach(exec_id: &str) -> ExecRequest {
    ExecRequest {
        part: Some(exec_request::Part::Attach(ExecAttach {
            workspace: "w".to_owned(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        })),
    }
}

/// A command that runs on when nobody follows it; its id.
async fn detached(daemon: &Daemon, script: &str, change: impl FnOnce(&mut ExecStart)) -> String {
    let mut spec = command("w", &["sh", "-c", script]);
    change(&mut spec);
    let id = spec.request_id.clone();
    let stream = tokio_stream::iter(vec![start(spec)]);
    let mut answer = daemon.workspaces().exec(stream).await.unwrap().into_inner();
    answer.message().await.unwrap().expect("it was attached to");
    id
}

#[tokio::test]
async fn a_paused_workspace_stays_so_until_it_is_resumed_and_its_commands_lose_no_time() {
    let Some(mut daemon) = started(&[]).await else {
        return;
    };
    // More than its time-out will pass, and little of it for the command.
    let begun = std::time::Instant::now();
    let timed = detached(&daemon, "while :; do sleep 0.05; done", |spec| {
        spec.timeout_ms = 45_000;
    });
    let timed = timed.await;
    let counting = detached(
        &daemon,
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done",
        |_| {},
    );
    let counting = counting.await;
    run(&daemon, &["pause", "w"]).await;
    run(&daemon, &["pause", "w"]).await;
    let (paused, why) = state(&daemon, "w").await;
    assert_eq!(paused, WorkspaceState::Paused);
    assert!(why.contains("workspace resume"), "{why}");

    assert_eq!(refusal(&daemon, &["true"]).await, "WORKSPACE_PAUSED");
    let said = daemon
        .compyctl(&["workspace", "exec", "w", "--", "true"])
        .await;
    assert!(
        said.stderr.contains("compyctl workspace resume w"),
        "{said:?}"
    );

    // A snapshot of it leaves it paused.
    run(&daemon, &["snapshot", "w"]).await;
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Paused);

    // So does the death of the daemon.
    daemon.kill().await;
    daemon.restart().await;
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Paused);
    assert_eq!(refusal(&daemon, &["true"]).await, "WORKSPACE_PAUSED");
    tokio::time::sleep(Duration::from_secs(46).saturating_sub(begun.elapsed())).await;

    run(&daemon, &["resume", "w"]).await;
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Running);
    let stream = tokio_stream::iter(vec![attach(&counting)]);
    let answer = daemon.workspaces().exec(stream).await.unwrap();
    let counted = collect(answer.into_inner()).await.unwrap();
    assert_eq!(counted.code(), Some(0));
    assert_eq!(counted.text().lines().count(), 100);
    let running = daemon
        .compyctl(&["workspace", "stats", "w", "--once"])
        .await;
    let running = running.expect_code(0);
    assert!(
        running.text().contains("commands 1"),
        "{timed} is not timed out: {running:?}"
    );
    let told = kinds(&daemon, "w").await;
    assert_eq!(told, ["created", "paused", "snapshot_taken", "resumed"]);
}

#[tokio::test]
async fn what_was_paused_and_lost_its_processes_is_stopped_and_starts_on_use() {
    let Some(daemon) = started(&[]).await else {
        return;
    };
    run(&daemon, &["pause", "w"]).await;
    let container = daemon.workspace_now("w").await.container_id;
    // What an engine that restarts does to it.
    daemon.engine().await.kill(&container).await;
    let why = becomes(&daemon, "w", WorkspaceState::Stopped).await;
    assert!(why.contains("it was paused"), "{why}");
    let done = daemon.exec(command("w", &["true"])).await.unwrap();
    assert_eq!(done.code(), Some(0));
    let told = kinds(&daemon, "w").await;
    assert_eq!(
        told,
        ["created", "paused", "stopped pause_lost", "started use"]
    );
}

#[tokio::test]
async fn an_idle_workspace_is_stopped_over_a_kill_of_the_daemon_and_starts_on_use() {
    let Some(mut daemon) = started(&["--idle-stop", "8s"]).await else {
        return;
    };
    // A command that runs prevents it, also when nobody is attached.
    let busy = detached(&daemon, "sleep 40", |_| {}).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    daemon.kill().await;
    daemon.restart().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Running);
    let stream = tokio_stream::iter(vec![attach(&busy)]);
    let answer = daemon.workspaces().exec(stream).await.unwrap();
    let done = collect(answer.into_inner()).await.unwrap();
    assert_eq!(done.code(), Some(0), "it was not cut: {done:?}");

    daemon.kill().await;
    daemon.restart().await;
    let why = becomes(&daemon, "w", WorkspaceState::Stopped).await;
    assert!(why.contains("nobody used it for 8 s"), "{why}");
    let done = daemon.exec(command("w", &["true"])).await.unwrap();
    assert_eq!(done.code(), Some(0));

    // What stays behind is no command: it ends with the workspace.
    let left = daemon.shell("w", "sleep 1000 & exit 0").await;
    assert_eq!(left.code(), Some(0));
    becomes(&daemon, "w", WorkspaceState::Stopped).await;
    run(&daemon, &["set", "w", "--idle-stop", "never"]).await;
    run(&daemon, &["start", "w"]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Running);
    let told = kinds(&daemon, "w").await;
    let expected = [
        "created",
        "stopped idle",
        "started use",
        "stopped idle",
        "started request",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn above_the_disk_limit_commands_are_refused_but_those_that_clean_up() {
    let Some(daemon) = started(&["--disk", "20M"]).await else {
        return;
    };
    let mut fill = command(
        "w",
        &[
            "sh",
            "-c",
            "dd if=/dev/zero of=/workspace/big bs=1M count=50",
        ],
    );
    // Not ended in the middle.
    fill.over_limit = true;
    let filled = daemon.exec(fill).await.unwrap();
    let why = wait::until("the limit to be noticed", wait::PATIENCE, async || {
        let (_, why) = state(&daemon, "w").await;
        why.contains("above its disk limit").then_some(why)
    })
    .await;
    assert!(why.contains("20971520"), "{why} after {filled:?}");
    assert_eq!(refusal(&daemon, &["true"]).await, "DISK_LIMIT");
    let said = daemon
        .compyctl(&["workspace", "exec", "w", "--", "true"])
        .await;
    assert!(said.stderr.contains("--over-limit"), "{said:?}");
    let stats = daemon
        .compyctl(&["-o", "json", "workspace", "stats", "w", "--once"])
        .await;
    let stats = stats.expect_code(0).last_json();
    assert_eq!(stats["disk_limit_bytes"], 20 << 20, "{stats}");
    assert!(stats["disk_bytes"].as_u64() > Some(45 << 20), "{stats}");

    let clean = ["exec", "--over-limit", "w", "--", "rm", "/workspace/big"];
    run(&daemon, &clean).await;
    let done = daemon.exec(command("w", &["true"])).await.unwrap();
    assert_eq!(
        done.code(),
        Some(0),
        "what was cleaned up is noticed at once"
    );

    // A command that goes on and on is ended.
    let runaway = daemon.shell(
        "w",
        "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/workspace/$i bs=1M count=4; sleep 0.2; done",
    );
    let ended = tokio::time::timeout(wait::PATIENCE, runaway).await;
    let ended = ended.expect("it is ended");
    assert_ne!(ended.code(), Some(0));
    let told = kinds(&daemon, "w").await;
    assert!(
        told.iter().filter(|kind| *kind == "disk_over").count() >= 2,
        "{told:?}"
    );
    assert!(told.iter().any(|kind| kind == "disk_ok"), "{told:?}");
    // Without a limit everything goes on.
    run(&daemon, &["set", "w", "--disk", "0"]).await;
    let done = daemon.exec(command("w", &["true"])).await.unwrap();
    assert_eq!(done.code(), Some(0));
}

/// The lines of a client that runs on.
async fn lines(
    daemon: &Daemon,
    args: &[&str],
) -> (
    tokio::process::Child,
    Lines<BufReader<tokio::process::ChildStdout>>,
) {
    let mut child = daemon.client().args(args).spawn();
    let output = child.stdout.take().expect("standard output is a pipe");
    (child, BufReader::new(output).lines())
}

async fn line(lines: &mut Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    let line = tokio::time::timeout(wait::PATIENCE, lines.next_line()).await;
    line.expect("a line comes").unwrap().expect("it goes on")
}

#[tokio::test]
async fn watchers_and_followers_see_what_happens_over_a_restart_of_the_daemon() {
    let Some(mut daemon) = started(&[]).await else {
        return;
    };
    let (mut watch, mut states) = lines(&daemon, &["workspace", "watch"]).await;
    assert_eq!(line(&mut states).await, "w  running");
    let follow = ["-o", "json", "workspace", "events", "--follow"];
    let (mut follow, mut happened) = lines(&daemon, &follow).await;
    let kind = |line: String| {
        let event: Value = serde_json::from_str(&line).unwrap();
        event["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(line(&mut happened).await), "created");
    run(&daemon, &["stop", "w"]).await;
    while line(&mut states).await != "w  stopped" {}
    assert_eq!(kind(line(&mut happened).await), "stopped");

    // Neither holds up a shutdown, and both go on with the next daemon.
    daemon.terminate().await;
    daemon.restart().await;
    run(&daemon, &["delete", "w", "--yes"]).await;
    loop {
        let seen = line(&mut states).await;
        if seen == "w  removed" {
            break;
        }
        assert!(seen.starts_with("w  "), "{seen}");
    }
    assert_eq!(kind(line(&mut happened).await), "deleted");
    watch.kill().await.unwrap();
    follow.kill().await.unwrap();
}

#[tokio::test]
async fn denials_are_readable_afterwards_with_what_to_do() {
    let Some(mut daemon) = started(&["--allow", "allowed.example"]).await else {
        return;
    };
    let tries = "for i in 1 2 3; do curl -sS --max-time 10 https://denied.example; done; true";
    daemon.shell("w", tries).await;
    let denied = async |daemon: &Daemon| {
        let all = events(daemon, &["w", "--warnings"]).await;
        let denied: Vec<_> = all
            .into_iter()
            .filter(|e| e["kind"] == "egress_denied")
            .collect();
        let count: u64 = denied
            .iter()
            .filter_map(|e| e["egress"]["count"].as_u64())
            .sum();
        (count >= 3).then_some((count, denied))
    };
    let (count, all) = wait::until("the denials", wait::PATIENCE, async || {
        denied(&daemon).await
    })
    .await;
    assert_eq!(count, 3);
    let egress = &all[0]["egress"];
    assert_eq!(
        (&egress["target"], &egress["code"]),
        (&"denied.example:443".into(), &"NOT_LISTED".into())
    );
    let advice = egress["advice"].as_str().unwrap();
    assert!(advice.contains("compyctl workspace egress w"), "{advice}");
    let stats = daemon
        .compyctl(&["-o", "json", "workspace", "stats", "w", "--once"])
        .await;
    assert_eq!(stats.expect_code(0).last_json()["connections_denied"], 3);
    daemon.kill().await;
    daemon.restart().await;
    assert!(denied(&daemon).await.is_some(), "they are on disk");
}

#[tokio::test]
async fn stats_tell_what_a_workspace_uses_and_wake_nothing() {
    let Some(daemon) = started(&["--cpus", "1", "--memory", "256M", "--pids", "64"]).await else {
        return;
    };
    let once = async || {
        let args = ["-o", "json", "workspace", "stats", "w", "--once"];
        daemon.compyctl(&args).await.expect_code(0).last_json()
    };
    let spin = detached(&daemon, "while :; do :; done", |_| {}).await;
    let stats = once().await;
    assert_eq!(stats["running_commands"], 1, "{stats}");
    assert!(stats["cpu_millis"].as_u64() > Some(50), "{stats}");
    assert!(stats["memory_bytes"].as_u64() > Some(100_000), "{stats}");
    assert!(stats["pids"].as_u64() >= Some(2), "{stats}");
    assert_eq!(stats["memory_limit_bytes"], 256 << 20, "{stats}");
    assert!(stats["disk_bytes"].as_u64().is_some(), "{stats}");
    drop(spin);
    run(&daemon, &["stop", "w"]).await;
    let stats = once().await;
    assert_eq!(stats["state"], "stopped", "{stats}");
    assert_eq!(stats["pids"], 0, "{stats}");
    assert_eq!(state(&daemon, "w").await.0, WorkspaceState::Stopped);
}

/// Reads on until a reading is as wanted; those before it must be plausible,
/// too.
async fn reading(
    readings: &mut Lines<BufReader<tokio::process::ChildStdout>>,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let looking = async {
        let mut before = Value::Null;
        loop {
            let now: Value = serde_json::from_str(&line(readings).await).unwrap();
            assert!(now["at"].as_str() >= before["at"].as_str(), "{now}");
            let within = |key: &str, most: u64| now[key].as_u64().is_some_and(|it| it <= most);
            assert!(within("memory_bytes", 256 << 20), "{now}");
            assert!(within("pids", 64), "{now}");
            if wanted(&now) {
                return now;
            }
            before = now;
        }
    };
    let found = tokio::time::timeout(wait::PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("no reading has {what}"))
}

#[tokio::test]
async fn a_stream_of_stats_tells_what_happens_and_ends_with_its_reader_or_its_workspace() {
    let options = Options::default().set("metrics.listen", "0");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    let limits = ["--cpus", "1", "--memory", "256M", "--pids", "64"];
    daemon.workspace("w", &limits).await;
    let begun = std::time::Instant::now();
    let interval = Duration::from_millis(200);
    let args = [
        "-o",
        "json",
        "workspace",
        "stats",
        "w",
        "--interval",
        "200ms",
    ];
    let (mut stays, mut readings) = lines(&daemon, &args).await;
    let (mut leaves, mut others) = lines(&daemon, &args).await;
    let idle = reading(&mut readings, "no command", |stats| {
        stats["running_commands"] == 0
    })
    .await;
    assert_eq!(idle["state"], "running", "{idle}");
    assert_eq!(idle["cpu_limit_millis"], 1_000, "{idle}");
    assert!(idle["memory_bytes"].as_u64() > Some(100_000), "{idle}");
    assert!(idle["pids"].as_u64() >= Some(1), "{idle}");

    let spin = detached(&daemon, "while :; do :; done", |_| {}).await;
    let mut last = reading(&mut readings, "a busy command", |stats| {
        stats["running_commands"] == 1 && stats["cpu_millis"].as_u64() > Some(100)
    })
    .await;
    assert!(last["pids"].as_u64() >= Some(2), "{last}");
    let total = |stats: &Value| stats["cpu_total_ms"].as_u64().unwrap();
    for _ in 0..10 {
        let next = reading(&mut readings, "any", |_| true).await;
        assert!(total(&next) >= total(&last), "{last} {next}");
        last = next;
    }
    let took = begun.elapsed();
    assert!(
        took >= interval * 10,
        "a reading each {interval:?}: {took:?}"
    );
    let used = total(&last) - total(&idle);
    // One CPU at most; the first reading and its time are not of one moment.
    let most = u64::try_from(took.as_millis()).unwrap() + 1_000;
    assert!((100..=most).contains(&used), "{used} ms in {took:?}");
    run(&daemon, &["kill", "w", &spin]).await;
    reading(&mut readings, "no command again", |stats| {
        stats["running_commands"] == 0
    })
    .await;

    // Who leaves costs nothing any more, and takes nothing from who stays.
    line(&mut others).await;
    leaves.kill().await.unwrap();
    stream_has_ended(&daemon, "Cancelled").await;
    run(&daemon, &["stop", "w"]).await;
    let stopped = reading(&mut readings, "no processes", |stats| {
        stats["state"] == "stopped"
    })
    .await;
    assert_eq!(stopped["pids"], 0, "{stopped}");
    assert_eq!(stopped["cpu_millis"], 0, "{stopped}");

    run(&daemon, &["delete", "w", "--yes"]).await;
    let end = async {
        while readings.next_line().await.unwrap().is_some() {}
        stays.wait().await.unwrap()
    };
    let end = tokio::time::timeout(wait::PATIENCE, end).await;
    let end = end.expect("it ends with its workspace");
    assert_eq!(end.code(), Some(2), "what was named is gone");
    stream_has_ended(&daemon, "NotFound").await;
}

/// Waits until the daemon has done with a stream of stats, and with this code.
async fn stream_has_ended(daemon: &Daemon, code: &str) {
    let method = "/compy.v1.ActivityService/WatchStats";
    let labels = [("method", method), ("code", code)];
    wait::until("the stream to end", wait::PATIENCE, async || {
        let ended = value(&scrape(daemon).await, "compy_grpc_calls_total", &labels);
        (ended == Some(1.)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_port_forward_does_not_hold_up_a_shutdown() {
    let Some(mut daemon) = started(&[]).await else {
        return;
    };
    detached(
        &daemon,
        "exec python3 -m http.server --bind 127.0.0.1 8765",
        |_| {},
    )
    .await;
    let forward = daemon
        .client()
        .args(["workspace", "port-forward", "w", "8765:0"]);
    let mut forward = forward.spawn();
    let output = forward.stdout.take().expect("standard output is a pipe");
    let said = BufReader::new(output)
        .lines()
        .next_line()
        .await
        .unwrap()
        .unwrap();
    let port: u16 = said
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .find(|port| *port > 1024 && *port != 8765)
        .unwrap_or_else(|| panic!("no port in {said:?}"));
    let open = wait::until("the server", wait::PATIENCE, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .ok()
    })
    .await;
    // The stream stands while nothing is said on it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.terminate().await;
    assert!(!daemon.log().contains("the grace is over"));
    drop(open);
    forward.kill().await.unwrap();
}
