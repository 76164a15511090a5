//! `compyctl`: Compy on the command line. Reads the command line, runs one
//! verb, turns its outcome into an exit code. Talks `compy.v1` and nothing
//! else; knows nothing of the daemon's insides.

mod approval;
mod artifact;
mod audit;
mod command_line;
mod connection;
mod credential;
mod exit;
mod login;
mod output;
mod policy;
mod run;
mod session;
mod setup;
mod sink;
mod snapshot;
mod system;
mod terminal;
mod token;
mod values;
mod watch;
mod workspace;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::command_line::CommandLine;
use crate::exit::{Exit, Failure};

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let is_exec = command_line.is_exec();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a process that just started can make two threads and an epoll");
    let exit = runtime
        .block_on(command_line.run())
        .unwrap_or_else(|failure| {
            let mut stderr = std::io::stderr().lock();
            for line in failure.lines() {
                let line = terminal::printable(&line, terminal::Lines::Keep);
                // With standard error gone, the exit code has to do.
                let _ = writeln!(stderr, "{line}");
            }
            match &failure {
                // What the daemon refuses has a code that is the command's own
                // here.
                Failure::Refused(_) | Failure::Unreachable { .. } | Failure::Local { .. }
                    if is_exec =>
                {
                    Exit::FATE_UNKNOWN
                }
                failure => failure.exit(),
            }
        });
    // A thread may still be blocked in a read of standard input.
    runtime.shutdown_background();
    ExitCode::from(exit.0)
}
