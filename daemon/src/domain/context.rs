//! What a model is told, derived from the log.
//!
//! System prompt and tools are those that the session was created with; the
//! conversation only ever grows at its end. Anything said while tool calls wait
//! for their answers is kept back until all of them are answered, because the
//! answers must follow the calls.

use super::{
    conversation::{Message, ToolDefinition, ToolResult},
    session::event::{Created, Event, EventBody, ToolOutcome},
};

/// The conversation of a session so far, folded from its log.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    system: String,
    tools: Vec<ToolDefinition>,
    messages: Vec<Message>,
    /// Answers to the calls of the last reply.
    results: Vec<ToolResult>,
    /// Calls of the last reply that have no answer yet.
    unanswered: usize,
    /// Said while calls were unanswered.
    held: Vec<Message>,
}

impl Context {
    /// The conversation of a new session: its task.
    #[must_use]
    pub fn begin(created: &Created) -> Self {
        let task = Message::User {
            text: format!("The task:\n{}", created.task),
        };
        Self {
            system: created.system.clone(),
            tools: created.tools.clone(),
            messages: vec![task],
            results: Vec::new(),
            unanswered: 0,
            held: Vec::new(),
        }
    }

    /// Folds in the next event.
    pub fn apply(&mut self, event: &Event) {
        match &event.body {
            EventBody::MessageAdded { text, .. } => self.say(text),
            EventBody::ModelAnswered(answer) => {
                let turn = &answer.turn;
                self.unanswered = turn.tool_calls.len();
                // Providers refuse an assistant's message with nothing in it.
                let empty = turn.text.trim().is_empty()
                    && turn.tool_calls.is_empty()
                    && turn.opaque.is_empty();
                if !empty {
                    self.messages.push(Message::Assistant(turn.clone()));
                }
            }
            EventBody::ToolEnded(ended) => {
                self.results.push(ToolResult {
                    call_id: ended.call_id.clone(),
                    content: ended.content.clone(),
                    is_error: match ended.outcome {
                        ToolOutcome::Ok => false,
                        ToolOutcome::Error | ToolOutcome::Refused => true,
                    },
                });
                self.unanswered = self.unanswered.saturating_sub(1);
                if self.unanswered == 0 {
                    let results = std::mem::take(&mut self.results);
                    self.messages.push(Message::ToolResults { results });
                    self.messages.append(&mut self.held);
                }
            }
            EventBody::Created(_)
            | EventBody::StageEntered { .. }
            | EventBody::StageLeft { .. }
            | EventBody::ModelAsked
            | EventBody::ModelFailed { .. }
            | EventBody::ToolStarted { .. }
            | EventBody::TodoChanged { .. }
            | EventBody::WorkStarted { .. }
            | EventBody::WorkEnded { .. }
            | EventBody::StateChanged { .. }
            | EventBody::QuestionAsked { .. }
            | EventBody::QuestionAnswered { .. } => {}
        }
    }

    fn say(&mut self, text: &str) {
        let message = Message::User {
            text: text.to_owned(),
        };
        if self.unanswered == 0 {
            self.messages.push(message);
        } else {
            self.held.push(message);
        }
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The tools.
    #[must_use]
    pub fn tools(&self) -> &[ToolDefinition] {
        &self.tools
    }

    /// The messages so far; every earlier list of them is a prefix of it.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
}
