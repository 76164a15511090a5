//! Syntax errors that an edit brings into a file, seen without running anything.
//!
//! Python, JavaScript, TypeScript and Rust. Parsing is done beside the runtime's
//! threads and is bounded in size and time: what cannot be judged has no errors.

use std::{
    collections::HashMap,
    fmt,
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use tree_sitter::{Language, ParseOptions, ParseState, Parser, TreeCursor};

/// Larger texts are not parsed.
const MAX_BYTES: usize = 1 << 20;
/// Time for one text.
const DEADLINE: Duration = Duration::from_millis(500);
/// Errors collected from a text.
const COLLECTED: usize = 200;
/// Errors told.
const TOLD: usize = 5;
/// Characters of a line that are told.
const LINE_CHARS: usize = 120;

/// A place that does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// The line, without white space around it.
    pub text: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.what, self.text)
    }
}

/// Errors of the text after an edit that the text before did not have, at most
/// five. None for a file whose language is not known.
pub async fn new_errors(path: &str, before: Option<String>, after: String) -> Vec<SyntaxError> {
    let Some(language) = language(path) else {
        return Vec::new();
    };
    let parsed = tokio::task::spawn_blocking(move || {
        let after = errors(&language, &after)?;
        if after.is_empty() {
            return Some(after);
        }
        let before = match before {
            Some(before) => errors(&language, &before)?,
            None => Vec::new(),
        };
        Some(added(before, after))
    });
    match parsed.await {
        Ok(errors) => errors.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(path, %error, "a file could not be parsed");
            Vec::new()
        }
    }
}

fn language(path: &str) -> Option<Language> {
    let extension = Path::new(path).extension()?.to_str()?;
    let language = match extension {
        "py" | "pyi" => tree_sitter_python::LANGUAGE,
        "js" | "mjs" | "cjs" | "jsx" => tree_sitter_javascript::LANGUAGE,
        "ts" | "mts" | "cts" => tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
        "tsx" => tree_sitter_typescript::LANGUAGE_TSX,
        "rs" => tree_sitter_rust::LANGUAGE,
        _ => return None,
    };
    Some(language.into())
}

/// The errors of a text; `None` when it is too large or takes too long.
fn errors(language: &Language, text: &str) -> Option<Vec<SyntaxError>> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let mut parser = Parser::new();
    parser.set_language(language).ok()?;
    let begun = Instant::now();
    let mut in_time = |_: &ParseState| match begun.elapsed() < DEADLINE {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let options = ParseOptions::new().progress_callback(&mut in_time);
    let mut read = |at: usize, _| text.as_bytes().get(at..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut read, None, Some(options))?;
    let mut found = Vec::new();
    if tree.root_node().has_error() {
        collect(&mut tree.walk(), text, &mut found);
        if found.is_empty() {
            found.push(SyntaxError {
                line: 1,
                what: "the file does not parse".to_owned(),
                text: String::new(),
            });
        }
    }
    Some(found)
}

/// Walks to every place that does not parse; parts without one are passed over.
fn collect(cursor: &mut TreeCursor<'_>, text: &str, found: &mut Vec<SyntaxError>) {
    loop {
        let node = cursor.node();
        // A text that is broken throughout is one error, with others in it.
        let whole = node.is_error() && node.parent().is_none();
        if (node.is_error() && !whole) || node.is_missing() {
            let what = if node.is_missing() {
                format!("`{}` is missing", node.kind())
            } else {
                "does not parse".to_owned()
            };
            let row = node.start_position().row;
            let line = text.lines().nth(row).unwrap_or_default();
            found.push(SyntaxError {
                line: row + 1,
                what,
                text: line.trim().chars().take(LINE_CHARS).collect(),
            });
            if found.len() >= COLLECTED {
                return;
            }
        } else if (whole || node.has_error()) && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

/// Those of `after` that `before` does not have as often. Lines move, so they are
/// known by what they say.
fn added(before: Vec<SyntaxError>, after: Vec<SyntaxError>) -> Vec<SyntaxError> {
    let mut known: HashMap<(String, String), usize> = HashMap::new();
    for error in before {
        *known.entry((error.what, error.text)).or_default() += 1;
    }
    after
        .into_iter()
        .filter(|error| {
            let key = (error.what.clone(), error.text.clone());
            match known.get_mut(&key) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                Some(_) | None => true,
            }
        })
        .take(TOLD)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(path: &str, before: Option<&str>, after: &str) -> Vec<usize> {
        let errors = new_errors(path, before.map(str::to_owned), after.to_owned()).await;
        errors.iter().map(|error| error.line).collect()
    }

    #[tokio::test]
    async fn each_language_is_parsed_and_an_error_has_its_line() {
        for (path, good, bad, line) in [
            (
                "a.py",
                "def f():\n    return 1\n",
                "x = 1\ndef f(:\n    return 1\n",
                2,
            ),
            (
                "a.js",
                "const f = () => 1;\n",
                "const a = 1;\nconst f = (() => 1;\n",
                2,
            ),
            (
                "a.ts",
                "let a: number = 1;\n",
                "let a: number = 1;\nlet b: = ;\n",
                2,
            ),
            (
                "a.tsx",
                "let a = <b>x</b>;\n",
                "let c = 1;\nlet a = <b>x</b;\n",
                2,
            ),
            (
                "a.rs",
                "fn f() -> u8 { 1 }\n",
                "fn g() {}\nfn f( -> u8 { 1 }\n",
                2,
            ),
        ] {
            assert_eq!(lines(path, None, good).await, Vec::<usize>::new(), "{path}");
            let found = lines(path, Some(good), bad).await;
            let near = |at: &usize| (1..=line + 1).contains(at);
            assert!(
                !found.is_empty() && found.iter().all(near),
                "{path}: {found:?}"
            );
        }
        assert_eq!(lines("a.txt", None, "def f(:").await, Vec::<usize>::new());
    }

    #[tokio::test]
    async fn what_was_wrong_before_is_not_told_again() {
        let before = "def f(:\n    pass\n\ndef g():\n    return 1\n";
        assert_eq!(
            lines("a.py", Some(before), &format!("import os\n{before}")).await,
            Vec::<usize>::new()
        );
        let after = before.replace("return 1", "return (1");
        let errors = new_errors("a.py", Some(before.into()), after).await;
        assert!(!errors.is_empty());
        assert!(
            errors.iter().all(|error| error.line > 1),
            "the old one is passed over: {errors:?}"
        );
    }

    #[tokio::test]
    async fn hostile_and_gigantic_files_end_in_time() {
        let begun = Instant::now();
        let large = "x = (".repeat(MAX_BYTES / 5 + 1);
        assert_eq!(lines("a.py", None, &large).await, Vec::<usize>::new());
        for (path, unit) in [
            ("a.py", "x = ([{"),
            ("a.js", "`${(["),
            ("a.ts", "a<b<(["),
            ("a.rs", "r#\"(<{"),
            ("a.py", "if x:\n\t"),
        ] {
            let hostile = unit.repeat(150_000 / unit.len());
            let _ = new_errors(path, None, hostile).await;
        }
        assert!(begun.elapsed() < 12 * DEADLINE, "{:?}", begun.elapsed());
    }
}
