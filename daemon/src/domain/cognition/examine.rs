//! Whether a call may go on, and what it shows.

use super::{
    CognitiveEvent, Ledger, Point, Temptation, Thought,
    edits::{Edit, changed_symbols, declared, edits},
    names::Names,
    shell::{Line, Write},
};
use crate::domain::{
    conversation::ToolCall,
    criteria::Criterion,
    judges::is_test_file,
    session::state::SessionState,
    stage::Stage,
    tools::{ToolRequest, path_key, workspace_path},
};

/// Failures of the same call, or approach, after which reasoning comes before the next.
const FAILURES_MAX: u32 = 3;

/// What was found in a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// For the log.
    pub events: Vec<CognitiveEvent>,
    /// What the model is told instead of what it asked for; `None` lets it
    /// through.
    pub refusal: Option<String>,
}

/// A call, and what is known of it.
struct Asked<'a> {
    state: &'a SessionState,
    call: &'a ToolCall,
    request: &'a ToolRequest,
    /// Changes by a tool for files.
    edits: Vec<Edit>,
    /// The shell line that it runs.
    line: Option<&'a Line>,
    /// Changes by that.
    writes: Vec<&'a Write>,
}

/// Examines a call that its stage allows.
#[must_use]
pub fn examine(state: &SessionState, call: &ToolCall, request: &ToolRequest) -> Examined {
    let line = Line::of(call, &state.repository_dir());
    let asked = Asked {
        state,
        call,
        request,
        edits: edits(request),
        line: line.as_ref(),
        writes: (line.iter())
            .flat_map(|line| state.cognition.edits_of(line))
            .collect(),
    };
    let mut found = Examined::default();
    for (point, reasoned) in asked.points() {
        found.come_to(point, action(call, request), reasoned);
    }
    for (temptation, evidence) in asked.temptations() {
        if temptation == Temptation::T1 {
            found.refusal.get_or_insert_with(|| {
                format!(
                    "{evidence}. This is T1, {}: run the tests, reason with `think` about what they \
                     printed, then call this again.",
                    Temptation::T1.about().name
                )
            });
        }
        found.events.push(CognitiveEvent::TemptationMet {
            temptation,
            evidence,
        });
    }
    found
}

impl Examined {
    fn come_to(&mut self, point: Point, action: String, reasoned: bool) {
        if !reasoned {
            self.refusal.get_or_insert_with(|| {
                format!(
                    "this needs reasoning first ({}): {} Call `think`, name the files, tests or \
                     commands of this session that it is about, then call this again.",
                    point.name(),
                    point.questions()
                )
            });
        }
        self.events.push(CognitiveEvent::DecisionPoint {
            point,
            action,
            reasoned,
        });
    }
}

