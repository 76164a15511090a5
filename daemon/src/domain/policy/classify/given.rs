//! What a command is given, as `getopt` and its like read it: a value of an
//! option is no option, whatever it looks like.

use super::super::shell::Word;

/// Options and operands of a command.
#[derive(Debug, Default)]
pub(super) struct Given<'w> {
    /// Options by name, `-x` or `--long`, in order, with the value of those that
    /// have one.
    pub(super) options: Vec<(String, Option<Word>)>,
    /// Everything else.
    pub(super) operands: Vec<&'w Word>,
}

/// How long options may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Whole.
    Whole,
    /// As far as they are unmistakable: `--dry` for `--dry-run`.
    Shortened,
}

impl<'w> Given<'w> {
    /// Reads words, of which the options `valued` have a value: `-x value`,
    /// `-xvalue`, `-abx value`, `--long value` and `--long=value`.
    pub(super) fn read(words: &'w [Word], valued: &[&str], names: Names) -> Self {
        let mut given = Self::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            let text = word.text.as_str();
            if matches!(text, "--" | "--end-of-options") && word.exact {
                given.operands.extend(&words[at..]);
                break;
            }
            let takes_next = if text.starts_with("--") {
                given.long(word, valued, names)
            } else if text.len() > 1 && text.starts_with('-') {
                given.cluster(word, valued)
            } else {
                given.operands.push(word);
                false
            };
            if takes_next && let Some((_, value)) = given.options.last_mut() {
                *value = words.get(at).cloned();
                at += 1;
            }
        }
        given
    }

    /// The values of these options, in order.
    pub(super) fn values(&self, names: &[&str]) -> impl Iterator<Item = &Word> {
        let of_these = self.options.iter();
        let of_these = of_these.filter(move |(name, _)| names.contains(&name.as_str()));
        of_these.filter_map(|(_, value)| value.as_ref())
    }

    /// Whether one of these options is given.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        let mut options = self.options.iter();
        options.any(|(name, _)| names.contains(&name.as_str()))
    }

    /// Whether its value is the next word.
    fn long(&mut self, word: &Word, valued: &[&str], names: Names) -> bool {
        let (name, value) = match word.text.split_once('=') {
            Some((name, value)) => (name, Some(part(word, value))),
            None => (word.text.as_str(), None),
        };
        let is_it = |option: &&&str| **option == name;
        let is_short_for_it = |option: &&&str| {
            names == Names::Shortened && name.len() > 3 && option.starts_with(name)
        };
        let known = valued.iter().find(is_it);
        let known = known.or_else(|| valued.iter().find(is_short_for_it));
        let takes_next = known.is_some() && value.is_none();
        let name = known.copied().unwrap_or(name);
        self.options.push((name.to_owned(), value));
        takes_next
    }

    /// Short options in one word; whether the value of the last is the next one.
    fn cluster(&mut self, word: &Word, valued: &[&str]) -> bool {
        let letters = &word.text[1..];
        for (at, letter) in letters.char_indices() {
            let name = format!("-{letter}");
            let rest = &letters[at + letter.len_utf8()..];
            let has_value = valued.contains(&name.as_str());
            let value = (has_value && !rest.is_empty()).then(|| part(word, rest));
            self.options.push((name, value));
            if has_value {
                return rest.is_empty();
            }
        }
        false
    }
}

fn part(of: &Word, text: &str) -> Word {
    Word {
        text: text.to_owned(),
        exact: of.exact,
        ..Word::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, names: Names) -> (Vec<String>, Vec<String>) {
        let words: Vec<Word> = line.split(' ').map(Word::exact).collect();
        let given = Given::read(&words, &["-o", "--repo", "--request"], names);
        let options = given.options.iter().map(|(name, value)| match value {
            Some(value) => format!("{name} {}", value.text),
            None => name.clone(),
        });
        let operands = given.operands.iter().map(|word| word.text.clone());
        (options.collect(), operands.collect())
    }

    #[test]
    fn values_of_options_are_no_options() {
        let table: [(&str, Names, &[&str], &[&str]); 8] = [
            ("a -n b", Names::Whole, &["-n"], &["a", "b"]),
            ("-fo --x a", Names::Whole, &["-f", "-o --x"], &["a"]),
            ("-ox a", Names::Whole, &["-o x"], &["a"]),
            ("--repo --dry a", Names::Whole, &["--repo --dry"], &["a"]),
            ("--repo=b -- -n", Names::Whole, &["--repo b"], &["-n"]),
            ("--rep x a", Names::Shortened, &["--repo x"], &["a"]),
            ("--rep x a", Names::Whole, &["--rep"], &["x", "a"]),
            ("--repo", Names::Whole, &["--repo"], &[]),
        ];
        for (line, names, options, operands) in table {
            let (found, rest) = shown(line, names);
            assert_eq!(
                (&found[..], &rest[..]),
                (&strings(options)[..], &strings(operands)[..]),
                "{line}"
            );
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }
}
