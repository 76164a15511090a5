//! The limits of a workspace hold for real: what the engine measures from
//! outside, and what a program inside is told.

use std::time::{Duration, Instant};

use bollard::{models::ContainerStatsResponse, query_parameters::StatsOptions};
use compyd_proto::v1::exec_exit::How;
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::{command, start},
    wait,
};
use futures_util::StreamExt as _;
use serde_json::Value;

/// Takes memory until somebody objects.
const HOG: &str = "tail /dev/zero";

async fn events(daemon: &Daemon) -> Vec<Value> {
    let events = ["-o", "json", "workspace", "events", "w"];
    let ran = daemon.compyctl(&events).await.expect_code(0);
    let lines = serde_json::Deserializer::from_slice(&ran.stdout).into_iter();
    lines.map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_command_over_the_memory_limit_is_ended_and_told_why_and_nothing_else_is() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let before = daemon.workspace("w", &["--memory", "256M"]).await;
    let neighbour = command("w", &["sleep", "600"]);
    let mut watched = daemon.follow(start(neighbour)).await.unwrap();

    let exec = ["workspace", "exec", "w", "--"];
    let alone = daemon
        .compyctl(&[&exec[..], &["tail", "/dev/zero"]].concat())
        .await;
    assert_eq!(alone.code, 137, "{alone:?}");
    assert!(alone.stderr.contains("memory limit"), "{alone:?}");
    // A shell says 137, a build tool often 1 or 2.
    let below = daemon.shell("w", &format!("{HOG}; exit 2")).await;
    assert_eq!(below.exit.how, Some(How::Code(2)));
    assert!(below.exit.out_of_memory, "{:?}", below.exit);
    // Nothing is claimed of what just fails, or does not fail.
    let failed = daemon.shell("w", "exit 3").await;
    assert!(!failed.exit.out_of_memory, "{:?}", failed.exit);
    let fine = daemon.shell("w", &format!("{HOG}; true")).await;
    assert!(!fine.exit.out_of_memory, "{:?}", fine.exit);

    wait::until("the event", wait::PATIENCE, async || {
        let events = events(&daemon).await;
        let named = |event: &Value| event["kind"] == "out_of_memory";
        events.iter().any(named).then_some(())
    })
    .await;
    // The container, its agent and the other command have lived on.
    let after = daemon.workspace_now("w").await;
    assert_eq!(after.container_id, before.container_id);
    let engine = daemon.engine().await;
    let processes = engine.top(&after.container_id).await;
    assert!(
        processes.iter().any(|process| process == "sleep 600"),
        "{processes:?}"
    );
    let restarts = events(&daemon).await;
    let restarts = restarts.iter().filter(|event| event["kind"] == "died");
    assert_eq!(restarts.count(), 0);
    let first = watched.message().await.unwrap();
    assert!(first.is_some(), "the other command is still attached to");
}

async fn stats(daemon: &Daemon, container: &str) -> ContainerStatsResponse {
    let engine = daemon.engine().await;
    let options = StatsOptions {
        stream: false,
        one_shot: true,
    };
    let mut stats = engine.docker().stats(container, Some(options));
    stats.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn four_busy_loops_get_the_half_core_that_they_are_given() {
    const SHARE: f64 = 0.5;
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let container = daemon.workspace("w", &["--cpus", "0.5"]).await.container_id;
    let spin = "for i in 1 2 3 4; do while :; do :; done & done; wait";
    let spinning = command("w", &["sh", "-c", spin]);
    let _watched = daemon.follow(start(spinning)).await.unwrap();
    let cpu = |stats: &ContainerStatsResponse| {
        let cpu = stats.cpu_stats.clone().unwrap();
        let throttled = cpu.throttling_data.unwrap().throttled_periods.unwrap();
        (cpu.cpu_usage.unwrap().total_usage.unwrap(), throttled)
    };
    let begun = Instant::now();
    let (used_before, throttled_before) = cpu(&stats(&daemon, &container).await);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (used, throttled) = cpu(&stats(&daemon, &container).await);
    let took = begun.elapsed();
    let share = Duration::from_nanos(used - used_before).as_secs_f64() / took.as_secs_f64();
    let throttled = throttled - throttled_before;
    eprintln!("{share:.3} of a core, held back in {throttled} periods");
    assert!(share < SHARE * 1.15, "{share}");
    // What held them back was the limit and not a busy machine.
    assert!(throttled > 10, "{throttled} periods");
}

/// Starts processes until that is refused; says how many, and the error.
const FORK: &str = "
import os, signal, time
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        children.append(child)
    print('never refused')
except OSError as error:
    print(len(children), os.strerror(error.errno), flush=True)
    time.sleep(10)
for child in children:
    os.kill(child, signal.SIGKILL)
";

#[tokio::test]
async fn processes_beyond_the_limit_are_refused_to_the_program_that_starts_them() {
    const PIDS: usize = 64;
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let limit = PIDS.to_string();
    let workspace = daemon.workspace("w", &["--pids", &limit]).await;
    let engine = daemon.engine().await;
    let mut forks = std::pin::pin!(daemon.exec(command("w", &["python3", "-c", FORK])));
    let mut most = 0;
    let forks = loop {
        tokio::select! {
            done = &mut forks => break done,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                most = most.max(engine.top(&workspace.container_id).await.len());
            }
        }
    };
    let said = forks.unwrap().text();
    let (count, error) = said.split_once(' ').unwrap();
    assert_eq!(error, "Resource temporarily unavailable", "{said}");
    let count: usize = count.parse().unwrap();
    assert!((PIDS / 2..PIDS).contains(&count), "{said}");
    assert!((PIDS / 2..=PIDS).contains(&most), "{most} at once");
    assert_eq!(daemon.shell("w", "echo alive").await.text(), "alive");
}
