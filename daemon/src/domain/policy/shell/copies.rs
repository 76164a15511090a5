//! Programs and scripts that a line copies, links or moves, and runs under their new
//! names: what is run is judged as what it is a copy of, beside what it is called.

use std::collections::BTreeMap;

use super::{
    Input, SimpleCommand, Word, absolute, output::is_option, walk::Walker, wrappers::SHELLS,
};

/// Copies of one line that are followed.
const COPIES_MAX: usize = 1024;
/// Files that one file may be a copy of, over others.
const ORIGINS_MAX: usize = 16;
/// How often what a file is a copy of is looked for in the directory that a part of
/// was copied over it: `mv build/release/app build` makes a file, or a directory that
/// `release/app` lies below once more, and so on.
const NESTED_MAX: usize = 2;

/// A file or a directory that may be there after a command.
#[derive(Debug)]
pub(in crate::domain::policy) struct CopiedFile {
    /// What it is a copy of: absolute, or the bare name of a program that is looked
    /// for; not exact where that is not known.
    pub(in crate::domain::policy) origin: Word,
    /// Where it is, absolute.
    pub(in crate::domain::policy) place: String,
}

/// What a command copies, and where to.
#[derive(Debug)]
struct Copying {
    sources: Vec<Word>,
    target: Word,
    /// Whether the target is a directory for certain.
    into: bool,
    /// Whether a name leads from where the link lies, and not from here.
    symbolic: bool,
}

