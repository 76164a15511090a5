//! The command line of `compyd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Flags;

/// The daemon of Compy: workspaces for coding agents, and the sessions in them.
#[derive(Debug, Parser)]
#[command(name = "compyd", version)]
pub struct Arguments {
    /// Configuration file; it must exist
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Where clients are served: unix:///PATH or tcp://HOST:PORT; may repeat
    #[arg(long, value_name = "URL", global = true)]
    listen: Vec<String>,
    /// What is logged: a level, or directives like info,compyd=debug
    #[arg(long, value_name = "FILTER", global = true)]
    log: Option<String>,
    /// How it is logged: text or json
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<String>,
    /// Write each session's model replies to this directory, as transcripts
    /// that scripted:FILE plays
    #[arg(long, value_name = "DIR", global = true)]
    record: Option<PathBuf>,
    /// Serve metrics for Prometheus at http://ADDR/metrics: PORT on loopback, or
    /// IP:PORT
    #[arg(long, value_name = "ADDR", global = true)]
    metrics: Option<String>,
    /// Any key of the configuration; may repeat
    #[arg(long, value_name = "KEY=VALUE", global = true, value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Print the configuration that counts, with the source of each value
    #[arg(long, conflicts_with = "sample_config")]
    pub print_config: bool,
    /// Print a documented sample of the configuration file
    #[arg(long)]
    pub sample_config: bool,
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Check the daemon's surroundings and say what to do; exits 1 when the
    /// main job cannot run
    Check,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=');
    let (key, value) = split.ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    /// What the flags set.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let mut values = Vec::new();
        let mut push = |flag: &str, key: &str, given: Vec<String>| {
            if !given.is_empty() {
                values.push((flag.to_owned(), key.to_owned(), given));
            }
        };
        for (key, value) in &self.set {
            push("--set", key, vec![value.clone()]);
        }
        let data_dir = self.data_dir.iter().map(|dir| dir.display().to_string());
        push("--data-dir", "data_dir", data_dir.collect());
        let record = self.record.iter().map(|dir| dir.display().to_string());
        push("--record", "model.record_dir", record.collect());
        push("--listen", "listen", self.listen.clone());
        let metrics = self.metrics.iter().cloned().collect();
        push("--metrics", "metrics.listen", metrics);
        push("--log", "log.filter", self.log.iter().cloned().collect());
        let format = self.log_format.iter().cloned().collect();
        push("--log-format", "log.format", format);
        Flags {
            config: self.config.clone(),
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_become_keys() {
        let given = [
            "compyd",
            "--data-dir",
            "/d",
            "--listen",
            "unix:///a",
            "--listen",
            "tcp://127.0.0.1:1",
            "--set",
            "workspace.pids=99",
            "check",
        ];
        let arguments = Arguments::parse_from(given);
        assert_eq!(arguments.command, Some(Command::Check));
        let own = |flag: &str, key: &str, values: &[&str]| {
            let values = values.iter().map(ToString::to_string).collect();
            (flag.to_owned(), key.to_owned(), values)
        };
        assert_eq!(
            arguments.flags().values,
            [
                own("--set", "workspace.pids", &["99"]),
                own("--data-dir", "data_dir", &["/d"]),
                own("--listen", "listen", &["unix:///a", "tcp://127.0.0.1:1"]),
            ]
        );
    }
}
