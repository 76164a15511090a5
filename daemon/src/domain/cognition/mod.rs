//! Metacognition: when a session has to reason before it acts, what tempts it,
//! and what it knows of itself.
//!
//! ```text
//! event ──> Ledger: names, edits, runs, failures, thoughts        (fold)
//! call  ──> examine(ledger, call): points it touches, temptations, refusal
//! log   ──> report: compliance, temptations, scenarios, timeline
//! ```
//!
//! Six points need reasoning first ([`Point`]); at four others it is suggested
//! ([`Hint`]). Reasoning is a `think` that *counts*: it names a file, a test or
//! a command of this session, and something has happened since the last one.
//! Edits and git operations count whether a tool makes them or a shell line.
//! All of it is pure; the log keeps every decision as a [`CognitiveEvent`].

mod edits;
mod examine;
mod ledger;
mod libraries;
mod names;
mod report;
mod shell;
mod temptations;
mod tries;

use serde::{Deserialize, Serialize};

use super::{
    conversation::{Arguments, ToolCall},
    session::event::ToolOutcome,
    tools::Tool,
};

pub use self::{
    examine::{Examined, examine, think},
    ledger::Ledger,
    libraries::Libraries,
    report::{Compliance, Report, TemptationCount, TimelineEntry, report},
    temptations::{Description, Temptation},
};

/// A point at which a session must have reasoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// Before a git operation that changes something.
    GitOperation,
    /// Before moving from reading to editing.
    FirstEdit,
    /// Before a claim, and before the work is called done.
    Completion,
    /// After three failures of the same approach.
    RepeatedFailure,
    /// When tests, validation or CI fail.
    FailedTests,
    /// Before editing tests.
    TestEdit,
}

impl Point {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::GitOperation,
        Self::FirstEdit,
        Self::Completion,
        Self::RepeatedFailure,
        Self::FailedTests,
        Self::TestEdit,
    ];

    /// Its name: "before a git operation".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GitOperation => "before a git operation",
            Self::FirstEdit => "before moving to edits",
            Self::Completion => "before completing",
            Self::RepeatedFailure => "after three failures of the same approach",
            Self::FailedTests => "when tests or CI fail",
            Self::TestEdit => "before editing tests",
        }
    }

    /// What there is to reason about, for the model.
    fn questions(self) -> &'static str {
        match self {
            Self::GitOperation => {
                "which branch is this, what does the operation change, and is it not the daemon's to do?"
            }
            Self::FirstEdit => {
                "have you found every place that has to change, do you know the cause or do you guess, \
                 have you looked at references and tests?"
            }
            Self::Completion => {
                "what did you run on the last edit and what did it print, is every part of the task done, \
                 what could have broken?"
            }
            Self::RepeatedFailure => {
                "why did it fail each time, what do you not know yet, which other approach is there?"
            }
            Self::FailedTests => {
                "what is the cause and what only the symptom, is it the code or the environment, what \
                 does the output say?"
            }
            Self::TestEdit => {
                "is the test wrong or the code, and would the change make the test say less?"
            }
        }
    }
}

/// A point at which reasoning is suggested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// The model took no step.
    NoNextStep,
    /// A command or file that should be there is not.
    Environment,
    /// An image was looked at.
    Image,
    /// A search found nothing.
    NothingFound,
}

impl Hint {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::NoNextStep,
        Self::Environment,
        Self::Image,
        Self::NothingFound,
    ];

    /// Its name: "no clear next step".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNextStep => "no clear next step",
            Self::Environment => "an unclear environment problem",
            Self::Image => "viewing an image",
            Self::NothingFound => "a search without matches",
        }
    }

    /// The one that an answer of a tool gives rise to.
    #[must_use]
    pub fn of(call: &ToolCall, outcome: ToolOutcome, content: &str) -> Option<Self> {
        const IMAGES: [&str; 6] = [".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"];
        let path = match &call.arguments {
            Arguments::Object(arguments) => arguments.get("path").and_then(|path| path.as_str()),
            Arguments::Malformed { .. } => None,
        };
        match Tool::named(&call.name)? {
            Tool::Grep | Tool::Glob => NOTHING_FOUND
                .contains(&content)
                .then_some(Self::NothingFound),
            Tool::RunCommand if outcome == ToolOutcome::Error => {
                let is_missing = NOT_THERE.iter().any(|sign| content.contains(sign));
                is_missing.then_some(Self::Environment)
            }
            Tool::ReadFile => {
                let path = path?.to_lowercase();
                IMAGES
                    .iter()
                    .any(|end| path.ends_with(end))
                    .then_some(Self::Image)
            }
            _ => None,
        }
    }

    /// What is appended to the answer that gave rise to it.
    #[must_use]
    pub fn reminder(self) -> &'static str {
        match self {
            Self::NoNextStep => "`think` about what is known and what the next step is.",
            Self::Environment => {
                "[Reminder: `think` about whether this is the code or the environment, before you work \
                 around it.]"
            }
            Self::Image => "[Reminder: `think` about what the picture shows.]",
            Self::NothingFound => {
                "[Reminder: nothing was found; `think` about other words or places to search.]"
            }
        }
    }
}

/// What searches say that find nothing.
pub const NOTHING_FOUND: [&str; 2] = ["No line matches.", "No file matches."];

/// What programs print whose surroundings lack something.
const NOT_THERE: [&str; 5] = [
    "command not found",
    "Could not resolve host",
    "Permission denied",
    "No space left on device",
    "cannot open shared object file",
];

/// Reasoning that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thought {
    /// Its first line, bounded; the call has all of it.
    pub summary: String,
    /// What of this session it names.
    pub names: Vec<String>,
    /// Whether it counts as reasoning.
    pub counts: bool,
    /// Whether it is about git.
    pub about_git: bool,
}

/// A step of the session's thinking about itself, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CognitiveEvent {
    /// The model reasoned.
    Think(Thought),
    /// It reasoned about something that failed.
    Reflection(Thought),
    /// A temptation was met in the log.
    TemptationMet {
        /// Which.
        temptation: Temptation,
        /// What shows it.
        evidence: String,
    },
    /// The model named a temptation.
    TemptationRecognised {
        /// Which.
        temptation: Temptation,
    },
    /// A point was come to.
    DecisionPoint {
        /// Which.
        point: Point,
        /// What was asked for: "edit_file textkit/slug.py".
        action: String,
        /// Whether there was reasoning; without it the action was refused.
        reasoned: bool,
    },
    /// Reasoning was suggested.
    Hinted {
        /// At which point.
        hint: Hint,
    },
}

impl CognitiveEvent {
    /// It in a line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Think(thought) => format!("thinks: {}", thought.summary),
            Self::Reflection(thought) => format!("reflects: {}", thought.summary),
            Self::TemptationMet {
                temptation,
                evidence,
            } => {
                let about = temptation.about();
                format!("meets {} ({}): {evidence}", about.id, about.name)
            }
            Self::TemptationRecognised { temptation } => {
                let about = temptation.about();
                format!("recognises {} ({})", about.id, about.name)
            }
            Self::DecisionPoint {
                point,
                action,
                reasoned,
            } => match reasoned {
                true => format!("{}, reasoned: {action}", point.name()),
                false => format!("{}, refused for want of reasoning: {action}", point.name()),
            },
            Self::Hinted { hint } => format!("reminded to think: {}", hint.name()),
        }
    }
}
