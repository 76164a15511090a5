//! Whether a call may go on, and what it shows.

use std::sync::LazyLock;

use regex::Regex;

use super::{
    CognitiveEvent, Ledger, Point, Temptation, Thought,
    ledger::{command_of, is_git_operation},
};
use crate::domain::{
    conversation::ToolCall,
    edits::{Change, FileChange},
    judges::is_test_file,
    session::state::SessionState,
    stage::Stage,
    tools::{ToolRequest, path_key, workspace_path},
};

/// Failures of the same call after which reasoning comes before the next.
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

/// A change of a file that a call asks for.
struct Edit<'a> {
    path: &'a str,
    /// What goes; `None` for a whole file.
    old: Option<&'a str>,
    new: &'a str,
}

/// Examines a call that its stage allows.
#[must_use]
pub fn examine(state: &SessionState, call: &ToolCall, request: &ToolRequest) -> Examined {
    let ledger = &state.cognition;
    let mut found = Examined::default();
    // What cannot be read as an edit is refused before it comes here.
    let changes = match request {
        ToolRequest::EditFile(edit) => edit.changes().unwrap_or_default(),
        _ => Vec::new(),
    };
    let edits = edits(request, &changes);
    for (point, reasoned) in points(state, ledger, call, request, &edits) {
        found.come_to(point, action(call, request), reasoned);
    }
    for (temptation, evidence) in temptations(state, ledger, call, request, &edits) {
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

/// The points that a call comes to, and whether there was reasoning for each.
fn points(
    state: &SessionState,
    ledger: &Ledger,
    call: &ToolCall,
    request: &ToolRequest,
    edits: &[Edit<'_>],
) -> Vec<(Point, bool)> {
    let mut points = Vec::new();
    if !edits.is_empty() {
        if ledger.edited <= ledger.debugged {
            points.push((Point::FirstEdit, ledger.thought > ledger.debugged));
        }
        if ledger.failed > ledger.edited {
            points.push((Point::FailedTests, ledger.thought > ledger.failed));
        }
    }
    for edit in edits.iter().filter(|edit| is_test_file(edit.path)) {
        let path = edit.path.trim_start_matches("./");
        let mut thought_of = ledger.tests_thought_of.iter();
        let named = thought_of.any(|name| path.ends_with(name.as_str()));
        points.push((Point::TestEdit, named));
    }
    if command_of(call).is_some_and(is_git_operation) {
        points.push((Point::GitOperation, ledger.thought_about_git > ledger.git));
    }
    let completes = match request {
        ToolRequest::TodoClaim(_) => true,
        ToolRequest::Advance(_) => state.stage == Stage::Modify,
        _ => false,
    };
    if completes {
        let seen = ledger.edited.max(ledger.ran);
        points.push((Point::Completion, ledger.thought > seen));
    }
    if let (ToolRequest::Advance(_), Stage::Debug | Stage::Iterate) = (request, state.stage) {
        points.push((Point::FailedTests, ledger.thought > ledger.debugged));
    }
    if ledger.failures_of(call) >= FAILURES_MAX {
        points.push((Point::RepeatedFailure, ledger.thought > ledger.failed_call));
    }
    points
}

/// The temptations that a call gives in to, and what shows it.
fn temptations(
    state: &SessionState,
    ledger: &Ledger,
    call: &ToolCall,
    request: &ToolRequest,
    edits: &[Edit<'_>],
) -> Vec<(Temptation, String)> {
    let mut met = Vec::new();
    let claims = match request {
        ToolRequest::TodoClaim(_) => true,
        ToolRequest::Advance(_) => state.stage == Stage::Modify && state.todos.is_empty(),
        _ => false,
    };
    if claims && ledger.ran == 0 {
        let since = match ledger.edited {
            0 => "nothing was run in this session",
            _ => "nothing was run since the last edit",
        };
        met.push((Temptation::T1, since.to_owned()));
    }
    for edit in edits {
        let path = edit.path;
        let key = path_key(&workspace_path(&state.repository_dir(), path));
        let seen = state.files.contains_key(&key);
        if edit.old.is_some() && !seen {
            met.push((Temptation::T2, format!("{path} is edited and was not read")));
        }
        if is_test_file(path) && seen {
            met.push((Temptation::T3, format!("{path} is a test that exists")));
        }
        if let Some(package) = ledger.libraries.undeclared(path, edit.new) {
            let evidence = format!("{path} imports {package}, which the project does not declare");
            met.push((Temptation::T6, evidence));
        }
        for symbol in changed_symbols(edit) {
            if !ledger.searched_for(&symbol) {
                let evidence = format!("{symbol} in {path} is changed and was not searched for");
                met.push((Temptation::T7, evidence));
            }
        }
    }
    let failures = ledger.failures_of(call);
    if failures >= FAILURES_MAX {
        let evidence = format!(
            "{} failed {failures} times with the same arguments",
            call.name
        );
        met.push((Temptation::T4, evidence));
    }
    met
}

/// What a model's reasoning comes to, for the log, and what it is told.
#[must_use]
pub fn think(state: &SessionState, content: &str) -> (Vec<CognitiveEvent>, String) {
    let ledger = &state.cognition;
    let mut names = ledger.named_in(content);
    // A test that is not there yet has a name all the same.
    let words = content.split(|c: char| c.is_whitespace() || "`'\"(),;".contains(c));
    names.extend(
        words
            .filter(|word| word.contains('.') && is_test_file(word))
            .map(str::to_owned),
    );
    names.dedup();
    let anything_new = ledger.thought == 0 || ledger.news > ledger.thought;
    let about_git = content
        .split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "git");
    let concrete = !names.is_empty() || about_git;
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

fn edits<'a>(request: &'a ToolRequest, changes: &'a [FileChange]) -> Vec<Edit<'a>> {
    match request {
        ToolRequest::WriteFile(write) => vec![Edit {
            path: &write.path,
            old: None,
            new: &write.content,
        }],
        ToolRequest::EditFile(_) => changes.iter().flat_map(edits_of).collect(),
        _ => Vec::new(),
    }
}

/// The places that a change of one file is about.
fn edits_of(file: &FileChange) -> Vec<Edit<'_>> {
    let path = file.path.as_str();
    match &file.change {
        Change::Modify { blocks, .. } if blocks.is_empty() => vec![Edit {
            path,
            old: Some(""),
            new: "",
        }],
        Change::Modify { blocks, .. } => (blocks.iter())
            .map(|block| Edit {
                path,
                old: Some(&block.old),
                new: &block.new,
            })
            .collect(),
        Change::Create { content } => vec![Edit {
            path,
            old: None,
            new: content,
        }],
        Change::Delete => vec![Edit {
            path,
            old: Some(""),
            new: "",
        }],
    }
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

/// Functions and types whose declaration an edit changes or takes away.
fn changed_symbols(edit: &Edit<'_>) -> Vec<String> {
    static DECLARATION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?m)^.*\b(?:def|class|fn|struct|enum|trait|function|interface)\s+([A-Za-z_]\w{2,}).*$",
        )
        .expect("the pattern is valid")
    });
    let Some(old) = edit.old else {
        return Vec::new();
    };
    let mut symbols: Vec<String> = DECLARATION
        .captures_iter(old)
        .filter(|found| !edit.new.contains(found[0].trim()))
        .map(|found| found[1].to_owned())
        .collect();
    symbols.dedup();
    symbols
}
