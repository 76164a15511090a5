//! Criteria from a todo's text, for a todo that was written without any.
//!
//! Only what the text says plainly: a file that is to be made, a command that is
//! to succeed, tests that are to pass. Anything else is left to a person.

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
    static MAKES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"(?i)\b(?:create|creates|add|adds|write|writes|introduce|make)\b")
    });
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
        if MAKES.is_match(sentence) {
            criteria.extend(paths(sentence).map(|path| Criterion::FileExists { path }));
        }
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

/// Words that are files: with an ending, and more than a number or a module.
fn paths(sentence: &str) -> impl Iterator<Item = String> {
    static PATH: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"^(?:[\w.-]+/)*[\w-][\w.-]*\.(?:py|js|jsx|ts|tsx|mjs|cjs|rs|go|java|kt|rb|c|h|cc|cpp|hpp|cs|sh|md|rst|txt|toml|yaml|yml|json|ini|cfg|html|css|sql|xml|csv|lock)$",
        )
    });
    let words = sentence.split(|c: char| c.is_whitespace() || "`'\"(),:".contains(c));
    words.filter(|word| PATH.is_match(word)).map(str::to_owned)
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
