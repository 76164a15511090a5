//! The `apply_patch` envelope:
//!
//! ```text
//! *** Begin Patch
//! *** Update File: src/a.py
//! @@ class A:
//!  context
//! -old
//! +new
//! *** End Patch
//! ```

use super::{Collected, Hunk, malformed};
use crate::domain::edits::{Change, EditRefusal, FileChange};

const BEGIN: &str = "*** Begin Patch";
const END: &str = "*** End Patch";
const UPDATE: &str = "*** Update File: ";
const ADD: &str = "*** Add File: ";
const DELETE: &str = "*** Delete File: ";
const MOVE: &str = "*** Move to: ";
const END_OF_FILE: &str = "*** End of File";

/// Reads a patch; what stands before its begin and after its end is passed
/// over, a shell's here-document for example.
///
/// # Errors
/// Which line is wrong, and how.
pub fn parse(text: &str) -> Result<Vec<FileChange>, EditRefusal> {
    let lines: Vec<&str> = text
        .split('\n')
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    let begin = lines.iter().position(|line| line.trim() == BEGIN);
    let end = lines.iter().rposition(|line| line.trim() == END);
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(malformed(format!(
            "a patch begins with the line `{BEGIN}` and ends with the line `{END}`"
        )));
    };
    let mut collected = Collected::default();
    let mut at = begin + 1;
    while at < end {
        let line = lines[at];
        let body = &lines[..end];
        if let Some(path) = line.strip_prefix(ADD) {
            let (next, content) = added(body, at + 1)?;
            collected.add(path, Change::Create { content })?;
            at = next;
        } else if let Some(path) = line.strip_prefix(DELETE) {
            collected.add(path, Change::Delete)?;
            at += 1;
        } else if let Some(path) = line.strip_prefix(UPDATE) {
            let (next, change) = updated(body, at + 1, path)?;
            collected.add(path, change)?;
            at = next;
        } else if line.trim().is_empty() {
            at += 1;
        } else {
            return Err(malformed(format!(
                "line {} of the patch belongs to no file: {}. A file begins with `{UPDATE}PATH`, `{ADD}PATH` or `{DELETE}PATH`",
                at + 1,
                line.chars().take(80).collect::<String>()
            )));
        }
    }
    collected.finish(&format!("file: one begins with `{UPDATE}PATH`"))
}

/// Whether a line begins the next file; a context line begins with a space.
fn is_header(line: &str) -> bool {
    [UPDATE, ADD, DELETE]
        .iter()
        .any(|header| line.starts_with(header))
}

fn added(lines: &[&str], mut at: usize) -> Result<(usize, String), EditRefusal> {
    let mut content = String::new();
    while let Some(line) = lines.get(at).filter(|line| !is_header(line)) {
        match line.strip_prefix('+') {
            Some(rest) => content.extend([rest, "\n"]),
            None if line.trim().is_empty() => {}
            None => {
                return Err(malformed(format!(
                    "line {} of the patch is in a new file and does not begin with `+`: {}",
                    at + 1,
                    line.chars().take(80).collect::<String>()
                )));
            }
        }
        at += 1;
    }
    Ok((at, content))
}

fn updated(lines: &[&str], mut at: usize, path: &str) -> Result<(usize, Change), EditRefusal> {
    let mut move_to = None;
    if let Some(to) = lines.get(at).and_then(|line| line.strip_prefix(MOVE)) {
        move_to = Some(to.trim().to_owned());
        at += 1;
    }
    let mut blocks = Vec::new();
    let mut hunk = Hunk::default();
    let mut close = |hunk: &mut Hunk, at: usize| {
        let done = std::mem::take(hunk);
        if done.is_empty() {
            // Several `@@` in a row narrow the place down.
            hunk.anchors = done.anchors;
            return Ok(());
        }
        if !done.changes {
            return Err(malformed(format!(
                "the part of {path} that ends at line {at} of the patch changes nothing"
            )));
        }
        blocks.push(done.block());
        Ok(())
    };
    while let Some(line) = lines.get(at).filter(|line| !is_header(line)) {
        if let Some(anchor) = line.strip_prefix("@@") {
            close(&mut hunk, at)?;
            let anchor = anchor.trim();
            // Some write line numbers there, which say nothing sure.
            if !anchor.is_empty() && !anchor.starts_with('-') {
                hunk.anchors.push(anchor.to_owned());
            }
        } else if line.trim_end() == END_OF_FILE {
            hunk.at_end = true;
        } else if !hunk.take(line) {
            return Err(malformed(format!(
                "line {} of the patch begins with neither ` `, `+` nor `-`: {}",
                at + 1,
                line.chars().take(80).collect::<String>()
            )));
        }
        at += 1;
    }
    close(&mut hunk, at)?;
    if blocks.is_empty() && move_to.is_none() {
        return Err(malformed(format!("the patch changes nothing in {path}")));
    }
    Ok((at, Change::Modify { blocks, move_to }))
}
