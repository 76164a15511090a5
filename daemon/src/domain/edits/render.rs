//! What comes into a place: the new text, made like the file around it.
//!
//! A line that the model repeats as context stays the file's own, byte for byte;
//! a line that it writes anew gets the file's line end and indentation.

use super::{
    Block,
    find::{Fit, Loose, Shift},
    lines::{Lines, body, indent},
};

/// Cells of the table that aligns old and new lines, at most.
const TABLE_MAX: usize = 4 << 20;

/// The text for a place that a block fits.
pub(super) fn render(lines: &Lines<'_>, block: &Block, fit: &Fit) -> String {
    match &fit.loosely {
        None => exact(lines, block, fit),
        Some(loose) => adapted(lines, block, fit, loose),
    }
}

/// As the model wrote it, but for line ends, which are the file's.
fn exact(lines: &Lines<'_>, block: &Block, fit: &Fit) -> String {
    let insertion = block.old.is_empty() && fit.start > 0 && !lines.text.ends_with('\n');
    let ending = line_end_near(lines, lines.index_at(fit.start));
    let mut new = with_line_ends(&block.new, ending);
    if insertion {
        new.insert_str(0, ending);
    }
    // A last line without its end stays so.
    let found = &lines.text[fit.start..fit.end];
    if block.old.ends_with('\n') && !found.ends_with('\n') && new.ends_with('\n') {
        new.truncate(body(&new).len());
    }
    new
}

fn with_line_ends(text: &str, ending: &str) -> String {
    if !text.contains('\n') || (ending == "\n" && !text.contains('\r')) {
        return text.to_owned();
    }
    let mut new = String::with_capacity(text.len() + text.len() / 16);
    for line in text.split_inclusive('\n') {
        new.push_str(body(line));
        if line.ends_with('\n') {
            new.push_str(ending);
        }
    }
    new
}

/// The line end used at a line, or nearest before it.
fn line_end_near<'a>(lines: &Lines<'a>, index: usize) -> &'a str {
    if lines.count() == 0 {
        return "\n";
    }
    let from = index.min(lines.count() - 1);
    (0..=from)
        .rev()
        .map(|index| lines.line_end(index))
        .find(|end| !end.is_empty())
        .unwrap_or("\n")
}

fn adapted(lines: &Lines<'_>, block: &Block, fit: &Fit, loose: &Loose) -> String {
    let old: Vec<&str> = block.old.split_inclusive('\n').map(body).collect();
    let new: Vec<&str> = block.new.split_inclusive('\n').map(body).collect();
    let ending = line_end_near(lines, loose.first_line);
    let kept = alignment(&old, &new);
    let mut text = String::new();
    for (index, line) in new.iter().enumerate() {
        if index > 0 {
            text.push_str(ending);
        }
        match kept[index] {
            Some(same) => {
                let at = loose.first_line + same;
                let start = lines.start(at).max(fit.start);
                // Text that begins after the indentation gets none again.
                let own = match index {
                    0 => &lines.text[start..lines.body_end(at)],
                    _ => lines.body(at),
                };
                text.push_str(own);
            }
            None => push_shifted(&mut text, line, &loose.shift),
        }
    }
    // A last line without its end stays so.
    let closed = block.old.ends_with('\n') && lines.text[..fit.end].ends_with('\n');
    if closed && !new.is_empty() {
        text.push_str(ending);
    }
    text
}

fn push_shifted(text: &mut String, line: &str, shift: &Shift) {
    let line = line.trim_end_matches('\r');
    if line.trim().is_empty() {
        text.push_str(line);
        return;
    }
    let (own, rest) = line.split_at(indent(line).len());
    match shift {
        Shift::None => text.push_str(own),
        Shift::Deeper(more) => {
            text.push_str(more);
            text.push_str(own);
        }
        // A line that is shallower than what is taken away has nothing left.
        Shift::Shallower(less) => text.push_str(own.strip_prefix(less.as_str()).unwrap_or("")),
        Shift::ToTabs(width) => {
            let spaces = own.replace('\t', &" ".repeat(*width)).len();
            text.extend(std::iter::repeat_n('\t', spaces / width));
            text.extend(std::iter::repeat_n(' ', spaces % width));
        }
        Shift::ToSpaces(width) => text.push_str(&own.replace('\t', &" ".repeat(*width))),
    }
    text.push_str(rest);
}

/// For each new line, the old one that it repeats: a longest common
/// subsequence.
fn alignment(old: &[&str], new: &[&str]) -> Vec<Option<usize>> {
    let mut kept = vec![None; new.len()];
    let same = |i: usize, j: usize| old[i].trim_end() == new[j].trim_end();
    let shorter = old.len().min(new.len());
    let head = (0..shorter)
        .take_while(|index| same(*index, *index))
        .count();
    let tail = (0..shorter - head)
        .take_while(|index| same(old.len() - 1 - index, new.len() - 1 - index))
        .count();
    for (index, kept) in kept.iter_mut().enumerate().take(head) {
        *kept = Some(index);
    }
    for index in 0..tail {
        kept[new.len() - 1 - index] = Some(old.len() - 1 - index);
    }
    let (rows, columns) = (old.len() - head - tail, new.len() - head - tail);
    if rows == 0 || columns == 0 || rows.saturating_mul(columns) > TABLE_MAX {
        return kept;
    }
    let width = columns + 1;
    let mut longest = vec![0_u32; (rows + 1) * width];
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            longest[i * width + j] = if same(head + i, head + j) {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < rows && j < columns {
        if same(head + i, head + j) {
            kept[head + j] = Some(head + i);
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    kept
}
