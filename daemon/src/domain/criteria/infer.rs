//! Criteria from a todo's text, for a todo that was written without any.
//!
//! Only what the text says plainly: a file that is to be made, a command that is
//! to succeed, tests that are to pass. Anything else is left to a person: a
//! criterion that holds before any work would verify a claim that has none.

use std::sync::LazyLock;

use regex::Regex;

use super::Criterion;
use crate::domain::report::Framework;

/// Criteria at most; a todo that names more is too large.
const CRITERIA_MAX: usize = 6;

/// What a todo's text says must hold; empty when it says nothing that can be
/// checked.
#[must_use]
pub fn infer(text: &str) -> Vec<Criterion> {
    static SUCCEEDS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:run|runs|exit|exits|pass|passes|succeed|succeeds|work|works|clean)\b")
    });
    static TESTS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\btests?\b.{0,60}?\b(?:pass|passes|passing|green|succeed)\b|\b(?:run|fix|mend)\b.{0,30}?\btests?\b",
        )
    });
    let mut criteria: Vec<Criterion> = Vec::new();
    for sentence in sentences(text) {
        if SUCCEEDS.is_match(sentence) {
            criteria.extend(commands(sentence));
        }
        let made = made(sentence).into_iter();
        criteria.extend(made.map(|path| Criterion::FileExists { path }));
        // A path in a command is no word about tests.
        let words: String = sentence.split('`').step_by(2).collect();
        if TESTS.is_match(&words) {
            criteria.push(Criterion::TestsPass { argv: None });
        }
    }
    let mut inferred: Vec<Criterion> = Vec::new();
    for criterion in criteria {
        if inferred.len() < CRITERIA_MAX
            && !inferred.contains(&criterion)
            && criterion.validate().is_ok()
        {
            inferred.push(criterion);
        }
    }
    inferred
}

/// A text in parts that each say one thing. A dot inside a path ends none.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', ';'])
        .flat_map(|line| line.split(". "))
        .map(|sentence| sentence.trim().trim_end_matches('.'))
        .filter(|sentence| !sentence.is_empty())
}

/// Commands in back quotes: those of a test runner have to run tests, others to
/// exit with 0.
fn commands(sentence: &str) -> impl Iterator<Item = Criterion> {
    let quoted = sentence.split('`').skip(1).step_by(2);
    quoted.filter_map(|command| {
        let argv = shell_words::split(command).ok()?;
        if let Some(_runner) = Framework::of(&argv) {
            return Some(Criterion::TestsPass { argv: Some(argv) });
        }
        // One word is a name more often than a command.
        let is_plain = !command.contains(['|', '&', ';', '<', '>', '(', '$']);
        (argv.len() > 1 && is_plain).then_some(Criterion::CommandExits { argv, code: 0 })
    })
}

/// Verbs whose object is made. `make` alone says as often what is done to a file.
const MAKES: [&str; 8] = [
    "create",
    "creates",
    "add",
    "adds",
    "write",
    "writes",
    "introduce",
    "introduces",
];
/// Before such a verb, it says what is not to be made.
const DENIES: [&str; 4] = ["not", "don't", "never", "without"];
/// Words between such a verb and its object: they say what sort of file it is.
const DESCRIBES: [&str; 35] = [
    "a",
    "an",
    "another",
    "called",
    "config",
    "configuration",
    "document",
    "empty",
    "file",
    "files",
    "first",
    "guide",
    "integration",
    "markdown",
    "missing",
    "module",
    "modules",
    "named",
    "new",
    "one",
    "package",
    "page",
    "python",
    "regression",
    "script",
    "second",
    "separate",
    "short",
    "simple",
    "small",
    "test",
    "tests",
    "the",
    "two",
    "unit",
];
/// What may stand between one object and the next.
const JOINS: [&str; 4] = [",", "and", "or", "plus"];
/// What may come after an object. Anything else makes the path part of a longer
/// name, "slug.py tests", or a subject, "slug.py refuses".
const ENDS: [&str; 19] = [
    ",",
    "and",
    "beside",
    "containing",
    "defining",
    "describing",
    "documenting",
    "explaining",
    "exporting",
    "for",
    "holding",
    "or",
    "plus",
    "so",
    "that",
    "using",
    "where",
    "which",
    "with",
];

/// The files that a sentence says are to be made: those that are the object of
/// its verb. In "add a check to slug.py" that is the check, and the file is there
/// before any work.
fn made(sentence: &str) -> Vec<String> {
    let words = words(sentence);
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let mut made = Vec::new();
    let (mut verb, mut is_after_path) = (None, false);
    for (at, word) in words.iter().enumerate() {
        let (before, after) = (&lower[..at], &lower[at + 1..]);
        let is = lower[at].as_str();
        match verb {
            Some(verb) if is_path(word) && ends_object(verb, after) => {
                made.push((*word).to_owned());
                is_after_path = true;
            }
            Some(_) if is_after_path && JOINS.contains(&is) => {}
            Some(_) if DESCRIBES.contains(&is) => is_after_path = false,
            _ => {
                verb = is_making(is, before, after).then_some(is);
                is_after_path = false;
            }
        }
    }
    made
}

/// Whether a word between these is a verb whose object is made.
fn is_making(word: &str, before: &[String], after: &[String]) -> bool {
    let is_denied = (before.last()).is_some_and(|last| DENIES.contains(&last.as_str()));
    let makes_one =
        || (after.first()).is_some_and(|next| matches!(next.as_str(), "a" | "an" | "new"));
    let is_making = MAKES.contains(&word) || matches!(word, "make" | "makes") && makes_one();
    is_making && !is_denied
}

