//! What the live view shows of a session, folded from its events. Pure but for
//! a monotonic clock that times what is under way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use compyd_proto::v1::{
    Session, SessionEvent, Stage, Todo, TokenUsage, session_event::Event, session_progress::What,
};

use crate::output::between;

/// The fold.
#[derive(Debug)]
pub(super) struct Progress {
    started_at: Option<prost_types::Timestamp>,
    /// When this view began, for times between events.
    opened_at: Instant,
    /// From the session's start to the view's.
    opened_after: Duration,
    pub(super) scripted: bool,
    pub(super) stage: Stage,
    pub(super) todos: BTreeMap<u32, Todo>,
    pub(super) tokens: TokenUsage,
    /// What is under way, and since when.
    pub(super) current: Option<(String, Instant)>,
    /// Last line of the reply or the output under way.
    pub(super) tail: String,
}

impl Progress {
    pub(super) fn new(session: &Session) -> Self {
        let model = session
            .options
            .as_ref()
            .map_or("", |options| &options.model);
        Progress {
            opened_after: session.started_at.as_ref().map_or(Duration::ZERO, |start| {
                between(start, &crate::output::now())
            }),
            started_at: session.started_at,
            opened_at: Instant::now(),
            scripted: crate::output::session::is_scripted(model),
            stage: Stage::Unspecified,
            todos: BTreeMap::new(),
            tokens: TokenUsage::default(),
            current: None,
            tail: String::new(),
        }
    }

    pub(super) fn started_at(&self) -> Option<&prost_types::Timestamp> {
        self.started_at.as_ref()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.opened_after + self.opened_at.elapsed()
    }

    pub(super) fn apply(&mut self, event: &SessionEvent) {
        if event.stage() != Stage::Unspecified {
            self.stage = event.stage();
        }
        match &event.event {
            Some(Event::Created(created)) => {
                if let Some(session) = &created.session {
                    self.started_at = session.started_at.or(self.started_at);
                }
            }
            Some(Event::StageEntered(entered)) => self.stage = entered.stage(),
            Some(Event::TodoChanged(changed)) => {
                if let Some(todo) = &changed.todo {
                    self.todos.insert(todo.id, todo.clone());
                }
            }
            Some(Event::ModelAsked(_)) => self.begin("the model is thinking".into()),
            Some(Event::ModelAnswered(answered)) => {
                self.current = None;
                if let Some(usage) = &answered.usage {
                    self.tokens.input_uncached += usage.input_uncached;
                    self.tokens.input_cached += usage.input_cached;
                    self.tokens.cache_written += usage.cache_written;
                    self.tokens.output += usage.output;
                }
            }
            Some(Event::ToolStarted(started)) => {
                let tool = started.tool.clone().unwrap_or_default();
                self.begin(format!("{} {}", tool.name, tool.arguments));
            }
            Some(Event::CheckStarted(started)) => {
                self.begin(format!(
                    "{} {}",
                    started.name,
                    shell_words::join(&started.argv)
                ));
            }
            Some(Event::ModelFailed(_) | Event::ToolEnded(_) | Event::CheckEnded(_)) => {
                self.current = None;
            }
            Some(
                Event::StageLeft(_)
                | Event::MessageAdded(_)
                | Event::BudgetReserved(_)
                | Event::BudgetNoted(_)
                | Event::Compacted(_)
                | Event::Committed(_)
                | Event::PullRequestOpened(_)
                | Event::ProofMade(_)
                | Event::StateChanged(_)
                | Event::QuestionAsked(_)
                | Event::QuestionAnswered(_)
                | Event::CognitionNoted(_),
            )
            | None => {}
        }
    }

    /// Takes what belongs to no sequence.
    pub(super) fn note(&mut self, what: &What) {
        let text = match what {
            What::ModelText(text) | What::ModelReasoning(text) => text.clone(),
            What::CommandOutput(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            What::Notice(_) => return,
        };
        self.tail.push_str(&text);
        if let Some(end) = self.tail.trim_end_matches('\n').rfind('\n') {
            self.tail.drain(..=end);
        }
        // A line without an end must not grow for ever.
        if self.tail.len() > 4096 {
            self.tail = self
                .tail
                .chars()
                .rev()
                .take(512)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
        }
    }

    fn begin(&mut self, what: String) {
        self.current = Some((what, Instant::now()));
        self.tail.clear();
    }
}

#[cfg(test)]
mod tests {
    use compyd_proto::v1::{ModelAnswered, ToolRequest, ToolStarted};

    use super::*;

    fn event(event: Event) -> SessionEvent {
        SessionEvent {
            stage: Stage::Modify.into(),
            event: Some(event),
            ..SessionEvent::default()
        }
    }

    #[test]
    fn tokens_add_up_and_a_tool_is_current_until_it_ends() {
        let mut progress = Progress::new(&Session::default());
        for _ in 0..2 {
            progress.apply(&event(Event::ModelAnswered(ModelAnswered {
                usage: Some(TokenUsage {
                    input_uncached: 10,
                    input_cached: 5,
                    cache_written: 0,
                    output: 3,
                }),
                ..ModelAnswered::default()
            })));
        }
        progress.apply(&event(Event::ToolStarted(ToolStarted {
            step_id: "s".into(),
            tool: Some(ToolRequest {
                name: "run".into(),
                arguments: "{}".into(),
                ..ToolRequest::default()
            }),
        })));
        assert_eq!(
            (progress.tokens.input_uncached, progress.tokens.output),
            (20, 6)
        );
        assert_eq!(progress.stage, Stage::Modify);
        assert_eq!(progress.current.as_ref().unwrap().0, "run {}");
        progress.apply(&event(Event::ToolEnded(Default::default())));
        assert!(progress.current.is_none());
    }

    #[test]
    fn the_tail_is_the_last_line_and_bounded() {
        let mut progress = Progress::new(&Session::default());
        progress.note(&What::ModelText("one\ntwo".into()));
        assert_eq!(progress.tail, "two");
        progress.note(&What::CommandOutput("x".repeat(100_000).into()));
        assert_eq!(progress.tail.len(), 512);
    }
}
