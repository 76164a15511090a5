//! The catalogue of known failures: data, checked against its own samples when it
//! is loaded.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;

use super::{Failure, FailureType, RecoveryAction, literals::Literals};

/// The entries that come with the daemon.
const BUILT_IN: &str = include_str!("catalogue.toml");
/// Bytes of an output that are looked at: its start and its end, half each.
const LOOKED_AT_BYTES: usize = 1 << 20;
/// Patterns that are asked one by one, at most.
const ASKED_ALONE_MAX: usize = 8;
/// Bytes of a catalogue's patterns, compiled.
const COMPILED_MAX_BYTES: usize = 64 << 20;

/// Where a failure is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundIn {
    /// A command of the model's.
    Command,
    /// Tests, lint and types that the daemon runs.
    Checks,
    /// A file tool.
    File,
    /// The model's provider.
    Model,
    /// Git and the forge.
    Git,
    /// Checks of a pull request.
    Ci,
}

impl FoundIn {
    /// Every place.
    pub const ALL: [Self; 6] = [
        Self::Command,
        Self::Checks,
        Self::File,
        Self::Model,
        Self::Git,
        Self::Ci,
    ];
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status; 128 and the signal for one that a signal ended.
    Exit(u32),
    /// Its time was used up.
    TimedOut,
    /// It failed and has no exit status.
    Failed,
}

/// What is known of something that may have failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs<'a> {
    /// What it was.
    pub found_in: FoundIn,
    /// How it ended.
    pub end: End,
    /// What it said.
    pub output: &'a [u8],
}

