//! Output on its way to a client: while it is written, and from the spool.

use std::time::Instant;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use compyd_proto::v1::{ExecAttach, ExecRequest, exec_request, exec_response::Event};
use futures_util::StreamExt;

use super::{Better, Field, Measured, Report};
use crate::exec::{command, start};

const BYTES: u64 = 1 << 30;
const SCRIPT: &str = "exec dd if=/dev/zero bs=1M count=1024 status=none";

/// Measures a gibibyte, live and spooled.
pub async fn measure(field: &Field, report: &mut Report) {
    let workspace = field.daemon.workspace("streams", &[]).await;
    let (mut live, mut spooled, mut engine) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..6 {
        let first = command("streams", &["sh", "-c", SCRIPT]);
        let id = first.request_id.clone();
        live.push(read(field, start(first)).await);
        let attach = ExecAttach {
            workspace: "streams".to_owned(),
            exec_id: id,
            ..Default::default()
        };
        let part = Some(exec_request::Part::Attach(attach));
        spooled.push(read(field, ExecRequest { part }).await);
        if round % 2 == 0 {
            engine.push(through_the_engine(field, &workspace.container_id).await);
        }
    }
    report.add(
        Measured {
            name: "stream a command's output | exec of the Engine API",
            unit: "MiB/s",
            better: Better::More,
            ours: live,
            theirs: engine,
        },
        "at least 500 MiB/s",
        |ours, _| ours.p50 >= 500.0,
    );
    report.add(
        Measured {
            name: "stream it again from the spool",
            unit: "MiB/s",
            better: Better::More,
            ours: spooled,
            theirs: Vec::new(),
        },
        "at least 300 MiB/s",
        |ours, _| ours.p50 >= 300.0,
    );
}

async fn read(field: &Field, first: ExecRequest) -> f64 {
    let begun = Instant::now();
    let answer = field
        .daemon
        .workspaces()
        .exec(tokio_stream::once(first))
        .await;
    let mut stream = answer.expect("the daemon streams").into_inner();
    let mut seen = 0;
    while let Some(message) = stream.message().await.expect("the stream goes on") {
        if let Some(Event::Stdout(output)) = message.event {
            seen += output.data.len() as u64;
        }
    }
    let taken = begun.elapsed().as_secs_f64();
    assert_eq!(seen, BYTES, "every byte arrives");
    BYTES as f64 / f64::from(1 << 20) / taken
}

async fn through_the_engine(field: &Field, container: &str) -> f64 {
    let docker = field.engine.docker();
    let begun = Instant::now();
    let exec = docker
        .create_exec(
            container,
            CreateExecOptions {
                attach_stdout: Some(true),
                cmd: Some(vec!["sh", "-c", SCRIPT]),
                ..Default::default()
            },
        )
        .await
        .expect("the engine makes an exec");
    let options = StartExecOptions {
        output_capacity: Some(1 << 20),
        ..Default::default()
    };
    let mut seen = 0;
    if let StartExecResults::Attached { mut output, .. } = docker
        .start_exec(&exec.id, Some(options))
        .await
        .expect("the engine starts it")
    {
        while let Some(Ok(piece)) = output.next().await {
            seen += piece.into_bytes().len() as u64;
        }
    }
    let taken = begun.elapsed().as_secs_f64();
    seen as f64 / f64::from(1 << 20) / taken
}
