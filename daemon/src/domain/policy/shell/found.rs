//! What `find` finds: where it starts, and whether its tests leave anything out.

use super::Word;

/// Brackets in brackets that are looked into.
const DEPTH_MAX: usize = 16;

/// Where `find` is told to start; empty for here.
pub(in crate::domain::policy) fn starting_points(words: &[Word]) -> Vec<&Word> {
    words
        .iter()
        .skip_while(|word| matches!(word.text.as_str(), "-L" | "-P" | "-H"))
        .take_while(|word| !word.text.starts_with(['-', '(', '!']))
        .collect()
}

/// Whether all that `find` acts on is told by a name. A time or a size tells
/// nothing: files of every name are that old and that large.
pub(in crate::domain::policy) fn narrows(words: &[Word]) -> bool {
    let roots = starting_points(words);
    let tests = Tests {
        words: words.get(roots.len()..).unwrap_or_default(),
        roots: &roots,
    };
    tests.any_of(0, 0).narrow
}

/// The tests of a call.
struct Tests<'w> {
    words: &'w [Word],
    roots: &'w [&'w Word],
}

/// What tests in a row, or a choice of rows, come to.
struct Outcome {
    /// Whether they leave out what is not told.
    narrow: bool,
    /// Whether something is done with what passes them.
    acts: bool,
    /// Where they end.
    ends_at: usize,
}

impl Tests<'_> {
    /// Rows with `-o` or `,` between them, up to a closing bracket. Every row
    /// that acts has to be narrow, or every row where none acts.
    fn any_of(&self, begins_at: usize, depth: usize) -> Outcome {
        if depth > DEPTH_MAX {
            return Outcome {
                narrow: false,
                acts: true,
                ends_at: self.words.len(),
            };
        }
        let mut rows = Vec::new();
        let mut at = begins_at;
        loop {
            let row = self.all_of(at, depth);
            at = row.ends_at;
            rows.push(row);
            match self.text(at) {
                Some("-o" | "-or" | ",") => at += 1,
                Some(_) | None => break,
            }
        }
        let acts = rows.iter().any(|row| row.acts);
        let narrow = rows
            .iter()
            .filter(|row| row.acts || !acts)
            .all(|row| row.narrow);
        Outcome {
            narrow,
            acts,
            ends_at: at,
        }
    }

    /// Tests in a row: one that is narrow is enough.
    fn all_of(&self, begins_at: usize, depth: usize) -> Outcome {
        let mut row = Outcome {
            narrow: false,
            acts: false,
            ends_at: begins_at,
        };
        let mut negated = false;
        while let Some(text) = self.text(row.ends_at) {
            let mut narrow = false;
            match text {
                "-o" | "-or" | "," | ")" => break,
                "!" | "-not" => {
                    negated = !negated;
                    row.ends_at += 1;
                    continue;
                }
                "(" => {
                    let inner = self.any_of(row.ends_at + 1, depth + 1);
                    row.ends_at = inner.ends_at;
                    narrow = inner.narrow;
                    row.acts |= inner.acts;
                }
                "-delete" => row.acts = true,
                "-exec" | "-execdir" | "-ok" | "-okdir" => {
                    row.acts = true;
                    let is_end = |word: &Word| matches!(word.text.as_str(), ";" | "+");
                    let rest = self.words.get(row.ends_at..).unwrap_or_default();
                    row.ends_at += rest.iter().position(is_end).unwrap_or(rest.len());
                }
                "-empty" => narrow = true,
                "-name" | "-iname" | "-path" | "-ipath" | "-wholename" | "-iwholename"
                | "-regex" | "-iregex" | "-lname" | "-samefile" => {
                    row.ends_at += 1;
                    let value = self.words.get(row.ends_at);
                    narrow = value.is_some_and(|value| self.tells(text, value));
                }
                "-size" => {
                    row.ends_at += 1;
                    narrow = self.text(row.ends_at) == Some("0");
                }
                _ => {}
            }
            row.narrow |= narrow && !negated;
            negated = false;
            row.ends_at += 1;
        }
        row
    }

    fn text(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(|word| word.text.as_str())
    }

    /// Whether a pattern says more than that there is a name.
    fn tells(&self, test: &str, pattern: &Word) -> bool {
        let Some(text) = pattern.known() else {
            return false;
        };
        // A path below where it starts is what everything has.
        let bare = text.trim_end_matches(['*', '?', '/', '.']);
        let is_path = test.ends_with("path") || test.ends_with("wholename");
        if is_path && self.roots.iter().any(|root| root.text.starts_with(bare)) {
            return false;
        }
        let mut in_set = false;
        text.chars().any(|char| {
            match char {
                '[' => in_set = true,
                ']' => in_set = false,
                _ => return !in_set && char.is_alphanumeric(),
            }
            false
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(line: &str) -> bool {
        let words: Vec<Word> = line.split_whitespace().map(Word::exact).collect();
        narrows(&words)
    }

    #[test]
    fn brackets_without_end_narrow_nothing() {
        let deep = format!(". {} -name x -delete", "( ".repeat(20_000));
        assert!(!narrow(&deep));
    }

    #[test]
    fn only_a_name_that_says_something_narrows() {
        for line in [
            ". -name *.pyc -delete",
            ". ( -name *.a -o -name *.b ) -delete",
            ". -type f ( -type l -o -type f ) -name *.pyc -exec rm {} +",
            ". -path ./.git -prune -o -name *.orig -delete",
            ". -not -path ./.git/* -name *.orig -delete",
            ". -type d -empty -delete",
            "-name x -delete",
            ". -regex .*/[a-z]*\\.pyc -delete",
        ] {
            assert!(narrow(line), "{line}");
        }
        for line in [
            ". -delete",
            ". -name * -delete",
            ". -name ?* -type f -delete",
            ". -name *.* -delete",
            ". -regex .* -delete",
            ". ! -name keep -delete",
            ". -mtime +0 -delete",
            ". -size -99G -delete",
            ". -name x -o -delete",
            ". -name x -o -name * -delete",
            ". -path ./* -delete",
            "/w/r -path /w/r/* -delete",
            ". -path ./.git -prune -o -type f -delete",
            ". -name [a-z]* -delete",
        ] {
            assert!(!narrow(line), "{line}");
        }
    }
}
