//! What a session has done, as far as its reasoning is judged by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    CognitiveEvent, Libraries, Thought,
    edits::{Declaration, declared, edits},
    names::Names,
    shell::{self, Line, Write},
    tries::Tries,
};
use crate::domain::{
    conversation::{Arguments, ToolCall},
    criteria::{Criterion, CriterionResult},
    judges::is_test_file,
    recovery::FailureType,
    session::{
        event::{Created, Event, EventBody, ToolEffect, ToolEnded, ToolOutcome},
        work::WorkResult,
    },
    stage::Stage,
    tools::{Tool, ToolRequest, path_key, workspace_path},
};

/// Tests of a report that are kept as names.
const TESTS_MAX: usize = 500;
/// Searches that are kept.
const SEARCHES_MAX: usize = 200;
/// Commands that are kept since the last edit.
const COMMANDS_MAX: usize = 200;
/// Files whose declarations are kept.
const DECLARING_MAX: usize = 200;

/// A fold of a session's log. Places in the log are sequence numbers; 0 is
/// before its first event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// Its repository's directory, absolute.
    repository: String,
    /// The session's test command, as it was given and what it comes to.
    tests: Vec<Vec<String>>,
    /// Files, tests and commands of this session.
    pub(super) names: Names,
    /// Patterns that were searched for, and commands.
    searches: Vec<String>,
    /// The call under way, and the shell line that it runs.
    pending: Option<(ToolCall, Option<Line>)>,
    /// The last thought that counts.
    pub(super) thought: u64,
    /// The last one of those that is about git.
    pub(super) thought_about_git: u64,
    /// Files with tests that thoughts have named since they were edited last.
    tests_thought_of: BTreeSet<String>,
    /// The last thing that brought something new.
    pub(super) news: u64,
    /// The last edit.
    pub(super) edited: u64,
    /// The first run of tests since the last edit; 0 when there was none.
    pub(super) ran: u64,
    /// What ran since the last edit.
    commands: Vec<Vec<String>>,
    /// The last time tests, a todo's tests, validation, proof or CI failed.
    pub(super) failed: u64,
    /// The last entry into DEBUG or ITERATE.
    pub(super) debugged: u64,
    /// The last git operation that was let through.
    pub(super) git: u64,
    /// What failed since the last edit.
    pub(super) tries: Tries,
    /// What the project declares, where that is known.
    libraries: Arc<Libraries>,
    /// What files declare, as the session last saw them, by [`path_key`].
    declarations: BTreeMap<String, Vec<Declaration>>,
}

impl Ledger {
    /// Of a session in which nothing has happened.
    #[must_use]
    pub fn of(created: &Created) -> Self {
        let mut ledger = Self {
            repository: format!("/workspace/{}", created.repository),
            ..Self::default()
        };
        if let Some(argv) = &created.options.test_command {
            ledger.learn_tests(argv);
        }
        ledger
    }

    /// Whether a thought that counts came after the last edit and the first run of
    /// tests that followed it.
    #[must_use]
    pub fn has_reasoned_since_edit(&self) -> bool {
        self.thought > self.edited.max(self.ran)
    }

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
                let line = Line::of(call, &self.repository);
                self.names.learn_call(call, line.as_ref());
                self.learn_search(call);
                self.pending = Some((call.clone(), line));
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

    /// Whether a symbol was searched for, or is in a command.
    pub(super) fn searched_for(&self, symbol: &str) -> bool {
        self.searches.iter().any(|search| search.contains(symbol))
    }

    /// The first package that a text for a file imports and that the project
    /// neither declares nor has; `asked` are files of the call that brings it.
    pub(super) fn undeclared(&self, path: &str, text: &str, asked: &Names) -> Option<String> {
        let key = path_key(&workspace_path(&self.repository, path));
        let below = key.strip_prefix(&self.repository)?.strip_prefix('/')?;
        let is_known = |module: &str| self.names.has_module(module) || asked.has_module(module);
        self.libraries.undeclared(below, text, is_known)
    }

