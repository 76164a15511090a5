//! What is left out of a conversation that grows too long.
//!
//! A conversation only ever grows at its end, so that providers can cache it. A
//! compaction is the one exception, and is an event: a new epoch begins, with
//! the task, what holds now ([`briefing`]), and the last turns as they were.
//! What is left out stays in the log.
//!
//! The briefing is made of the session's state, not by a model: it costs
//! nothing, and cannot be wrong about what was proved.

use std::{collections::BTreeSet, fmt::Write as _, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    context::Context,
    conversation::Arguments,
    model_name::ModelPattern,
    prompts,
    session::{event::EventBody, state::SessionState},
    todo::TodoState,
    tools::Tool,
};

/// What a briefing begins with.
pub const EPOCH_BEGINS: &str = "To save room, most of the conversation before this was left out.";
/// Bytes that a token stands for when nobody has counted: what English text and
/// code come to with common tokenizers.
const BYTES_A_TOKEN: u64 = 4;
/// The last turns may take this part of the window.
const TAIL_PERCENT: u64 = 20;
/// After the provider said that the conversation is too long, they may take this
/// part of it: whoever set the window was wrong about it.
const TAIL_PERCENT_AFTER_OVERFLOW: u64 = 25;
/// The smallest window, in tokens: the system prompt and the tools alone take
/// most of it.
const WINDOW_MIN: u64 = 4_000;
/// Bytes of the model's own thoughts that are kept, the last ones.
const THOUGHTS_BYTES: usize = 6 * 1024;
/// Files that are named at most, each once.
const FILES_NAMED: usize = 60;

/// How much a model can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Tokens of a conversation and its reply.
    pub tokens: u64,
    /// The share of it, 10 to 95 per cent, from which on the conversation is
    /// compacted.
    pub compact_percent: u8,
}

impl Default for Window {
    /// What the common models of 2025 take at least.
    fn default() -> Self {
        Self {
            tokens: 128_000,
            compact_percent: 75,
        }
    }
}

/// A line of the table of windows: `MODEL=TOKENS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRule {
    /// Which models it is for.
    pub models: ModelPattern,
    /// Their window, in tokens.
    pub tokens: u64,
}

/// A text that is no line of a table of windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give MODEL=TOKENS, from 4000 up, where MODEL may end in *: anthropic:*=200000")]
pub struct NotAWindow;

impl FromStr for WindowRule {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, NotAWindow> {
        let (models, tokens) = text.rsplit_once('=').ok_or(NotAWindow)?;
        let tokens = tokens
            .trim()
            .parse()
            .ok()
            .filter(|tokens| *tokens >= WINDOW_MIN);
        Ok(Self {
            models: models.trim().parse().map_err(|_| NotAWindow)?,
            tokens: tokens.ok_or(NotAWindow)?,
        })
    }
}

/// Why a conversation is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It reached its share of the window.
    Share {
        /// Tokens of it, as far as they were counted.
        tokens: u64,
        /// The window.
        window: u64,
    },
    /// The provider found it too long.
    Overflow,
}

/// A compaction, if one is due before the model is asked again.
#[must_use]
pub fn due(state: &SessionState, context: &Context) -> Option<EventBody> {
    let window = state.created.options.window;
    let tokens = estimate(context);
    let cause = if state.overflowed {
        Cause::Overflow
    } else if tokens * 100 >= window.tokens * u64::from(window.compact_percent) {
        Cause::Share {
            tokens,
            window: window.tokens,
        }
    } else {
        return None;
    };
    let tail_bytes = match cause {
        Cause::Share { .. } => window.tokens * BYTES_A_TOKEN * TAIL_PERCENT / 100,
        Cause::Overflow => context.measured().bytes * TAIL_PERCENT_AFTER_OVERFLOW / 100,
    };
    let keep_from = context.tail(tail_bytes).min(state.sequence + 1);
    let left_out = context.messages_before(keep_from);
    // The task, the last briefing and a stage's prompt are no turns.
    if left_out <= 3 {
        return None;
    }
    Some(EventBody::Compacted {
        cause,
        keep_from,
        left_out,
        briefing: briefing(state, context, keep_from),
    })
}