/// Whether a path that these words follow is all of the verb's object.
fn ends_object(verb: &str, after: &[String]) -> bool {
    let after = match after {
        [kind, rest @ ..] if matches!(kind.as_str(), "file" | "module" | "script" | "page") => rest,
        after => after,
    };
    let Some(next) = after.first() else {
        return true;
    };
    // "Create usage.md to explain it", but "add slug.py to the index".
    let is_purpose = next == "to" && !verb.starts_with("add");
    is_purpose || ENDS.contains(&next.as_str())
}

/// The words of a sentence, and a comma for whatever else parts them. What is
/// quoted is one word: a command is no verb.
fn words(sentence: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (at, part) in sentence.split('`').enumerate() {
        if at % 2 == 1 {
            words.push(part.trim());
            continue;
        }
        for word in part.split_whitespace() {
            let bare = word.trim_start_matches(PARTS);
            if bare.len() < word.len() {
                words.push(",");
            }
            let bare = bare.trim_matches(['"', '\'']);
            let end = bare.trim_end_matches(PARTS);
            let inner = end.trim_matches(['"', '\'']);
            if !inner.is_empty() {
                words.push(inner);
            }
            if end.len() < bare.len() {
                words.push(",");
            }
        }
    }
    words
}

/// What parts words, beside white space.
const PARTS: [char; 9] = [',', ':', '(', ')', '[', ']', '!', '?', '\u{2014}'];

/// Whether a word is a file: with an ending, and more than a number or a module.
fn is_path(word: &str) -> bool {
    static PATH: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?:[\w.-]+/)*[\w-][\w.-]*\.(?:py|js|jsx|ts|tsx|mjs|cjs|rs|go|java|kt|rb|c|h|cc|cpp|hpp|cs|sh|md|rst|txt|toml|yaml|yml|json|ini|cfg|html|css|sql|xml|csv|lock)$",
        )
    });
    PATH.is_match(word)
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inferred(text: &str) -> Vec<String> {
        infer(text).iter().map(Criterion::describe).collect()
    }

    #[test]
    fn files_commands_and_tests_are_read_from_the_text() {
        let own_tests = Criterion::TestsPass { argv: None }.describe();
        for (text, expected) in [
            ("Create docs/usage.md", vec!["docs/usage.md exists"]),
            (
                "Add a module `textkit/case.py`. It converts case.",
                vec!["textkit/case.py exists"],
            ),
            (
                "`python -m pytest -q tests/test_a.py` passes",
                vec!["the tests of `python -m pytest -q tests/test_a.py` pass"],
            ),
            (
                "`ruff check .` exits with 0",
                vec!["`ruff check .` exits with 0"],
            ),
            ("fix slugify so that all tests pass", vec![&own_tests]),
            ("Fix the failing test", vec![&own_tests]),
            (
                "Write tests/test_case.py; `make lint` passes",
                vec!["tests/test_case.py exists", "`make lint` exits with 0"],
            ),
        ] {
            assert_eq!(inferred(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_is_inferred_where_it_is_what_is_made() {
        for (text, expected) in [
            ("Create docs/usage.md", vec!["docs/usage.md"]),
            ("Create docs/usage.md to explain it", vec!["docs/usage.md"]),
            (
                "Please create the `docs/usage.md` page.",
                vec!["docs/usage.md"],
            ),
            (
                "Add a new module named textkit/case.py",
                vec!["textkit/case.py"],
            ),
            (
                "Add tests/test_case.py for textkit/case.py",
                vec!["tests/test_case.py"],
            ),
            (
                "Add `a.py`, `b.py` and the file c.md (with examples)",
                vec!["a.py", "b.py", "c.md"],
            ),
            (
                "Write docs/usage.md and update README.md",
                vec!["docs/usage.md"],
            ),
            ("Make a script run.sh that starts app.py", vec!["run.sh"]),
            (
                "Write \"docs/usage.md\", not README.md",
                vec!["docs/usage.md"],
            ),
            (
                "Read slug.py, then add tests/test_slug.py",
                vec!["tests/test_slug.py"],
            ),
        ] {
            let expected: Vec<String> = expected
                .into_iter()
                .map(|path| format!("{path} exists"))
                .collect();
            assert_eq!(inferred(text), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_something_is_done_to_is_no_criterion() {
        for text in [
            "Add a length check to textkit/slug.py",
            "Add a length check in `textkit/slug.py`",
            "Add the new case into textkit/slug.py",
            "Add tests for textkit/slug.py",
            "Add documentation of textkit/slug.py",
            "Add a test that imports textkit/slug.py",
            "Add a helper and use it in slug.py",
            "Add slug.py to the index",
            "Add the slug.py tests",
            "Add `slug.py`'s missing docstring",
            "Add slug.py's missing docstring",
            "Add type hints: slug.py has none",
            "Add tests: slug.py, case.py",
            "Make sure src/app.py handles an empty name",
            "Make src/app.py faster",
            "Make the tests in tests/test_slug.py readable",
            "Make a change to slug.py",
            "Write the length check of slug.py anew",
            "Write code calling the module slug.py",
            "Write what slug.py returns to the log",
            "Do not create slug.py",
            "Use `git add slug.py`",
        ] {
            assert_eq!(inferred(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_says_nothing_that_can_be_checked_gives_none() {
        for text in [
            "make add() add",
            "Refactor slugify in textkit/slug.py",
            "Use `slugify` everywhere",
            "run `a | b`",
            "Upgrade to 3.11",
            "improve the wording of the docs",
        ] {
            assert_eq!(inferred(text), [""; 0], "{text}");
        }
    }
}
