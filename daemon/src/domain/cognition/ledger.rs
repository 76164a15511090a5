//! What a session has done, as far as its reasoning is judged by it.

use std::collections::BTreeSet;

use super::{CognitiveEvent, Libraries, Thought};
use crate::domain::{
    conversation::{Arguments, ToolCall},
    judges::is_test_file,
    report::Framework,
    session::{
        event::{Event, EventBody, ToolEffect, ToolEnded, ToolOutcome},
        work::WorkResult,
    },
    stage::Stage,
    tools::Tool,
};

/// Names that are kept; a session with more has enough to name.
const NAMES_MAX: usize = 1_000;
/// Names shorter than this occur in any text.
const NAME_MIN_BYTES: usize = 4;
/// Searches that are kept.
const SEARCHES_MAX: usize = 200;

/// A fold of a session's log. Places in the log are sequence numbers; 0 is
/// before its first event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// Files, tests and commands of this session.
    names: BTreeSet<String>,
    /// Patterns that were searched for, and commands.
    searches: Vec<String>,
    /// The call under way.
    pending: Option<ToolCall>,
    /// The last thought that counts.
    pub(super) thought: u64,
    /// The last one of those that is about git.
    pub(super) thought_about_git: u64,
    /// Test files that thoughts have named.
    pub(super) tests_thought_of: BTreeSet<String>,
    /// The last thing that brought something new.
    pub(super) news: u64,
    /// The last edit.
    pub(super) edited: u64,
    /// The first command since the last edit; 0 when there was none.
    pub(super) ran: u64,
    /// The last time tests, validation, proof or CI failed.
    pub(super) failed: u64,
    /// The last entry into DEBUG or ITERATE.
    pub(super) debugged: u64,
    /// The last git operation that was let through.
    pub(super) git: u64,
    /// The last call that failed, and how often in a row, up to `failed_call`.
    failing: Option<(ToolCall, u32)>,
    pub(super) failed_call: u64,
    /// What the project declares, where that is known.
    pub(super) libraries: Libraries,
}

impl Ledger {
    /// Folds in the next event.
    pub fn apply(&mut self, event: &Event) {
        let at = event.sequence;
        match &event.body {
            EventBody::StageEntered { to, .. } => {
                if matches!(to, Stage::Debug | Stage::Iterate) {
                    self.debugged = at;
                }
            }
            EventBody::MessageAdded { .. }
            | EventBody::QuestionAnswered { .. }
            | EventBody::CircleFound(_) => self.news = at,
            EventBody::ToolStarted { call, .. } => {
                self.learn_from_call(call);
                self.pending = Some(call.clone());
            }
            EventBody::ToolEnded(ended) => self.end_tool(at, ended),
            EventBody::Cognition(cognitive) => self.reflect(at, cognitive),
            EventBody::WorkEnded { result, .. } => {
                self.news = at;
                self.end_work(at, result);
            }
            EventBody::Created(_)
            | EventBody::StageLeft { .. }
            | EventBody::ModelAsked
            | EventBody::BudgetReserved(_)
            | EventBody::BudgetNoted { .. }
            | EventBody::Compacted { .. }
            | EventBody::ModelAnswered(_)
            | EventBody::ModelFailed { .. }
            | EventBody::TodoChanged { .. }
            | EventBody::WorkStarted { .. }
            | EventBody::StateChanged { .. }
            | EventBody::QuestionAsked { .. } => {}
        }
    }

    /// What of this session a text names, a few of it.
    #[must_use]
    pub fn named_in(&self, text: &str) -> Vec<String> {
        const SHOWN: usize = 8;
        let found = self.names.iter().filter(|name| text.contains(&***name));
        found.take(SHOWN).cloned().collect()
    }

    /// Whether a symbol was searched for, or is in a command.
    pub(super) fn searched_for(&self, symbol: &str) -> bool {
        self.searches.iter().any(|search| search.contains(symbol))
    }

    /// How often this very call has failed in a row, nothing else between.
    pub(super) fn failures_of(&self, call: &ToolCall) -> u32 {
        let failing = self.failing.as_ref();
        let same = failing
            .filter(|(failed, _)| failed.name == call.name && failed.arguments == call.arguments);
        same.map_or(0, |(_, count)| *count)
    }

    fn end_tool(&mut self, at: u64, ended: &ToolEnded) {
        if ended.name != Tool::Think.name() {
            self.news = at;
        }
        if ended.intent.is_none() {
            return;
        }
        let call = self.pending.take();
        match &ended.effect {
            ToolEffect::FileSeen { path, .. } => self.learn_path(path),
            ToolEffect::FileChanged { path, .. } => {
                self.learn_path(path);
                (self.edited, self.ran) = (at, 0);
            }
            ToolEffect::FilesChanged { files } => {
                for file in files {
                    self.learn_path(&file.path);
                }
                (self.edited, self.ran) = (at, 0);
            }
            ToolEffect::CommandRan if self.ran == 0 => self.ran = at,
            ToolEffect::CommandRan => {}
            ToolEffect::None | ToolEffect::StageDone { .. } => {}
        }
        let Some(call) = call else { return };
        if command_of(&call).is_some_and(is_git_operation) {
            self.git = at;
        }
        match ended.outcome {
            ToolOutcome::Ok | ToolOutcome::Refused => self.failing = None,
            ToolOutcome::Error => {
                if command_of(&call).is_some_and(is_test_run) {
                    self.failed = at;
                }
                let count = self.failures_of(&call) + 1;
                self.failing = Some((call, count));
                self.failed_call = at;
            }
        }
    }

