//! What a model is shown when its text is in no place: the one that comes
//! nearest.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::{
    Block, EditRefusal, RefusalKind,
    lines::{Lines, body, folded, is_elision, look_alike},
};

/// Lines of the candidate shown.
const SHOWN_LINES: usize = 24;
/// Characters of a line shown.
const LINE_MAX_CHARS: usize = 200;
/// Lines of a block that vote where they are not found as they are.
const VOTERS: usize = 3;
/// Share of pairs of letters that two lines must have in common to be near.
const NEAR: f64 = 0.5;

/// The refusal of a block that fits nowhere.
pub(super) fn not_found(path: &str, lines: &Lines<'_>, block: &Block) -> EditRefusal {
    let mut message = String::new();
    if block.old.is_empty() {
        let _ = write!(
            message,
            "it has only new lines, and nothing says where in {path} they go; nothing was applied. Give a line or two of the file before and after them"
        );
        return EditRefusal::new(RefusalKind::NotFound, message);
    }
    let old: Vec<&str> = block.old.split_inclusive('\n').map(body).collect();
    let _ = write!(message, "its text is not in {path}");
    if !block.anchors.is_empty() {
        let _ = write!(message, " below `{}`", block.anchors.join("` and `"));
    }
    if block.at_end {
        message.push_str(" at the end");
    }
    message.push_str("; nothing was applied.");
    if let Some(line) = old.iter().find(|line| is_elision(line)) {
        let _ = write!(
            message,
            " `{}` stands for lines that are left out: write them out, or make a block of each part.",
            line.trim()
        );
    }
    match candidate(lines, &old) {
        None => message.push_str(" Nothing in the file comes near it: read the file again"),
        Some(first) => show(&mut message, lines, &old, first),
    }
    EditRefusal::new(RefusalKind::NotFound, message)
}

fn show(message: &mut String, lines: &Lines<'_>, old: &[&str], first: usize) {
    let count = old.len().min(lines.count() - first);
    let differs = |index: usize| !look_alike(old[index], lines.body(first + index));
    let different = (0..count).filter(|index| differs(*index)).count() + (old.len() - count);
    let _ = writeln!(
        message,
        " The nearest place is at lines {} to {} ({different} of {} lines differ, marked with !):",
        first + 1,
        first + count,
        old.len(),
    );
    for index in 0..count.min(SHOWN_LINES) {
        let mark = if differs(index) { '!' } else { ' ' };
        let line: String = lines
            .body(first + index)
            .chars()
            .take(LINE_MAX_CHARS)
            .collect();
        let _ = writeln!(message, "{mark}{}\t{line}", first + index + 1);
    }
    if count > SHOWN_LINES {
        let _ = writeln!(message, "[{} more lines]", count - SHOWN_LINES);
    }
    message.push_str("Copy the text from there as it is, or read the file again");
}

/// First line of the window that most of the block's lines speak for.
fn candidate(lines: &Lines<'_>, old: &[&str]) -> Option<usize> {
    let mut votes: HashMap<usize, f64> = HashMap::new();
    let mut known: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, line) in old.iter().enumerate() {
        if line.trim().len() > 1 {
            let line = folded(line.trim()).into_owned();
            known.entry(line).or_default().push(index);
        }
    }
    for at in 0..lines.count() {
        for index in known
            .get(&*folded(lines.body(at).trim()))
            .into_iter()
            .flatten()
        {
            if let Some(first) = at.checked_sub(*index) {
                *votes.entry(first).or_default() += 1.0;
            }
        }
    }
    if votes.is_empty() {
        near(lines, old, &mut votes);
    }
    let best = votes
        .into_iter()
        .max_by(|(one, many), (other, more)| many.total_cmp(more).then(other.cmp(one)));
    best.map(|(first, _)| first)
}

/// Votes of the longest lines, by the pairs of letters that they share with
/// lines of the file.
fn near(lines: &Lines<'_>, old: &[&str], votes: &mut HashMap<usize, f64>) {
    let mut longest: Vec<usize> = (0..old.len()).collect();
    longest.sort_by_key(|index| std::cmp::Reverse(old[*index].trim().len()));
    let voters: Vec<(usize, Pairs)> = longest
        .into_iter()
        .take(VOTERS)
        .map(|index| (index, Pairs::of(old[index])))
        .collect();
    for at in 0..lines.count() {
        let pairs = Pairs::of(lines.body(at));
        for (index, wanted) in &voters {
            let share = pairs.share(wanted);
            if share >= NEAR
                && let Some(first) = at.checked_sub(*index)
            {
                *votes.entry(first).or_default() += share;
            }
        }
    }
}

/// The pairs of letters in a line, as a set of hashes.
struct Pairs([u64; 8]);

impl Pairs {
    fn of(line: &str) -> Self {
        let mut set = [0_u64; 8];
        for pair in line.trim().as_bytes().windows(2).take(2 * LINE_MAX_CHARS) {
            let hash = (usize::from(pair[0]) * 31 + usize::from(pair[1]) * 17) % 512;
            set[hash / 64] |= 1 << (hash % 64);
        }
        Self(set)
    }

    /// From 0 to 1: how much of both sets is common (Dice).
    fn share(&self, other: &Self) -> f64 {
        let count = |set: &[u64; 8]| set.iter().map(|word| word.count_ones()).sum::<u32>();
        let common: u32 = self
            .0
            .iter()
            .zip(&other.0)
            .map(|(one, other)| (one & other).count_ones())
            .sum();
        let total = count(&self.0) + count(&other.0);
        if total == 0 {
            return 0.0;
        }
        2.0 * f64::from(common) / f64::from(total)
    }
}
