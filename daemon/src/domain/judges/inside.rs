//! What judges others inside of a file that is no test: tests beside the code they
//! are about, and code that reaches for whoever runs the tests.
//!
//! Such a file cannot be put back for a run without what it brings, so a change of
//! this kind is shown to a person.

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use tree_sitter::{Node, ParseOptions, ParseState, Parser};

use crate::domain::policy::shell;

/// Modules within modules that are looked into.
const DEPTH_MAX: usize = 32;
/// Time for one text.
const DEADLINE: Duration = Duration::from_millis(500);

/// What a changed file holds beside its own work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// Tests of it are new, those that were there are as they were.
    TestsAdded,
    /// Tests of it are others now, or gone.
    TestsChanged,
    /// It names a part of a test runner that results are made with.
    Runner(&'static str),
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TestsAdded | Self::TestsChanged => f.write_str("the tests in it"),
            Self::Runner(word) => write!(f, "it reaches for the test runner: {word}"),
        }
    }
}

/// Parts of runners, and of what tells a run of tests from another, that code which
/// is tested has no use for.
const RUNNER_PARTS: [&str; 16] = [
    "_pytest",
    "pytest11",
    "pluggy",
    "PYTEST_",
    "pytest_runtest_",
    "pytest_pyfunc_call",
    "unittest.case",
    "unittest.result",
    "unittest.runner",
    "TestResult",
    "os._exit",
    "jest-circus",
    "globalThis.expect",
    "not(test",
    "cfg!(test",
    "macro_rules! assert",
];

/// Looks into a file that differs: its text on the base and now, absent where there
/// is no file.
#[must_use]
pub fn inside(path: &str, base: Option<&str>, now: Option<&str>) -> Vec<Inside> {
    let mut found = Vec::new();
    if path.ends_with(".rs") {
        let before = base.map_or_else(|| Some(BTreeMap::new()), tests_of);
        let after = now.map_or_else(|| Some(BTreeMap::new()), tests_of);
        found.extend(match (before, after) {
            (Some(before), Some(after)) => compare(&before, &after),
            // What cannot be read is not known to be the same.
            (None, _) | (_, None) => Some(Inside::TestsChanged),
        });
    }
    if let (false, Some(now)) = (is_no_code(path), now) {
        let base = base.unwrap_or_default();
        let new = |part: &&&str| now.matches(**part).count() > base.matches(**part).count();
        found.extend(
            RUNNER_PARTS
                .iter()
                .find(new)
                .map(|part| Inside::Runner(part)),
        );
    }
    found
}

/// Whether a file is prose, or says by its name that it lists packages or holds data.
#[must_use]
pub fn is_no_code(path: &str) -> bool {
    const ENDS: [&str; 8] = [
        ".md",
        ".rst",
        ".lock",
        ".lockb",
        ".csv",
        ".svg",
        "-lock.json",
        "-lock.yaml",
    ];
    let name = path.rsplit('/').next().unwrap_or(path);
    let lists_packages = path.ends_with(".txt")
        && (path.contains("requirements") || name.starts_with("constraints"));
    lists_packages || ENDS.iter().any(|end| path.ends_with(end))
}

/// Whether a file is a script: it can be run as it is, or its name says that a shell
/// reads it.
#[must_use]
pub fn is_script(path: &str, text: &str) -> bool {
    text.starts_with("#!") || shell::is_script(path, text)
}

fn compare(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> Option<Inside> {
    let kept = |(test, count): (&String, &usize)| after.get(test).is_some_and(|now| now >= count);
    match before.iter().all(kept) {
        true if before == after => None,
        true => Some(Inside::TestsAdded),
        false => Some(Inside::TestsChanged),
    }
}

/// The items of a Rust file that are there for tests, each with how often; `None`
/// where it takes too long or lies too deep, or the text is no text.
fn tests_of(text: &str) -> Option<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    if text.contains('\0') {
        return None;
    }
    if !text.contains("test") {
        return Some(found);
    }
    let mut parser = Parser::new();
    parser
        .set_language(&tree_sitter_rust::LANGUAGE.into())
        .ok()?;
    let begun = Instant::now();
    let mut in_time = |_: &ParseState| match begun.elapsed() < DEADLINE {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let options = ParseOptions::new().progress_callback(&mut in_time);
    let mut read = |at: usize, _| text.as_bytes().get(at..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut read, None, Some(options))?;
    collect(tree.root_node(), text, (Within::Code, "", 0), &mut found)?;
    Some(found)
}

/// What items belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Code,
    Tests,
}

