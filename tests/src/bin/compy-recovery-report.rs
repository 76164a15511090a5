//! `make recovery-report`: real faults inside real sessions, and what came of
//! them, type by type.
//!
//! `compy-recovery-report TARGET` wants `compyd`, `compyctl` and `compy-agent` in
//! `TARGET/release`, an engine and the default image.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use compyd::domain::recovery::FailureType;
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::Programs,
    recovery::{CHECK_TIMEOUT, End, POLICY, Provider, bring_about},
};

/// Share of the recoverable types that have to recover.
const RECOVERED_MIN: f64 = 0.6;

/// What came of the faults of a type.
#[derive(Debug, Default)]
struct Tally {
    recoverable: usize,
    recovered: usize,
    escalated: usize,
    wrong: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let target = std::env::args()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: compy-recovery-report TARGET_DIRECTORY")?;
    let programs = Programs::in_directory(&target.join("release"));
    let provider = Provider::start().await;
    let options = Options::default()
        .programs(programs)
        .set("session.check_timeout", CHECK_TIMEOUT)
        .set("policy.file", POLICY)
        .set("model.openai_base_url", provider.base_url())
        .env("OPENAI_API_KEY", "none");
    let Some(daemon) = Daemon::start(options).await else {
        bail!("this machine cannot run workspaces; why was said above");
    };
    let mut types = BTreeMap::<&str, Tally>::new();
    println!("{:<20} {:<10} FAULT", "TYPE", "CAME OF IT");
    bring_about(&daemon, &provider, |outcome| {
        let tally = types.entry(outcome.class).or_default();
        tally.recoverable += usize::from(outcome.wanted == End::Recovered);
        let is_right = outcome.end == Some(outcome.wanted);
        let came = match outcome.end.filter(|_| is_right) {
            Some(End::Recovered) => "recovered",
            Some(End::Escalated) => "escalated",
            None => "wrong",
        };
        tally.recovered += usize::from(came == "recovered");
        tally.escalated += usize::from(came == "escalated");
        tally.wrong += usize::from(came == "wrong");
        println!("{:<20} {came:<10} {}", outcome.class, outcome.fault);
        if !is_right {
            println!("{}", outcome.story);
        }
    })
    .await;
    Ok(summary(&types))
}

/// Prints the table of types, and judges it.
fn summary(types: &BTreeMap<&str, Tally>) -> ExitCode {
    println!("\n{:<20} RECOVERED ESCALATED WRONG", "TYPE");
    for (name, tally) in types {
        let Tally {
            recovered,
            escalated,
            wrong,
            ..
        } = tally;
        println!("{name:<20} {recovered:>9} {escalated:>9} {wrong:>5}");
    }
    let missing: Vec<&str> = FailureType::ALL
        .into_iter()
        .map(FailureType::name)
        .filter(|name| !types.contains_key(name))
        .collect();
    let count = |holds: fn(&Tally) -> bool| types.values().filter(|tally| holds(tally)).count();
    let recoverable = count(|tally| tally.recoverable > 0);
    let recovered = count(|tally| tally.recoverable > 0 && tally.recovered == tally.recoverable);
    let wrong: usize = types.values().map(|tally| tally.wrong).sum();
    let share = recovered as f64 / recoverable.max(1) as f64;
    println!(
        "{} types: {recovered} of {recoverable} recoverable ones recovered ({:.0} %), {wrong} wrong; not brought about: {}",
        types.len(),
        share * 100.0,
        if missing.is_empty() {
            "none".to_owned()
        } else {
            missing.join(", ")
        }
    );
    match wrong == 0 && missing.is_empty() && share >= RECOVERED_MIN {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
