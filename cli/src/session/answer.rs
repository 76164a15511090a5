//! `compyctl session answer`.

use clap::Args;
use compyd_proto::v1::{AnswerSessionRequest, Session};

use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};

/// `compyctl session answer ID`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("verdict").required(true).args(["yes", "no"]))]
pub(crate) struct AnswerArguments {
    /// Session id.
    session: String,
    /// Accept.
    #[arg(short, long)]
    yes: bool,
    /// Do not accept.
    #[arg(short, long)]
    no: bool,
    /// Words for the model.
    #[arg(
        short,
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "WORDS"
    )]
    text: String,
    /// Question to answer; default: the one that is open.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    question: String,
}

impl AnswerArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let session = answer(&daemon, &self.session, &self.question, self.yes, &self.text).await?;
        super::print_changed(context, session)
    }
}

/// Answers a question; an empty question id means the one that is open.
pub(crate) async fn answer(
    daemon: &Daemon,
    session_id: &str,
    question_id: &str,
    accept: bool,
    text: &str,
) -> Result<Option<Session>, Failure> {
    let request = AnswerSessionRequest {
        request_id: request_id(),
        session_id: session_id.to_owned(),
        question_id: question_id.to_owned(),
        accept,
        text: text.to_owned(),
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.sessions(), request.clone());
            async move { client.answer_session(request).await }
        })
        .await?;
    Ok(response.session)
}
