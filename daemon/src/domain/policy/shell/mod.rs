//! What a shell command line would run, found out by parsing it.
//!
//! The line is parsed with a grammar for bash and walked as a shell would walk
//! it: words are expanded as far as their value is certain, and what starts
//! other commands (`sh -c`, `xargs`, `find -exec`, `env`, `sudo`, aliases,
//! functions, here-documents and pipes into a shell) is followed. What comes of
//! it is a flat list of simple commands. Nothing is guessed: a word that cannot
//! be known says so, and what cannot be followed is a doubt. Whoever judges a
//! line has to take doubts for the worst.

mod all_variables;
mod calls;
mod copies;
mod environment;
mod expand;
mod found;
mod git;
mod output;
mod redirect;
mod walk;
mod wrap;
mod wrappers;

use std::collections::{BTreeMap, BTreeSet};

pub use self::walk::LINE_MAX_BYTES;
pub(super) use self::{
    copies::copies_of,
    found::{narrows, starting_points},
    git::{moves_pushes, pager_of_grep},
    output::is_option,
    wrap::{interpreter, runs_what_follows},
};

/// The doubt about a line that runs what comes from the network.
pub(super) const RUNS_FETCHED: &str = "it runs what it fetches from the network";
/// The doubt about a line that runs what it has decoded.
pub(super) const RUNS_DECODED: &str = "it runs what it has decoded";
/// The doubt about a line that has a shell read what is not known.
pub(super) const RUNS_SAID: &str = "a shell runs what another command says";

/// A word of a command, after expansion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Its text; what is not known is left as it was written.
    pub text: String,
    /// Whether the text is all there is: no part of it is unknown.
    pub exact: bool,
    /// The directory that it lies below, where that much is known of a word that
    /// is not exact.
    pub within: Option<String>,
    /// Whether a shell puts the names of files that it fits in its place.
    pub is_glob: bool,
    /// Whether it is where a redirection adds to what is there.
    pub is_added_to: bool,
    /// Whether it holds all variables, or names a file that does.
    pub of_environment: bool,
}

impl Word {
    /// A word with this very text.
    pub fn exact(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            exact: true,
            ..Self::default()
        }
    }

    /// A word of which nothing is known.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Its text, where that is certain.
    #[must_use]
    pub fn known(&self) -> Option<&str> {
        self.exact.then_some(self.text.as_str())
    }
}

/// What a command reads on its standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Input {
    /// Nothing that the line gives it.
    #[default]
    None,
    /// This text.
    Text(String),
    /// Names of files below a directory.
    Names(String),
    /// Something from the network.
    Fetched,
    /// Something that was encoded.
    Decoded,
    /// All variables, among this.
    Environment(Box<Input>),
    /// A file.
    File(Word),
    /// Something else.
    Unknown,
}

impl Input {
    /// Whether all variables are in it.
    #[must_use]
    pub fn has_environment(&self) -> bool {
        matches!(self, Self::Environment(_))
    }

    /// What it is beside all variables.
    #[must_use]
    pub fn others(&self) -> &Self {
        match self {
            Self::Environment(others) => others.others(),
            others => others,
        }
    }

    /// All variables, and this.
    #[must_use]
    pub(super) fn with_environment(self) -> Self {
        match self {
            Self::Environment(_) => self,
            others => Self::Environment(Box::new(others)),
        }
    }
}

/// One command that a line runs, after everything around it was taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleCommand {
    /// Program and arguments; never empty.
    pub argv: Vec<Word>,
    /// Directories that it may run in, absolute; none when that is not known.
    pub directories: Vec<String>,
    /// Files that it writes by redirection.
    pub writes: Vec<Word>,
    /// Files that it reads by redirection, and texts of here-documents that are
    /// not known.
    pub reads: Vec<Word>,
    /// Variables that are set for it.
    pub environment: Vec<(String, Word)>,
    /// Its standard input.
    pub input: Input,
    /// Text of the file that it runs, where the same line has written that file;
    /// the inner `None` means that the text is not known.
    pub runs: Option<Option<String>>,
}

impl SimpleCommand {
    /// Its program's name without the directory of a system's programs, where it
    /// is known.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        self.argv.first()?.known().map(program_name)
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[Word] {
        self.argv.get(1..).unwrap_or_default()
    }