    /// What a file declares, as the session last saw it.
    pub(super) fn declared_in(&self, path: &str) -> &[Declaration] {
        let key = path_key(&workspace_path(&self.repository, path));
        self.declarations.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Whether a thought has named a file with tests since it was edited last.
    pub(super) fn has_thought_of_test(&self, path: &str) -> bool {
        let mut names = self.tests_thought_of.iter();
        names.any(|name| is_name_of(path, name))
    }

    /// Files of the repository that a line certainly changes.
    pub(super) fn edits_of<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = &'a Write> {
        let is_edit = move |write: &&Write| write.is_edit(|path| self.names.has(path));
        line.writes.iter().filter(is_edit)
    }

    /// Whether a command ran since the last edit.
    pub(super) fn has_run(&self, argv: &[String]) -> bool {
        let command = shell::command_of(argv, &self.repository);
        command.is_some_and(|command| self.commands.contains(&command))
    }

    fn end_tool(&mut self, at: u64, ended: &ToolEnded) {
        if ended.name != Tool::Think.name() {
            self.news = at;
        }
        if ended.intent.is_none() {
            return;
        }
        let pending = self.pending.take();
        self.names.learn_found(&ended.name, &ended.content);
        match &ended.effect {
            ToolEffect::FileSeen { path, .. } => {
                self.names.learn_file(path);
                self.see_declarations(path, &ended.content);
            }
            ToolEffect::FileChanged { path, .. } => {
                self.learn_edited(path);
                self.edit(at);
            }
            ToolEffect::FilesChanged { files } => {
                for file in files {
                    self.learn_edited(&file.path);
                }
                self.edit(at);
            }
            ToolEffect::CommandRan | ToolEffect::None | ToolEffect::StageDone { .. } => {}
        }
        let Some((call, line)) = pending else { return };
        match &line {
            Some(line) => self.end_line(at, ended, line),
            None if self.edited == at => self.change_declarations(&call),
            None => {}
        }
        match ended.outcome {
            ToolOutcome::Ok if self.edited == at => self.tries.forget(),
            ToolOutcome::Ok => self.tries.succeeded(&call, line.as_ref()),
            ToolOutcome::Refused => {}
            ToolOutcome::Error => {
                let failure = ended.failure.as_ref().map(|failure| failure.id.as_str());
                self.tries.failed(at, &call, line.as_ref(), failure);
            }
        }
    }

    /// A file that was edited: what was thought of it is used up.
    fn learn_edited(&mut self, path: &str) {
        self.names.learn_file(path);
        self.tests_thought_of.retain(|name| !is_name_of(path, name));
    }

    fn edit(&mut self, at: u64) {
        (self.edited, self.ran) = (at, 0);
        self.commands.clear();
    }

    fn end_line(&mut self, at: u64, ended: &ToolEnded, line: &Line) {
        if line.changes_git {
            self.git = at;
        }
        let edits: Vec<Write> = self.edits_of(line).cloned().collect();
        for write in &edits {
            self.learn_edited(&write.path);
        }
        let edited = edits.iter().map(|write| write.at).max();
        if edited.is_some() {
            self.edit(at);
        }
        let runs_tests = |argv: &Vec<String>| shell::runs_tests(argv, &self.tests);
        let tests: Vec<bool> = line.commands.iter().map(runs_tests).collect();
        if ended.outcome == ToolOutcome::Error && tests.contains(&true) {
            self.failed = at;
        }
        let kind = ended.failure.as_ref().map(|failure| failure.kind);
        // What did not start or was cut off has shown nothing.
        if matches!(
            kind,
            Some(FailureType::CommandNotFound | FailureType::Timeout)
        ) {
            return;
        }
        for (command, is_test) in line.commands.iter().zip(tests).skip(edited.unwrap_or(0)) {
            if is_test && self.ran == 0 {
                self.ran = at;
            }
            if self.commands.len() < COMMANDS_MAX {
                self.commands.push(command.clone());
            }
        }
    }