    fn reflect(&mut self, at: u64, cognitive: &CognitiveEvent) {
        let (CognitiveEvent::Think(thought) | CognitiveEvent::Reflection(thought)) = cognitive
        else {
            return;
        };
        let Thought {
            names,
            counts,
            about_git,
            ..
        } = thought;
        if !counts {
            return;
        }
        self.thought = at;
        if *about_git {
            self.thought_about_git = at;
        }
        let tests = names.iter().filter(|name| is_test_file(name));
        self.tests_thought_of.extend(tests.cloned());
    }

    fn end_work(&mut self, at: u64, result: &WorkResult) {
        match result {
            WorkResult::BaseRun(base) => {
                self.learn(&shell_words::join(&base.tests.argv));
                for word in &base.tests.argv {
                    self.learn_word(word);
                }
                let report = base.tests.report.iter();
                let names = report.flat_map(|report| report.names.keys());
                for name in names.take(NAMES_MAX / 2) {
                    self.learn(name);
                    let last = name.rsplit([':', '.', '/', ' ']).next();
                    self.learn(last.unwrap_or_default());
                }
                self.libraries = base.libraries.clone();
            }
            WorkResult::Validated(validation) => {
                for file in &validation.changed_files {
                    self.learn_path(file);
                }
                if validation.checks.iter().any(|check| !check.passed()) {
                    self.failed = at;
                }
            }
            WorkResult::Proved(proof) if !proof.proved => self.failed = at,
            WorkResult::CiEnded(ci) if !ci.passed => self.failed = at,
            WorkResult::Proved(_)
            | WorkResult::CiEnded(_)
            | WorkResult::StartSnapshot { .. }
            | WorkResult::StageSnapshot { .. }
            | WorkResult::ActSnapshot { .. }
            | WorkResult::RolledBack { .. }
            | WorkResult::TodoChecked(_)
            | WorkResult::Committed(_)
            | WorkResult::Published { .. }
            | WorkResult::PullRequestOpened(_)
            | WorkResult::Failed { .. } => {}
        }
    }

    fn learn_from_call(&mut self, call: &ToolCall) {
        let Arguments::Object(arguments) = &call.arguments else {
            return;
        };
        let text = |key: &str| arguments.get(key).and_then(|value| value.as_str());
        if let Some(path) = text("path") {
            self.learn_path(path);
        }
        if let Some(command) = text("command") {
            self.learn(command.trim());
            for word in command.split_whitespace() {
                self.learn_word(word);
            }
        }
        let searched = [text("pattern"), text("command")];
        for search in searched.into_iter().flatten() {
            if self.searches.len() == SEARCHES_MAX {
                self.searches.remove(0);
            }
            self.searches.push(search.chars().take(400).collect());
        }
    }

    /// A path is named by itself and by its last part.
    fn learn_path(&mut self, path: &str) {
        let path = path.trim_start_matches("./");
        // Below `/workspace` and the repository's own directory.
        let relative = path.strip_prefix("/workspace/");
        let relative = relative.and_then(|path| Some(path.split_once('/')?.1));
        self.learn(relative.unwrap_or(path));
        self.learn(path.rsplit('/').next().unwrap_or_default());
    }

    fn learn_word(&mut self, word: &str) {
        let is_name = |c: char| c.is_alphanumeric() || "-_./:".contains(c);
        if !word.starts_with('-') && word.chars().all(is_name) {
            self.learn(word.rsplit('/').next().unwrap_or_default());
        }
    }

    fn learn(&mut self, name: &str) {
        if name.len() >= NAME_MIN_BYTES && name.len() <= 200 && self.names.len() < NAMES_MAX {
            self.names.insert(name.to_owned());
        }
    }
}

/// The shell line of a call that runs one.
pub(super) fn command_of(call: &ToolCall) -> Option<&str> {
    let Arguments::Object(arguments) = &call.arguments else {
        return None;
    };
    let is_command = call.name == Tool::RunCommand.name();
    is_command.then(|| arguments.get("command")?.as_str())?
}

/// The simple commands of a shell line, as words: good enough to tell what a
/// line is about, no more.
fn simple_commands(line: &str) -> impl Iterator<Item = Vec<&str>> {
    line.split(['\n', ';', '|', '&', '(', ')'])
        .map(|part| part.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
}

/// Whether a shell line has a git operation in it that changes something.
pub(super) fn is_git_operation(line: &str) -> bool {
    const CHANGING: [&str; 19] = [
        "add",
        "am",
        "apply",
        "branch",
        "checkout",
        "cherry-pick",
        "clean",
        "commit",
        "merge",
        "mv",
        "pull",
        "push",
        "rebase",
        "reset",
        "restore",
        "revert",
        "rm",
        "stash",
        "switch",
    ];
    simple_commands(line).any(|words| {
        let at = words.iter().position(|word| *word == "git");
        let mut rest = at.into_iter().flat_map(|at| &words[at + 1..]);
        // `git -C DIR commit`: the first word that can be an operation.
        rest.any(|word| CHANGING.contains(word))
    })
}

/// Whether a shell line runs tests.
fn is_test_run(line: &str) -> bool {
    simple_commands(line).any(|words| {
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        Framework::of(&words).is_some() || words.iter().any(|word| word == "test")
    })
}