    /// The line that it is, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let words: Vec<&str> = self.argv.iter().map(|word| word.text.as_str()).collect();
        words.join(" ")
    }
}

/// What a line would do, as far as that can be known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every command, in the order of the text.
    pub commands: Vec<SimpleCommand>,
    /// Files written by redirections that no command is left of.
    pub writes: Vec<(Word, Vec<String>)>,
    /// What could not be understood, and why.
    pub doubts: Vec<String>,
    /// Files that commands make and redirections write, absolute, with their text
    /// where it is known; of what is added to a file, the text that is added.
    pub written: BTreeMap<String, Option<String>>,
    /// Of these, the ones that are only added to.
    pub added: BTreeSet<String>,
    /// Files that are run and that the line itself has not written before.
    pub runs: Vec<RunFile>,
}

/// A file that a line runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFile {
    /// Its name.
    pub file: Word,
    /// Directories that the name may be meant from, absolute.
    pub directories: Vec<String>,
    /// What reads it.
    pub by: RunBy,
}

/// What reads a file that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunBy {
    /// A shell, whatever the file is.
    Shell,
    /// Whatever its first line says.
    Itself,
}

/// Reads a command line that runs in a directory, absolute.
#[must_use]
pub fn read(line: &str, directory: &str) -> Reading {
    let mut walker = walk::Walker::new(directory);
    walker.script(line);
    walker.into_reading()
}

/// Reads a program and its arguments, which no shell sees.
#[must_use]
pub fn read_argv(argv: &[String], directory: &str) -> Reading {
    read_words(argv.iter().map(Word::exact).collect(), directory)
}

/// Reads a program and its arguments, expanded.
pub(super) fn read_words(words: Vec<Word>, directory: &str) -> Reading {
    let mut walker = walk::Walker::new(directory);
    walker.command(words, Vec::new(), Vec::new(), BTreeMap::new(), Input::None);
    walker.into_reading()
}

/// Whether a file is a script for a shell, by its name or its first line.
#[must_use]
pub fn is_script(path: &str, text: &str) -> bool {
    let named = [".sh", ".bash", ".zsh", ".ksh"];
    named.iter().any(|ending| path.ends_with(ending))
        || interpreter(text).is_some_and(|name| wrappers::SHELLS.contains(&name))
}

/// Whether nothing in a file's name says what it is: `bin/deploy`, `gradlew`.
#[must_use]
pub fn may_be_script(path: &str) -> bool {
    !path.rsplit('/').next().unwrap_or(path).contains('.')
}

/// A program's name without the directories that systems keep programs in.
#[must_use]
pub fn program_name(program: &str) -> &str {
    const DIRECTORIES: [&str; 6] = [
        "/usr/local/sbin/",
        "/usr/local/bin/",
        "/usr/sbin/",
        "/usr/bin/",
        "/sbin/",
        "/bin/",
    ];
    DIRECTORIES
        .iter()
        .find_map(|directory| program.strip_prefix(directory))
        .filter(|name| !name.contains('/'))
        .unwrap_or(program)
}

/// A path made absolute from a directory, with `.` and `..` taken out. `~` stays
/// in front of what lies in the home directory.
#[must_use]
pub fn absolute(path: &str, directory: &str) -> String {
    let (root, rest, base) = if let Some(rest) = path.strip_prefix('/') {
        ("/", rest, "")
    } else if path == "~" || path.starts_with("~/") {
        ("~", path.get(1..).unwrap_or(""), "")
    } else if path.starts_with('~') {
        // Somebody else's home.
        ("/home-of-", path.get(1..).unwrap_or(""), "")
    } else if let Some(base) = directory.strip_prefix('~') {
        ("~", path, base)
    } else {
        ("/", path, directory)
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(rest.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() && root == "~" {
                    return "/".to_owned();
                }
            }
            part => parts.push(part),
        }
    }
    match root {
        "~" if parts.is_empty() => "~".to_owned(),
        "~" => format!("~/{}", parts.join("/")),
        root => format!("{root}{}", parts.join("/")),
    }
}

#[cfg(test)]
mod tests;
