//! Literals that a pattern cannot match without: they are looked for all at once,
//! and only patterns of which one is found are asked.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

/// Shorter ones are found too often to be of use.
const LITERAL_MIN_BYTES: usize = 3;

/// Tells which of many patterns may match.
#[derive(Debug)]
pub(super) struct Literals {
    search: AhoCorasick,
    /// For each literal the pattern that it belongs to.
    patterns: Vec<usize>,
    /// Patterns without a literal: they may always match.
    always: Vec<usize>,
    count: usize,
}

impl Literals {
    /// Of these patterns, which are regular expressions.
    pub(super) fn of(texts: &[&str]) -> Result<Self, aho_corasick::BuildError> {
        let (mut literals, mut patterns, mut always) = (Vec::new(), Vec::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            match required_by(text) {
                None => always.push(index),
                Some(required) => {
                    patterns.extend(required.iter().map(|_| index));
                    literals.extend(required);
                }
            }
        }
        let search = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(literals)?;
        Ok(Self {
            search,
            patterns,
            always,
            count: texts.len(),
        })
    }

    /// For each pattern whether it may match in one of these parts.
    pub(super) fn may_match<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> Vec<bool> {
        let mut may = vec![false; self.count];
        for index in &self.always {
            may[*index] = true;
        }
        for part in parts {
            for found in self.search.find_overlapping_iter(part) {
                may[self.patterns[found.pattern().as_usize()]] = true;
            }
        }
        may
    }
}

/// Literals in lower case of which every match of a pattern has one.
fn required_by(pattern: &str) -> Option<Vec<Vec<u8>>> {
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    required(&parser.parse(pattern).ok()?)
}

fn required(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let found = match hir.kind() {
        HirKind::Literal(_) | HirKind::Class(_) | HirKind::Concat(_) => best_of_concat(hir),
        HirKind::Alternation(branches) => {
            let branches: Option<Vec<_>> = branches.iter().map(required).collect();
            branches.map(|branches| branches.concat())
        }
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Repetition(_) | HirKind::Empty | HirKind::Look(_) => None,
    }?;
    (shortest(&found) >= LITERAL_MIN_BYTES).then_some(found)
}

/// The most telling part of what follows one another.
fn best_of_concat(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(hir),
    };
    let mut candidates = Vec::new();
    let mut run = Vec::new();
    for part in parts {
        match part.kind() {
            HirKind::Literal(literal) => run.extend(literal.0.to_ascii_lowercase()),
            HirKind::Class(Class::Bytes(class)) => match letter_of(class) {
                Some(letter) => run.push(letter),
                None => candidates.push(vec![std::mem::take(&mut run)]),
            },
            HirKind::Look(_) | HirKind::Empty => {}
            _ => {
                candidates.push(vec![std::mem::take(&mut run)]);
                candidates.extend(required(part));
            }
        }
    }
    candidates.push(vec![run]);
    candidates
        .into_iter()
        .max_by_key(|literals| shortest(literals))
}

fn shortest(literals: &[Vec<u8>]) -> usize {
    literals.iter().map(Vec::len).min().unwrap_or(0)
}

/// The letter that a class is both cases of.
fn letter_of(class: &regex_syntax::hir::ClassBytes) -> Option<u8> {
    let mut letters = class.ranges().iter().map(|range| {
        let letter = range.start();
        (letter == range.end()).then(|| letter.to_ascii_lowercase())
    });
    let first = letters.next()??;
    (letters.all(|letter| letter == Some(first)) && first.is_ascii_lowercase()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(pattern: &str) -> Option<Vec<String>> {
        let found = required_by(pattern)?;
        let text = |literal| String::from_utf8(literal).unwrap();
        Some(found.into_iter().map(text).collect())
    }

    #[test]
    fn a_pattern_needs_its_longest_literal_or_one_of_each_branch() {
        let one = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(
            literals("(?m)^E +assert failed: .* here$"),
            one("assert failed: ")
        );
        assert_eq!(literals("(?i)No Space left"), one("no space left"));
        assert_eq!(literals("(?:Exceeded){2}"), one("exceeded"));
        assert_eq!(
            literals("(?i)no space left|disk quota"),
            Some(vec!["no space left".to_owned(), "disk quota".to_owned()])
        );
        for without in ["[a-z]+", "(?:needed)?x", "needed|.*", "ab", "(?-u:\\xff)x"] {
            assert_eq!(literals(without), None, "{without}");
        }
    }

    #[test]
    fn what_may_match_is_never_left_out() {
        let patterns = ["error", "(?i)ERROR TS", "[0-9]+ x", "absent"];
        let literals = Literals::of(&patterns).unwrap();
        let may = literals.may_match([&b"an Error ts2"[..], b""].into_iter());
        assert_eq!(may, [true, true, true, false]);
    }
}
