//! From nothing to the first command.

use std::{process::Stdio, time::Instant};

use compyd_proto::v1::{CreateWorkspaceRequest, DeleteWorkspaceRequest};
use tokio::process::Command;

use super::{Better, Field, Measured, Report};
use crate::{engine::IMAGE, exec::command, request_id};

const ROUNDS: usize = 12;

/// Measures workspace create to first command, beside `docker run`.
pub async fn measure(field: &Field, report: &mut Report) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("create-{round}");
        ours.push(create(field, &name).await);
        theirs.push(docker_run().await);
        let delete = DeleteWorkspaceRequest {
            request_id: request_id(),
            workspace: name,
            force: true,
        };
        let deleted = field.daemon.workspaces().delete_workspace(delete).await;
        deleted.expect("the workspace goes");
    }
    let theirs: Vec<f64> = theirs.into_iter().flatten().collect();
    report.add(
        Measured {
            name: "create to first command | docker run of the image",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "at most 1.4 times as long",
        |_, ratio| ratio >= 1.0 / 1.4,
    );
}

async fn create(field: &Field, name: &str) -> f64 {
    let request = CreateWorkspaceRequest {
        request_id: request_id(),
        name: name.to_owned(),
        ..Default::default()
    };
    let begun = Instant::now();
    let created = field.daemon.workspaces().create_workspace(request).await;
    created.expect("the workspace is made");
    let done = field.daemon.exec(command(name, &["true"])).await;
    let taken = begun.elapsed().as_secs_f64() * 1e3;
    assert_eq!(done.expect("the command runs").code(), Some(0));
    taken
}

/// `None` where there is no `docker` to run.
async fn docker_run() -> Option<f64> {
    let begun = Instant::now();
    let status = Command::new("docker")
        .args(["run", "--rm", "--network", "none", IMAGE, "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .ok()?;
    status
        .success()
        .then(|| begun.elapsed().as_secs_f64() * 1e3)
}