/// Tokens of a conversation, near enough to decide by.
fn estimate(context: &Context) -> u64 {
    let measured = context.measured();
    match measured.counted {
        Some(counted) => {
            let since = measured.bytes.saturating_sub(counted.bytes);
            counted.tokens + since / BYTES_A_TOKEN
        }
        None => measured.bytes / BYTES_A_TOKEN,
    }
}

/// What holds now, as the model is told it in place of what is left out.
#[must_use]
pub fn briefing(state: &SessionState, context: &Context, keep_from: u64) -> String {
    let mut text = format!("{EPOCH_BEGINS} What holds now, from the daemon's record:\n");
    if let Some(notes) = state.base.as_ref().and_then(|base| base.knowledge.as_ref()) {
        let _ = write!(text, "\n{notes}\n");
    }
    let ended = state.records.iter().filter_map(|record| {
        let outcome = record.outcome.as_ref()?;
        Some((record.stage, outcome))
    });
    let mut lines = String::new();
    for (stage, outcome) in ended {
        let _ = write!(lines, "\n- {stage}: {}", prompts::bounded(outcome.trim()));
    }
    section(
        &mut text,
        "Stages so far, each with what came of it",
        &lines,
    );
    let mut lines = String::new();
    for todo in &state.todos {
        let _ = write!(
            lines,
            "\n- todo {} is {}: {}",
            todo.id,
            todo.state.name(),
            todo.text
        );
        for criterion in &todo.criteria {
            let _ = write!(lines, "\n  - {}", prompts::criterion(criterion));
        }
        if let TodoState::Rejected { reason, .. } = &todo.state {
            let _ = write!(lines, "\n  rejected: {}", prompts::bounded(reason));
        }
    }
    section(&mut text, "Todos", &lines);
    section(&mut text, "Files you changed", &files(&state.changed_files));
    let read: BTreeSet<String> = (state.files.keys())
        .filter(|path| !state.changed_files.contains(*path))
        .cloned()
        .collect();
    section(&mut text, "Files you read", &files(&read));
    if let Some(failure) = &state.last_failure {
        let failure = format!("\n{}", prompts::bounded(failure));
        section(&mut text, "What the daemon last saw fail", &failure);
    }
    section(
        &mut text,
        "What you thought, the last of it",
        &thoughts(context, keep_from),
    );
    let _ = write!(
        text,
        "\nWhat you read before is not before you any more: read a file again before you edit it.\n\n{}",
        prompts::stage(state)
    );
    text
}

fn section(text: &mut String, title: &str, lines: &str) {
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{title}:{lines}");
    }
}

fn files(paths: &BTreeSet<String>) -> String {
    let mut lines = String::new();
    for path in paths.iter().take(FILES_NAMED) {
        let _ = write!(lines, "\n- {path}");
    }
    if paths.len() > FILES_NAMED {
        let _ = write!(lines, "\n- and {} more", paths.len() - FILES_NAMED);
    }
    lines
}

/// The last thoughts of the turns that are left out, oldest first.
fn thoughts(context: &Context, keep_from: u64) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut room = THOUGHTS_BYTES;
    let calls = context.calls_before(keep_from);
    let thought = calls.filter(|call| call.name == Tool::Think.name());
    for call in thought.rev() {
        let Arguments::Object(arguments) = &call.arguments else {
            continue;
        };
        let Some(words) = arguments.values().find_map(serde_json::Value::as_str) else {
            continue;
        };
        if words.len() > room {
            break;
        }
        room -= words.len();
        kept.push(words);
    }
    kept.iter().rev().fold(String::new(), |mut lines, words| {
        let _ = write!(lines, "\n- {}", words.trim());
        lines
    })
}
