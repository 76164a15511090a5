//! Where a block fits.

use super::{
    Block, Unit,
    lines::{Lines, body, indent, look_alike},
};

/// How far a text may be from what is in the file. Each one includes those
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tolerance {
    /// Byte for byte.
    Exact,
    /// Line ends may differ.
    LineEnds,
    /// White space at the ends of lines may differ.
    TrailingSpace,
    /// Quotes, dashes, spaces and composed letters may be others that look the
    /// same.
    LookAlikes,
    /// Every line may be indented by the same amount more or less, or with tabs
    /// for spaces.
    Indentation,
}

impl Tolerance {
    const ALL: [Self; 4] = [
        Self::LineEnds,
        Self::TrailingSpace,
        Self::LookAlikes,
        Self::Indentation,
    ];

    /// What was passed over, for a message; empty for an exact fit.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::LineEnds => " (line ends passed over)",
            Self::TrailingSpace => " (white space at line ends passed over)",
            Self::LookAlikes => " (characters that look alike passed over)",
            Self::Indentation => " (indentation passed over)",
        }
    }
}

/// Every place that a block fits, at the first tolerance where any does.
pub(super) struct Place {
    pub(super) fits: Vec<Fit>,
    pub(super) tolerance: Tolerance,
    /// A place where the new lines may be meant with its indentation or without.
    pub(super) unclear: Option<usize>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    /// Bytes from here,
    pub(super) start: usize,
    /// to here.
    pub(super) end: usize,
    /// `None` for an exact fit.
    pub(super) loosely: Option<Loose>,
}

/// A fit that is not exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loose {
    /// The first line of the file in it.
    pub(super) first_line: usize,
    /// How indentation of the block becomes the file's.
    pub(super) shift: Shift,
}

/// How indentation of a block becomes the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shift {
    /// It is the same.
    None,
    /// This comes before it.
    Deeper(String),
    /// This is taken from its begin.
    Shallower(String),
    /// So many spaces are a tab.
    ToTabs(usize),
    /// A tab is so many spaces.
    ToSpaces(usize),
}

/// What a block means where its text to find fits exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// That text for the other.
    AsItIs,
    /// A line of which the indentation was left out, there and in the new text.
    Line,
    /// Either.
    Unclear,
}

/// A search for one block.
pub(super) struct Search<'a> {
    lines: &'a Lines<'a>,
    block: &'a Block,
    /// The block's lines without their ends.
    old: Vec<&'a str>,
    /// Lines of the file that the place is among.
    scope: std::ops::Range<usize>,
}