/// Items belong to something with attributes of its own, which say whether they are
/// there at all. `None` where they lie too deep.
fn collect(
    items: Node<'_>,
    text: &str,
    (within, outer, depth): (Within, &str, usize),
    found: &mut BTreeMap<String, usize>,
) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    let words = |item: Node<'_>| {
        let words: Vec<&str> = text[item.byte_range()].split_whitespace().collect();
        words.join(" ")
    };
    let mut attributes = String::new();
    for item in items.named_children(&mut items.walk()) {
        match item.kind() {
            "attribute_item" => {
                attributes += &words(item);
                continue;
            }
            "line_comment" | "block_comment" => continue,
            // What a new test needs is no change of an old one.
            "use_declaration" => {}
            kind => {
                let tests = within == Within::Tests || attributes.contains("test");
                let within = if tests { Within::Tests } else { Within::Code };
                match (kind, item.child_by_field_name("body")) {
                    ("mod_item", Some(body)) => {
                        let outer = format!("{outer}{attributes}");
                        collect(body, text, (within, &outer, depth + 1), found)?;
                    }
                    ("impl_item", Some(body)) if !tests => {
                        collect(body, text, (within, outer, depth + 1), found)?;
                    }
                    _ if tests => {
                        let item = format!("{outer}{attributes}{}", words(item));
                        *found.entry(item).or_default() += 1;
                    }
                    _ => {}
                }
            }
        }
        attributes.clear();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "pub fn double(n: u32) -> u32 {\n    n + n\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn doubles() {\n        assert_eq!(double(2), 4);\n    }\n}\n";

    #[test]
    fn tests_beside_the_code_are_told_from_the_code() {
        let look = |now: &str| inside("src/lib.rs", Some(CODE), Some(now));
        let fixed = CODE.replace("n + n", "2 * n");
        assert_eq!(look(&fixed), []);
        assert_eq!(look(&CODE.replace("    ", "  ")), []);
        let more = CODE.replace(
            "    #[test]",
            "    use std::fmt;\n\n    #[test]\n    fn of_none() {\n        assert_eq!(double(0), 0);\n    }\n\n    #[test]",
        );
        assert_eq!(look(&more), [Inside::TestsAdded]);
        for changed in [
            CODE.replace("double(2), 4", "double(2), 5"),
            CODE.replace("#[test]", "#[test]\n    #[ignore]"),
            CODE.replace("#[cfg(test)]", "#[cfg(any())]"),
            CODE[..CODE.find("#[cfg").unwrap()].to_owned(),
            more.replace("double(2), 4", "2, 2"),
        ] {
            assert_eq!(look(&changed), [Inside::TestsChanged], "{changed}");
        }
        assert_eq!(
            inside("src/lib.rs", Some(CODE), None),
            [Inside::TestsChanged]
        );
        assert_eq!(inside("src/new.rs", None, Some(CODE)), [Inside::TestsAdded]);
        assert_eq!(inside("src/lib.py", Some(CODE), None), []);
    }

    #[test]
    fn modules_that_lie_too_deep_are_not_known_to_be_the_same() {
        let nested = |depth: usize| format!("{}{}", "mod test{".repeat(depth), "}".repeat(depth));
        let deep = nested(20_000);
        let found = inside("src/a.rs", Some(""), Some(&deep));
        assert_eq!(found, [Inside::TestsChanged]);
        let found = inside("src/a.rs", Some(""), Some(&nested(9)));
        assert_eq!(found, []);
    }

    #[test]
    fn code_that_reaches_for_the_runner_is_seen_once_it_is_new() {
        let patch = "import _pytest.reports as r\nr.TestReport.from_item_and_call = fake\n";
        let found = [Inside::Runner("_pytest")];
        assert_eq!(inside("app/__init__.py", Some(""), Some(patch)), found);
        assert_eq!(inside("app/__init__.py", Some(patch), Some(patch)), []);
        for other in [
            "README.md",
            "uv.lock",
            "web/package-lock.json",
            "requirements/dev.txt",
        ] {
            assert_eq!(inside(other, None, Some(patch)), [], "{other}");
        }
        assert_eq!(inside("app/a.py", None, Some("import textkit\n")), []);
        // Code that is another one when it is tested.
        let other = format!("#[cfg(not(test))]\n{CODE}");
        let found = inside("src/lib.rs", Some(CODE), Some(&other));
        assert!(found.contains(&Inside::Runner("not(test")), "{found:?}");
    }

    #[test]
    fn scripts_are_known_by_their_first_line_or_their_name() {
        assert!(is_script("verify", "#!/usr/bin/env python3\n"));
        assert!(is_script("scripts/verify.sh", "exit 0\n"));
        assert!(!is_script("scripts/verify.py", "exit(0)\n"));
    }
}
