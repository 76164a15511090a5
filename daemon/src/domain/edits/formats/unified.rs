//! Unified diffs.
//!
//! Line numbers are not believed, because models count badly: a hunk goes where
//! its lines are. Their counts tell a deleted `-- comment` from the next file's
//! name.

use std::sync::LazyLock;

use regex::Regex;

use super::{Collected, Hunk, malformed};
use crate::domain::edits::{Change, EditRefusal, FileChange};

static HEADER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@").expect("it is tested"));

/// Reads a diff as `diff -u` and git make it.
///
/// # Errors
/// Which line is wrong, and how.
pub fn parse(text: &str) -> Result<Vec<FileChange>, EditRefusal> {
    let mut collected = Collected::default();
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    let mut at = 0;
    let mut renamed: Option<(String, String)> = None;
    while at < lines.len() {
        let line = lines[at];
        if let Some(from) = line.strip_prefix("rename from ") {
            let to = lines
                .get(at + 1)
                .and_then(|line| line.strip_prefix("rename to "));
            let Some(to) = to else {
                return Err(malformed("`rename from` is not followed by `rename to`"));
            };
            flush(
                &mut collected,
                renamed.replace((from.to_owned(), to.to_owned())),
            )?;
            at += 2;
        } else if line.starts_with("--- ") && next_is(&lines, at, "+++ ") {
            let (old, new) = (name(line), name(lines[at + 1]));
            let moved = renamed.take();
            at = file(&lines, at + 2, old, new, moved, &mut collected)?;
        } else if line.starts_with("@@") {
            return Err(malformed(format!(
                "the hunk at line {} has no file: a diff begins with `--- a/PATH` and `+++ b/PATH`",
                at + 1
            )));
        } else {
            at += 1;
        }
    }
    flush(&mut collected, renamed)?;
    collected.finish("file: a diff begins with `--- a/PATH` and `+++ b/PATH`")
}

/// A rename without any change.
fn flush(collected: &mut Collected, renamed: Option<(String, String)>) -> Result<(), EditRefusal> {
    let Some((from, to)) = renamed else {
        return Ok(());
    };
    let change = Change::Modify {
        blocks: Vec::new(),
        move_to: Some(to),
    };
    collected.add(&from, change)
}

fn next_is(lines: &[&str], at: usize, start: &str) -> bool {
    lines
        .get(at + 1)
        .is_some_and(|line| line.starts_with(start))
}

/// The path of a `---` or `+++` line; `None` for /dev/null.
fn name(line: &str) -> Option<&str> {
    let name = line[4..].split('\t').next().unwrap_or_default().trim();
    if name == "/dev/null" {
        return None;
    }
    Some(
        name.strip_prefix("a/")
            .or_else(|| name.strip_prefix("b/"))
            .unwrap_or(name),
    )
}

/// Reads the hunks of one file and gives the line after them.
fn file(
    lines: &[&str],
    mut at: usize,
    old: Option<&str>,
    new: Option<&str>,
    moved: Option<(String, String)>,
    collected: &mut Collected,
) -> Result<usize, EditRefusal> {
    let mut hunks = Vec::new();
    while let Some(line) = lines.get(at).filter(|line| line.starts_with("@@")) {
        let counts = HEADER.captures(line).map(|found| {
            let count = |group| {
                found
                    .get(group)
                    .map_or(Some(1), |count| count.as_str().parse().ok())
                    .unwrap_or(0_usize)
            };
            (count(1), count(2))
        });
        at = hunk(lines, at + 1, counts.unwrap_or((0, 0)), &mut hunks)?;
    }
    let (path, change) = match (old, new) {
        (None, None) => return Err(malformed("a file is /dev/null on both sides")),
        (None, Some(new)) => {
            let content = hunks.into_iter().map(|hunk| hunk.block().new).collect();
            (new, Change::Create { content })
        }
        (Some(old), None) => (old, Change::Delete),
        (Some(old), Some(new)) => {
            let blocks: Vec<_> = hunks.into_iter().map(Hunk::block).collect();
            let move_to = (old != new || moved.is_some()).then(|| new.to_owned());
            if blocks.is_empty() && move_to.is_none() {
                return Err(malformed(format!(
                    "{old} has no hunk: one begins with `@@`"
                )));
            }
            (old, Change::Modify { blocks, move_to })
        }
    };
    collected.add(path, change)?;
    Ok(at)
}

/// Reads one hunk and gives the line after it.
fn hunk(
    lines: &[&str],
    mut at: usize,
    (mut old, mut new): (usize, usize),
    hunks: &mut Vec<Hunk>,
) -> Result<usize, EditRefusal> {
    let begun = at;
    let mut hunk = Hunk::default();
    while let Some(line) = lines.get(at) {
        let counted = old > 0 || new > 0;
        let next_file = line.starts_with("--- ") && next_is(lines, at, "+++ ");
        let beyond =
            line.starts_with("@@") || line.starts_with("diff --git ") || (!counted && next_file);
        if beyond {
            break;
        }
        if line.starts_with('\\') {
            hunk.no_line_end();
        } else if hunk.take(line) {
            old = old.saturating_sub(usize::from(!line.starts_with('+')));
            new = new.saturating_sub(usize::from(!line.starts_with('-')));
        } else {
            return Err(malformed(format!(
                "line {} of the diff begins with neither ` `, `+` nor `-`: {}",
                at + 1,
                line.chars().take(80).collect::<String>()
            )));
        }
        at += 1;
    }
    if !hunk.changes {
        return Err(malformed(format!(
            "the hunk at line {begun} of the diff changes nothing"
        )));
    }
    hunks.push(hunk);
    Ok(at)
}