impl<'a> Search<'a> {
    /// Fails with an anchor that is not there.
    pub(super) fn new(lines: &'a Lines<'a>, block: &'a Block) -> Result<Self, &'a str> {
        Ok(Self {
            lines,
            block,
            old: block.old.split_inclusive('\n').map(body).collect(),
            scope: scope(lines, &block.anchors)?,
        })
    }

    pub(super) fn run(&self) -> Place {
        if self.block.old.is_empty() {
            return self.insertion();
        }
        let exact = self.exact();
        if !exact.is_empty() {
            return self.as_meant(exact);
        }
        for tolerance in Tolerance::ALL {
            let fits = self.loose(tolerance);
            if !fits.is_empty() {
                return Place {
                    fits,
                    tolerance,
                    unclear: None,
                };
            }
        }
        Place {
            fits: Vec::new(),
            tolerance: Tolerance::Exact,
            unclear: None,
        }
    }

    /// Exact fits, and where one is a line of which the indentation was left out, that
    /// line.
    fn as_meant(&self, exact: Vec<Fit>) -> Place {
        let (mut tolerance, mut unclear) = (Tolerance::Exact, None);
        let as_meant = |fit: Fit| match self.reading(&fit) {
            Reading::AsItIs => fit,
            Reading::Line => {
                tolerance = Tolerance::Indentation;
                let first = self.lines.index_at(fit.start);
                let own = indent(self.lines.body(first)).to_owned();
                self.fit_at(first, Shift::Deeper(own))
            }
            Reading::Unclear => {
                unclear = unclear.or(Some(fit.start));
                fit
            }
        };
        let fits = exact.into_iter().map(as_meant).collect();
        Place {
            fits,
            tolerance,
            unclear,
        }
    }

    /// What the block means where its text to find fits exactly.
    fn reading(&self, fit: &Fit) -> Reading {
        let (lines, index) = (self.lines, self.lines.index_at(fit.start));
        let before = &lines.text[lines.start(index)..fit.start];
        let is_blank = |line: &str| line.trim().is_empty();
        let is_line = self.block.unit == Unit::Text
            && !before.is_empty()
            && is_blank(before)
            && lines.is_end(fit.end)
            && self.old[1..].iter().all(|line| is_blank(line));
        let mut new = self.block.new.lines();
        let begins_blank = new.next().is_none_or(is_blank);
        let (as_deep, less_deep): (Vec<&str>, Vec<&str>) = new
            .filter(|line| !is_blank(line))
            .partition(|line| line.starts_with(before));
        match (is_line, less_deep.is_empty()) {
            (false, _) => Reading::AsItIs,
            // Lines with the indentation and lines without it say both.
            (true, false) if !as_deep.is_empty() || self.ends_differ() => Reading::Unclear,
            (true, false) if self.block_goes_on(fit) => Reading::Line,
            (true, false) => Reading::Unclear,
            (true, true) if begins_blank && !self.ends_differ() => Reading::Line,
            (true, true) => Reading::AsItIs,
        }
    }

    /// Whether what follows a place is as deep, so that lines less deep are hardly
    /// meant to come between.
    fn block_goes_on(&self, fit: &Fit) -> bool {
        let lines = self.lines;
        let index = lines.index_at(fit.start);
        let depth = indent(lines.body(index));
        let last = lines.index_at(fit.end.saturating_sub(1));
        let mut after = (last + 1..lines.count()).map(|index| lines.body(index));
        let next = after.find(|line| !line.trim().is_empty());
        next.is_some_and(|line| line.starts_with(depth))
    }

    /// Whether one text ends a line and the other does not: only an exact place says
    /// which is meant.
    fn ends_differ(&self) -> bool {
        let (old, new) = (&self.block.old, &self.block.new);
        !new.is_empty() && old.ends_with('\n') != new.ends_with('\n')
    }

    /// Where text goes that replaces none.
    fn insertion(&self) -> Place {
        let end = self.lines.text.len();
        let may = self.block.at_end || end == 0;
        let fit = Fit {
            start: end,
            end,
            loosely: None,
        };
        Place {
            fits: may.then_some(fit).into_iter().collect(),
            tolerance: Tolerance::Exact,
            unclear: None,
        }
    }

    fn in_scope(&self, start: usize, end: usize) -> bool {
        let (first, last) = (self.scope.start, self.scope.end);
        start >= self.lines.start(first)
            && end <= self.lines.start(last)
            && (!self.block.at_end || self.lines.text[end..].trim().is_empty())
    }

    fn exact(&self) -> Vec<Fit> {
        let (text, old) = (self.lines.text, self.block.old.as_str());
        let mut fits = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].find(old) {
            let (start, end) = (from + at, from + at + old.len());
            let bounded = match self.block.unit {
                Unit::Text => {
                    self.block.all || !(self.cuts_word(start, end) || self.cuts_indent(start))
                }
                Unit::Lines => self.lines.is_start(start) && self.lines.is_end(end),
            };
            let fits_here = bounded && self.in_scope(start, end);
            if fits_here {
                fits.push(Fit {
                    start,
                    end,
                    loosely: None,
                });
            }
            // Places that overlap are two places, unless all are meant.
            from = if fits_here && self.block.all {
                end
            } else {
                start + text[start..].chars().next().map_or(1, char::len_utf8)
            };
        }
        fits.extend(self.exact_at_open_end());
        fits
    }

    /// The same lines at the end of a file whose last line has no end.
    fn exact_at_open_end(&self) -> Option<Fit> {
        let (text, old) = (self.lines.text, self.block.old.strip_suffix('\n')?);
        let start = text.len().checked_sub(old.len())?;
        let fits = !old.is_empty()
            && text.ends_with(old)
            && self.lines.is_start(start)
            && self.in_scope(start, text.len());
        fits.then_some(Fit {
            start,
            end: text.len(),
            loosely: None,
        })
    }

    /// Whether a word of the file goes on beyond either end: `x = 1` is not in
    /// `max = 10`.
    fn cuts_word(&self, start: usize, end: usize) -> bool {
        let word = |character: Option<char>| {
            character.is_some_and(|character| character.is_alphanumeric() || character == '_')
        };
        let text = self.lines.text;
        let old = &text[start..end];
        (word(text[..start].chars().next_back()) && word(old.chars().next()))
            || (word(old.chars().next_back()) && word(text[end..].chars().next()))
    }

    /// Whether a text that begins with indentation begins inside of it: it is
    /// meant for a line that is indented less.
    fn cuts_indent(&self, start: usize) -> bool {
        let line = &self.lines.text[self.lines.start(self.lines.index_at(start))..start];
        self.block.old.starts_with([' ', '\t'])
            && !line.is_empty()
            && line.trim_matches([' ', '\t']).is_empty()
    }

