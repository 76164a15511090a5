//! `compyd`: flags, configuration and logs, then [`app::run`]; its result as an
//! exit code: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use compyd::{
    app::{self, Prepared, logs, report, signals},
    arguments::{Arguments, Command},
    config::{self, Settings, Surroundings},
    service::redaction::Redactions,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.sample_config {
        print!("{}", config::sample());
        return ExitCode::SUCCESS;
    }
    let surroundings = Surroundings {
        uid: nix::unistd::geteuid().as_raw(),
        program: std::env::current_exe().unwrap_or_default(),
    };
    let settings = match config::load(&arguments.flags(), std::env::vars(), &surroundings) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("compyd: {error}");
            return ExitCode::from(2);
        }
    };
    if arguments.print_config {
        print!("{}", config::effective(&settings));
        return ExitCode::SUCCESS;
    }
    match start(settings, arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compyd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(settings: Settings, command: Option<Command>) -> anyhow::Result<ExitCode> {
    if command == Some(Command::Check) {
        let checks = app::doctor(&settings).examine(None).await;
        print!("{}", report::table(&checks));
        return Ok(report::exit_code(&checks));
    }
    let redactions = Redactions::default();
    logs::install(&settings.log, redactions.clone());
    let shutdown = signals::shutdown().context("cannot listen for signals")?;
    let prepared = Prepared::new(&settings).await?.with_redactions(redactions);
    app::run(settings, prepared, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
