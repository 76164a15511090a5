//! Edits: what a model wants changed in files, and where that lands.
//!
//! ```text
//!   a tool call ──formats──> FileChange ──plan (with the file's text)──> Planned
//! ```
//!
//! A [`Block`] is text to find and text to put there. It is looked for exactly
//! first, then with more and more [`Tolerance`]; the first tolerance at which
//! anything fits decides, and it decides only when one place fits. Every block of
//! an edit is matched against the file as it is, never against what another block
//! made of it. What cannot be placed beyond doubt is refused with what a model
//! needs to do better.
//!
//! Pure: who reads and writes the files is `service::sessions::effects`.

mod find;
mod formats;
mod lines;
mod nearest;
mod render;

#[cfg(test)]
mod perturbed;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::{
    find::Tolerance,
    formats::{EditFormat, EditFormats, parse_blocks, parse_envelope, parse_unified},
};
use self::{
    find::{Place, Search},
    lines::Lines,
};

/// Blocks in one edit, at most.
pub const BLOCKS_MAX: usize = 256;
/// Files in one edit, at most.
pub const FILES_MAX: usize = 64;
/// Places named when a text is found too often.
const PLACES_NAMED: usize = 20;

/// What is to become of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The file, as the model named it.
    pub path: String,
    /// What is to become of it.
    pub change: Change,
}

/// What is to become of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Places in it change, and perhaps its name.
    Modify {
        /// 1 to [`BLOCKS_MAX`], none with `move_to` alone.
        blocks: Vec<Block>,
        /// Its new path; nothing may be there.
        move_to: Option<String>,
    },
    /// A new file with this content; nothing may be there.
    Create {
        /// All of it.
        content: String,
    },
    /// It goes away.
    Delete,
}

/// Text to find in a file, and text to put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Text to find. Empty only in an insertion into an empty file or, with
    /// `at_end`, at the end of one.
    pub old: String,
    /// Text to put there.
    pub new: String,
    /// Whether every place that fits is changed; otherwise there must be one.
    pub all: bool,
    /// What `old` is made of.
    pub unit: Unit,
    /// Lines that come before the place, outermost first: it is in the scope of
    /// the last one.
    pub anchors: Vec<String>,
    /// Whether the place is at the end of the file.
    pub at_end: bool,
}

impl Block {
    /// Any text for other text.
    #[must_use]
    pub fn text(old: impl Into<String>, new: impl Into<String>) -> Self {
        Self {
            old: old.into(),
            new: new.into(),
            all: false,
            unit: Unit::Text,
            anchors: Vec::new(),
            at_end: false,
        }
    }

    /// Whole lines for other lines.
    #[must_use]
    pub fn lines(old: impl Into<String>, new: impl Into<String>) -> Self {
        Self {
            unit: Unit::Lines,
            ..Self::text(old, new)
        }
    }
}

/// What the text of a block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Whole lines: it begins and ends where lines do.
    Lines,
    /// Any text: it may begin and end inside a line where it fits exactly.
    Text,
}

/// A file's content after an edit, and where that came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The whole new text.
    pub text: String,
    /// Places changed.
    pub places: usize,
    /// Line of the first change, from 1, in the old text.
    pub first_line: usize,
    /// The least exact fit of any block.
    pub tolerance: Tolerance,
}

/// Why an edit is not made; the text is for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EditRefusal {
    /// What stands in the way.
    pub kind: RefusalKind,
    /// What, where, and what to do.
    pub message: String,
}

/// What stands in the way of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// No place fits.
    NotFound,
    /// Several places fit.
    ManyPlaces,
    /// Two blocks change the same lines.
    Overlap,
    /// The new text leaves something out in words.
    Elided,
    /// Nothing would change.
    Unchanged,
    /// New lines that may be meant with the indentation of the place or without.
    Indentation,
    /// A text that is no edit in its format.
    Malformed,
}

