//! What a model is told, derived from the log.
//!
//! System prompt and tools are those that the session was created with; the
//! conversation only ever grows at its end, until a compaction begins a new epoch
//! of it. Anything said while tool calls wait
//! for their answers is kept back until all of them are answered, because the
//! answers must follow the calls.

use serde::Serialize;

use super::{
    budget::{Counted, Measured},
    conversation::{Arguments, Message, ToolCall, ToolDefinition, ToolResult},
    recovery::stuck::Measure,
    session::event::{Created, Event, EventBody, ToolOutcome},
};

/// The conversation of a session so far, folded from its log.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    system: String,
    tools: Vec<ToolDefinition>,
    /// The first message of every epoch.
    task: Message,
    messages: Vec<Message>,
    /// Of each message the number of the event that it came with.
    sources: Vec<u64>,
    /// Answers to the calls of the last reply.
    results: Vec<ToolResult>,
    /// Calls of the last reply that have no answer yet.
    unanswered: usize,
    /// Said while calls were unanswered.
    held: Vec<Message>,
    measured: Measured,
    turns_left_out: usize,
}

impl Context {
    /// The conversation of a new session: its task.
    #[must_use]
    pub fn begin(created: &Created) -> Self {
        let task = Message::User {
            text: format!("The task:\n{}", created.task),
        };
        let mut context = Self {
            system: created.system.clone(),
            tools: created.tools.clone(),
            task: task.clone(),
            messages: Vec::new(),
            sources: Vec::new(),
            results: Vec::new(),
            unanswered: 0,
            held: Vec::new(),
            turns_left_out: 0,
            measured: Measured {
                bytes: json_bytes(&created.system) + json_bytes(&created.tools),
                ..Measured::default()
            },
        };
        context.push(1, task);
        context
    }

    /// Folds in the next event.
    pub fn apply(&mut self, event: &Event) {
        let source = event.sequence;
        match &event.body {
            EventBody::MessageAdded { text, .. } => self.say(source, text),
            // A person is asked then, and the model told what the person says.
            EventBody::CircleFound(found) if found.measure == Measure::Stop => {}
            EventBody::CircleFound(found) => self.say(source, &found.text),
            EventBody::ModelAnswered(answer) => {
                let turn = &answer.turn;
                let before = self.measured;
                self.unanswered = turn.tool_calls.len();
                // Providers refuse an assistant's message with nothing in it.
                let empty = turn.text.trim().is_empty()
                    && turn.tool_calls.is_empty()
                    && turn.opaque.is_empty();
                if !empty {
                    self.push(source, Message::Assistant(turn.clone()));
                }
                if let Some(usage) = answer.usage {
                    // What is no JSON goes back as a text within JSON, and has more
                    // tokens then than the model wrote.
                    let goes_back_as_it_came = turn
                        .tool_calls
                        .iter()
                        .all(|call| matches!(call.arguments, Arguments::Object(_)));
                    let (tokens, counted) = match goes_back_as_it_came {
                        true => (usage.total(), self.measured),
                        false => (usage.total().saturating_sub(usage.output), before),
                    };
                    self.measured.counted = Some(Counted {
                        tokens,
                        bytes: counted.bytes,
                        messages: counted.messages,
                    });
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
                    self.push(source, Message::ToolResults { results });
                    for message in std::mem::take(&mut self.held) {
                        self.push(source, message);
                    }
                }
            }
            EventBody::Compacted {
                keep_from,
                briefing,
                ..
            } => self.begin_epoch(source, *keep_from, briefing),
            EventBody::Created(_)
            | EventBody::StageEntered { .. }
            | EventBody::StageLeft { .. }
            | EventBody::BudgetReserved(_)
            | EventBody::BudgetNoted { .. }
            | EventBody::ModelAsked
            | EventBody::ModelFailed { .. }
            | EventBody::ToolStarted { .. }
            | EventBody::Cognition(_)
            | EventBody::TodoChanged { .. }
            | EventBody::WorkStarted { .. }
            | EventBody::WorkEnded { .. }
            | EventBody::StateChanged { .. }
            | EventBody::QuestionAsked { .. }
            | EventBody::QuestionAnswered { .. } => {}
        }
    }

    /// The task, what holds now, and what happened from a sequence number on.
    fn begin_epoch(&mut self, source: u64, keep_from: u64, briefing: &str) {
        let at = self.index_of(keep_from);
        let messages = self.messages.split_off(at);
        let sources = self.sources.split_off(at);
        let is_turn = |message: &&Message| matches!(message, Message::Assistant(_));
        self.turns_left_out += self.messages.iter().filter(is_turn).count();
        self.messages.clear();
        self.sources.clear();
        self.measured = Measured {
            bytes: json_bytes(&self.system) + json_bytes(&self.tools),
            ..Measured::default()
        };
        self.push(1, self.task.clone());
        let text = briefing.to_owned();
        self.push(source, Message::User { text });
        for (source, message) in sources.into_iter().zip(messages) {
            self.push(source, message);
        }
    }

    /// Where the messages from a sequence number on begin. The task, and the
    /// briefing of an epoch, are not among them.
    fn index_of(&self, keep_from: u64) -> usize {
        let turn = |at: &usize| matches!(self.messages[*at], Message::Assistant(_));
        (1..self.messages.len())
            .find(|at| turn(at) && self.sources[*at] >= keep_from)
            .unwrap_or(self.messages.len())
    }

    /// The sequence number from which on the last turns take so many bytes at
    /// most; beyond the last one where not even that fits.
    #[must_use]
    pub fn tail(&self, bytes: u64) -> u64 {
        let mut room = bytes;
        let mut from = u64::MAX;
        for (message, source) in self.messages.iter().zip(&self.sources).skip(1).rev() {
            let Some(left) = room.checked_sub(json_bytes(message)) else {
                break;
            };
            room = left;
            if matches!(message, Message::Assistant(_)) {
                from = *source;
            }
        }
        from
    }

    /// How many messages a compaction would leave out.
    #[must_use]
    pub fn messages_before(&self, keep_from: u64) -> u64 {
        self.index_of(keep_from) as u64
    }

    /// The tool calls of the turns that a compaction would leave out, in order.
    pub fn calls_before(&self, keep_from: u64) -> impl DoubleEndedIterator<Item = &ToolCall> {
        let left_out = &self.messages[..self.index_of(keep_from)];
        left_out.iter().flat_map(|message| match message {
            Message::Assistant(turn) => turn.tool_calls.as_slice(),
            Message::User { .. } | Message::ToolResults { .. } => &[],
        })
    }

    fn say(&mut self, source: u64, text: &str) {
        let message = Message::User {
            text: text.to_owned(),
        };
        if self.unanswered == 0 {
            self.push(source, message);
        } else {
            self.held.push(message);
        }
    }

    fn push(&mut self, source: u64, message: Message) {
        self.sources.push(source);
        self.measured.bytes += json_bytes(&message);
        self.measured.messages += 1;
        self.messages.push(message);
    }

    /// How large it is.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measured
    }

    /// Turns of the model that compactions left out.
    #[must_use]
    pub fn turns_left_out(&self) -> usize {
        self.turns_left_out
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

    /// The messages so far; within an epoch every earlier list of them is a prefix
    /// of it.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
}

/// Bytes of a part of the conversation as JSON: no provider's own form of it has
/// more tokens.
fn json_bytes<T: Serialize + ?Sized>(part: &T) -> u64 {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, part).expect("it has string keys and finite numbers");
    count.0
}