impl Asked<'_> {
    fn ledger(&self) -> &Ledger {
        &self.state.cognition
    }

    /// Whether the session has seen a file as it is.
    fn has_seen(&self, path: &str) -> bool {
        let key = path_key(&workspace_path(&self.state.repository_dir(), path));
        self.state.files.contains_key(&key)
    }

    /// The points that it comes to, and whether there was reasoning for each.
    fn points(&self) -> Vec<(Point, bool)> {
        let ledger = self.ledger();
        let mut points = Vec::new();
        let edited = self.edits.iter().map(|edit| edit.path.as_str());
        let written = self.writes.iter().map(|write| write.path.as_str());
        let changed: Vec<&str> = edited.chain(written).collect();
        if !changed.is_empty() {
            if ledger.edited <= ledger.debugged {
                points.push((Point::FirstEdit, ledger.thought > ledger.debugged));
            }
            if ledger.failed > 0 && ledger.failed >= ledger.edited {
                points.push((Point::FailedTests, ledger.thought > ledger.failed));
            }
        }
        let inside = self.edits.iter().filter(|edit| edit.touches_tests_inside());
        let inside = inside
            .map(|edit| edit.path.as_str())
            .filter(|path| !is_test_file(path));
        let tests = changed.into_iter().filter(|path| is_test_file(path));
        for path in tests.chain(inside) {
            points.push((Point::TestEdit, ledger.has_thought_of_test(path)));
        }
        if self.line.is_some_and(|line| line.changes_git) {
            points.push((Point::GitOperation, ledger.thought_about_git > ledger.git));
        }
        let completes = match self.request {
            ToolRequest::TodoClaim(_) => true,
            ToolRequest::Advance(_) => self.state.stage == Stage::Modify,
            _ => false,
        };
        if completes {
            points.push((Point::Completion, ledger.has_reasoned_since_edit()));
        }
        if let (ToolRequest::Advance(_), Stage::Debug | Stage::Iterate) =
            (self.request, self.state.stage)
        {
            points.push((Point::FailedTests, ledger.thought > ledger.debugged));
        }
        let failed = ledger.tries.of_call(self.call);
        let (approach, _) = ledger.tries.of_approach(self.call, self.line);
        if failed.count >= FAILURES_MAX {
            points.push((Point::RepeatedFailure, ledger.thought > failed.last));
        } else if approach.count - approach.reasoned >= FAILURES_MAX {
            points.push((Point::RepeatedFailure, false));
        } else if approach.count >= FAILURES_MAX && approach.count == approach.reasoned {
            points.push((Point::RepeatedFailure, true));
        }
        points
    }

    /// The temptations that it gives in to, and what shows it.
    fn temptations(&self) -> Vec<(Temptation, String)> {
        let ledger = self.ledger();
        let mut met = Vec::new();
        if self.claims_unseen() {
            let since = match ledger.edited {
                0 => "no test was run in this session",
                _ => "no test was run since the last edit",
            };
            met.push((Temptation::T1, since.to_owned()));
        }
        let mut asked = Names::default();
        asked.learn_call(self.call, self.line);
        for edit in &self.edits {
            let path = edit.path.as_str();
            let seen = self.has_seen(path);
            let is_there = edit.old.is_some();
            met.extend(changes_of_a_file(path, is_there, seen));
            if !is_test_file(path) && edit.changes_tests_inside() {
                let evidence = format!("a test that exists in {path} is changed");
                met.push((Temptation::T3, evidence));
            }
            if let Some(package) = ledger.undeclared(path, &edit.new, &asked) {
                let evidence =
                    format!("{path} imports {package}, which the project does not declare");
                met.push((Temptation::T6, evidence));
            }
            let changed = match &edit.old {
                Some(old) => changed_symbols(&declared(old), &edit.new),
                None => changed_symbols(ledger.declared_in(path), &edit.new),
            };
            for symbol in changed {
                if !ledger.searched_for(&symbol) {
                    let evidence =
                        format!("{symbol} in {path} is changed and was not searched for");
                    met.push((Temptation::T7, evidence));
                }
            }
        }
        for write in &self.writes {
            // A command may have shown it.
            let seen = self.has_seen(&write.path) || ledger.searched_for(&write.path);
            met.extend(changes_of_a_file(&write.path, write.in_place, seen));
        }
        met.extend(self.again());
        met
    }

    /// Whether something is said to be done that no run since the last edit shows.
    fn claims_unseen(&self) -> bool {
        let ledger = self.ledger();
        if ledger.ran > 0 {
            return false;
        }
        match self.request {
            ToolRequest::TodoClaim(claim) => {
                let todo = self.state.todo(claim.id);
                let criteria = todo.iter().flat_map(|todo| &todo.criteria);
                !criteria
                    .filter_map(command_of)
                    .any(|argv| ledger.has_run(argv))
            }
            ToolRequest::Advance(_) => {
                self.state.stage == Stage::Modify && self.state.todos.is_empty()
            }
            _ => false,
        }
    }

    /// T4: what failed often enough is tried again.
    fn again(&self) -> Option<(Temptation, String)> {
        let name = &self.call.name;
        let failed = self.ledger().tries.of_call(self.call);
        let (approach, failure) = self.ledger().tries.of_approach(self.call, self.line);
        let evidence = if failed.count >= FAILURES_MAX {
            let count = failed.count;
            format!("{name} failed {count} times with the same arguments")
        } else if approach.count - approach.reasoned >= FAILURES_MAX {
            let count = approach.count;
            format!("{name} failed {count} times in the same way ({failure})")
        } else {
            return None;
        };
        Some((Temptation::T4, evidence))
    }
}

