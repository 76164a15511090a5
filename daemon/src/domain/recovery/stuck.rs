//! A session that turns in circles, seen by its log.
//!
//! ```text
//!   events ──apply──> Trail ──find──> Circle ──> reason, then change, then stop
//! ```
//!
//! [`Trail`] remembers the last steps. What is found is said in the log
//! ([`Intervention`]), which clears the trail and raises the [`Measure`]: first
//! the model has to reason, in a thought that counts
//! ([`crate::domain::cognition`]), before it does anything else; then what it repeated
//! is refused, so that it has to take another way; then a person is asked. A
//! todo that is verified or a new stage begins anew. Failures that only a person
//! can mend, several in a row, go to a person at once.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::RecoveryAction;
use crate::domain::{
    cognition::CognitiveEvent,
    conversation::{Arguments, ToolCall},
    session::{
        decide::acts,
        event::{EventBody, ToolEffect, ToolEnded, ToolOutcome},
    },
    todo::Todo,
    tools::Tool,
};

/// Steps remembered.
const TRAIL: usize = 24;
/// The same call with the same answer, so often.
const SAME_CALL: usize = 3;
/// The same with tools that only look: a file is read again for good reasons.
const SAME_LOOK: usize = 5;
/// The same error from one tool, whatever it was asked.
const SAME_ERROR: usize = 4;
/// Two calls in turn, so many pairs.
const PAIRS: usize = 3;
/// Reasoning, with nothing done in between.
const MONOLOGUE: usize = 6;
/// A file that became what it was before, so often.
const UNDONE: usize = 2;
/// Calls that fail and differ little.
const NEAR: usize = 5;
/// From here on two lists of arguments are nearly the same, from 0 to 1.
const NEARLY_SAME: f64 = 0.85;
/// Characters of arguments compared.
const COMPARED_CHARS: usize = 300;
/// Versions of a file remembered.
const VERSIONS: usize = 32;

/// A way to turn in circles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Circle {
    /// The same call brings the same answer.
    SameCall,
    /// Different calls end with the same error.
    SameError,
    /// Two calls take turns.
    Alternation,
    /// Nothing but reasoning.
    Monologue,
    /// Edits that undo each other.
    UndoneEdits,
    /// Failing calls whose arguments hardly differ.
    NearlySameCall,
    /// Failures that only a person can mend.
    Escalated,
}

/// What is done about it: each time the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Nothing else is done before the model has reasoned.
    Reason,
    /// What was repeated is refused.
    ChangeApproach,
    /// A person is asked.
    Stop,
}

/// Something that was done about a circle: an event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervention {
    /// What was found.
    pub circle: Circle,
    /// What is done about it.
    pub measure: Measure,
    /// The step that was repeated, as a hash of tool and arguments; 0 for none.
    pub repeated: u64,
    /// What the model is told.
    pub text: String,
}

/// A step as it is remembered.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    tool: String,
    /// Hash of tool and arguments.
    call: u64,
    /// The arguments, cut.
    arguments: String,
    /// Hash of how it went and what was said, numbers left out.
    answer: u64,
    failed: bool,
    /// What was said, for a person: a line.
    said: String,
}

/// The last steps of a session, folded from its log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trail {
    steps: VecDeque<Step>,
    /// Thoughts since anything was done.
    thoughts: usize,
    /// Failures in a row that the catalogue of failures leaves to a person.
    escalations: u32,
    /// Hashes of each file's versions in order, by path.
    versions: BTreeMap<String, VecDeque<String>>,
    /// How often a file became what it was before, by path.
    undone: BTreeMap<String, usize>,
    /// The last measure taken since there was progress.
    measure: Option<Measure>,
    /// Whether the model has to reason before anything else.
    must_reason: bool,
    /// The call that is refused, by its hash.
    barred: Option<u64>,
}

/// What was found, before anything is done about it.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    circle: Circle,
    repeated: u64,
    /// What was seen, as a sentence without its end.
    seen: String,
}

