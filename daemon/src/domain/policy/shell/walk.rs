//! The walk over a line's tree, as a shell would go.
//!
//! What is certain is kept small on purpose: a variable has a value when it is
//! assigned once, and on the way that is taken for certain. What is assigned
//! under a condition, in a loop or in a subshell is not known after it, and a
//! directory that may have been entered is one of several.

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::{Node, Parser};

use super::{Input, Reading, SimpleCommand, Word, absolute};

/// Bytes of a line that is looked at; a longer one is not understood.
pub const LINE_MAX_BYTES: usize = 64 * 1024;
/// How deep commands may start commands.
const DEPTH_MAX: usize = 12;
/// How deep the trees of a line may be, all that start one another together: the
/// walk goes down by calling itself.
const NESTING_MAX: usize = 120;
/// Commands of one line.
const COMMANDS_MAX: usize = 400;
/// Words of a loop that are followed one by one.
const LOOP_MAX: usize = 32;
/// Directories that a command may run in.
const DIRECTORIES_MAX: usize = 8;

/// What is known while a line is walked.
pub(super) struct Walker<'a> {
    pub(super) reading: Reading,
    /// Directory that the line starts in.
    pub(super) start: &'a str,
    /// Directories it may be in now; none when that is not known.
    pub(super) directories: Vec<String>,
    pub(super) variables: BTreeMap<String, Word>,
    /// Names that are assigned more than once, or in ways that are not followed.
    unsure: BTreeSet<String>,
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) functions: BTreeMap<String, String>,
    /// A variable that changes which settings git reads, once there is one.
    pub(super) git_elsewhere: Option<String>,
    /// What the part of a pipeline that is walked reads.
    pub(super) input: Input,
    /// Files that the line itself has written, with their text where it is known.
    pub(super) written: BTreeMap<String, Option<String>>,
    /// Of these, the ones that it has only added to.
    pub(super) added: BTreeSet<String>,
    /// Files that the line has put all variables in.
    pub(super) of_environment: BTreeSet<String>,
    /// Files that the line has copied, linked or moved, by where they are now, with
    /// where they were.
    pub(super) copies: BTreeMap<String, Vec<Word>>,
    /// How often it has copied a file to a place, the same ones counted again.
    pub(super) copies_seen: usize,
    /// Whether the command that comes next is one that was walked under another name.
    pub(super) is_renamed: bool,
    depth: usize,
    /// Depth of the trees that are walked now.
    nesting: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new(directory: &'a str) -> Self {
        Self {
            reading: Reading::default(),
            start: directory,
            directories: vec![directory.to_owned()],
            variables: BTreeMap::new(),
            unsure: BTreeSet::new(),
            aliases: BTreeMap::new(),
            functions: BTreeMap::new(),
            git_elsewhere: None,
            input: Input::None,
            written: BTreeMap::new(),
            added: BTreeSet::new(),
            of_environment: BTreeSet::new(),
            copies: BTreeMap::new(),
            copies_seen: 0,
            is_renamed: false,
            depth: 0,
            nesting: 0,
        }
    }

    pub(super) fn into_reading(mut self) -> Reading {
        self.reading.written = self.written;
        self.reading.added = self.added;
        self.reading
    }

    pub(super) fn doubt(&mut self, why: impl Into<String>) {
        let why = why.into();
        if !self.reading.doubts.contains(&why) {
            self.reading.doubts.push(why);
        }
    }

    /// Walks a script.
    pub(super) fn script(&mut self, text: &str) {
        if self.depth >= DEPTH_MAX {
            self.doubt("commands start commands too deeply");
            return;
        }
        if text.len() > LINE_MAX_BYTES {
            self.doubt(format!("it is longer than {LINE_MAX_BYTES} bytes"));
            return;
        }
        self.bindings(text);
        let mut parser = Parser::new();
        if parser
            .set_language(&tree_sitter_bash::LANGUAGE.into())
            .is_err()
        {
            self.doubt("the shell's grammar cannot be loaded");
            return;
        }
        let Some(tree) = parser.parse(text, None) else {
            self.doubt("it cannot be parsed");
            return;
        };
        let root = tree.root_node();
        if root.has_error() {
            self.doubt("it is not a shell command as the grammar knows them");
        }
        let nesting = nesting(root);
        if self.nesting + nesting > NESTING_MAX {
            self.doubt("it is nested too deeply");
            return;
        }
        self.note_assignments(root, text);
        self.depth += 1;
        self.nesting += nesting;
        self.statements(root, text);
        self.nesting -= nesting;
        self.depth -= 1;
    }

    /// Where a shell remembers what its commands are: whatever is done with that,
    /// the words after it do not say which programs run.
    pub(super) fn bindings(&mut self, text: &str) {
        let plain = text.replace(['"', '\'', '\\'], "");
        for name in ["BASH_CMDS", "BASH_ALIASES"] {
            if plain.contains(name) {
                self.doubt(format!("`{name}` gives programs other names"));
            }
        }
    }

    /// Finds the names that no single value can be given.
    fn note_assignments(&mut self, root: Node<'_>, source: &str) {
        let mut seen = BTreeSet::new();
        let mut left = vec![root];
        while let Some(node) = left.pop() {
            let mut cursor = node.walk();
            left.extend(node.named_children(&mut cursor));
            let name = match node.kind() {
                "variable_assignment" => node.child_by_field_name("name"),
                "for_statement" => node.child_by_field_name("variable"),
                "expansion" if source[node.byte_range()].contains('=') => node.named_child(0),
                _ => None,
            };
            let declared = node
                .parent()
                .filter(|parent| parent.kind() == "declaration_command")
                .and_then(|_| declared_name(&source[node.byte_range()]));
            let name = name.map(|name| source[name.byte_range()].to_owned());
            let name = name.or(declared.filter(|_| node.kind() != "variable_assignment"));
            if let Some(name) = name
                && (!seen.insert(name.clone()) || self.variables.contains_key(&name))
            {
                self.variables.remove(&name);
                self.unsure.insert(name);
            }
        }
    }

    /// What a variable holds, where that is certain.
    pub(super) fn value(&self, name: &str) -> Option<Word> {
        if self.unsure.contains(name) {
            return None;
        }
        if let Some(value) = self.variables.get(name) {
            return Some(value.clone());
        }
        match name {
            "HOME" => Some(Word::exact("~")),
            "PWD" => match self.directories.as_slice() {
                [only] => Some(Word::exact(only)),
                _ => None,
            },
            "IFS" => Some(Word::exact(" \t\n")),
            "TMPDIR" => Some(Word::exact("/tmp")),
            _ => None,
        }
    }

    pub(super) fn assign(&mut self, name: &str, value: Word) {
        self.variables.insert(name.to_owned(), value);
    }

    /// Forgets a variable for good.
    pub(super) fn lose(&mut self, name: &str) {
        self.variables.remove(name);
        self.unsure.insert(name.to_owned());
    }

    /// Forgets every variable: it is not known which one is assigned.
    pub(super) fn lose_all(&mut self) {
        let names: Vec<String> = self.variables.keys().cloned().collect();
        for name in names {
            self.lose(&name);
        }
        for name in ["HOME", "PWD", "TMPDIR"] {
            self.lose(name);
        }
    }

    fn statements(&mut self, node: Node<'_>, source: &str) {
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        for child in children {
            let before = self.directories.clone();
            self.statement(child, source);
            self.may_be_in(before);
        }
    }

    /// It may not have gone where the last statement went.
    fn may_be_in(&mut self, before: Vec<String>) {
        if self.directories.is_empty() || before.is_empty() {
            self.directories.clear();
            return;
        }
        for directory in before {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
        if self.directories.len() > DIRECTORIES_MAX {
            self.directories.clear();
        }
    }

    /// Walks what may not happen, or happens elsewhere: what it assigns is not
    /// known after it.
    pub(super) fn perhaps(&mut self, walk: impl FnOnce(&mut Self)) {
        let (variables, directories) = (self.variables.clone(), self.directories.clone());
        walk(self);
        let changed: Vec<String> = self
            .variables
            .iter()
            .filter(|(name, value)| variables.get(*name) != Some(value))
            .map(|(name, _)| name.clone())
            .collect();
        for name in changed {
            self.lose(&name);
        }
        self.may_be_in(directories);
    }

    /// Walks commands that stand somewhere inside a node.
    pub(super) fn walk_inside(&mut self, node: Node<'_>, source: &str) {
        match node.kind() {
            "command_substitution" | "process_substitution" => {
                self.perhaps(|walker| walker.statements(node, source));
            }
            _ => {
                let mut cursor = node.walk();
                let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
                for child in children {
                    self.walk_inside(child, source);
                }
            }
        }
    }

    pub(super) fn statement(&mut self, node: Node<'_>, source: &str) {
        match node.kind() {
            "comment" | "heredoc_body" | "heredoc_start" | "heredoc_end" => {}
            "program" => self.statements(node, source),
            "compound_statement" | "do_group" => self.statements(node, source),
            "command" => self.simple(node, source, &[]),
            "redirected_statement" => self.redirected(node, source),
            "variable_assignment" => self.assignment(node, source),
            "variable_assignments" => self.each(node, source),
            "declaration_command" => self.declaration(node, source),
            "unset_command" => {}
            "list" => self.list(node, source),
            "pipeline" => self.pipeline(node, source, Input::None),
            "subshell" => {
                let before = self.directories.clone();
                self.perhaps(|walker| walker.statements(node, source));
                self.directories = before;
            }
            "negated_command"
            | "test_command"
            | "if_statement"
            | "elif_clause"
            | "else_clause"
            | "while_statement"
            | "c_style_for_statement"
            | "case_statement"
            | "case_item" => self.perhaps(|walker| walker.each(node, source)),
            "for_statement" => self.perhaps(|walker| walker.for_each(node, source)),
            "function_definition" => self.function(node, source),
            "ERROR" => {
                self.doubt("a part of it is not understood");
                self.perhaps(|walker| walker.each(node, source));
            }
            "command_substitution" | "process_substitution" => self.walk_inside(node, source),
            _ => self.each(node, source),
        }
    }

    fn each(&mut self, node: Node<'_>, source: &str) {
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        for child in children {
            self.statement(child, source);
        }
    }

    /// `a && b`, `a || b`: the right side may not run, and of an `||` the left
    /// one may have failed.
    fn list(&mut self, node: Node<'_>, source: &str) {
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.children(&mut cursor).collect();
        let before = self.variables.clone();
        let directories = self.directories.clone();
        for (index, child) in children.iter().enumerate() {
            if child.is_named() {
                self.statement(*child, source);
            } else if index > 0 && &source[child.byte_range()] == "||" {
                self.forget_since(&before);
                self.may_be_in(directories.clone());
            }
        }
        // A parent that goes on with `&&` may rely on what this list did.
        let goes_on = node.parent().is_some_and(|parent| parent.kind() == "list");
        if !goes_on && children.len() > 1 {
            let first = children.first().copied();
            let sure = first.is_some_and(|first| first.kind() == "variable_assignment");
            if !sure || children.len() > 3 {
                self.forget_since(&before);
            }
        }
    }

    fn forget_since(&mut self, before: &BTreeMap<String, Word>) {
        let changed: Vec<String> = self
            .variables
            .keys()
            .filter(|name| !before.contains_key(*name))
            .cloned()
            .collect();
        for name in changed {
            self.lose(&name);
        }
    }

    /// Each part of a pipeline reads what the one before it says.
    pub(super) fn pipeline(&mut self, node: Node<'_>, source: &str, first: Input) {
        let mut cursor = node.walk();
        let parts: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        let mut input = first;
        for part in parts {
            let begins_at = self.reading.commands.len();
            let outer = std::mem::replace(&mut self.input, input);
            self.perhaps(|walker| walker.statement(part, source));
            let taken = std::mem::replace(&mut self.input, outer);
            input = self.output_since(begins_at, &taken);
        }
    }

    /// What the commands from here on say to the next part of a pipeline.
    fn output_since(&self, begins_at: usize, input: &Input) -> Input {
        let said = match self.reading.commands.get(begins_at..) {
            Some([only]) => super::output::output(only, input),
            Some([.., last]) => match super::output::output(last, input).others() {
                found @ (Input::Fetched | Input::Decoded) => found.clone(),
                _ => Input::Unknown,
            },
            Some([]) | None => Input::Unknown,
        };
        match self.say_environment(begins_at) {
            true => said.with_environment(),
            false => said,
        }
    }

    pub(super) fn simple(&mut self, node: Node<'_>, source: &str, redirects: &[Node<'_>]) {
        let mut environment = Vec::new();
        let mut words = Vec::new();
        let mut inner = redirects.to_vec();
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        for child in children {
            match child.kind() {
                "variable_assignment" => {
                    let (name, value) = self.assigned(child, source);
                    environment.push((name, value));
                }
                "file_redirect" | "herestring_redirect" | "heredoc_redirect" => inner.push(child),
                "comment" => {}
                _ => words.extend(self.words(child, source)),
            }
        }
        let streams = self.streams(&inner, source);
        let input = streams.input.unwrap_or_else(|| self.input.clone());
        let environment: BTreeMap<String, Word> = environment.into_iter().collect();
        self.command(words, streams.writes, streams.reads, environment, input);
    }

    /// A simple command with its words expanded.
    pub(super) fn command(
        &mut self,
        words: Vec<Word>,
        writes: Vec<Word>,
        reads: Vec<Word>,
        environment: BTreeMap<String, Word>,
        input: Input,
    ) {
        let is_renamed = std::mem::take(&mut self.is_renamed);
        if words.is_empty() {
            let directories = self.directories.clone();
            let writes = writes.into_iter().map(|word| (word, directories.clone()));
            self.reading.writes.extend(writes);
            return;
        }
        if self.reading.commands.len() >= COMMANDS_MAX {
            self.doubt(format!("it runs more than {COMMANDS_MAX} commands"));
            return;
        }
        let mut command = SimpleCommand {
            argv: words,
            directories: self.directories.clone(),
            writes,
            reads,
            environment: environment.into_iter().collect(),
            input,
            runs: None,
        };
        for word in &command.argv {
            self.bindings(&word.text);
        }
        self.mark_environment(&mut command);
        command.runs = self.written_file(&command);
        self.note_written(&command);
        self.note_copies(&command);
        self.reading.commands.push(command.clone());
        if self.depth >= DEPTH_MAX {
            self.doubt("commands start commands too deeply");
            return;
        }
        self.depth += 1;
        self.follow(&command);
        self.call(&command);
        if !is_renamed {
            self.under_first_names(&command);
        }
        self.depth -= 1;
    }

    fn assigned(&mut self, node: Node<'_>, source: &str) -> (String, Word) {
        let name = node.child_by_field_name("name");
        let name = name.map_or("", |name| &source[name.byte_range()]);
        let value = match node.child_by_field_name("value") {
            Some(value) if value.kind() == "array" => {
                self.walk_inside(value, source);
                Word::unknown(format!("${name}"))
            }
            Some(value) => self.word(value, source),
            None => Word::exact(""),
        };
        let appends = source[node.byte_range()].contains("+=");
        let name_text = name.split('[').next().unwrap_or(name).to_owned();
        if appends || name.contains('[') {
            return (name_text.clone(), Word::unknown(format!("${name_text}")));
        }
        (name_text, value)
    }

    fn assignment(&mut self, node: Node<'_>, source: &str) {
        let (name, value) = self.assigned(node, source);
        // It may be exported already, or be later.
        self.environment(&name, &value);
        self.assign(&name, value);
    }

    /// `export`, `declare`, `local` and their like.
    fn declaration(&mut self, node: Node<'_>, source: &str) {
        let mut words = vec![Word::exact("export")];
        let mut environment = BTreeMap::new();
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        // `declare -n a=b` makes every assignment to `a` one to `b`.
        let is_reference = children.iter().any(|child| {
            let text = &source[child.byte_range()];
            text.starts_with('-')
                && text.contains('n')
                && !source[node.start_byte()..].starts_with("export")
        });
        for child in children {
            if child.kind() == "variable_assignment" {
                let (name, value) = self.assigned(child, source);
                if is_reference {
                    self.lose(&value.text);
                }
                environment.insert(name.clone(), value.clone());
                self.assign(&name, value);
            } else {
                words.extend(self.words(child, source));
            }
        }
        self.command(words, Vec::new(), Vec::new(), environment, Input::None);
    }

    fn function(&mut self, node: Node<'_>, source: &str) {
        let name = node.child_by_field_name("name");
        let body = node.child_by_field_name("body");
        if let (Some(name), Some(body)) = (name, body) {
            let name = source[name.byte_range()].to_owned();
            let text = source[body.byte_range()].to_owned();
            if name.starts_with("command_not_found_handle") {
                self.doubt(format!(
                    "`{name}` runs in place of programs that there are not"
                ));
            }
            let again = self.functions.insert(name, text.clone());
            if again.is_some_and(|before| before != text) {
                self.doubt("a function is defined twice");
            }
        }
    }

    pub(super) fn define_alias(&mut self, name: &str, text: &str) {
        self.aliases.insert(name.to_owned(), text.to_owned());
    }

    fn for_each(&mut self, node: Node<'_>, source: &str) {
        let variable = node.child_by_field_name("variable");
        let name = variable
            .map_or("", |name| &source[name.byte_range()])
            .to_owned();
        let mut cursor = node.walk();
        let values: Vec<Node<'_>> = node.children_by_field_name("value", &mut cursor).collect();
        let mut words = Vec::new();
        for value in values {
            words.extend(self.words(value, source));
        }
        let Some(body) = node.child_by_field_name("body") else {
            return;
        };
        if words.is_empty() || words.len() > LOOP_MAX || self.unsure.contains(&name) {
            words = vec![Word::unknown(format!("${name}"))];
        }
        for word in words {
            self.assign(&name, word);
            self.statement(body, source);
        }
    }

    /// Goes to a directory; `None` when it is not known which.
    pub(super) fn go_to(&mut self, directory: Option<&str>) {
        let Some(path) = directory else {
            self.directories.clear();
            return;
        };
        let mut found: Vec<String> = Vec::new();
        for from in &self.directories {
            let to = absolute(path, from);
            if !found.contains(&to) {
                found.push(to);
            }
        }
        if found.is_empty() && path.starts_with(['/', '~']) {
            found.push(absolute(path, "/"));
        }
        self.directories = found;
    }
}

/// The name that a word of `export` or `declare` assigns, whatever its quotes.
fn declared_name(text: &str) -> Option<String> {
    let (name, _) = text.split_once('=')?;
    let name = name.replace(['"', '\'', '\\', '$', '+'], "");
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

/// How deep a tree is, found without going down by calls.
fn nesting(root: Node<'_>) -> usize {
    let mut cursor = root.walk();
    let (mut depth, mut most) = (1, 1);
    loop {
        if cursor.goto_first_child() {
            depth += 1;
            most = most.max(depth);
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return most;
            }
            depth -= 1;
        }
    }
}
