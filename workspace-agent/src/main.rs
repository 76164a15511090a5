//! `compy-agent`: PID 1 of a workspace's container. It runs tools and nothing
//! else: no keys, no policy, no network but what the daemon lends it.
//!
//! ```text
//! compy-agent serve      dials the daemon and serves compy.agent.v1 on that connection
//! compy-agent supervise  one command's tree; started by serve
//! compy-agent connect HOST PORT  a connection by the proxy, as an SSH client starts it
//! compy-agent try-overlay DIR  whether the overlay there does what a volume does
//! ```

mod accounts;
mod connect;
mod disk;
mod errors;
mod exec;
mod files;
mod first_use;
mod identity;
mod launch;
mod link;
mod machine;
mod options;
mod reaper;
mod serve;
mod service;
mod supervise;
mod tree;
mod try_overlay;
mod tunnel;
mod volume_tree;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve") => match options::Options::parse(arguments) {
            Ok(options) => serve::run(options),
            Err(message) => usage(&message),
        },
        Some("supervise") => supervise::run(),
        Some("connect") => match (arguments.next(), arguments.next()) {
            (Some(host), Some(port)) => connect::run(&host, &port),
            _ => usage("connect takes a host and a port"),
        },
        Some("try-overlay") => match arguments.next() {
            Some(directory) => try_overlay::run(directory.as_ref()),
            None => usage("try-overlay takes a directory"),
        },
        Some("--version" | "version") => {
            println!("compy-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(other) => usage(&format!("unknown mode {other:?}")),
        None => usage("no mode was named"),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("compy-agent: {message}");
    eprintln!("{}", options::USAGE);
    ExitCode::from(2)
}

/// Milliseconds since the Unix epoch, by the container's clock.
fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}
