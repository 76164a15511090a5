//! What people, and the daemon's own start and stop, may ask of a session.
//!
//! Each request is answered one of three ways: accepted, already so, refused.
//! That makes retries harmless.

use super::{
    checkpoint::{self, RollBackTo},
    decide::answered,
    event::{
        ApprovalVerdict, Condition, EventBody, Question, QuestionAbout, Speaker, ToolEffect,
        ToolOutcome,
    },
    outcome::claim_of,
    state::{SessionState, refusal_words},
};
use crate::domain::{
    policy::is_asked_each_time,
    todo::{Evidence, Judge, TodoState},
};

/// What is asked of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Stop after the step under way.
    Pause {
        /// Why.
        reason: String,
    },
    /// Go on.
    Resume {
        /// Why.
        reason: String,
    },
    /// End, for good.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Answer a question.
    Answer(Answer),
    /// Nobody has answered an approval in time.
    Expire {
        /// Id of the question.
        question: String,
    },
    /// Put the workspace and the session back to a stage's snapshot, and go on.
    RollBack(RollBackTo),
    /// The daemon ended while it ran.
    Interrupt {
        /// How that came.
        reason: String,
    },
}

/// A person's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Id of the question; `None` means the open one.
    pub question: Option<String>,
    /// Whether the person accepts.
    pub accepted: bool,
    /// The person's words; may be empty.
    pub text: String,
    /// Of an approval that is accepted: for how much.
    pub scope: Scope,
    /// Who answers, as the API knows the caller: "uid:1000" or "token:ci".
    pub by: Option<String>,
}

/// For how much an approval holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// For this call.
    #[default]
    Once,
    /// For the session.
    Session,
    /// For the project.
    Project,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Append these.
    Accepted(Vec<EventBody>),
    /// There is nothing to do.
    AlreadySo,
    /// It cannot be done.
    Refused(RequestRefusal),
}

/// Why a request cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefusal {
    /// Nothing can follow.
    #[error("the session has ended: it is {}, and nothing can follow", .0.name())]
    Ended(Condition),
    /// It must stand still for that.
    #[error("the session is running")]
    Running,
    /// No snapshot was taken when that stage began.
    #[error(
        "the session has no snapshot of {asked}; it has {}",
        if known.is_empty() { "none yet".to_owned() } else { known.join(", ") }
    )]
    NoSnapshot {
        /// The stage.
        asked: String,
        /// Those that it has, oldest first.
        known: Vec<String>,
    },
    /// The forge has what a rollback would undo.
    #[error(
        "the session's branch has been published since {to}, and the forge would refuse what is \
         done from there"
    )]
    Published {
        /// The snapshot's stage.
        to: String,
    },
    /// There is no open question.
    #[error("the session asks nothing")]
    NothingAsked,
    /// What is approved of that kind is approved for one call.
    #[error("{what} is asked each time, and is not approved for a session or a project")]
    OnceOnly {
        /// What is asked.
        what: String,
    },
    /// The time to answer it is over.
    #[error("nobody answered {question} in time, and it counts as refused")]
    Expired {
        /// The open question.
        question: String,
    },
    /// Another question is open.
    #[error("the session asks {open}, not {given}")]
    QuestionUnknown {
        /// The open question.
        open: String,
        /// The one given.
        given: String,
    },
}