    fn loose(&self, tolerance: Tolerance) -> Vec<Fit> {
        let mut fits = Vec::new();
        // Blank lines fit anywhere.
        if self.ends_differ() || self.old.iter().all(|line| line.trim().is_empty()) {
            return fits;
        }
        let last = self.scope.end.saturating_sub(self.old.len() - 1);
        let mut first = self.scope.start;
        while first < last {
            match self.shift_at(first, tolerance) {
                Some(shift) => {
                    let fit = self.fit_at(first, shift);
                    if self.in_scope(fit.start, fit.end) {
                        fits.push(fit);
                    }
                    first += if self.block.all { self.old.len() } else { 1 };
                }
                None => first += 1,
            }
        }
        fits
    }

    /// Whether the block's lines are those from `first` on, and how their
    /// indentation differs.
    fn shift_at(&self, first: usize, tolerance: Tolerance) -> Option<Shift> {
        let pairs = || {
            self.old
                .iter()
                .enumerate()
                .map(|(index, old)| (*old, self.lines.body(first + index)))
        };
        if tolerance == Tolerance::Indentation {
            // Look first, measure then: nearly every place is ruled out here.
            let same = pairs().all(|(old, now)| look_alike(old.trim_start(), now.trim_start()));
            return if same { shift_between(pairs()) } else { None };
        }
        let same = |index: usize, old: &str, now: &str| {
            let now = if index == 0 && self.begins_after_indent() {
                now.trim_start_matches([' ', '\t'])
            } else {
                now
            };
            match tolerance {
                Tolerance::Exact | Tolerance::LineEnds => old == now,
                Tolerance::TrailingSpace => old.trim_end() == now.trim_end(),
                Tolerance::LookAlikes | Tolerance::Indentation => look_alike(old, now),
            }
        };
        pairs()
            .enumerate()
            .all(|(index, (old, now))| same(index, old, now))
            .then_some(Shift::None)
    }

    /// Whether the text may begin after its first line's indentation: it has none,
    /// and other lines show that theirs is not left out.
    fn begins_after_indent(&self) -> bool {
        self.block.unit == Unit::Text
            && indent(self.old[0]).is_empty()
            && self.old[1..].iter().any(|line| !line.trim().is_empty())
    }

    fn fit_at(&self, first: usize, shift: Shift) -> Fit {
        let lines = self.lines;
        let last = first + self.old.len() - 1;
        let skipped = match shift {
            Shift::None if self.begins_after_indent() => indent(lines.body(first)).len(),
            _ => 0,
        };
        let end = match self.block.old.ends_with('\n') {
            true => lines.end(last),
            false => lines.body_end(last),
        };
        Fit {
            start: lines.start(first) + skipped,
            end,
            loosely: Some(Loose {
                first_line: first,
                shift,
            }),
        }
    }
}

/// The one shift that makes the indentation of every line of a block the
/// file's.
fn shift_between<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<Shift> {
    let indents = pairs
        .filter(|(old, now)| !(old.trim().is_empty() && now.trim().is_empty()))
        .map(|(old, now)| (indent(old), indent(now)));
    let (old, now) = indents.clone().next()?;
    if let Some(more) = now.strip_suffix(old)
        && indents
            .clone()
            .all(|(old, now)| now.strip_prefix(more) == Some(old))
    {
        return Some(if more.is_empty() {
            Shift::None
        } else {
            Shift::Deeper(more.to_owned())
        });
    }
    if let Some(less) = old.strip_suffix(now)
        && indents
            .clone()
            .all(|(old, now)| old.strip_prefix(less) == Some(now))
    {
        return Some(Shift::Shallower(less.to_owned()));
    }
    [4, 2, 8, 3].into_iter().find_map(|width| {
        let tab = " ".repeat(width);
        if indents
            .clone()
            .all(|(old, now)| !old.contains('\t') && now.replace('\t', &tab) == old)
        {
            return Some(Shift::ToTabs(width));
        }
        indents
            .clone()
            .all(|(old, now)| !now.contains('\t') && old.replace('\t', &tab) == now)
            .then_some(Shift::ToSpaces(width))
    })
}

/// The lines after the anchors, as far as the last one's scope goes: to the next
/// line that is indented no deeper and closes nothing.
fn scope<'a>(lines: &Lines<'_>, anchors: &'a [String]) -> Result<std::ops::Range<usize>, &'a str> {
    let mut scope = 0..lines.count();
    for anchor in anchors {
        let wanted = anchor.trim();
        let found = |fits: &dyn Fn(&str) -> bool| {
            scope.clone().find(|index| fits(lines.body(*index).trim()))
        };
        let at = found(&|line| line == wanted)
            .or_else(|| found(&|line| look_alike(line, wanted)))
            .ok_or(anchor.as_str())?;
        let depth = indent(lines.body(at)).len();
        let end = (at + 1..scope.end)
            .find(|index| {
                let line = lines.body(*index);
                let rest = line.trim();
                !rest.is_empty()
                    && indent(line).len() <= depth
                    && !rest.starts_with([')', ']', '}'])
            })
            .unwrap_or(scope.end);
        // The anchor itself may be the first line of the block.
        scope = at..end;
    }
    Ok(scope)
}
