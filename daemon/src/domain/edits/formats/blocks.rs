//! Search-and-replace blocks:
//!
//! ```text
//! src/a.py
//! <<<<<<< SEARCH
//! lines as they are
//! =======
//! lines as they shall be
//! >>>>>>> REPLACE
//! ```

use super::{Collected, malformed};
use crate::domain::edits::{Block, Change, EditRefusal, FileChange};

const BEGIN: &str = "<<<<<<< SEARCH";
const MIDDLE: &str = "=======";
const END: &str = ">>>>>>> REPLACE";

/// Reads blocks; a block without a file's name before it is the last file's.
/// One with nothing to search for makes a file.
///
/// # Errors
/// Which block is wrong, and how.
pub fn parse(text: &str) -> Result<Vec<FileChange>, EditRefusal> {
    let mut collected = Collected::default();
    let mut path: Option<&str> = None;
    let mut lines = text.split_inclusive('\n').enumerate();
    while let Some((index, line)) = lines.next() {
        let word = line.trim();
        if word != BEGIN {
            if [MIDDLE, END].contains(&word) {
                return Err(malformed(format!(
                    "line {} is `{word}` outside of a block; a block begins with `{BEGIN}`",
                    index + 1
                )));
            }
            let word = word.trim_matches('`').trim();
            if !word.is_empty() && !line.starts_with("```") {
                path = Some(word);
            }
            continue;
        }
        let Some(path) = path else {
            return Err(malformed(format!(
                "the block at line {} has no file: put its path on the line before `{BEGIN}`",
                index + 1
            )));
        };
        let (mut old, mut new) = (String::new(), String::new());
        let mut in_new = false;
        let mut ended = false;
        for (_, line) in lines.by_ref() {
            match line.trim_end() {
                END if in_new => {
                    ended = true;
                    break;
                }
                MIDDLE if !in_new => in_new = true,
                MIDDLE | BEGIN | END => {
                    return Err(malformed(format!(
                        "the block at line {} holds the marker `{}` twice or out of place, so where its parts end cannot be told; change such lines with run_command, or in smaller blocks",
                        index + 1,
                        line.trim_end()
                    )));
                }
                _ if in_new => new.push_str(line),
                _ => old.push_str(line),
            }
        }
        if !ended {
            return Err(malformed(format!(
                "the block at line {} does not end: it needs `{MIDDLE}` and then `{END}`",
                index + 1
            )));
        }
        let change = if old.is_empty() {
            Change::Create { content: new }
        } else {
            Change::Modify {
                blocks: vec![Block::lines(old, new)],
                move_to: None,
            }
        };
        collected.add(path, change)?;
    }
    collected.finish(&format!("block: a block begins with `{BEGIN}`"))
}
