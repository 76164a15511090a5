//! Reading a setup file: every key is known, every value in its range, every
//! mistake has a line.

use std::{ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    COMMAND_MAX_BYTES, COMMANDS_MAX, INPUTS_MAX, KNOWLEDGE_FILES_MAX, Knowledge,
    SETUP_FILE_MAX_BYTES, SetupCommand, SetupFile, SetupFileError, SetupFileProblem,
};

/// The only version of the file there is.
const VERSION: &str = "1";
const SECOND: Duration = Duration::from_secs(1);
const LONGEST_INITIALIZE: Duration = Duration::from_secs(2 * 60 * 60);
const LONGEST_MAINTENANCE: Duration = Duration::from_secs(10 * 60);
/// Mistakes of the syntax that are told; the others mostly come of them, and to
/// find the line of each would take long in a file that is no TOML at all.
const SYNTAX_ERRORS_MAX: usize = 20;
/// How alike a key must be to a known one to be taken for it.
const ALIKE: f64 = 0.6;

const TOP: [&str; 4] = ["version", "setup", "commands", "knowledge"];
const SETUP: [&str; 5] = [
    "initialize",
    "maintenance",
    "inputs",
    "timeout",
    "maintenance_timeout",
];
const COMMANDS: [&str; 2] = ["test", "lint"];
const KNOWLEDGE: [&str; 2] = ["text", "files"];
const COMMAND: [&str; 2] = ["run", "user"];

pub(super) fn read(content: &[u8]) -> Result<SetupFile, SetupFileError> {
    let whole = |message: String| SetupFileError {
        problems: vec![SetupFileProblem { line: 0, message }],
    };
    if content.len() > SETUP_FILE_MAX_BYTES {
        let most = SETUP_FILE_MAX_BYTES >> 10;
        return Err(whole(format!("it is larger than {most} KiB")));
    }
    let text = std::str::from_utf8(content).map_err(|_| whole("it is not UTF-8".to_owned()))?;
    let mut reader = Reader {
        text,
        problems: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors.into_iter().take(SYNTAX_ERRORS_MAX) {
        reader.refuse(error.span().unwrap_or_default(), error.message());
    }
    let file = match reader.problems.is_empty() {
        true => reader.file(table.get_ref()),
        false => SetupFile::default(),
    };
    if reader.problems.is_empty() {
        return Ok(file);
    }
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.line);
    Err(SetupFileError { problems })
}

type Value<'i> = Spanned<DeValue<'i>>;

struct Reader<'t> {
    text: &'t str,
    problems: Vec<SetupFileProblem>,
}