/// Why a catalogue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// It is no catalogue.
    #[error("the catalogue of failures cannot be read: {0}")]
    Malformed(String),
    /// An entry is wrong.
    #[error("entry `{id}` of the catalogue of failures: {why}")]
    Entry {
        /// Its id.
        id: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pattern: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    #[serde(rename = "where")]
    found_in: Vec<FoundIn>,
    exit: ExitRule,
    /// Without one the exit status decides.
    pattern: Option<String>,
    #[serde(rename = "type")]
    kind: FailureType,
    action: RecoveryAction,
    advice: String,
    sample: String,
    clean: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum ExitRule {
    Word(ExitWord),
    Statuses(Vec<u32>),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExitWord {
    Any,
    Failed,
    Timeout,
}

impl ExitRule {
    fn fits(&self, end: End) -> bool {
        match (self, end) {
            (Self::Word(ExitWord::Any), _) => true,
            (Self::Word(ExitWord::Failed), End::Exit(status)) => status != 0,
            (Self::Word(ExitWord::Failed), End::TimedOut | End::Failed) => true,
            (Self::Word(ExitWord::Timeout), end) => end == End::TimedOut,
            (Self::Statuses(wanted), End::Exit(status)) => wanted.contains(&status),
            (Self::Statuses(_), End::TimedOut | End::Failed) => false,
        }
    }

    /// An end that fits.
    fn example(&self) -> End {
        match self {
            Self::Word(ExitWord::Any | ExitWord::Failed) => End::Exit(1),
            Self::Word(ExitWord::Timeout) => End::TimedOut,
            Self::Statuses(statuses) => End::Exit(statuses.first().copied().unwrap_or(1)),
        }
    }
}

/// Known failures, in the order in which they are looked for.
#[derive(Debug)]
pub struct Catalogue {
    entries: Vec<Entry>,
    /// For each place, the patterns that are looked for there.
    looks: BTreeMap<FoundIn, Look>,
}

/// The patterns of one place, and the entries they belong to.
#[derive(Debug)]
struct Look {
    literals: Literals,
    patterns: Vec<Regex>,
    all: RegexSet,
    entries: Vec<usize>,
}

impl Catalogue {
    /// The catalogue that comes with the daemon, with a person's own entries
    /// before it. One with an id of the daemon's takes its place.
    ///
    /// # Errors
    /// The entry that is wrong, and why.
    pub fn with(own: Option<&str>) -> Result<Self, CatalogueError> {
        let read = |text: &str| {
            toml::from_str::<File>(text)
                .map(|file| file.pattern)
                .map_err(|error| CatalogueError::Malformed(error.to_string()))
        };
        let mut entries = own.map(read).transpose()?.unwrap_or_default();
        check_ids(&entries)?;
        let built_in = read(BUILT_IN)?;
        check_ids(&built_in)?;
        for entry in built_in {
            if !entries.iter().any(|own| own.id == entry.id) {
                entries.push(entry);
            }
        }
        entries.iter().try_for_each(check)?;
        let looks = FoundIn::ALL
            .into_iter()
            .map(|place| Ok((place, Look::at(place, &entries)?)))
            .collect::<Result<_, CatalogueError>>()?;
        Ok(Self { entries, looks })
    }

    /// Entries in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first entry that fits; `None` as well for what did not fail.
    #[must_use]
    pub fn detect(&self, signs: &Signs<'_>) -> Option<Failure> {
        let look = self.looks.get(&signs.found_in)?;
        let ends =
            |entry: &Entry| entry.found_in.contains(&signs.found_in) && entry.exit.fits(signs.end);
        if !self.entries.iter().any(ends) {
            return None;
        }
        let matching = look.first_match(signs.output, |index| ends(&self.entries[index]));
        let by_status = |entry: &Entry| entry.pattern.is_none() && ends(entry);
        let by_status = self.entries.iter().position(by_status);
        let first = matching.into_iter().chain(by_status).min()?;
        let entry = &self.entries[first];
        Some(Failure {
            id: entry.id.clone(),
            kind: entry.kind,
            action: entry.action,
            advice: entry.advice.clone(),
        })
    }
}

/// Start and end of an output, whole when it is short.
fn ends_of(output: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let half = LOOKED_AT_BYTES / 2;
    let (start, end) = if output.len() <= LOOKED_AT_BYTES {
        (output, &[][..])
    } else {
        (&output[..half], &output[output.len() - half..])
    };
    [start, end].into_iter().filter(|part| !part.is_empty())
}

impl Look {
    fn at(place: FoundIn, all: &[Entry]) -> Result<Self, CatalogueError> {
        let mut entries = Vec::new();
        let mut patterns = Vec::new();
        for (index, entry) in all.iter().enumerate() {
            if let Some(pattern) = &entry.pattern
                && entry.found_in.contains(&place)
            {
                entries.push(index);
                patterns.push(pattern.as_str());
            }
        }
        let malformed =
            |error: &dyn std::fmt::Display| CatalogueError::Malformed(error.to_string());
        let each = patterns.iter().map(|pattern| {
            RegexBuilder::new(pattern)
                .unicode(false)
                .size_limit(COMPILED_MAX_BYTES)
                .build()
                .map_err(|error| malformed(&error))
        });
        Ok(Self {
            literals: Literals::of(&patterns).map_err(|error| malformed(&error))?,
            all: compiled(&patterns).map_err(|error| malformed(&error))?,
            patterns: each.collect::<Result<_, _>>()?,
            entries,
        })
    }

    /// The first of the entries asked for whose pattern matches. Few patterns
    /// that may match are asked one by one, which stops at the first; many
    /// together, so that no output takes long.
    fn first_match(&self, output: &[u8], asked: impl Fn(usize) -> bool) -> Option<usize> {
        let may = self.literals.may_match(ends_of(output));
        let candidates: Vec<usize> = (0..self.patterns.len())
            .filter(|index| may[*index] && asked(self.entries[*index]))
            .collect();
        let first = if candidates.len() > ASKED_ALONE_MAX {
            let parts = ends_of(output);
            let matching: Vec<_> = parts.map(|part| self.all.matches(part)).collect();
            let matches = |index: &usize| matching.iter().any(|set| set.matched(*index));
            candidates.into_iter().find(matches)
        } else {
            let matches =
                |index: &usize| ends_of(output).any(|part| self.patterns[*index].is_match(part));
            candidates.into_iter().find(matches)
        };
        first.map(|index| self.entries[index])
    }
}

fn compiled(patterns: &[&str]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(patterns)
        .unicode(false)
        .size_limit(COMPILED_MAX_BYTES)
        .dfa_size_limit(COMPILED_MAX_BYTES)
        .build()
}

fn check_ids(entries: &[Entry]) -> Result<(), CatalogueError> {
    for (index, entry) in entries.iter().enumerate() {
        if entries[..index].iter().any(|before| before.id == entry.id) {
            return Err(wrong(entry, "its id occurs twice"));
        }
    }
    Ok(())
}

fn wrong(entry: &Entry, why: impl Into<String>) -> CatalogueError {
    CatalogueError::Entry {
        id: entry.id.clone(),
        why: why.into(),
    }
}

/// Holds an entry to its own samples.
fn check(entry: &Entry) -> Result<(), CatalogueError> {
    for (name, value) in [("id", &entry.id), ("advice", &entry.advice)] {
        if value.trim().is_empty() {
            return Err(wrong(entry, format!("its `{name}` is empty")));
        }
    }
    if entry.found_in.is_empty() {
        return Err(wrong(entry, "`where` names no place"));
    }
    if matches!(&entry.exit, ExitRule::Statuses(statuses) if statuses.is_empty()) {
        return Err(wrong(entry, "`exit` names no status"));
    }
    let Some(pattern) = &entry.pattern else {
        return match entry.exit.fits(End::Exit(0)) {
            true => Err(wrong(
                entry,
                "without a `pattern` its `exit` has to rule out success",
            )),
            false => Ok(()),
        };
    };
    let pattern = compiled(&[pattern]).map_err(|error| {
        wrong(
            entry,
            format!("its pattern is no regular expression: {error}"),
        )
    })?;
    if pattern.is_match(b"") {
        return Err(wrong(
            entry,
            "its pattern matches an empty text, so everything",
        ));
    }
    if !entry.exit.fits(entry.exit.example()) || !pattern.is_match(entry.sample.as_bytes()) {
        return Err(wrong(entry, "its pattern does not match its `sample`"));
    }
    if pattern.is_match(entry.clean.as_bytes()) {
        return Err(wrong(
            entry,
            "its pattern matches `clean`, which it must not",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::with(None).unwrap()
    }

    fn found(catalogue: &Catalogue, end: End, output: &str) -> Option<(String, FailureType)> {
        let signs = Signs {
            found_in: FoundIn::Command,
            end,
            output: output.as_bytes(),
        };
        let failure = catalogue.detect(&signs)?;
        Some((failure.id, failure.kind))
    }

    #[test]
    fn the_built_in_catalogue_keeps_its_promises() {
        let catalogue = catalogue();
        assert!(catalogue.len() >= 60, "{}", catalogue.len());
        let known: BTreeSet<FailureType> =
            catalogue.entries.iter().map(|entry| entry.kind).collect();
        let missing: Vec<&str> = FailureType::ALL
            .into_iter()
            .filter(|kind| *kind != FailureType::Unknown && !known.contains(kind))
            .map(FailureType::name)
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    /// Each sample, seen where it belongs among all the others, is of its own
    /// type.
    #[test]
    fn every_sample_is_found_as_what_it_is_among_all_entries() {
        let catalogue = catalogue();
        for entry in &catalogue.entries {
            for place in &entry.found_in {
                let signs = Signs {
                    found_in: *place,
                    end: entry.exit.example(),
                    output: entry.sample.as_bytes(),
                };
                let failure = catalogue.detect(&signs).unwrap();
                assert_eq!(
                    (failure.kind, failure.action),
                    (entry.kind, entry.action),
                    "{} in {place:?} was taken for {}",
                    entry.id,
                    failure.id
                );
            }
        }
    }

    #[test]
    fn what_succeeded_is_no_failure_whatever_it_says() {
        let said = "ModuleNotFoundError: No module named 'x'\nPermission denied\n";
        assert_eq!(found(&catalogue(), End::Exit(0), said), None);
    }

    #[test]
    fn exit_status_and_output_are_read_together() {
        let catalogue = catalogue();
        let id = |end, output| found(&catalogue, end, output).map(|(id, _)| id);
        assert_eq!(id(End::Exit(127), "").as_deref(), Some("command.not-found"));
        assert_eq!(
            id(
                End::Exit(1),
                "E       fixture 'db' not found\n== 1 error in 0.1s =="
            )
            .as_deref(),
            Some("python.fixture")
        );
        assert_eq!(
            id(End::TimedOut, "== 1 failed in 3s ==").as_deref(),
            Some("time.daemon-timeout")
        );
        assert_eq!(
            id(
                End::Exit(1),
                "cp: cannot create 'x': No space left on device"
            )
            .as_deref(),
            Some("disk.full")
        );
        assert_eq!(id(End::Exit(1), "something of its own"), None);
        assert_eq!(
            id(End::Exit(5), "no tests ran in 0.01s").as_deref(),
            Some("python.no-tests")
        );
    }

    #[test]
    fn start_and_end_of_a_long_output_are_looked_at() {
        let catalogue = catalogue();
        let noise = "a line of noise that says nothing at all\n".repeat(100_000);
        let id = |output: &str| found(&catalogue, End::Exit(1), output).map(|(id, _)| id);
        let last = format!("{noise}OSError: [Errno 98] Address already in use\n");
        assert_eq!(id(&last).as_deref(), Some("port.in-use"));
        let first = format!("bash: fork: retry: Resource temporarily unavailable\n{noise}");
        assert_eq!(id(&first).as_deref(), Some("process.limit"));
    }

    const OWN: &str = r#"
[[pattern]]
id = "ours.licence"
where = ["command"]
exit = [7]
pattern = "no licence server"
type = "NETWORK_ERROR"
action = "escalate"
advice = "Ask for the licence server."
sample = "no licence server found"
clean = "licensed"
"#;

    #[test]
    fn own_entries_come_first_and_replace_those_of_the_same_id() {
        let catalogue = Catalogue::with(Some(OWN)).unwrap();
        assert_eq!(catalogue.len(), self::catalogue().len() + 1);
        let said = found(
            &catalogue,
            End::Exit(7),
            "no licence server; Permission denied",
        );
        assert_eq!(
            said,
            Some(("ours.licence".into(), FailureType::NetworkError))
        );
        assert_eq!(found(&catalogue, End::Exit(8), "no licence server"), None);
        let replaced = OWN.replace("ours.licence", "disk.full");
        let catalogue = Catalogue::with(Some(&replaced)).unwrap();
        assert_eq!(catalogue.len(), self::catalogue().len());
        assert_eq!(found(&catalogue, End::Exit(1), "ENOSPC"), None);
    }

    #[test]
    fn a_bad_file_is_refused_with_its_entry_named() {
        for (from, to, says) in [
            (
                "no licence server\"\ntype",
                "(\"\ntype",
                "no regular expression",
            ),
            (
                "sample = \"no licence server found\"",
                "sample = \"x\"",
                "does not match its `sample`",
            ),
            (
                "clean = \"licensed\"",
                "clean = \"no licence server\"",
                "matches `clean`",
            ),
            (
                "pattern = \"no licence server\"",
                "pattern = \"x*\"",
                "empty text",
            ),
            ("exit = [7]", "exit = []", "names no status"),
            (
                "exit = [7]\npattern = \"no licence server\"",
                "exit = \"any\"",
                "rule out success",
            ),
            ("where = [\"command\"]", "where = []", "names no place"),
            ("Ask for the licence server.", " ", "`advice` is empty"),
        ] {
            let text = OWN.replace(from, to);
            assert_ne!(text, OWN, "{from}");
            let error = Catalogue::with(Some(&text)).unwrap_err().to_string();
            assert!(
                error.contains("ours.licence") && error.contains(says),
                "{says}: {error}"
            );
        }
        let twice = format!("{OWN}{OWN}");
        assert!(
            Catalogue::with(Some(&twice))
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        let unknown = OWN.replace("action", "acton");
        assert!(matches!(
            Catalogue::with(Some(&unknown)),
            Err(CatalogueError::Malformed(_))
        ));
    }
}
