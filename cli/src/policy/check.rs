//! `compyctl policy check`.

use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::CheckPolicyRequest;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json};

/// `compyctl policy check [FILE]`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The file.
    #[arg(default_value = "policy.toml")]
    file: PathBuf,
}

/// The result in JSON.
#[derive(Debug, Serialize)]
struct CheckView {
    /// What is wrong, with the rule and the line; empty when nothing is.
    problem: String,
    /// Rules that would be in use.
    rules: u32,
}

impl CheckArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let name = self.file.display().to_string();
        let text = tokio::fs::read_to_string(&self.file).await;
        let text = text.map_err(|error| {
            Failure::usage(
                format!("{name} cannot be read: {error}"),
                "give the path of a policy file",
            )
        })?;
        let daemon = context.daemon().await?;
        let request = CheckPolicyRequest { text, name };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.policies(), request.clone());
                async move { client.check_policy(request).await }
            })
            .await?;
        let sound = response.problem.is_empty();
        match context.format {
            Format::Json => print_json(&CheckView {
                problem: response.problem,
                rules: response.rules,
            })?,
            Format::Table if sound => print(&format!(
                "{} is sound; with it there are {} rules\n",
                request.name, response.rules
            ))?,
            Format::Table => print(&format!("{}\n", response.problem))?,
        }
        Ok(match sound {
            true => Exit::OK,
            false => Exit::ERROR,
        })
    }
}