impl Walker<'_> {
    /// Notes where a command copies, links or moves files to.
    pub(super) fn note_copies(&mut self, command: &SimpleCommand) {
        // One more than are followed is the doubt, and ends it for the line.
        let left = (COPIES_MAX + 1).saturating_sub(self.copies_seen);
        if left == 0 {
            return;
        }
        for copy in copies_of(command, left) {
            self.copies_seen += 1;
            if self.copies_seen > COPIES_MAX {
                self.doubt(format!("it copies more than {COPIES_MAX} files"));
                return;
            }
            self.note_copy(copy);
        }
    }

    fn note_copy(&mut self, copy: CopiedFile) {
        let CopiedFile { origin, place } = copy;
        if let Some(text) = self.written.get(&origin.text).cloned() {
            self.written.insert(place.clone(), text);
            match self.added.contains(&origin.text) {
                true => self.added.insert(place.clone()),
                false => self.added.remove(&place),
            };
        }
        if self.of_environment.contains(&origin.text) {
            self.of_environment.insert(place.clone());
        }
        if origin.text == place {
            return;
        }
        let origins = self.copies.entry(place).or_default();
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }

    /// Walks a command once more for each file that its program, or the script that
    /// it has a shell run, is a copy of.
    pub(super) fn under_first_names(&mut self, command: &SimpleCommand) {
        if self.copies.is_empty() {
            return;
        }
        let mut others = vec![command.argv.clone()];
        self.add_first_names(command, 0, &mut others);
        for words in others.clone() {
            let program = words.first().and_then(Word::known).unwrap_or_default();
            let program = program.rsplit('/').next().unwrap_or_default();
            if SHELLS.contains(&program) || matches!(program, "source" | ".") {
                let options = words.iter().skip(1);
                let options = options.take_while(|word| word.text.starts_with(['-', '+']));
                let script_at = 1 + options.count();
                let of = SimpleCommand {
                    argv: words,
                    ..command.clone()
                };
                self.add_first_names(&of, script_at, &mut others);
            }
        }
        for words in others.into_iter().skip(1) {
            self.is_renamed = true;
            let input = command.input.clone();
            self.command(words, Vec::new(), Vec::new(), BTreeMap::new(), input);
        }
    }

    /// Adds a command for each file that one of its words is a copy of.
    fn add_first_names(&mut self, command: &SimpleCommand, at: usize, to: &mut Vec<Vec<Word>>) {
        let Some(name) = command.argv.get(at).and_then(Word::known) else {
            return;
        };
        let places = match at == 0 && !name.contains('/') {
            true => self.in_program_directories(name),
            false => {
                let directories = command.directories.iter();
                directories.map(|from| absolute(name, from)).collect()
            }
        };
        let shown = name.to_owned();
        for origin in self.origins(places) {
            if !origin.exact {
                if self.matters(command, at, &origin) {
                    self.doubt(format!("what `{shown}` is a copy of is not known"));
                }
                continue;
            }
            // One of the repository's own files, whichever it is.
            let is_any_of = origin.text.contains(['*', '?', '[']);
            if is_any_of && lies_below(&origin.text, self.start) && !self.has_written() {
                continue;
            }
            let mut words = command.argv.clone();
            words[at] = origin;
            to.push(words);
        }
    }

    /// Whether it matters what a copy is of that is not known: it may be a program of
    /// the system's that does harm with what it is given, or what the line has
    /// written itself.
    fn matters(&self, command: &SimpleCommand, at: usize, origin: &Word) -> bool {
        if self.has_written() || may_be_of_the_system(&origin.text) {
            return true;
        }
        match at {
            0 => self.may_do_harm(command),
            // A script that lies in a copied directory is like one that lies anywhere.
            _ => self.copies.values().any(|origins| origins.contains(origin)),
        }
    }

    /// Whether the line has written a file.
    fn has_written(&self) -> bool {
        let mut written = self.written.keys();
        written.any(|path| !path.starts_with("/dev/"))
    }

    /// Whether what a command is given would be risky under the name of some program.
    fn may_do_harm(&self, command: &SimpleCommand) -> bool {
        const ACTS: [&str; 5] = ["push", "merge", "publish", "delete", "destroy"];
        const RUNS: [&str; 8] = [
            "-exec",
            "-ok",
            "-delete",
            "--eval",
            "--exec",
            "--command",
            "--run",
            "--upload-pack",
        ];
        if !matches!(command.input, Input::None | Input::File(_)) {
            return true;
        }
        let words = command.arguments();
        let has_letter = |letters: [char; 3]| {
            words.iter().any(|word| {
                let letters_of = word.text.strip_prefix('-');
                letters_of.is_some_and(|row| {
                    !row.starts_with('-') && row.len() < 4 && row.contains(letters)
                })
            })
        };
        let removes = has_letter(['r', 'R', 'f'])
            || (words.iter()).any(|word| ["--recursive", "--force"].contains(&&*word.text));
        let is_risky = |word: &Word| {
            let text = word.text.as_str();
            if word.of_environment
                || text.contains(['(', ';', '`', '|']) && word.exact
                || ACTS.contains(&text)
                || RUNS.iter().any(|option| text.starts_with(option))
            {
                return true;
            }
            let operand = match (text.starts_with('-'), text.split_once('=')) {
                (_, Some((_, value))) => value,
                (true, None) => return false,
                (false, None) => text,
            };
            if !word.exact {
                return removes || operand.starts_with(['/', '~']) || operand.contains("://");
            }
            command.directories.iter().any(|from| {
                let place = absolute(operand, from);
                let is_inside = lies_below(&place, self.start) && !place.contains("/.git/");
                let is_whole = place == self.start || place.ends_with("/.git");
                let is_open = lies_below(&place, "/tmp") || place.starts_with("/dev/std");
                removes && (is_whole || operand.contains('*'))
                    || !(is_inside || is_whole || is_open || operand.contains("://"))
            })
        };
        has_letter(['c', 'e', 'E']) || words.iter().any(is_risky)
    }

    /// Copies with this name in directories that programs are looked for in.
    fn in_program_directories(&self, name: &str) -> Vec<String> {
        let in_one = |place: &&String| {
            let parent = place.rsplit_once('/');
            parent.is_some_and(|(parent, last)| {
                last == name && (parent.ends_with("/bin") || parent.ends_with("/sbin"))
            })
        };
        self.copies.keys().filter(in_one).cloned().collect()
    }

    /// What files are copies of, over other copies, and as parts of directories.
    fn origins(&mut self, places: Vec<String>) -> Vec<Word> {
        let mut found: Vec<Word> = Vec::new();
        let mut left: Vec<(String, usize)> = places.into_iter().map(|place| (place, 0)).collect();
        while let Some((place, nested)) = left.pop() {
            let mut of_place = Vec::new();
            for (copy, origins) in &self.copies {
                let Some(rest) = place.strip_prefix(copy.as_str()) else {
                    continue;
                };
                if !rest.is_empty() && !rest.starts_with('/') {
                    continue;
                }
                for origin in origins {
                    let nested = nested + usize::from(lies_below(&origin.text, copy));
                    if nested <= NESTED_MAX {
                        let text = format!("{}{rest}", origin.text);
                        let origin = origin.clone();
                        of_place.push((Word { text, ..origin }, nested));
                    }
                }
            }
            for (origin, nested) in of_place {
                if found.contains(&origin) {
                    continue;
                }
                if found.len() >= ORIGINS_MAX {
                    self.doubt("it copies what it runs too often to be followed");
                    return found;
                }
                left.extend(origin.known().map(|path| (path.to_owned(), nested)));
                found.push(origin);
            }
        }
        found
    }
}

