//! `compyctl session verify`.

use clap::{Args, builder::NonEmptyStringValueParser};
use compyd_proto::v1::{Session, TodoState};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// `compyctl session verify SESSION TODO`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Session id.
    session: String,
    /// Number of the todo that the session asks about.
    todo: u32,
    /// Words for the model beside the yes.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT",
        conflicts_with = "reject"
    )]
    note: String,
    /// It is not done; the model is told why.
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    reject: Option<String>,
}

impl VerifyArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let session = super::get(&daemon, &self.session).await?;
        let question = question_about(&session, self.todo)?;
        let (accept, words) = match &self.reject {
            Some(reason) => (false, reason),
            None => (true, &self.note),
        };
        let session = super::answer(&daemon, &self.session, &question, accept, words).await?;
        super::print_changed(context, session)
    }
}

/// Id of the open question about a todo.
fn question_about(session: &Session, todo: u32) -> Result<String, Failure> {
    let open = session.question.as_ref();
    if let Some(question) = open.filter(|question| question.todo_id == todo) {
        return Ok(question.id.clone());
    }
    let Some(known) = session.todos.iter().find(|known| known.id == todo) else {
        let known: Vec<String> = session
            .todos
            .iter()
            .map(|known| known.id.to_string())
            .collect();
        return Err(Failure::usage(
            format!("session {} has no todo {todo}", session.id),
            match known.as_slice() {
                [] => "it has none yet".to_owned(),
                known => format!("it has {}", known.join(", ")),
            },
        ));
    };
    let state = match known.state() {
        TodoState::Unspecified => "in an unknown state",
        TodoState::Pending => "pending",
        TodoState::InProgress => "in progress",
        TodoState::Claimed => "claimed, and not checked yet",
        TodoState::Verifying => "being checked",
        TodoState::Verified => "verified already",
        TodoState::Rejected => "rejected, and not claimed again yet",
    };
    let advice = match open {
        Some(question) if question.todo_id != 0 => format!(
            "it asks about todo {}: `compyctl session verify {} {}`",
            question.todo_id, session.id, question.todo_id
        ),
        Some(_) => format!(
            "it asks something else: `compyctl session answer {}`",
            session.id
        ),
        None => "a person verifies a todo when the session asks for it: once the model has \
                 claimed it, and nothing in it can be checked or --verify manual was given"
            .to_owned(),
    };
    Err(Failure::local(
        format!(
            "session {} does not ask about todo {todo}, which is {state}",
            session.id
        ),
        advice,
    ))
}
