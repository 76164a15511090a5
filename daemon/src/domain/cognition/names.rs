//! What of a session a thought can name: its files, tests and commands.

use std::collections::BTreeSet;

use super::{edits::edited_paths, shell::Line};
use crate::domain::{
    conversation::{Arguments, ToolCall},
    tools::Tool,
};

/// Names that are kept; a session with more has enough to name.
const NAMES_MAX: usize = 1_000;
/// Shorter names occur in any text.
const NAME_MIN_BYTES: usize = 3;
/// Longer ones occur in none.
const NAME_MAX_BYTES: usize = 200;
/// Names that are given of one text.
const SHOWN: usize = 8;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// Those that a text names, a few of them. A name is a word of the text or
    /// several: `make` is not named by "makes".
    pub(super) fn named_in(&self, text: &str) -> Vec<String> {
        let found = self.0.iter().filter(|name| names(text, name));
        found.take(SHOWN).cloned().collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Whether a Python file of the repository is this module, or is in this
    /// package.
    pub(super) fn has_module(&self, module: &str) -> bool {
        let files = self.0.iter().filter_map(|name| name.strip_suffix(".py"));
        let mut own = files.filter(|file| !file.starts_with('/'));
        own.any(|file| file.split('/').any(|part| part == module))
    }

    /// What a call is about.
    pub(super) fn learn_call(&mut self, call: &ToolCall, line: Option<&Line>) {
        if let Some(line) = line {
            self.learn_line(line);
        } else {
            for path in edited_paths(call) {
                self.learn_path(&path);
            }
        }
        let Arguments::Object(arguments) = &call.arguments else {
            return;
        };
        if let Some(path) = arguments.get("path").and_then(|path| path.as_str()) {
            self.learn_path(path);
        }
    }

    /// A command is named as a whole, and by those of its words that no other
    /// text has by chance.
    pub(super) fn learn_line(&mut self, line: &Line) {
        let whole = line.text.trim();
        if whole.contains(char::is_whitespace) {
            self.learn(whole);
        }
        for command in &line.commands {
            if command.len() > 1 {
                self.learn(&command.join(" "));
            }
            for word in command.iter().filter(|word| !word.starts_with('-')) {
                self.learn_word(word);
            }
        }
    }

    /// A file that is there, by its path and by its last part.
    pub(super) fn learn_file(&mut self, path: &str) {
        let path = relative(path);
        self.learn(path);
        self.learn(path.rsplit('/').next().unwrap_or_default());
    }

    /// The same of what may be a directory, or a file that is not there.
    pub(super) fn learn_path(&mut self, path: &str) {
        let path = relative(path);
        for name in [path, path.rsplit('/').next().unwrap_or_default()] {
            if is_telling(name) {
                self.learn(name);
            }
        }
    }

    /// Files in what a tool found.
    pub(super) fn learn_found(&mut self, tool: &str, content: &str) {
        let finds = [Tool::Glob, Tool::ListDirectory, Tool::Grep];
        if !finds.iter().any(|known| known.name() == tool) {
            return;
        }
        for line in content.lines() {
            if !line.starts_with('[') {
                self.learn_path(line.split([':', ' ']).next().unwrap_or_default());
            }
        }
    }

    /// A test as a report has it: `tests/test_a.py::test_b`, `a.B.test_c`.
    pub(super) fn learn_test(&mut self, name: &str) {
        self.learn_word(name);
        // `tests.test_a::test_b` is in `tests/test_a.py`.
        let module = name.split("::").next().unwrap_or_default();
        if !module.contains(['/', ' ']) {
            self.learn_path(&format!("{}.py", module.replace('.', "/")));
        }
        let last = name.rsplit([':', '.', '/', ' ']).next().unwrap_or_default();
        let is_name = |name: &str| {
            is_telling(name) || name.chars().skip(1).any(char::is_uppercase) || name.contains(' ')
        };
        for name in [name, last] {
            if is_name(name) {
                self.learn(name);
            }
        }
    }

    fn learn_word(&mut self, word: &str) {
        let is_part = |c: char| c.is_alphanumeric() || "-_./:@+".contains(c);
        if word.chars().all(is_part) {
            self.learn_path(word);
            for part in word.split("::") {
                self.learn_path(part);
            }
        }
    }

    fn learn(&mut self, name: &str) {
        let fits = (NAME_MIN_BYTES..=NAME_MAX_BYTES).contains(&name.len());
        if fits && self.0.len() < NAMES_MAX {
            self.0.insert(name.to_owned());
        }
    }
}

/// Whether a text has a name between other words.
fn names(text: &str, name: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(joins) && !after.is_some_and(joins)
    })
}

/// Whether a word is a name by its look, and none that any text has.
fn is_telling(word: &str) -> bool {
    let word = word.trim_matches(['.', '/', ':', '_']);
    word.contains(char::is_alphabetic) && (word.contains(['.', '/', '_']) || word.contains("::"))
}

/// A path below the repository, where it is absolute and below one.
fn relative(path: &str) -> &str {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    let below = path.strip_prefix("/workspace/");
    below
        .and_then(|path| Some(path.split_once('/')?.1))
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(commands: &[&str]) -> Names {
        let mut names = Names::default();
        for command in commands {
            names.learn_line(&Line::read(command, "/workspace/repo", "/workspace/repo"));
        }
        names
    }

    fn counts(names: &Names, text: &str) -> bool {
        !names.named_in(text).is_empty()
    }

    #[test]
    fn words_that_any_text_has_name_no_command() {
        let names = after(&["make test", "true", "git status", "echo all done."]);
        for text in [
            "I should make sure",
            "this is true",
            "the tests and the status are done",
            "git",
        ] {
            assert!(!counts(&names, text), "{text}: {:?}", names.named_in(text));
        }
        assert!(counts(&names, "`make test` prints nothing"));
    }

    #[test]
    fn names_are_words_of_their_own() {
        let names = after(&["sh -c 'pytest -q tests/test_sum.py::test_add'"]);
        for text in ["tests/test_sum.py fails", "see test_sum.py.", "(test_add)"] {
            assert!(counts(&names, text), "{text}");
        }
        for text in ["my_test_sum.pyc", "test_addition", "pytest"] {
            assert!(!counts(&names, text), "{text}: {:?}", names.named_in(text));
        }
    }

    #[test]
    fn files_that_were_found_and_tests_that_ran_are_names() {
        let mut names = Names::default();
        names.learn_found("grep", "textkit/slug.py:3:def slugify\n[1 of 2 lines]");
        names.learn_found(
            "list_directory",
            "/workspace/kit/README.md  12 bytes\ntests/\n",
        );
        names.learn_test("tests.test_slug::test_cuts");
        names.learn_test("pkg TestAdd");
        names.learn_file("/workspace/kit/Makefile");
        for text in [
            "slug.py",
            "README.md",
            "test_cuts",
            "tests/test_slug.py",
            "TestAdd",
            "the Makefile",
        ] {
            assert!(counts(&names, text), "{text}");
        }
        assert!(!counts(&names, "the tests are lines of one kit"));
    }
}