impl EditRefusal {
    fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// What blocks make of a text: all of them or none.
///
/// `path` is for messages.
///
/// # Errors
/// What stands in the way, with the nearest candidate, its lines numbered, and
/// which blocks fit.
pub fn plan(path: &str, text: &str, blocks: &[Block]) -> Result<Planned, EditRefusal> {
    let lines = Lines::of(text);
    let mut changes: Vec<Splice> = Vec::with_capacity(blocks.len());
    let mut tolerance = Tolerance::Exact;
    for (index, block) in blocks.iter().enumerate() {
        let found = splices(path, &lines, block);
        let (found, fit) = found.map_err(|refusal| EditRefusal {
            message: format!(
                "{}{}",
                numbered(index, blocks.len(), &refusal.message),
                applied(index, blocks.len())
            ),
            ..refusal
        })?;
        tolerance = tolerance.max(fit);
        changes.extend(found.into_iter().map(|splice| Splice {
            block: index,
            ..splice
        }));
    }
    changes.sort_by_key(|splice| (splice.start, splice.end));
    for pair in changes.windows(2) {
        let (first, second) = (&pair[0], &pair[1]);
        let both_insert = first.start == second.start && second.end == second.start;
        if second.start < first.end || both_insert {
            let message = format!(
                "blocks {} and {} both change line {} of {path}; nothing was applied. Make one block of them",
                first.block.min(second.block) + 1,
                first.block.max(second.block) + 1,
                lines.number_at(second.start),
            );
            return Err(EditRefusal::new(RefusalKind::Overlap, message));
        }
    }
    let mut new = String::with_capacity(text.len() + 64);
    let mut done = 0;
    for splice in &changes {
        new.push_str(&text[done..splice.start]);
        new.push_str(&splice.new);
        done = splice.end;
    }
    new.push_str(&text[done..]);
    if new == text {
        let message = format!(
            "the edit would leave {path} as it is: what it puts there is there already. Read the file, it may be done"
        );
        return Err(EditRefusal::new(RefusalKind::Unchanged, message));
    }
    Ok(Planned {
        text: new,
        places: changes.len(),
        first_line: changes
            .first()
            .map_or(1, |splice| lines.number_at(splice.start)),
        tolerance,
    })
}

/// Checks a whole new content: it must not leave out in words what the old one
/// has.
///
/// # Errors
/// [`RefusalKind::Elided`].
pub fn check_whole(path: &str, before: Option<&str>, content: &str) -> Result<(), EditRefusal> {
    match lines::first_elision(before.unwrap_or_default(), content) {
        None => Ok(()),
        Some((number, line)) => Err(elided(path, number, line)),
    }
}

fn elided(path: &str, number: usize, line: &str) -> EditRefusal {
    let message = format!(
        "line {number} of the new text for {path} stands for code that is left out (`{}`), and it would be written as it is; nothing was applied. Write every line out, or change only the lines that change",
        line.trim()
    );
    EditRefusal::new(RefusalKind::Elided, message)
}

/// A stretch of the old text and what comes there.
struct Splice {
    block: usize,
    start: usize,
    end: usize,
    new: String,
}

fn splices(
    path: &str,
    lines: &Lines<'_>,
    block: &Block,
) -> Result<(Vec<Splice>, Tolerance), EditRefusal> {
    if let Some((number, line)) = lines::first_elision(&block.old, &block.new) {
        return Err(elided(path, number, line));
    }
    let search = Search::new(lines, block);
    let Place {
        fits,
        tolerance,
        unclear,
    } = match search {
        Ok(search) => search.run(),
        Err(anchor) => {
            let message = format!(
                "the line `{anchor}`, which its `@@` names, is not in {path}; nothing was applied. Copy such a line from the file, or give more context lines instead"
            );
            return Err(EditRefusal::new(RefusalKind::NotFound, message));
        }
    };
    match fits.as_slice() {
        [] => return Err(nearest::not_found(path, lines, block)),
        [_] => {}
        _ if block.all => {}
        several => {
            let numbers: Vec<String> = several
                .iter()
                .take(PLACES_NAMED)
                .map(|fit| lines.number_at(fit.start).to_string())
                .collect();
            let more = if several.len() > PLACES_NAMED {
                " and more"
            } else {
                ""
            };
            let message = format!(
                "its text fits {} places in {path}{}, at lines {}{more}; nothing was applied. Take more of the surrounding lines into it, so that one place is left",
                several.len(),
                tolerance.in_words(),
                numbers.join(", "),
            );
            return Err(EditRefusal::new(RefusalKind::ManyPlaces, message));
        }
    }
    if let Some(start) = unclear {
        let message = format!(
            "its text begins after the indentation of line {} of {path}, and new lines come after it that are indented less: they may be meant with that indentation or without; nothing was applied. Give the old and the new lines whole, with their indentation",
            lines.number_at(start),
        );
        return Err(EditRefusal::new(RefusalKind::Indentation, message));
    }
    let splices = fits
        .iter()
        .map(|fit| Splice {
            block: 0,
            start: fit.start,
            end: fit.end,
            new: render::render(lines, block, fit),
        })
        .collect();
    Ok((splices, tolerance))
}

fn numbered(index: usize, count: usize, message: &str) -> String {
    match count {
        1 => message.to_owned(),
        _ => format!("block {} of {count}: {message}", index + 1),
    }
}

/// What is true of the other blocks when one is refused.
fn applied(index: usize, count: usize) -> String {
    match (index, count) {
        (_, 1) => String::new(),
        (0, _) => ". All blocks are applied together or none is".into(),
        (1, _) => ". Block 1 fits, and was not applied either: all or none".into(),
        (fitting, _) => {
            format!(". Blocks 1 to {fitting} fit, and were not applied either: all or none")
        }
    }
}
