//! What a hundred workspaces cost that do nothing, beside as many bare
//! containers.

use std::time::Duration;

use bollard::query_parameters::StatsOptionsBuilder;
use compyd_proto::v1::GetInfoRequest;
use futures_util::StreamExt as _;
use tokio::process::Command;

use super::{Better, Field, Measured, Report};
use crate::engine::{IMAGE, LABEL};

const WORKSPACES: usize = 100;
/// How long they are left alone before that: what has just started is not idle.
const SETTLED: Duration = Duration::from_secs(60);
/// How long nothing happens while the processor's time is counted.
const QUIET: Duration = Duration::from_secs(60);
const MB: f64 = 1e6;
/// Clock ticks a second in `/proc/PID/stat`: the same on every Linux.
const TICKS: f64 = 100.0;

/// Measures memory and the processor's time. The field is a fresh one.
pub async fn measure(field: &Field, report: &mut Report) {
    let mut agents = Vec::new();
    for number in 0..WORKSPACES {
        let name = format!("idle-{number:03}");
        agents.push(field.daemon.workspace(&name, &[]).await.container_id);
    }
    let bare = bare_containers(field).await;
    // Whatever starting them left to do.
    tokio::time::sleep(QUIET / 3).await;

    let info = field.daemon.system().get_info(GetInfoRequest {}).await;
    let info = info.expect("the daemon answers").into_inner();
    report.add(
        Measured {
            name: "daemon, resident, 100 idle workspaces",
            unit: "MB",
            better: Better::Less,
            ours: vec![info.resident_bytes as f64 / MB],
            theirs: Vec::new(),
        },
        "under 80 MB",
        |ours, _| ours.p50 < 80.0,
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (containers, resident) in [(&agents, &mut ours), (&bare, &mut theirs)] {
        for container in containers {
            let state = field.engine.inspect(container).await.state;
            let pid = state.and_then(|state| state.pid).expect("it runs");
            resident.extend(resident_mb(pid));
        }
    }
    if !ours.is_empty() {
        report.add(
            Measured {
                name: "agent, resident, of 100 | PID 1 of a bare container",
                unit: "MB",
                better: Better::Less,
                ours,
                theirs,
            },
            "under 6 MB",
            |ours, _| ours.p99 < 6.0,
        );
    }

    tokio::time::sleep(SETTLED).await;
    let begun = (
        daemon_seconds(field),
        cpu_seconds(field, &agents).await,
        cpu_seconds(field, &bare).await,
    );
    tokio::time::sleep(QUIET).await;
    let daemon = daemon_seconds(field) - begun.0;
    let agents = cpu_seconds(field, &agents).await - begun.1;
    let bare_used = cpu_seconds(field, &bare).await - begun.2;
    let share = |seconds: f64| 100.0 * seconds / QUIET.as_secs_f64();
    report.add(
        Measured {
            name: "daemon and 100 idle agents | 100 bare containers",
            unit: "% of a CPU",
            better: Better::Less,
            ours: vec![share(daemon + agents)],
            theirs: vec![share(bare_used)],
        },
        "under 1 %",
        |ours, _| ours.p50 < 1.0,
    );
}

/// As many containers with nothing but a process that sleeps.
async fn bare_containers(field: &Field) -> Vec<String> {
    let label = format!("{LABEL}={}", field.daemon.run_name());
    let mut made = Vec::new();
    for _ in 0..WORKSPACES {
        let ran = Command::new("docker")
            .args(["run", "--detach", "--network", "none", "--label", &label])
            .args([IMAGE, "sleep", "infinity"])
            .output()
            .await
            .expect("docker starts");
        assert!(ran.status.success(), "{ran:?}");
        made.push(String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    }
    made
}

/// `None` where this process may not look.
fn resident_mb(pid: i64) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024.0 / MB)
}

fn daemon_seconds(field: &Field) -> f64 {
    let file = format!("/proc/{}/stat", field.daemon.pid());
    let stat = std::fs::read_to_string(file).expect("the daemon runs");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    ticks / TICKS
}

/// What all processes of these containers have used, by the engine.
async fn cpu_seconds(field: &Field, containers: &[String]) -> f64 {
    let mut nanoseconds = 0.0;
    for container in containers {
        let options = StatsOptionsBuilder::new()
            .stream(false)
            .one_shot(true)
            .build();
        let stats = field.engine.docker().stats(container, Some(options));
        let stats = Box::pin(stats).next().await;
        let stats = stats.expect("an answer").expect("the engine tells");
        let used = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage);
        nanoseconds += used.and_then(|used| used.total_usage).unwrap_or(0) as f64;
    }
    nanoseconds / 1e9
}
