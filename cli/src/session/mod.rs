//! `compyctl session`: one file per verb.

mod answer;
mod cancel;
mod cognition;
mod list;
mod pause;
mod resume;
mod rollback;
mod show;
mod verify;
mod watch;

use clap::Subcommand;
use compyd_proto::v1::{ModelCall, Session};

use crate::command_line::Context;
use crate::connection::Daemon;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, session::SessionView};

pub(crate) use answer::answer;
pub(crate) use show::{proof_lines, pull_request_lines};

/// Verbs of `session`.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// Lists sessions, newest first
    List(list::ListArguments),
    /// Shows everything about a session
    Show(show::ShowArguments),
    /// Shows a session's events, from the first, and follows it
    Watch(watch::WatchArguments),
    /// Shows how a session has reasoned: where it had to, what tempted it, and
    /// every decision
    Cognition(cognition::CognitionArguments),
    /// Goes on with a paused, waiting or interrupted session
    Resume(resume::ResumeArguments),
    /// Puts a session and its workspace back to a stage's snapshot, and goes on
    Rollback(rollback::RollbackArguments),
    /// Stops after the step under way
    Pause(pause::PauseArguments),
    /// Ends a session; what it has done stays in the workspace
    Cancel(cancel::CancelArguments),
    /// Answers what a session waits for
    Answer(answer::AnswerArguments),
    /// Verifies a todo that the daemon cannot check, or rejects it with a reason
    Verify(verify::VerifyArguments),
}

impl SessionVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            SessionVerb::List(arguments) => arguments.run(context).await,
            SessionVerb::Show(arguments) => arguments.run(context).await,
            SessionVerb::Watch(arguments) => arguments.run(context).await,
            SessionVerb::Cognition(arguments) => arguments.run(context).await,
            SessionVerb::Resume(arguments) => arguments.run(context).await,
            SessionVerb::Rollback(arguments) => arguments.run(context).await,
            SessionVerb::Pause(arguments) => arguments.run(context).await,
            SessionVerb::Cancel(arguments) => arguments.run(context).await,
            SessionVerb::Answer(arguments) => arguments.run(context).await,
            SessionVerb::Verify(arguments) => arguments.run(context).await,
        }
    }
}

/// Loads one session.
pub(crate) async fn get(daemon: &Daemon, session_id: &str) -> Result<Session, Failure> {
    let request = compyd_proto::v1::GetSessionRequest {
        session_id: session_id.to_owned(),
    };
    let response = daemon
        .call_for(crate::connection::RESTART_GRACE, || {
            let (mut client, request) = (daemon.sessions(), request.clone());
            async move { client.get_session(request).await }
        })
        .await?;
    Ok(response.session.unwrap_or_default())
}

/// What the model calls of a session took.
pub(crate) async fn model_calls(
    daemon: &Daemon,
    session_id: &str,
) -> Result<Vec<ModelCall>, Failure> {
    let request = compyd_proto::v1::ListModelCallsRequest {
        session_id: session_id.to_owned(),
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.sessions(), request.clone());
            async move { client.list_model_calls(request).await }
        })
        .await?;
    Ok(response.calls)
}

/// Prints what a change did: the whole session as JSON, a line for people.
pub(crate) fn print_changed(context: &Context, session: Option<Session>) -> Result<Exit, Failure> {
    let view = SessionView::from(session.unwrap_or_default());
    match context.format {
        Format::Json => print_json(&view)?,
        Format::Table => {
            let reason = match view.state_reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            crate::output::print(&format!("{} is {}{reason}\n", view.id, view.state))?;
        }
    }
    Ok(Exit::OK)
}
