//! `compyctl session rollback`.

use clap::Args;
use compyd_proto::v1::{RollbackSessionRequest, Stage};

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};

/// `compyctl session rollback ID --to STAGE`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArguments {
    /// Session id; it must be paused, waiting or interrupted.
    session: String,
    /// The stage: MODIFY for its last attempt with a snapshot, MODIFY#1 for its
    /// first. `session show` says which stages have one
    #[arg(long, value_name = "STAGE", value_parser = attempt)]
    to: (Stage, u32),
}

impl RollbackArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let (stage, attempt) = self.to;
        let request = RollbackSessionRequest {
            request_id: request_id(),
            session_id: self.session,
            stage: stage.into(),
            attempt,
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.rollback_session(request).await }
            })
            .await?;
        super::print_changed(context, response.session)
    }
}

/// A stage, and the number of an attempt at it or 0.
fn attempt(text: &str) -> Result<(Stage, u32), String> {
    let (name, number) = match text.split_once('#') {
        Some((name, number)) => (name, number.parse().ok().filter(|number| *number > 0)),
        None => (text, Some(0)),
    };
    let stage = Stage::from_str_name(&format!("STAGE_{}", name.to_ascii_uppercase()))
        .filter(|stage| *stage != Stage::Unspecified);
    match (stage, number) {
        (Some(stage), Some(number)) => Ok((stage, number)),
        (None, _) => Err(format!("`{name}` is no stage: name one like MODIFY")),
        (Some(_), None) => Err("the number of an attempt is 1 or more: MODIFY#1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_named_with_or_without_its_attempt() {
        for (text, expected) in [
            ("MODIFY", Ok((Stage::Modify, 0))),
            ("modify#2", Ok((Stage::Modify, 2))),
            ("UNDERSTAND", Ok((Stage::Understand, 0))),
        ] {
            assert_eq!(attempt(text), expected, "{text}");
        }
        for text in ["", "MOD", "unspecified", "MODIFY#", "MODIFY#0", "MODIFY#x"] {
            assert!(attempt(text).is_err(), "{text}");
        }
    }
}