/// The files that a command copies, links or moves, each at the places where it may
/// be then; at most so many.
pub(in crate::domain::policy) fn copies_of(
    command: &SimpleCommand,
    most: usize,
) -> Vec<CopiedFile> {
    let mut found = Vec::new();
    let Some(copying) = copying(command) else {
        return found;
    };
    let Some(target) = copying.target.known() else {
        return found;
    };
    for from in &command.directories {
        let target = absolute(target, from);
        for source in &copying.sources {
            let name = looked_up(&source.text).unwrap_or(&source.text);
            let name = name.trim_end_matches('/').rsplit('/').next();
            let name = name.filter(|name| !matches!(*name, "" | "." | ".."));
            let inside = name.map(|name| absolute(name, &target));
            let itself = (!copying.into).then(|| target.clone());
            for place in inside.into_iter().chain(itself) {
                if found.len() >= most {
                    return found;
                }
                let base = match copying.symbolic {
                    true => absolute("..", &place),
                    false => from.clone(),
                };
                let origin = match (source.known(), looked_up(&source.text)) {
                    (Some(path), _) => Word::exact(absolute(path, &base)),
                    (None, Some(name)) => Word::exact(name),
                    (None, None) => source.clone(),
                };
                found.push(CopiedFile { origin, place });
            }
        }
    }
    found
}

/// Whether a word that is not known names what systems keep programs in, or looks one
/// up.
fn may_be_of_the_system(text: &str) -> bool {
    const LOOKS: [&str; 7] = [
        "which ",
        "whereis ",
        "whence ",
        "command -",
        "type -",
        "$PATH",
        "${PATH",
    ];
    const PLACES: [&str; 6] = ["bin", "sbin", "usr", "lib", "*", "?"];
    let mut before = ' ';
    let mut from_root = text.char_indices().filter(|(_, char)| {
        let begins = *char == '/' && (before.is_whitespace() || "\"'(={,:".contains(before));
        before = *char;
        begins
    });
    LOOKS.iter().any(|looks| text.contains(looks))
        || from_root.any(|(at, _)| {
            let rest = &text[at + 1..];
            rest.starts_with(char::is_whitespace)
                || PLACES.iter().any(|place| rest.starts_with(place))
        })
}

/// Whether a path leads to something in a directory.
fn lies_below(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// What a command copies, links or moves.
fn copying(command: &SimpleCommand) -> Option<Copying> {
    let program = command.program()?;
    let words = command.arguments();
    let valued: &[&str] = match program {
        "cp" | "mv" | "ln" | "link" => &["-S", "--suffix"],
        "install" => &[
            "-S", "--suffix", "-m", "--mode", "-o", "--owner", "-g", "--group",
        ],
        "rsync" => &["-e", "--rsh", "--exclude", "--include", "--filter"],
        "dd" => {
            let of = |name: &str| {
                let mut values = words.iter().filter(|word| word.text.starts_with(name));
                let word = values.next()?;
                Some(Word {
                    text: word.text[name.len()..].to_owned(),
                    ..word.clone()
                })
            };
            return Some(Copying {
                sources: vec![of("if=")?],
                target: of("of=")?,
                into: false,
                symbolic: false,
            });
        }
        _ => return None,
    };
    let mut given: Vec<Word> = Vec::new();
    let mut directory = None;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let text = word.text.as_str();
        if let Some(path) = text.strip_prefix("--target-directory=") {
            directory = Some(Word {
                text: path.to_owned(),
                ..word.clone()
            });
        } else if program != "rsync" && is_option(text, &["-t", "--target-directory"]) {
            directory = words.get(at).cloned();
            at += 1;
        } else if program != "rsync"
            && let Some(path) = text.strip_prefix("-t")
        {
            directory = Some(Word {
                text: path.to_owned(),
                ..word.clone()
            });
        } else if is_option(text, valued) {
            at += 1;
        } else if !text.starts_with('-') || text == "-" {
            given.push(word.clone());
        }
    }
    let has_letter = |letter: char| {
        let mut options = words.iter().map(|word| word.text.as_str());
        options.any(|text| {
            let is_short = text.starts_with('-') && !text.starts_with("--");
            is_short && text.contains(letter) || text == "--symbolic" || text == "--symbolic-link"
        })
    };
    let symbolic = matches!(program, "ln" | "cp") && has_letter('s');
    let (target, into) = match directory {
        Some(directory) => (directory, true),
        None if given.len() > 1 => {
            let target = given.pop()?;
            let into = given.len() > 1 || target.text.ends_with(['/', '.']);
            (target, into)
        }
        // `ln ../x` makes `x` here.
        None if program == "ln" => (Word::exact("."), true),
        None => return None,
    };
    Some(Copying {
        sources: given,
        target,
        into,
        symbolic,
    })
}

/// The program that `$(which NAME)` or `$(command -v NAME)` finds.
fn looked_up(text: &str) -> Option<&str> {
    let inside = text
        .strip_prefix("$(")
        .and_then(|rest| rest.strip_suffix(')'));
    let inside = inside.or_else(|| text.strip_prefix('`')?.strip_suffix('`'))?;
    let mut words = inside.split_whitespace();
    let looks = matches!(words.next()?, "which" | "command" | "type");
    let name = words.find(|word| !word.starts_with('-'))?;
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_.+-".contains(char);
    (looks && words.next().is_none() && name.chars().all(is_plain)).then_some(name)
}
