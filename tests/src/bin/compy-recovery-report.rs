//! `make recovery-report`: real faults inside real sessions, and what came of
//! them, type by type.
//!
//! `compy-recovery-report TARGET` wants `compyd`, `compyctl` and `compy-agent` in
//! `TARGET/release`, an engine and the default image.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use compyd_tests::{
    daemon::Daemon,
    programs::Programs,
    recovery::{Provider, Tally, bring_about, options},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let target = std::env::args()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: compy-recovery-report TARGET_DIRECTORY")?;
    let programs = Programs::in_directory(&target.join("release"));
    let provider = Provider::start().await;
    let Some(daemon) = Daemon::start(options(&provider).programs(programs)).await else {
        bail!("this machine cannot run workspaces; why was said above");
    };
    let mut tally = Tally::default();
    println!("{:<20} {:<10} FAULT", "TYPE", "CAME OF IT");
    bring_about(&daemon, &provider, |outcome| {
        let came = tally.count(&outcome);
        println!("{:<20} {came:<10} {}", outcome.class, outcome.fault);
        if came == "wrong" {
            println!("{}", outcome.story);
        }
    })
    .await;
    println!("\n{tally}");
    Ok(match tally.is_as_it_should() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
