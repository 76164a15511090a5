//! Lines of a text, and when two lines are the same.

use std::{borrow::Cow, sync::LazyLock};

use regex::Regex;
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// A text by lines.
pub(super) struct Lines<'a> {
    pub(super) text: &'a str,
    /// Byte offset at which each line starts; no line for an empty text.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let mut starts = Vec::with_capacity(text.len() / 32 + 1);
        if !text.is_empty() {
            starts.push(0);
        }
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        starts.extend(ends.map(|(at, _)| at + 1).filter(|next| *next < text.len()));
        Self { text, starts }
    }

    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn start(&self, index: usize) -> usize {
        self.starts.get(index).copied().unwrap_or(self.text.len())
    }

    /// After the line with its end.
    pub(super) fn end(&self, index: usize) -> usize {
        self.start(index + 1)
    }

    /// After the line without its end.
    pub(super) fn body_end(&self, index: usize) -> usize {
        self.start(index) + self.body(index).len()
    }

    /// A line without its end.
    pub(super) fn body(&self, index: usize) -> &'a str {
        body(&self.text[self.start(index)..self.end(index)])
    }

    /// The end of a line: "\n", "\r\n", or nothing at the end of the text.
    pub(super) fn line_end(&self, index: usize) -> &'a str {
        &self.text[self.body_end(index)..self.end(index)]
    }

    /// Number of the line that holds an offset, from 1.
    pub(super) fn number_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    pub(super) fn index_at(&self, offset: usize) -> usize {
        self.number_at(offset) - 1
    }

    pub(super) fn is_start(&self, offset: usize) -> bool {
        offset == 0 || self.text.as_bytes()[offset - 1] == b'\n'
    }

    /// Whether a line ends here, with or without its end.
    pub(super) fn is_end(&self, offset: usize) -> bool {
        let rest = &self.text[offset..];
        rest.is_empty()
            || self.is_start(offset)
            || rest.starts_with('\n')
            || rest.starts_with("\r\n")
    }
}

/// A line without its end.
pub(super) fn body(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// The white space that a line begins with.
pub(super) fn indent(line: &str) -> &str {
    let end = line.len() - line.trim_start_matches([' ', '\t']).len();
    &line[..end]
}

/// A line with its look-alikes made one: quotes, dashes, spaces, composed
/// letters; nothing invisible; no white space at its end.
pub(super) fn folded(line: &str) -> Cow<'_, str> {
    let line = line.trim_end();
    if line.is_ascii() {
        return Cow::Borrowed(line);
    }
    let mut folded = String::with_capacity(line.len());
    let one = |character: char, folded: &mut String| match character {
        '\u{2018}' | '\u{2019}' | '\u{201A}' | '\u{201B}' | '\u{2032}' | '\u{02BC}'
        | '\u{FF07}' => folded.push('\''),
        '\u{201C}' | '\u{201D}' | '\u{201E}' | '\u{201F}' | '\u{2033}' | '\u{FF02}' => {
            folded.push('"');
        }
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FE63}' | '\u{FF0D}' => {
            folded.push('-');
        }
        '\u{00A0}'
        | '\u{1680}'
        | '\u{2000}'..='\u{200A}'
        | '\u{202F}'
        | '\u{205F}'
        | '\u{3000}' => folded.push(' '),
        '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}' => {}
        '\u{2026}' => folded.push_str("..."),
        other => folded.push(other),
    };
    if is_nfc(line) {
        line.chars()
            .for_each(|character| one(character, &mut folded));
    } else {
        line.nfc().for_each(|character| one(character, &mut folded));
    }
    folded.truncate(folded.trim_end().len());
    Cow::Owned(folded)
}

/// Whether two lines are the same but for look-alikes and white space at their
/// ends.
pub(super) fn look_alike(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim_end(), other.trim_end());
    one == other || (!(one.is_ascii() && other.is_ascii()) && folded(one) == folded(other))
}

/// A comment that stands for code, as models write it.
static ELISION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix) ^\s* (?: \#+ | //+ | /\*+ | <!-- | --+ | ;+ | %+ | \{/\* ) \s*
        (?: [\(\[<]? \s* (?:\.\.\.|\u{2026}) \s*
              (?: the \s+ | all \s+ | your \s+ )?
              (?: rest | existing | remaining | remainder | unchanged | same | other | previous | omitted | original | keep )
              \b [^;={}]*
          | (?: the \s+ )? (?: rest | remainder | remaining ) \b [^;={}]* \b
              (?: unchanged | same | omitted | stays | remains ) \b .*
          | (?: existing | unchanged | previous | original ) \s+ (?:\w+\s+)? (?: code | lines? | implementation | content | methods? | functions? )
              .* (?: \.\.\. | \u{2026} | \b here \b ) .* )
        $",
    )
    .expect("it is tested")
});

/// Whether a line says that code is left out instead of holding it.
pub(super) fn is_elision(line: &str) -> bool {
    let line = line.trim();
    line == "..." || line == "\u{2026}" || ELISION.is_match(line)
}

/// The first line of `new` that stands for code left out and is no line of
/// `old`, with its number from 1. Three dots alone are code in some languages
/// and are left to the match.
pub(super) fn first_elision<'a>(old: &str, new: &'a str) -> Option<(usize, &'a str)> {
    let suspect = |line: &str| {
        (line.contains("...") || line.contains('\u{2026}') || may_say_the_rest(line))
            && ELISION.is_match(line)
    };
    new.lines()
        .enumerate()
        .find(|(_, line)| suspect(line) && !old.lines().any(|known| known.trim() == line.trim()))
        .map(|(index, line)| (index + 1, line))
}

/// A cheap look before the expression: most lines hold none of these words.
fn may_say_the_rest(line: &str) -> bool {
    let start = line.trim_start_matches([' ', '\t']);
    (start.starts_with(['#', '/', '<', '-', ';', '%', '{']))
        && ["rest", "emain", "xisting", "nchanged", "revious", "riginal"]
            .iter()
            .any(|word| start.contains(word))
}