impl Reader<'_> {
    fn refuse(&mut self, at: Range<usize>, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = message.into();
        self.problems.push(SetupFileProblem { line, message });
    }

    /// The known keys of a table, in the order of `known`; others are mistakes.
    fn keys<'v, 'i, const N: usize>(
        &mut self,
        table: &'v DeTable<'i>,
        place: &str,
        known: [&str; N],
    ) -> [Option<&'v Value<'i>>; N] {
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let message = unknown(name, place, &known);
                self.refuse(key.span(), message);
            }
        }
        known.map(|name| table.get(name))
    }

    fn file(&mut self, table: &DeTable<'_>) -> SetupFile {
        let mut file = SetupFile::default();
        let [version, setup, commands, knowledge] = self.keys(table, "", TOP);
        if let Some(version) = version {
            let given = match version.get_ref() {
                DeValue::Integer(number) => Some(number.as_str()),
                _ => None,
            };
            if given != Some(VERSION) {
                self.refuse(version.span(), "the only version is 1");
            }
        }
        if let Some(setup) = self.table("setup", setup) {
            self.setup(setup, &mut file);
        }
        if let Some(commands) = self.table("commands", commands) {
            let [test, lint] = self.keys(commands, "commands", COMMANDS);
            file.test = test.and_then(|test| self.words("test", test));
            file.lint = lint.and_then(|lint| self.words("lint", lint));
        }
        if let Some(knowledge) = self.table("knowledge", knowledge) {
            let [text, files] = self.keys(knowledge, "knowledge", KNOWLEDGE);
            let text = text.and_then(|text| self.string("text", text));
            let files = files.map(|files| self.paths("files", files, KNOWLEDGE_FILES_MAX));
            file.knowledge = Knowledge {
                text: text.unwrap_or_default(),
                files: files.unwrap_or_default(),
            };
        }
        file
    }

    fn setup(&mut self, table: &DeTable<'_>, file: &mut SetupFile) {
        let [
            initialize,
            maintenance,
            inputs,
            timeout,
            maintenance_timeout,
        ] = self.keys(table, "setup", SETUP);
        if let Some(initialize) = initialize {
            file.initialize = self.commands("initialize", initialize);
        }
        if let Some(maintenance) = maintenance {
            file.maintenance = self.commands("maintenance", maintenance);
        }
        file.inputs = inputs.map(|inputs| self.paths("inputs", inputs, INPUTS_MAX));
        if let Some(timeout) = timeout {
            let longest = LONGEST_INITIALIZE;
            file.timeout = self.duration("timeout", timeout, longest);
        }
        if let Some(timeout) = maintenance_timeout {
            let longest = LONGEST_MAINTENANCE;
            file.maintenance_timeout = self.duration("maintenance_timeout", timeout, longest);
        }
    }

    fn table<'v, 'i>(
        &mut self,
        name: &str,
        value: Option<&'v Value<'i>>,
    ) -> Option<&'v DeTable<'i>> {
        let value = value?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(
                value.span(),
                format!("`{name}` is a table: write [{name}] on a line of its own"),
            );
        }
        table
    }

    fn string(&mut self, name: &str, value: &Value<'_>) -> Option<String> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.refuse(value.span(), format!("`{name}` is a text in quotes"));
        }
        text.map(str::to_owned)
    }

    fn list<'v, 'i>(
        &mut self,
        name: &str,
        value: &'v Value<'i>,
        most: usize,
    ) -> Vec<&'v Value<'i>> {
        let Some(array) = value.get_ref().as_array() else {
            self.refuse(value.span(), format!("`{name}` is a list: [\"...\"]"));
            return Vec::new();
        };
        if array.len() > most {
            let message = format!("`{name}` has {} entries, {most} at most", array.len());
            self.refuse(value.span(), message);
            return Vec::new();
        }
        array.iter().collect()
    }

    fn commands(&mut self, name: &str, value: &Value<'_>) -> Vec<SetupCommand> {
        let entries = self.list(name, value, COMMANDS_MAX);
        let commands = entries
            .into_iter()
            .filter_map(|entry| self.command(name, entry));
        commands.collect()
    }

    fn command(&mut self, name: &str, value: &Value<'_>) -> Option<SetupCommand> {
        let (run, user) = match value.get_ref() {
            DeValue::String(_) => (Some(value), None),
            DeValue::Table(table) => {
                let [run, user] = self.keys(table, name, COMMAND);
                if run.is_none() {
                    self.refuse(value.span(), "a command without `run`");
                }
                (run, user)
            }
            _ => {
                let message = format!(
                    "an entry of `{name}` is a text, or {{ run = \"...\", user = \"...\" }}"
                );
                self.refuse(value.span(), message);
                (None, None)
            }
        };
        let run = self.string("run", run?)?;
        if run.trim().is_empty() || run.len() > COMMAND_MAX_BYTES || run.contains('\0') {
            let most = COMMAND_MAX_BYTES >> 10;
            let message = format!("a command is not empty, has at most {most} KiB and no NUL");
            self.refuse(value.span(), message);
            return None;
        }
        let user = match user {
            Some(value) => {
                let user = self.string("user", value)?;
                if !is_account(&user) {
                    self.refuse(value.span(), format!("{user:?} is no account's name"));
                    return None;
                }
                Some(user)
            }
            None => None,
        };
        Some(SetupCommand { run, user })
    }

    fn paths(&mut self, name: &str, value: &Value<'_>, most: usize) -> Vec<String> {
        let mut paths = Vec::new();
        for entry in self.list(name, value, most) {
            let Some(path) = self.string(name, entry) else {
                continue;
            };
            if is_inside(&path) {
                paths.push(path.trim_end_matches('/').to_owned());
            } else {
                let message = format!(
                    "{path:?} is no path inside the repository: it is relative, without `..`"
                );
                self.refuse(entry.span(), message);
            }
        }
        paths
    }

    /// A command line in a shell's words, without a shell.
    fn words(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<String>> {
        let line = self.string(name, value)?;
        let problem = match shell_words::split(&line) {
            _ if line.len() > COMMAND_MAX_BYTES || line.contains('\0') => "too long, or has a NUL",
            Ok(words) if !words.is_empty() => return Some(words),
            Ok(_) => "empty",
            Err(_) => "without a closing quote",
        };
        let message =
            format!("the command is {problem}; write it as for a shell: \"python -m pytest -q\"");
        self.refuse(value.span(), message);
        None
    }

    fn duration(&mut self, name: &str, value: &Value<'_>, longest: Duration) -> Duration {
        let given = value.get_ref().as_str();
        let given = given.and_then(|text| humantime::parse_duration(text).ok());
        match given {
            Some(given) if (SECOND..=longest).contains(&given) => given,
            Some(_) | None => {
                let minutes = longest.as_secs() / 60;
                let message =
                    format!("`{name}` is a time from \"1s\" to \"{minutes}m\", in quotes");
                self.refuse(value.span(), message);
                longest
            }
        }
    }
}

fn unknown(name: &str, place: &str, known: &[&str]) -> String {
    let shown: String = name.chars().take(60).collect();
    let place = match place {
        "" => String::new(),
        place => format!(" in [{place}]"),
    };
    let like = known
        .iter()
        .map(|known| (known, strsim::normalized_damerau_levenshtein(name, known)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .filter(|(_, alike)| *alike >= ALIKE);
    match like {
        Some((known, _)) => format!("unknown key `{shown}`{place}; did you mean `{known}`?"),
        None => format!(
            "unknown key `{shown}`{place}; there are {}",
            known.join(", ")
        ),
    }
}

/// Whether a path is relative, has no `..` and is fit for git's own words.
fn is_inside(path: &str) -> bool {
    const LONGEST: usize = 1_024;
    !path.is_empty()
        && path.len() <= LONGEST
        && !path.contains(|c: char| c.is_control())
        && !path.starts_with([':', '-'])
        && (path.trim_end_matches('/').split('/')).all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether a text may be the name of an account.
fn is_account(user: &str) -> bool {
    (1..=64).contains(&user.len())
        && !user.starts_with('-')
        && (user.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
