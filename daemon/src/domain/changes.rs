//! Changed files of a repository, and the name of the branch they go to.

use serde::{Deserialize, Serialize};

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, mode or kind changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// A file that differs. A rename is a deletion and an addition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Relative to the repository; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// A task's text as part of a branch name: at most 40 characters of `a-z0-9-`,
/// "task" when nothing is left.
#[must_use]
pub fn slug(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut slug = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() > LONGEST {
            break;
        }
    }
    if slug.len() > LONGEST {
        // Whole words, where there is more than one.
        slug.truncate(LONGEST);
        if let Some((words, _)) = slug.rsplit_once('-') {
            slug = words.to_owned();
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "task".to_owned()
    } else {
        slug.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_plain() {
        assert_eq!(slug("Fix `max_length` — now!"), "fix-max-length-now");
        assert_eq!(slug("修复"), "task");
        assert_eq!(
            slug(&"word ".repeat(30)),
            "word-word-word-word-word-word-word-word"
        );
        assert_eq!(slug(&"x".repeat(99)), "x".repeat(40));
    }
}
