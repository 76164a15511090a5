//! `compyctl doctor`.

use std::path::PathBuf;
use std::process::Stdio;

use compyd_proto::v1::DiagnoseRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, now, print, print_json,
    system::{CheckView, DoctorView, checks_table},
};

/// Asks the daemon; without one, asks `compyd check`.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = match context.daemon().await {
        Ok(daemon) => daemon,
        Err(failure) => return without_daemon(failure).await,
    };
    let response = daemon
        .call(|| {
            let mut client = daemon.system();
            let request = DiagnoseRequest {
                client_time: Some(now()),
            };
            async move { client.diagnose(request).await }
        })
        .await?;
    let checks: Vec<CheckView> = response.checks.into_iter().map(Into::into).collect();
    let ok = checks.iter().all(|check| check.verdict != "failed");
    match context.format {
        Format::Json => print_json(&DoctorView { ok, checks })?,
        Format::Table => print(&checks_table(&checks).to_string())?,
    }
    Ok(if ok { Exit::OK } else { Exit::ERROR })
}

/// Lets `compyd check` look at the surroundings, then fails with the reason why there is no daemon.
async fn without_daemon(failure: Failure) -> Result<Exit, Failure> {
    let program = beside_this_program().unwrap_or_else(|| PathBuf::from("compyd"));
    eprintln!("{failure}; asking `{} check` instead:", program.display());
    let result = tokio::process::Command::new(&program)
        .arg("check")
        .stdin(Stdio::null())
        .status()
        .await;
    if let Err(error) = result {
        eprintln!(
            "`{} check` cannot be run: {error}; is compyd installed?",
            program.display()
        );
    }
    Err(failure)
}

fn beside_this_program() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join("compyd");
    path.is_file().then_some(path)
}
