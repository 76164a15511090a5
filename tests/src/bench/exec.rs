//! Running `true`, and asking the agent at all.

use std::time::{Duration, Instant};

use bollard::exec::{CreateExecOptions, StartExecResults};
use compyd_proto::v1::ListExecsRequest;
use futures_util::{StreamExt, future::join_all};

use super::{Better, Field, Measured, Report};
use crate::exec::command;

const ROUNDS: usize = 300;
const ENGINE_ROUNDS: usize = 100;
const AT_ONCE: usize = 50;
/// A static program outside the image, and how it is made.
const TRUE_ON_A_VOLUME: &str = "/workspace/true";
const MAKE_TRUE: &str =
    "echo 'int main(void) { return 0; }' | cc -static -x c - -o /workspace/true 2>&1";
/// An engine cleans up for some milliseconds after an exec has been answered;
/// what is measured next must not pay for it.
const AFTERMATH: Duration = Duration::from_millis(40);

/// Measures the round through client, daemon and agent.
pub async fn measure(field: &Field, report: &mut Report) {
    let workspace = field.daemon.workspace("exec", &[]).await;
    let container = workspace.container_id;
    pings(field, report).await;

    one_by_one(
        field,
        report,
        &container,
        "true",
        "run `true` | fresh exec through the Engine API",
    )
    .await;
    // Where the engine's storage driver is a user-space file system, starting
    // any program of the image costs more than everything else.
    let made = field.daemon.shell("exec", MAKE_TRUE).await;
    assert_eq!(made.code(), Some(0), "{}", made.text());
    one_by_one(
        field,
        report,
        &container,
        TRUE_ON_A_VOLUME,
        "run a program on a volume | fresh exec",
    )
    .await;

    let (mut waits, mut rates, mut engine_rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..10 {
        let begun = Instant::now();
        waits.extend(join_all((0..AT_ONCE).map(|_| ours(field, "true"))).await);
        rates.push(AT_ONCE as f64 / begun.elapsed().as_secs_f64());
        if round % 4 == 0 {
            let begun = Instant::now();
            join_all((0..AT_ONCE).map(|_| fresh(field, &container, "true"))).await;
            engine_rates.push(AT_ONCE as f64 / begun.elapsed().as_secs_f64());
            tokio::time::sleep(10 * AFTERMATH).await;
        }
    }
    report.add(
        Measured {
            name: "run `true`, 50 at once, each",
            unit: "ms",
            better: Better::Less,
            ours: waits,
            theirs: Vec::new(),
        },
        "p99 under 100 ms",
        |ours, _| ours.p99 < 100.0,
    );
    report.add(
        Measured {
            name: "run `true`, 50 at once | the Engine API",
            unit: "1/s",
            better: Better::More,
            ours: rates,
            theirs: engine_rates,
        },
        "10 times the throughput",
        |_, ratio| ratio >= 10.0,
    );
}

/// Measures one command after the other, ours and theirs in turn.
async fn one_by_one(
    field: &Field,
    report: &mut Report,
    container: &str,
    program: &str,
    name: &'static str,
) {
    for _ in 0..20 {
        ours(field, program).await;
    }
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        mine.push(ours(field, program).await);
        if round % (ROUNDS / ENGINE_ROUNDS) == 0 {
            theirs.push(fresh(field, container, program).await);
            tokio::time::sleep(AFTERMATH).await;
        }
    }
    report.add(
        Measured {
            name,
            unit: "ms",
            better: Better::Less,
            ours: mine,
            theirs,
        },
        "25 times faster at the median, p99 under 4 ms",
        |ours, ratio| ratio >= 25.0 && ours.p99 < 4.0,
    );
}

/// The smallest question that goes all the way: which commands run.
async fn pings(field: &Field, report: &mut Report) {
    let mut client = field.daemon.workspaces();
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let request = ListExecsRequest {
            workspace: "exec".to_owned(),
            running_only: true,
        };
        let begun = Instant::now();
        client.list_execs(request).await.expect("the agent answers");
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    report.add(
        Measured {
            name: "ask the agent (client, daemon, agent and back)",
            unit: "ms",
            better: Better::Less,
            ours: times,
            theirs: Vec::new(),
        },
        "under 0.4 ms at the median",
        |ours, _| ours.p50 < 0.4,
    );
}

async fn ours(field: &Field, program: &str) -> f64 {
    let begun = Instant::now();
    let done = field.daemon.exec(command("exec", &[program])).await;
    let taken = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(done.expect("the daemon runs it").code(), Some(0));
    taken
}

/// Create, start, read to the end, inspect: what `docker exec` does.
async fn fresh(field: &Field, container: &str, program: &str) -> f64 {
    let docker = field.engine.docker();
    let begun = Instant::now();
    let exec = docker
        .create_exec(
            container,
            CreateExecOptions {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(vec![program]),
                ..Default::default()
            },
        )
        .await
        .expect("the engine makes an exec");
    if let StartExecResults::Attached { mut output, .. } = docker
        .start_exec(&exec.id, None)
        .await
        .expect("the engine starts it")
    {
        while output.next().await.is_some() {}
    }
    let seen = docker
        .inspect_exec(&exec.id)
        .await
        .expect("the engine tells");
    let taken = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(seen.exit_code, Some(0));
    taken
}