/// T2 and T3: a file is changed that was there or was seen.
fn changes_of_a_file(
    path: &str,
    is_there: bool,
    seen: bool,
) -> impl Iterator<Item = (Temptation, String)> {
    let unread =
        (is_there && !seen).then(|| (Temptation::T2, format!("{path} is edited and was not read")));
    let test = (is_test_file(path) && (is_there || seen))
        .then(|| (Temptation::T3, format!("{path} is a test that exists")));
    unread.into_iter().chain(test)
}

/// The command by which a criterion is checked, where it names one.
fn command_of(criterion: &Criterion) -> Option<&Vec<String>> {
    match criterion {
        Criterion::CommandExits { argv, .. } | Criterion::CommandOutputMatches { argv, .. } => {
            Some(argv)
        }
        Criterion::TestsPass { argv } => argv.as_ref(),
        Criterion::FileExists { .. }
        | Criterion::FileMatches { .. }
        | Criterion::SyntaxValid { .. } => None,
    }
}

/// What a model's reasoning comes to, for the log, and what it is told.
#[must_use]
pub fn think(state: &SessionState, content: &str) -> (Vec<CognitiveEvent>, String) {
    let ledger = &state.cognition;
    // What it is about may come next in the same reply.
    let mut next = Names::default();
    for call in state.calls.iter().skip(1) {
        next.learn_call(call, Line::of(call, &state.repository_dir()).as_ref());
    }
    let mut names = ledger.names.named_in(content);
    names.extend(next.named_in(content));
    let concrete = !names.is_empty();
    if concrete {
        // A test that is not there yet has a name all the same, and so has a file of
        // Rust, which may hold some.
        let words = content.split(|c: char| c.is_whitespace() || "`'\"(),;".contains(c));
        let words = words.map(|word| word.trim_end_matches(['.', ':', '!', '?']));
        let may_test = |word: &&str| {
            word.contains('.') && is_test_file(word) || word.len() > 3 && word.ends_with(".rs")
        };
        names.extend(words.filter(may_test).map(str::to_owned));
    }
    names.sort_unstable();
    names.dedup();
    let anything_new = ledger.thought == 0 || ledger.news > ledger.thought;
    let about_git = content
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word.eq_ignore_ascii_case("git"));
    let thought = Thought {
        summary: content
            .trim()
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect(),
        names,
        counts: concrete && anything_new,
        about_git,
    };
    let told = match (concrete, anything_new) {
        (true, true) => "Noted.",
        (false, _) => {
            "Noted. It names no file, test or command of this session, so it does not count where \
             reasoning is needed."
        }
        (true, false) => "Noted. Nothing has happened since you last reasoned.",
    };
    let recognised = Temptation::named_in(content)
        .map(|temptation| CognitiveEvent::TemptationRecognised { temptation });
    let first = match state.stage {
        Stage::Debug | Stage::Iterate => CognitiveEvent::Reflection(thought),
        Stage::Understand
        | Stage::Plan
        | Stage::Locate
        | Stage::Modify
        | Stage::Validate
        | Stage::Pr
        | Stage::Ci
        | Stage::Complete
        | Stage::Failed => CognitiveEvent::Think(thought),
    };
    (
        [first].into_iter().chain(recognised).collect(),
        told.to_owned(),
    )
}

/// A call in a few words.
fn action(call: &ToolCall, request: &ToolRequest) -> String {
    let what = match request {
        ToolRequest::WriteFile(write) => write.path.as_str(),
        ToolRequest::EditFile(edit) => edit.named(),
        ToolRequest::RunCommand(run) => run.command.as_str(),
        _ => return call.name.clone(),
    };
    let what: String = what
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(120)
        .collect();
    format!("{} {what}", call.name)
}