    /// What a reading of a file shows of its declarations.
    fn see_declarations(&mut self, path: &str, content: &str) {
        let lines = content.lines();
        let lines = lines.map(|line| line.split_once('\t').map_or("", |(_, text)| text));
        let found = declared(&lines.collect::<Vec<_>>().join("\n"));
        let is_whole = !content.contains("\n[");
        if let Some(known) = self.declarations_of(path_key(path)) {
            if is_whole {
                known.clear();
            }
            known.extend(found);
            known.dedup();
        }
    }

    /// What an edit has made of them.
    fn change_declarations(&mut self, call: &ToolCall) {
        let Ok(request) = ToolRequest::parse(call) else {
            return;
        };
        for edit in edits(&request) {
            let key = path_key(&workspace_path(&self.repository, &edit.path));
            let Some(known) = self.declarations_of(key) else {
                continue;
            };
            match &edit.old {
                None => known.clear(),
                Some(old) => {
                    let gone = declared(old);
                    known.retain(|declaration| !gone.contains(declaration));
                }
            }
            known.extend(declared(&edit.new));
        }
    }

    fn declarations_of(&mut self, key: String) -> Option<&mut Vec<Declaration>> {
        let has_room = self.declarations.len() < DECLARING_MAX;
        (has_room || self.declarations.contains_key(&key))
            .then(|| self.declarations.entry(key).or_default())
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
        self.tries.reason();
        if *about_git {
            self.thought_about_git = at;
        }
        // Tests of Rust may be in any of its files.
        let has_tests = |name: &&String| is_test_file(name) || name.ends_with(".rs");
        let tests = names.iter().filter(has_tests);
        self.tests_thought_of.extend(tests.cloned());
    }

    fn end_work(&mut self, at: u64, result: &WorkResult) {
        match result {
            WorkResult::BaseRun(base) => {
                self.learn_tests(&base.tests.argv);
                let report = base.tests.report.iter();
                let names = report.flat_map(|report| report.names.keys());
                for name in names.take(TESTS_MAX) {
                    self.names.learn_test(name);
                }
                self.libraries = Arc::new(base.libraries.clone());
            }
            WorkResult::Validated(validation) => {
                for file in &validation.changed_files {
                    self.names.learn_file(file);
                }
                if validation.checks.iter().any(|check| !check.passed()) {
                    self.failed = at;
                }
            }
            WorkResult::TodoChecked(check) if check.results.iter().any(tests_fail) => {
                self.failed = at;
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

    fn learn_search(&mut self, call: &ToolCall) {
        let Arguments::Object(arguments) = &call.arguments else {
            return;
        };
        let text = |key: &str| arguments.get(key).and_then(|value| value.as_str());
        let searched = [text("pattern"), text("command")];
        for search in searched.into_iter().flatten() {
            if self.searches.len() == SEARCHES_MAX {
                self.searches.remove(0);
            }
            self.searches.push(search.chars().take(400).collect());
        }
    }

    fn learn_tests(&mut self, argv: &[String]) {
        let text = shell_words::join(argv);
        let line = Line::read(&text, &self.repository, &self.repository);
        self.names.learn_line(&line);
        let command = shell::command_of(argv, &self.repository);
        self.tests = vec![argv.to_vec()];
        self.tests.extend(command);
        self.tests.retain(|argv| !argv.is_empty());
    }
}

/// Whether a path is called so: by all of it or by its last parts.
fn is_name_of(path: &str, name: &str) -> bool {
    let path = path.trim_start_matches("./");
    let rest = path.strip_suffix(name.trim_start_matches("./"));
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// Whether a criterion about tests does not hold.
fn tests_fail(result: &CriterionResult) -> bool {
    let CriterionResult {
        criterion, holds, ..
    } = result;
    !holds && matches!(criterion, Criterion::TestsPass { .. })
}