/// What a request comes to in a session as it is, now, in milliseconds since the
/// Unix epoch.
#[must_use]
pub fn respond(state: &SessionState, request: &Request, now_ms: i64) -> Response {
    match request {
        Request::Pause { reason } => match state.condition {
            Condition::Running | Condition::Waiting | Condition::Interrupted => {
                change(Condition::Paused, reason)
            }
            Condition::Paused => Response::AlreadySo,
            Condition::Failed | Condition::Verified | Condition::Cancelled => {
                Response::Refused(RequestRefusal::Ended(state.condition))
            }
        },
        Request::Resume { reason } => match state.condition {
            Condition::Paused | Condition::Interrupted if state.question.is_some() => {
                change(Condition::Waiting, "the question is still open")
            }
            Condition::Paused | Condition::Interrupted => change(Condition::Running, reason),
            Condition::Waiting => resume_waiting(state, now_ms),
            Condition::Running => Response::AlreadySo,
            Condition::Failed | Condition::Verified | Condition::Cancelled => {
                Response::Refused(RequestRefusal::Ended(state.condition))
            }
        },
        Request::Cancel { reason } => match state.condition {
            Condition::Running
            | Condition::Paused
            | Condition::Waiting
            | Condition::Interrupted => change(Condition::Cancelled, reason),
            Condition::Failed | Condition::Verified | Condition::Cancelled => Response::AlreadySo,
        },
        Request::Answer(answer) => respond_to_answer(state, answer, now_ms),
        Request::Expire { question } => match state.approval_in_question() {
            Some((open, _)) if open.id == *question && state.condition == Condition::Waiting => {
                answer_approval(state, question, ApprovalVerdict::Expired, "", None)
            }
            Some(_) | None => Response::AlreadySo,
        },
        Request::RollBack(to) => checkpoint::respond(state, *to),
        Request::Interrupt { reason } => match state.condition {
            Condition::Running => change(Condition::Interrupted, reason),
            Condition::Paused
            | Condition::Waiting
            | Condition::Interrupted
            | Condition::Failed
            | Condition::Verified
            | Condition::Cancelled => Response::AlreadySo,
        },
    }
}

/// A model's question can be left unanswered; a todo's verdict cannot be made
/// up.
fn resume_waiting(state: &SessionState, now_ms: i64) -> Response {
    let about = state.question.as_ref().map(|question| &question.about);
    if state.todo_in_question().is_some()
        || matches!(
            about,
            Some(QuestionAbout::Proof { .. } | QuestionAbout::Approval(_))
        )
    {
        return Response::AlreadySo;
    }
    let answer = Answer {
        question: None,
        accepted: false,
        scope: Scope::Once,
        text: "Nobody answers. Decide yourself, and say what you assumed.".into(),
        by: None,
    };
    respond_to_answer(state, &answer, now_ms)
}

/// The question that an answer means which names none.
///
/// # Errors
/// [`RequestRefusal::Ended`], [`RequestRefusal::NothingAsked`].
pub fn open_question(state: &SessionState) -> Result<&Question, RequestRefusal> {
    if state.condition.has_ended() {
        return Err(RequestRefusal::Ended(state.condition));
    }
    (state.question.as_ref()).ok_or(RequestRefusal::NothingAsked)
}

