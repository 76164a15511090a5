//! The formats in which models write edits, each read into
//! [`FileChange`]s.

mod blocks;
mod envelope;
mod unified;

use serde::{Deserialize, Serialize};

pub use self::{
    blocks::parse as parse_blocks, envelope::parse as parse_envelope,
    unified::parse as parse_unified,
};
use super::{BLOCKS_MAX, Block, Change, EditRefusal, FILES_MAX, FileChange, RefusalKind};

/// How a model is asked to write edits. One for a whole session: the tools are
/// the same bytes in every call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditFormat {
    /// Pairs of texts as JSON.
    #[default]
    Replace,
    /// Search-and-replace blocks between conflict markers.
    Blocks,
    /// A unified diff.
    Diff,
    /// The `apply_patch` envelope.
    Patch,
    /// Whole files only.
    Whole,
}

impl EditFormat {
    /// Every format.
    pub const ALL: [Self; 5] = [
        Self::Replace,
        Self::Blocks,
        Self::Diff,
        Self::Patch,
        Self::Whole,
    ];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Blocks => "blocks",
            Self::Diff => "diff",
            Self::Patch => "patch",
            Self::Whole => "whole",
        }
    }

    /// The format with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// Which format each model writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EditFormats {
    /// Names of models, a `*` at the end standing for anything, and formats:
    /// the first that fits decides.
    pub own: Vec<(String, EditFormat)>,
}

/// Families that were trained on a format; all others get [`EditFormat::Replace`].
const TRAINED: [(&str, EditFormat); 5] = [
    ("openai:gpt-*", EditFormat::Patch),
    ("openai:o1*", EditFormat::Patch),
    ("openai:o3*", EditFormat::Patch),
    ("openai:o4*", EditFormat::Patch),
    ("openai:codex*", EditFormat::Patch),
];

impl EditFormats {
    /// The format of a model by its whole name: "openai:gpt-5".
    #[must_use]
    pub fn of(&self, model: &str) -> EditFormat {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => model == pattern,
        };
        let own = self
            .own
            .iter()
            .map(|(pattern, format)| (pattern.as_str(), *format));
        own.chain(TRAINED)
            .find(|(pattern, _)| fits(pattern))
            .map_or_else(EditFormat::default, |(_, format)| format)
    }
}

fn malformed(message: impl Into<String>) -> EditRefusal {
    EditRefusal::new(RefusalKind::Malformed, message)
}

/// Changes collected in the order of their files, those of one file together.
#[derive(Default)]
struct Collected(Vec<FileChange>);

impl Collected {
    fn add(&mut self, path: &str, change: Change) -> Result<(), EditRefusal> {
        let path = path.trim();
        if path.is_empty() {
            return Err(malformed("a file has no name; name it before its changes"));
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.path == path) {
            return match (&mut known.change, change) {
                (
                    Change::Modify { blocks, move_to },
                    Change::Modify {
                        blocks: more,
                        move_to: also,
                    },
                ) if move_to.is_none() && also.is_none() => {
                    blocks.extend(more);
                    Ok(())
                }
                _ => Err(malformed(format!(
                    "{path} is made, deleted or moved, and changed elsewhere in the same edit; say one thing of each file"
                ))),
            };
        }
        self.0.push(FileChange {
            path: path.to_owned(),
            change,
        });
        Ok(())
    }

    fn finish(self, what: &str) -> Result<Vec<FileChange>, EditRefusal> {
        if self.0.is_empty() {
            return Err(malformed(format!("it holds no {what}")));
        }
        if self.0.len() > FILES_MAX {
            return Err(malformed(format!(
                "it changes {} files and may change {FILES_MAX}; make several edits",
                self.0.len()
            )));
        }
        for change in &self.0 {
            if let Change::Modify { blocks, .. } = &change.change
                && blocks.len() > BLOCKS_MAX
            {
                return Err(malformed(format!(
                    "{} has {} blocks and may have {BLOCKS_MAX}; make several edits",
                    change.path,
                    blocks.len()
                )));
            }
        }
        Ok(self.0)
    }
}

/// A hunk of a diff being read: what is there and what comes there.
#[derive(Default)]
struct Hunk {
    old: String,
    new: String,
    anchors: Vec<String>,
    at_end: bool,
    /// Whether any line was added or taken away.
    changes: bool,
    /// Whether the old, the new text ends without a line end.
    open: (bool, bool),
    last: Option<char>,
    /// Empty lines without a mark: context where a marked line follows, and
    /// otherwise the space after the hunk.
    blank: usize,
}

impl Hunk {
    /// Takes a line with its mark; `false` when it has none.
    fn take(&mut self, line: &str) -> bool {
        // Models leave the space of empty context lines out.
        let Some(mark) = line.chars().next() else {
            self.blank += 1;
            return true;
        };
        let rest = &line[mark.len_utf8()..];
        if [' ', '-', '+'].contains(&mark) && !self.is_empty() {
            for _ in 0..std::mem::take(&mut self.blank) {
                self.old.push('\n');
                self.new.push('\n');
            }
        }
        match mark {
            ' ' => {
                self.old.extend([rest, "\n"]);
                self.new.extend([rest, "\n"]);
            }
            '-' => self.old.extend([rest, "\n"]),
            '+' => self.new.extend([rest, "\n"]),
            _ => return false,
        }
        self.changes |= mark != ' ';
        self.last = Some(mark);
        true
    }

    /// `\ No newline at end of file`, which is about the line before.
    fn no_line_end(&mut self) {
        match self.last {
            Some('-') => self.open.0 = true,
            Some('+') => self.open.1 = true,
            Some(_) => self.open = (true, true),
            None => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    fn block(self) -> Block {
        let cut = |text: String, open: bool| match text.strip_suffix('\n') {
            Some(cut) if open => cut.to_owned(),
            Some(_) | None => text,
        };
        Block {
            anchors: self.anchors,
            at_end: self.at_end || self.open.0 || self.open.1,
            ..Block::lines(cut(self.old, self.open.0), cut(self.new, self.open.1))
        }
    }
}