impl Trail {
    /// Folds in the next event. `calls` are those of the last reply that wait
    /// for their answers, the answered one first.
    pub fn apply<'a>(&mut self, body: &EventBody, mut calls: impl Iterator<Item = &'a ToolCall>) {
        match body {
            EventBody::ToolEnded(ended) => {
                if let Some(call) = calls.find(|call| call.id == ended.call_id) {
                    self.step(call, ended);
                }
            }
            EventBody::CircleFound(intervention) => self.intervene(intervention),
            EventBody::Cognition(
                CognitiveEvent::Think(thought) | CognitiveEvent::Reflection(thought),
            ) => self.must_reason &= !thought.counts,
            EventBody::TodoChanged { todo } if Todo::is_verified(todo) => *self = Self::default(),
            // A todo that is new, or stands elsewhere, is more than a thought.
            EventBody::TodoChanged { .. } => self.thoughts = 0,
            EventBody::StageEntered { .. } | EventBody::QuestionAnswered { .. } => {
                *self = Self::default();
            }
            EventBody::Created(_)
            | EventBody::StageLeft { .. }
            | EventBody::MessageAdded { .. }
            | EventBody::BudgetReserved(_)
            | EventBody::BudgetNoted { .. }
            | EventBody::Compacted { .. }
            | EventBody::Cognition(_)
            | EventBody::ModelAsked
            | EventBody::ModelAnswered(_)
            | EventBody::ModelFailed { .. }
            | EventBody::ToolStarted { .. }
            | EventBody::WorkStarted { .. }
            | EventBody::WorkEnded { .. }
            | EventBody::StateChanged { .. }
            | EventBody::QuestionAsked { .. } => {}
        }
    }

    fn step(&mut self, call: &ToolCall, ended: &ToolEnded) {
        if call.name == Tool::Think.name() {
            self.thoughts += 1;
            return;
        }
        // What concerns the log alone has gates and limits of its own, and is no deed.
        if Tool::named(&call.name).is_some_and(|tool| !acts(tool)) {
            return;
        }
        self.thoughts = 0;
        match &ended.effect {
            ToolEffect::FileChanged {
                path,
                before,
                after,
            } => self.change(path, before.as_deref(), after),
            ToolEffect::FilesChanged { files } => {
                for file in files {
                    let after = file.after.as_deref().unwrap_or_default();
                    self.change(&file.path, file.before.as_deref(), after);
                }
            }
            ToolEffect::None
            | ToolEffect::FileSeen { .. }
            | ToolEffect::CommandRan
            | ToolEffect::StageDone { .. } => {}
        }
        self.count_escalation(&call.name, ended);
        self.steps.push_back(Step {
            tool: call.name.clone(),
            call: call_hash(call),
            arguments: shown(&call.arguments)
                .chars()
                .take(COMPARED_CHARS)
                .collect(),
            answer: answer_hash(ended),
            failed: ended.outcome != ToolOutcome::Ok,
            said: last_line(&ended.content),
        });
        if self.steps.len() > TRAIL {
            self.steps.pop_front();
        }
    }

    /// Counts failures that only a person can mend, in a row; looking around and
    /// being refused are no part of it.
    fn count_escalation(&mut self, tool: &str, ended: &ToolEnded) {
        let action = ended.failure.as_ref().map(|failure| failure.action);
        match ended.outcome {
            ToolOutcome::Error if action == Some(RecoveryAction::Escalate) => {
                self.escalations += 1;
            }
            ToolOutcome::Refused => {}
            ToolOutcome::Ok | ToolOutcome::Error if is_look(tool) => {}
            ToolOutcome::Ok | ToolOutcome::Error => self.escalations = 0,
        }
    }

    /// What has to be done when the catalogue has called for a person so often
    /// in a row.
    #[must_use]
    pub fn escalation(&self, tries_max: u32) -> Option<Intervention> {
        (self.escalations >= tries_max).then(|| Intervention {
            circle: Circle::Escalated,
            measure: Measure::Stop,
            repeated: 0,
            text: format!(
                "{} failures in a row need a person.{} What should the session do?",
                self.escalations,
                self.last_words()
            ),
        })
    }

    fn change(&mut self, path: &str, before: Option<&str>, after: &str) {
        let versions = self.versions.entry(path.to_owned()).or_default();
        if versions.is_empty() {
            versions.push_back(before.unwrap_or_default().to_owned());
        }
        if versions.iter().any(|version| version == after) {
            *self.undone.entry(path.to_owned()).or_default() += 1;
        }
        versions.push_back(after.to_owned());
        if versions.len() > VERSIONS {
            versions.pop_front();
        }
    }

    fn intervene(&mut self, intervention: &Intervention) {
        *self = Self {
            measure: Some(intervention.measure),
            must_reason: intervention.measure == Measure::Reason,
            barred: (intervention.measure == Measure::ChangeApproach && intervention.repeated != 0)
                .then_some(intervention.repeated),
            ..Self::default()
        };
    }

    /// Why a call is refused now, where it is.
    #[must_use]
    pub fn refusal(&self, call: &ToolCall) -> Option<String> {
        let reasons = call.name == Tool::Think.name();
        let asks = [Tool::AskPerson.name(), Tool::ReportEnvironmentIssue.name()]
            .contains(&call.name.as_str());
        if reasons || asks {
            return None;
        }
        if self.must_reason {
            return Some(
                "reason first: call `think` and say what you expected, what came instead, and what you will do differently; name the files, tests or commands of this session that it is about"
                    .into(),
            );
        }
        (self.barred == Some(call_hash(call))).then(|| {
            "this very call has brought the same before and is refused now: take another way, or report what stands in the way with `report_environment_issue`"
                .into()
        })
    }

    /// What has to be done now, if the session turns in circles.
    #[must_use]
    pub fn check(&self) -> Option<Intervention> {
        let found = self.find()?;
        let measure = match self.measure {
            None => Measure::Reason,
            // Who only reasons is not told to reason.
            Some(Measure::Reason) => Measure::ChangeApproach,
            Some(Measure::ChangeApproach | Measure::Stop) => Measure::Stop,
        };
        let measure = match (found.circle, measure) {
            (Circle::Monologue, Measure::Reason) => Measure::ChangeApproach,
            (_, measure) => measure,
        };
        let Found {
            circle,
            repeated,
            seen,
        } = found;
        let text = match measure {
            Measure::Reason => format!(
                "You turn in circles: {seen}. The same again will bring the same. Before anything else, call `think`: what did you expect, what came, why, and what do you not know yet? Then do something that tells you more."
            ),
            Measure::ChangeApproach => format!(
                "You still turn in circles: {seen}. Leave this approach: take one that differs in kind, not in detail. What you repeated is refused from now on. If the machine stands in your way, call `report_environment_issue`; if only a person can decide, `ask_person`."
            ),
            Measure::Stop => format!(
                "The session turns in circles, and neither reasoning nor another approach has helped: {seen}.{} What should it do?",
                self.last_words()
            ),
        };
        Some(Intervention {
            circle,
            measure,
            repeated,
            text,
        })
    }

    /// What the last failing steps said, for a person.
    fn last_words(&self) -> String {
        let words: Vec<String> = self
            .steps
            .iter()
            .rev()
            .filter(|step| step.failed)
            .take(3)
            .map(|step| format!("\n- {} {}: {}", step.tool, step.arguments, step.said))
            .collect();
        if words.is_empty() {
            return String::new();
        }
        format!(" It last saw:{}\n", words.concat())
    }

    fn find(&self) -> Option<Found> {
        self.monologue()
            .or_else(|| self.undone_edits())
            .or_else(|| self.same_call())
            .or_else(|| self.alternation())
            .or_else(|| self.same_error())
            .or_else(|| self.nearly_same())
    }

    fn monologue(&self) -> Option<Found> {
        (self.thoughts >= MONOLOGUE).then(|| Found {
            circle: Circle::Monologue,
            repeated: 0,
            seen: format!("{} thoughts, and nothing done in between", self.thoughts),
        })
    }

    fn undone_edits(&self) -> Option<Found> {
        let (path, count) = self.undone.iter().find(|(_, count)| **count >= UNDONE)?;
        Some(Found {
            circle: Circle::UndoneEdits,
            repeated: 0,
            seen: format!("edits of {path} undid each other {count} times"),
        })
    }

    fn same_call(&self) -> Option<Found> {
        let last = self.steps.back()?;
        let limit = if is_look(&last.tool) && !last.failed {
            SAME_LOOK
        } else {
            SAME_CALL
        };
        let count = self
            .steps
            .iter()
            .rev()
            .take_while(|step| step.call == last.call && step.answer == last.answer)
            .count();
        (count >= limit).then(|| Found {
            circle: Circle::SameCall,
            repeated: last.call,
            seen: format!(
                "`{}` was called {count} times in a row with the same arguments and brought the same",
                last.tool
            ),
        })
    }

    fn alternation(&self) -> Option<Found> {
        let last: Vec<&Step> = self.steps.iter().rev().take(2 * PAIRS).collect();
        if last.len() < 2 * PAIRS || last[0].call == last[1].call {
            return None;
        }
        let same = |one: &Step, other: &Step| one.call == other.call && one.answer == other.answer;
        let alternates = (2..last.len()).all(|index| same(last[index], last[index - 2]));
        alternates.then(|| Found {
            circle: Circle::Alternation,
            repeated: last[0].call,
            seen: format!(
                "`{}` and `{}` took turns {PAIRS} times and brought the same each time",
                last[1].tool, last[0].tool
            ),
        })
    }

    /// Steps that failed, of the last one's tool, the last one first, up to one
    /// of them that went well.
    fn failures(&self) -> impl Iterator<Item = &Step> {
        let tool = self.steps.back().map(|step| step.tool.as_str());
        self.steps
            .iter()
            .rev()
            .filter(move |step| Some(step.tool.as_str()) == tool)
            .take_while(|step| step.failed)
    }

    fn same_error(&self) -> Option<Found> {
        let last = self.steps.back()?;
        let count = self
            .failures()
            .take_while(|step| step.answer == last.answer)
            .count();
        (count >= SAME_ERROR).then(|| Found {
            circle: Circle::SameError,
            repeated: last.call,
            seen: format!(
                "`{}` failed {count} times with the same error: {}",
                last.tool, last.said
            ),
        })
    }

    fn nearly_same(&self) -> Option<Found> {
        let last = self.steps.back()?;
        let count = self
            .failures()
            .take_while(|step| {
                strsim::normalized_levenshtein(&step.arguments, &last.arguments) >= NEARLY_SAME
            })
            .count();
        (count >= NEAR).then(|| Found {
            circle: Circle::NearlySameCall,
            repeated: last.call,
            seen: format!(
                "`{}` failed {count} times with arguments that hardly differ",
                last.tool
            ),
        })
    }
}