fn respond_to_answer(state: &SessionState, answer: &Answer, now_ms: i64) -> Response {
    let question = match open_question(state) {
        Ok(question) => question,
        Err(refusal) => return Response::Refused(refusal),
    };
    if let Some(given) = &answer.question
        && *given != question.id
    {
        return Response::Refused(RequestRefusal::QuestionUnknown {
            open: question.id.clone(),
            given: given.clone(),
        });
    }
    let text = answer.text.trim().to_owned();
    if let QuestionAbout::Approval(request) = &question.about {
        // Nobody watches the clock of a session that is paused: it is looked at when
        // somebody answers.
        if request.expires_at_ms <= now_ms {
            return Response::Refused(RequestRefusal::Expired {
                question: question.id.clone(),
            });
        }
        let mut classes = request.classes.iter();
        if answer.accepted
            && answer.scope != Scope::Once
            && let Some(class) = classes.find(|class| is_asked_each_time(class))
        {
            return Response::Refused(RequestRefusal::OnceOnly {
                what: class.clone(),
            });
        }
        let verdict = match (answer.accepted, answer.scope) {
            (false, _) => ApprovalVerdict::Denied,
            (true, Scope::Once) => ApprovalVerdict::Once,
            (true, Scope::Session) => ApprovalVerdict::Session,
            (true, Scope::Project) => ApprovalVerdict::Project,
        };
        return answer_approval(state, &question.id, verdict, &text, answer.by.clone());
    }
    let mut events = vec![EventBody::QuestionAnswered {
        question: question.id.clone(),
        accepted: answer.accepted,
        text: text.clone(),
        verdict: None,
        by: answer.by.clone(),
    }];
    match &question.about {
        QuestionAbout::Model => {
            let words = match (text.as_str(), answer.accepted) {
                ("", true) => "The person says yes.".to_owned(),
                ("", false) => "The person says no.".to_owned(),
                (words, _) => format!("The person answers: {words}"),
            };
            events.extend(
                state
                    .calls
                    .front()
                    .map(|call| answered(call, ToolOutcome::Ok, words, ToolEffect::None)),
            );
        }
        // It was answered above.
        QuestionAbout::Approval(_) => {}
        // The state keeps the verdict; no call of the model's waits for it.
        QuestionAbout::Proof { .. } => {}
        QuestionAbout::Circle => {
            let words = match text.as_str() {
                "" if answer.accepted => "go on",
                "" => "go on, and not the same way",
                words => words,
            };
            events.push(EventBody::MessageAdded {
                text: format!("A person looked at where you are stuck and says: {words}"),
                from: Speaker::Person,
            });
        }
        QuestionAbout::Todo { id, tree, artifact } => {
            let (outcome, verdict, words) = if answer.accepted {
                let checked = (state.todo(*id)).is_some_and(|todo| !todo.criteria.is_empty());
                let summary = match checked {
                    true => "its criteria hold and a person accepted it",
                    false => "a person accepted it",
                };
                let evidence = Evidence {
                    tree: tree.clone(),
                    summary: summary.into(),
                    artifact: artifact.clone(),
                    judge: Judge::Person,
                };
                let words = said(
                    format!("Todo {id} is verified: a person accepted it"),
                    &text,
                );
                (ToolOutcome::Ok, TodoState::Verified(evidence), words)
            } else {
                let reason = said("a person rejected it".into(), &text);
                let words = format!("Todo {id} is rejected: {reason}");
                let artifact = artifact.clone();
                (
                    ToolOutcome::Error,
                    TodoState::Rejected { reason, artifact },
                    words,
                )
            };
            if let Some(todo) = state.todo(*id) {
                let todo = todo.with(verdict);
                events.push(EventBody::TodoChanged { todo });
            }
            events.extend(
                claim_of(state, *id).map(|call| answered(call, outcome, words, ToolEffect::None)),
            );
        }
    }
    events.push(EventBody::StateChanged {
        to: Condition::Running,
        reason: "the question is answered".into(),
    });
    Response::Accepted(events)
}

/// What an answer to an approval, or none in time, comes to. An approved call is
/// made by what follows.
fn answer_approval(
    state: &SessionState,
    question: &str,
    verdict: ApprovalVerdict,
    text: &str,
    by: Option<String>,
) -> Response {
    let accepted = match verdict {
        ApprovalVerdict::Once | ApprovalVerdict::Session | ApprovalVerdict::Project => true,
        ApprovalVerdict::Denied | ApprovalVerdict::Expired => false,
    };
    let mut events = vec![EventBody::QuestionAnswered {
        question: question.to_owned(),
        accepted,
        text: text.to_owned(),
        verdict: Some(verdict),
        by,
    }];
    if !accepted {
        let words = refusal_words(verdict, text);
        events.extend(
            state
                .calls
                .front()
                .map(|call| answered(call, ToolOutcome::Refused, words, ToolEffect::None)),
        );
    }
    events.push(EventBody::StateChanged {
        to: Condition::Running,
        reason: format!("the approval is answered: {}", verdict.name()),
    });
    Response::Accepted(events)
}

fn said(what: String, words: &str) -> String {
    match words {
        "" => what,
        words => format!("{what}: {words}"),
    }
}

fn change(to: Condition, reason: impl Into<String>) -> Response {
    let reason = reason.into();
    Response::Accepted(vec![EventBody::StateChanged { to, reason }])
}
