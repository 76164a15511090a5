//! What it costs to have workspaces that do nothing.

use compyd_proto::v1::GetInfoRequest;

use super::{Better, Field, Measured, Report};

const MIB: f64 = 1024.0 * 1024.0;

/// Measures the daemon with ten idle workspaces, their agents, and the agent's
/// binary. The field is a fresh one.
pub async fn measure(field: &Field, agent_bytes: Option<u64>, report: &mut Report) {
    let daemon = &field.daemon;
    let mut agents = Vec::new();
    for number in 0..10 {
        let name = format!("idle-{number}");
        daemon.workspace(&name, &[]).await;
        let status = daemon
            .shell(
                &name,
                "sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/1/status",
            )
            .await;
        let kib: f64 = status.text().parse().expect("the kernel tells its memory");
        agents.push(kib / 1024.0);
    }
    let info = daemon.system().get_info(GetInfoRequest {}).await;
    let resident = info
        .expect("the daemon answers")
        .into_inner()
        .resident_bytes;
    let size = |name, value: Vec<f64>| Measured {
        name,
        unit: "MiB",
        better: Better::Less,
        ours: value,
        theirs: Vec::new(),
    };
    report.add(
        size(
            "daemon, resident, ten idle workspaces",
            vec![resident as f64 / MIB],
        ),
        "under 40 MB",
        |ours, _| ours.p50 * MIB < 40e6,
    );
    report.add(size("agent, resident", agents), "under 6 MB", |ours, _| {
        ours.p50 * MIB < 6e6
    });
    if let Some(bytes) = agent_bytes {
        report.add(
            size("agent's binary", vec![bytes as f64 / MIB]),
            "under 6 MB",
            |ours, _| ours.p50 * MIB < 6e6,
        );
    }
}
