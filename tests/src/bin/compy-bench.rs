//! `make bench`: figures of the release programs, in `TARGET/bench/report.json`
//! and as a table.
//!
//! `compy-bench TARGET [GROUP]...` wants `compyd`, `compyctl` and `compy-agent`
//! in `TARGET/release`, an engine and the default image. Without a group it
//! measures them all.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use compyd_tests::{
    bench::{self, Field, Report},
    daemon::{Daemon, Options},
    programs::Programs,
    world::World,
};

const GROUPS: [&str; 15] = [
    "audit",
    "remote",
    "safety",
    "edits",
    "context",
    "memory",
    "idle",
    "exec",
    "streams",
    "create",
    "steps",
    "store",
    "tunnel",
    "snapshots",
    "proof",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args();
    let target = arguments
        .nth(1)
        .map(PathBuf::from)
        .context("usage: compy-bench TARGET_DIRECTORY [GROUP]...")?;
    let groups: Vec<String> = arguments.collect();
    if let Some(unknown) = groups.iter().find(|name| !GROUPS.contains(&name.as_str())) {
        anyhow::bail!(
            "there is no group {unknown}; there are {}",
            GROUPS.join(", ")
        );
    }
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let programs = Programs::in_directory(&target.join("release"));
    let agent_bytes = match &programs.agent {
        Some(agent) => Some(std::fs::metadata(agent)?.len()),
        None => None,
    };
    let mut report = Report::default();

    let wanted = |group: &str| groups.is_empty() || groups.iter().any(|name| name == group);

    // Every group in a daemon that has done nothing else.
    for group in GROUPS.into_iter().filter(|group| wanted(group)) {
        if group == "audit" {
            bench::audit::measure(&directory, &mut report).await;
            continue;
        }
        if group == "safety" {
            bench::safety::measure(&mut report);
            continue;
        }
        if group == "edits" {
            bench::edits::measure(&mut report);
            continue;
        }
        if group == "context" {
            bench::context::measure(&mut report);
            continue;
        }
        let own = World::own_address();
        let mut options = Options::default().set("log.filter", "warn");
        if group == "remote" {
            options = bench::remote::options(options);
        }
        let provider = (group == "steps").then(bench::steps::Provider::start);
        if let Some(provider) = &provider {
            options = options
                .set("model.openai_base_url", provider.base_url())
                .env("OPENAI_API_KEY", "none");
        }
        if let Some(own) = own {
            options = options.set("egress.allow_networks", own.to_string());
        }
        let Some(field) = field(&programs, &directory, options).await? else {
            return Ok(ExitCode::FAILURE);
        };
        match group {
            "memory" => bench::memory::measure(&field, agent_bytes, &mut report).await,
            "idle" => bench::idle::measure(&field, &mut report).await,
            "remote" => bench::remote::measure(&field, &mut report).await,
            "exec" => bench::exec::measure(&field, &mut report).await,
            "streams" => bench::streams::measure(&field, &mut report).await,
            "create" => bench::create::measure(&field, &mut report).await,
            "store" => bench::store::measure(&field, &mut report).await,
            "tunnel" => match own {
                Some(own) => bench::tunnel::measure(&field, own, &mut report).await,
                None => eprintln!("tunnel: this machine has no address but loopback"),
            },
            "proof" => bench::proof::measure(&field, &mut report).await,
            "steps" => {
                if let Some(provider) = &provider {
                    bench::steps::measure(&field, provider, &mut report).await;
                }
            }
            _ => bench::snapshots::measure(&field, &mut report).await,
        }
    }
    let file = directory.join("report.json");
    let table = report
        .write(&file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("{table}\n{}", file.display());
    Ok(ExitCode::SUCCESS)
}

/// A daemon with its data below the target directory: temporary directories may
/// be in memory, where nothing is ever durable. `None` where this machine
/// cannot run workspaces; why was said.
async fn field(
    programs: &Programs,
    directory: &std::path::Path,
    options: Options,
) -> anyhow::Result<Option<FieldOnDisk>> {
    let on_disk = tempfile::Builder::new()
        .prefix("data-")
        .tempdir_in(directory)?;
    let options = options
        .programs(programs.clone())
        .data_dir(&on_disk.path().join("data"));
    let Some(daemon) = Daemon::start(options).await else {
        return Ok(None);
    };
    let engine = daemon.engine().await;
    let directory = on_disk.path().to_owned();
    Ok(Some(FieldOnDisk {
        field: Field {
            daemon,
            engine,
            directory,
        },
        _directory: on_disk,
    }))
}

/// A field that goes before its disk.
struct FieldOnDisk {
    field: Field,
    _directory: tempfile::TempDir,
}

impl std::ops::Deref for FieldOnDisk {
    type Target = Field;

    fn deref(&self) -> &Field {
        &self.field
    }
}
