//! `compyctl setup check`.

use std::path::PathBuf;

use clap::Args;
use compyd_proto::v1::CheckSetupFileRequest;
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json};

/// `compyctl setup check [FILE]`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The file.
    #[arg(default_value = "compy.toml")]
    file: PathBuf,
}

/// A mistake in JSON.
#[derive(Debug, Serialize)]
struct ProblemView {
    /// From 1; 0 when it is the file as a whole.
    line: u32,
    /// What is wrong, and what to write instead.
    message: String,
}

impl CheckArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let shown = self.file.display().to_string();
        let content = tokio::fs::read(&self.file).await.map_err(|error| {
            Failure::usage(
                format!("{shown} cannot be read: {error}"),
                "give the path of a setup file",
            )
        })?;
        let daemon = context.daemon().await?;
        let request = CheckSetupFileRequest {
            content: content.into(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.setups(), request.clone());
                async move { client.check_setup_file(request).await }
            })
            .await?;
        let problems: Vec<ProblemView> = (response.problems.into_iter())
            .map(|problem| ProblemView {
                line: problem.line,
                message: problem.message,
            })
            .collect();
        match context.format {
            Format::Json => print_json(&problems)?,
            Format::Table if problems.is_empty() => print(&format!("{shown} is sound\n"))?,
            Format::Table => {
                for problem in &problems {
                    print(&format!("{shown}:{}: {}\n", problem.line, problem.message))?;
                }
            }
        }
        Ok(match problems.is_empty() {
            true => Exit::OK,
            false => Exit::ERROR,
        })
    }
}