/// Whether a tool only looks.
fn is_look(name: &str) -> bool {
    Tool::named(name).is_some_and(Tool::only_looks)
}

fn shown(arguments: &Arguments) -> String {
    match arguments {
        Arguments::Object(object) => serde_json::to_string(object).unwrap_or_default(),
        Arguments::Malformed { raw, .. } => raw.clone(),
    }
}

fn call_hash(call: &ToolCall) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(call.name.as_bytes()).update(b"\0");
    hasher.update(shown(&call.arguments).as_bytes());
    // 0 stands for none.
    number(&hasher).max(1)
}

/// How it went and what was said; durations, counts and addresses differ where
/// nothing else does.
fn answer_hash(ended: &ToolEnded) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(ended.outcome == ToolOutcome::Ok)]);
    for word in ended
        .content
        .split(|character: char| character.is_ascii_digit() || character == '.')
        .filter(|word| !word.is_empty())
    {
        hasher.update(word.as_bytes()).update(b"\0");
    }
    number(&hasher)
}

/// A hash that is the same in every build: it goes into the log.
fn number(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn last_line(content: &str) -> String {
    let line = content
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty() && !line.starts_with('['))
        .unwrap_or_default();
    line.trim().chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::FailureType, *};
    use crate::domain::{
        cognition::Thought,
        session::event::{ChangedFile, KnownFailure},
    };

    fn call(name: &str, arguments: Value) -> ToolCall {
        let Value::Object(object) = arguments else {
            panic!("an object")
        };
        ToolCall {
            id: "c".into(),
            name: name.into(),
            arguments: Arguments::Object(object),
        }
    }

    fn ended(name: &str, outcome: ToolOutcome, content: &str, effect: ToolEffect) -> EventBody {
        EventBody::ToolEnded(Box::new(ToolEnded {
            intent: Some(1),
            call_id: "c".into(),
            name: name.into(),
            outcome,
            content: content.into(),
            artifact: None,
            duration_ms: 1,
            failure: None,
            effect,
        }))
    }

    impl Trail {
        fn saw(&mut self, tool: &str, arguments: Value, outcome: ToolOutcome, content: &str) {
            let call = call(tool, arguments);
            let event = ended(tool, outcome, content, ToolEffect::None);
            self.apply(&event, [&call].into_iter());
        }

        fn ran(&mut self, command: &str, outcome: ToolOutcome, content: &str) {
            self.saw("run_command", json!({"command": command}), outcome, content);
        }

        fn thought(&mut self, counts: bool) {
            let thought = Thought {
                summary: "why".into(),
                names: Vec::new(),
                counts,
                about_git: false,
            };
            let event = EventBody::Cognition(CognitiveEvent::Think(thought));
            self.apply(&event, std::iter::empty());
            self.saw("think", json!({"content": "why"}), Good, "Noted.");
        }

        fn edited(&mut self, before: &str, after: &str) {
            let call = call("edit_file", json!({"path": "a", "n": after}));
            let effect = ToolEffect::FileChanged {
                path: "/a".into(),
                before: Some(before.into()),
                after: after.into(),
            };
            let event = ended("edit_file", ToolOutcome::Ok, "Edited.", effect);
            self.apply(&event, [&call].into_iter());
        }

        fn failed(&mut self, command: &str, action: RecoveryAction) {
            let call = call("run_command", json!({"command": command}));
            let mut event = ended("run_command", Error, "denied", ToolEffect::CommandRan);
            if let EventBody::ToolEnded(ended) = &mut event {
                ended.failure = Some(KnownFailure {
                    id: "ours".into(),
                    kind: FailureType::NetworkError,
                    action,
                });
            }
            self.apply(&event, [&call].into_iter());
        }

        fn circle(&self) -> Option<Circle> {
            self.check().map(|found| found.circle)
        }

        fn intervened(&mut self) -> Measure {
            let found = self.check().expect("there is a circle");
            let measure = found.measure;
            self.apply(&EventBody::CircleFound(found), std::iter::empty());
            measure
        }
    }

    use ToolOutcome::{Error, Ok as Good};

    #[test]
    fn the_same_call_with_the_same_answer_is_a_circle_and_durations_hide_none() {
        let mut trail = Trail::default();
        for seconds in ["0.1", "0.2"] {
            trail.ran("pytest", Error, &format!("1 failed\n[exit 1, {seconds} s]"));
            assert_eq!(trail.circle(), None);
        }
        trail.ran("pytest", Error, "1 failed\n[exit 1, 17.4 s]");
        assert_eq!(trail.circle(), Some(Circle::SameCall));
        // Another answer is news.
        let mut trail = Trail::default();
        for answer in ["a failed", "b failed", "c failed"] {
            trail.ran("pytest", Error, answer);
        }
        assert_eq!(trail.circle(), None);
    }

    #[test]
    fn reading_a_file_again_is_no_circle_at_once() {
        let mut trail = Trail::default();
        for count in 1..=SAME_LOOK {
            assert_eq!(trail.circle(), None, "{count}");
            trail.saw("read_file", json!({"path": "a"}), Good, "1\tx");
        }
        assert_eq!(trail.circle(), Some(Circle::SameCall));
    }

    #[test]
    fn one_error_from_different_calls_is_a_circle() {
        let mut trail = Trail::default();
        for command in [
            "pip install a",
            "python -m pip install a",
            "uv add a",
            "conda install a",
        ] {
            assert_eq!(trail.circle(), None);
            trail.ran(command, Error, "Could not resolve host\n[exit 1, 0.1 s]");
        }
        assert_eq!(trail.circle(), Some(Circle::SameError));
    }

    #[test]
    fn a_call_that_goes_well_ends_a_row_of_errors() {
        let mut trail = Trail::default();
        for command in ["a", "b", "c"] {
            trail.ran(command, Error, "no");
        }
        trail.ran("d", Good, "yes");
        trail.ran("e", Error, "no");
        assert_eq!(trail.circle(), None);
    }

    #[test]
    fn two_calls_in_turn_are_a_circle() {
        let mut trail = Trail::default();
        for _ in 0..PAIRS {
            assert_eq!(trail.circle(), None);
            trail.ran("make", Error, "no rule");
            trail.saw("grep", json!({"pattern": "x"}), Good, "No line matches.");
        }
        assert_eq!(trail.circle(), Some(Circle::Alternation));
    }

    #[test]
    fn thoughts_without_a_deed_are_a_circle_and_are_not_told_to_reason() {
        let mut trail = Trail::default();
        for n in 0..MONOLOGUE {
            assert_eq!(trail.circle(), None);
            trail.saw(
                "think",
                json!({"content": format!("hm {n}")}),
                Good,
                "Noted.",
            );
        }
        let found = trail.check().unwrap();
        assert_eq!(
            (found.circle, found.measure),
            (Circle::Monologue, Measure::ChangeApproach)
        );
        trail.saw("read_file", json!({"path": "a"}), Good, "1\tx");
        assert_eq!(trail.circle(), None);
    }

    #[test]
    fn what_concerns_the_log_alone_is_no_deed_between_thoughts() {
        let mut trail = Trail::default();
        for n in 0..MONOLOGUE {
            assert_eq!(trail.circle(), None, "{n}");
            trail.thought(true);
            trail.saw("todo_start", json!({"id": 1}), Good, "In progress.");
        }
        assert_eq!(trail.circle(), Some(Circle::Monologue));
    }

    #[test]
    fn edits_that_undo_each_other_are_a_circle() {
        let mut trail = Trail::default();
        trail.edited("one", "two");
        trail.edited("two", "one");
        assert_eq!(trail.circle(), None, "once may be right");
        trail.edited("one", "two");
        assert_eq!(trail.circle(), Some(Circle::UndoneEdits));
        let mut trail = Trail::default();
        for (before, after) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
            trail.edited(before, after);
        }
        assert_eq!(trail.circle(), None);
    }

    #[test]
    fn patches_of_several_files_that_undo_each_other_are_a_circle() {
        let mut trail = Trail::default();
        let patch = |trail: &mut Trail, before: &str, after: &str| {
            let call = call("edit_file", json!({"patch": after}));
            let files = ["/a", "/b"].map(|path| ChangedFile {
                path: path.into(),
                before: Some(format!("{before} {path}")),
                after: Some(format!("{after} {path}")),
            });
            let files = files.into();
            let event = ended("edit_file", Good, after, ToolEffect::FilesChanged { files });
            trail.apply(&event, [&call].into_iter());
        };
        patch(&mut trail, "one", "two");
        patch(&mut trail, "two", "one");
        assert_eq!(trail.circle(), None, "once may be right");
        patch(&mut trail, "one", "two");
        assert_eq!(trail.circle(), Some(Circle::UndoneEdits));
    }

    #[test]
    fn failures_in_a_row_that_only_a_person_can_mend_go_to_a_person() {
        use RecoveryAction::{Escalate, Fix};
        let mut trail = Trail::default();
        for host in ["a", "b"] {
            trail.failed(&format!("curl {host}"), Escalate);
            trail.saw("read_file", json!({"path": host}), Good, "1\tx");
        }
        assert_eq!(trail.escalation(3), None);
        trail.failed("curl c", Escalate);
        let found = trail.escalation(3).unwrap();
        assert_eq!(
            (found.circle, found.measure),
            (Circle::Escalated, Measure::Stop)
        );
        assert!(found.text.contains("curl a"), "{}", found.text);
        // Something else that fails, or goes well, ends the row.
        for ends in [Fix, Escalate] {
            let mut trail = Trail::default();
            trail.failed("curl a", Escalate);
            trail.failed("curl b", Escalate);
            match ends {
                Fix => trail.failed("make", Fix),
                _ => trail.ran("make", Good, "made"),
            }
            trail.failed("curl c", Escalate);
            assert_eq!(trail.escalation(3), None);
        }
    }

    #[test]
    fn failing_calls_that_hardly_differ_are_a_circle() {
        let mut trail = Trail::default();
        let letters = ["a", "b", "c", "d", "e"];
        for letter in letters {
            assert_eq!(trail.circle(), None);
            let command = format!("python -m pytest tests/test_slug.py -k words_{letter}");
            trail.ran(&command, Error, &format!("an error of {letter}"));
        }
        assert_eq!(trail.circle(), Some(Circle::NearlySameCall));
    }

    #[test]
    fn first_it_has_to_reason_then_to_change_then_a_person_is_asked() {
        let mut trail = Trail::default();
        let again = |trail: &mut Trail| {
            for _ in 0..SAME_CALL {
                trail.ran("make", Error, "no rule to make it");
            }
        };
        let make = call("run_command", json!({"command": "make"}));
        let other = call("run_command", json!({"command": "ls"}));
        again(&mut trail);
        assert_eq!(trail.intervened(), Measure::Reason);
        for refused in [&make, &other] {
            assert!(trail.refusal(refused).unwrap().contains("`think`"));
        }
        for free in ["think", "ask_person", "report_environment_issue"] {
            assert_eq!(trail.refusal(&call(free, json!({}))), None);
        }
        // A thought that names nothing is no reasoning.
        trail.thought(false);
        assert!(trail.refusal(&make).unwrap().contains("name the files"));
        trail.thought(true);
        assert_eq!(trail.refusal(&make), None);
        again(&mut trail);
        assert_eq!(trail.intervened(), Measure::ChangeApproach);
        assert!(trail.refusal(&make).unwrap().contains("another way"));
        assert_eq!(trail.refusal(&other), None);
        again(&mut trail);
        let last = trail.check().unwrap();
        assert_eq!(last.measure, Measure::Stop);
        assert!(last.text.contains("no rule to make it"), "{}", last.text);
    }

    #[test]
    fn a_model_that_goes_on_without_reasoning_climbs_as_well() {
        let mut trail = Trail::default();
        for _ in 0..SAME_CALL {
            trail.ran("make", Error, "no rule");
        }
        trail.intervened();
        for command in ["a", "b", "c", "d"] {
            trail.ran(command, ToolOutcome::Refused, "reason first");
        }
        assert_eq!(trail.intervened(), Measure::ChangeApproach);
    }

    #[test]
    fn progress_begins_anew() {
        let mut trail = Trail::default();
        for _ in 0..SAME_CALL {
            trail.ran("make", Error, "no rule");
        }
        trail.intervened();
        let answered = EventBody::QuestionAnswered {
            verdict: None,
            by: None,
            question: "q1".into(),
            accepted: true,
            text: String::new(),
        };
        trail.apply(&answered, std::iter::empty());
        assert_eq!(trail, Trail::default());
    }
}
