//! What a tool call would do, as acts with what is risky about each.

mod awk;
mod cloud;
mod code;
mod files;
mod forge;
mod git;
mod given;
mod guarded;
mod inline;
mod inside;
mod lent;
mod moves;
mod paths;
mod programs;
mod sed;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use self::{
    guarded::{is_credential, is_credential_by_name},
    paths::{Place, place},
};
use super::{
    risk::{Level, RiskKind, Tier, level_of},
    shell::{self, Input, Reading, RunBy, RunFile, SimpleCommand, Word, absolute},
    unjudged::Unjudged,
};
use crate::domain::tools::Tool;

/// A tool call, as far as it concerns what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A command line for a shell.
    Line {
        /// The line.
        line: String,
        /// Where it runs, absolute.
        directory: String,
    },
    /// Programs and their arguments, without a shell.
    Argvs {
        /// Which.
        argvs: Vec<Vec<String>>,
        /// Where they run, absolute.
        directory: String,
    },
    /// Files, absolute.
    Files {
        /// Which.
        paths: Vec<FileUse>,
    },
    /// Nothing of the workspace.
    Nothing,
}

/// A file that a tool reads or changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUse {
    /// Its path, absolute.
    pub path: String,
    /// What is done with it.
    pub change: FileChangeKind,
    /// The text that it gets, where that is a script for a shell.
    pub script: Option<String>,
}

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChangeKind {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// It is deleted.
    Delete,
}

/// Something risky about an act.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of risk it is.
    pub kind: RiskKind,
    /// What it concerns: a path, a branch, a program.
    pub subject: String,
}

/// One thing that a tool call does: a command of a line, or a use of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The tool.
    pub tool: Tool,
    /// Program and arguments; empty for files.
    pub argv: Vec<String>,
    /// How many words of `argv` are certain, from the first on.
    pub certain: usize,
    /// Whether it reads what the rest of its line gives it.
    pub is_fed: bool,
    /// Files that it writes or deletes, and those that a file tool reads:
    /// relative to the repository, or absolute outside it.
    pub paths: Vec<String>,
    /// Hosts that it names.
    pub hosts: Vec<String>,
    /// Branches that it pushes or merges to.
    pub branches: Vec<String>,
    /// What is risky about it.
    pub findings: Vec<Finding>,
    /// The level that it needs.
    pub level: Level,
}

impl Act {
    /// Its tier.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let tiers = self.findings.iter().map(|finding| finding.kind.tier());
        tiers.max().unwrap_or_default()
    }

    /// What it is, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match (self.argv.as_slice(), self.paths.as_slice()) {
            ([], []) => self.tool.name().to_owned(),
            ([], paths) => format!("{} {}", self.tool.name(), paths.join(" ")),
            (argv, _) => argv.join(" "),
        }
    }

    fn new(tool: Tool, level: Level) -> Self {
        Self {
            tool,
            argv: Vec::new(),
            certain: 0,
            is_fed: false,
            paths: Vec::new(),
            hosts: Vec::new(),
            branches: Vec::new(),
            findings: Vec::new(),
            level,
        }
    }

    /// A command that nothing is risky about.
    pub(super) fn command<'a>(tool: Tool, words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut act = Self::new(tool, Level::Admin);
        act.argv = words.into_iter().map(str::to_owned).collect();
        act.certain = act.argv.len();
        act
    }

    fn find(&mut self, kind: RiskKind, subject: impl Into<String>) {
        let finding = Finding {
            kind,
            subject: subject.into(),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
        self.level = self.level.max(kind.level());
    }
}

/// What is known of a line beside the command at hand.
#[derive(Debug, Default)]
struct Line<'a> {
    repository: &'a str,
    protected: &'a [String],
    /// The branch that the line may have changed to.
    branch: Option<String>,
    /// The branch that it is on for certain, and where.
    on: Option<(Vec<String>, String)>,
    /// Links that the line has made to places outside the repository.
    links: BTreeSet<String>,
    /// What the session has written that was not judged.
    unjudged: Option<&'a Unjudged>,
    /// How many scripts have written the text that is read.
    depth: usize,
}

/// Scripts that write scripts are read so deep.
const SCRIPTS_MAX: usize = 3;
/// The doubt about what lies deeper.
const WRITES_SCRIPTS: &str = "it writes scripts that write scripts, too deep to be read";

/// The acts of a tool call. Never empty for a call that acts on the workspace.
/// `repository` is absolute; merges into `protected` branches are told apart.
#[must_use]
pub fn acts(tool: Tool, subject: &Subject, repository: &str, protected: &[String]) -> Vec<Act> {
    acts_after(Unjudged::none(), tool, subject, repository, protected)
}

/// The same of a session that has written files which were not judged.
#[must_use]
pub fn acts_after(
    unjudged: &Unjudged,
    tool: Tool,
    subject: &Subject,
    repository: &str,
    protected: &[String],
) -> Vec<Act> {
    let line = || Line {
        repository,
        protected,
        unjudged: Some(unjudged),
        ..Line::default()
    };
    match subject {
        Subject::Nothing => vec![Act::new(tool, level_of(tool))],
        Subject::Files { paths } => {
            let each = paths.iter().map(|file| {
                let script = file.script.iter();
                let script = script.flat_map(|text| script_acts(tool, &file.path, text, &line()));
                let mut acts = vec![file_act(tool, file, repository)];
                acts.extend(script);
                acts
            });
            each.flatten().collect()
        }
        Subject::Line {
            line: text,
            directory,
        } => of_reading(tool, &shell::read(text, directory), text, &mut line()),
        Subject::Argvs { argvs, directory } => {
            let each = argvs.iter().map(|argv| {
                let reading = shell::read_argv(argv, directory);
                of_reading(tool, &reading, &argv.join(" "), &mut line())
            });
            each.flatten().collect()
        }
    }
}

/// What counts of a script that is written.
fn script_acts(tool: Tool, path: &str, text: &str, line: &Line<'_>) -> Vec<Act> {
    if line.depth >= SCRIPTS_MAX {
        let mut act = Act::new(tool, Level::Write);
        act.argv = vec![format!("write {path}")];
        act.find(RiskKind::NotUnderstood, WRITES_SCRIPTS);
        return vec![act];
    }
    let reading = shell::read(text, line.repository);
    let mut fresh = Line {
        repository: line.repository,
        protected: line.protected,
        unjudged: line.unjudged,
        depth: line.depth + 1,
        ..Line::default()
    };
    let acts = of_reading(tool, &reading, path, &mut fresh);
    acts.into_iter().filter_map(of_a_script).collect()
}

/// What of a script's act counts when the script is written: what is of high
/// risk for certain, wherever it will run. Running it is judged when it is run.
fn of_a_script(mut act: Act) -> Option<Act> {
    let certain = act.certain == act.argv.len();
    let counts = |finding: &Finding| match finding.kind {
        RiskKind::NotUnderstood => [
            shell::RUNS_FETCHED,
            shell::RUNS_DECODED,
            shell::RUNS_SAID,
            WRITES_SCRIPTS,
        ]
        .contains(&finding.subject.as_str()),
        RiskKind::Credentials if finding.subject == lent::ALL_VARIABLES => true,
        RiskKind::DeleteOutside
        | RiskKind::DeleteRepository
        | RiskKind::WriteSystem
        | RiskKind::Credentials => certain && finding.subject.starts_with(['/', '~']),
        // To start containers is what many a script is for.
        RiskKind::Machine => {
            let containers = ["docker", "podman"];
            !containers
                .iter()
                .any(|program| finding.subject.starts_with(program))
        }
        kind => kind.tier() == Tier::High,
    };
    act.findings.retain(counts);
    for finding in &mut act.findings {
        // The machine is not touched yet: it is a question, and no refusal.
        if finding.kind == RiskKind::Machine {
            finding.kind = RiskKind::NotUnderstood;
        }
    }
    act.level = Level::Write;
    (act.tier() == Tier::High).then_some(act)
}

fn file_act(tool: Tool, file: &FileUse, repository: &str) -> Act {
    let mut act = Act::new(tool, level_of(tool));
    let path = absolute(&file.path, repository);
    match file.change {
        FileChangeKind::Read => {
            if is_credential(&path) {
                act.find(RiskKind::Credentials, &path);
            }
            act.paths.push(named(&path, repository));
        }
        FileChangeKind::Write => files::write(&mut act, &path, repository),
        FileChangeKind::Delete => files::delete(&mut act, &path, repository),
    }
    act
}

/// A path as rules see it.
fn named(path: &str, repository: &str) -> String {
    match place(path, repository) {
        Place::Repository(relative) => relative,
        Place::WholeRepository => ".".to_owned(),
        Place::GitInternals => path
            .strip_prefix(repository)
            .map_or(path, |rest| rest.trim_start_matches('/'))
            .to_owned(),
        Place::Scratch | Place::Outside => path.to_owned(),
    }
}

fn of_reading(tool: Tool, reading: &Reading, text: &str, line: &mut Line<'_>) -> Vec<Act> {
    let mut acts = plain_acts(tool, reading, line);
    for command in &reading.commands {
        for inner in inside::readings(command) {
            acts.extend(plain_acts(tool, &inner, line));
            acts.extend(doubted(tool, &inner, &command.shown()));
        }
    }
    let scripts = reading.written.iter();
    let scripts = scripts.filter_map(|(path, text)| Some((path, text.as_deref()?)));
    let scripts: BTreeMap<&str, &String> = scripts
        .filter(|(path, text)| shell::is_script(path, text))
        .map(|(path, text)| (text, path))
        .collect();
    for (text, path) in scripts {
        acts.extend(script_acts(tool, path, text, line));
    }
    acts.extend(doubted(tool, reading, text));
    if acts.is_empty() {
        // Assignments and comments alone.
        acts.push(Act::new(tool, Level::Read));
    }
    acts
}

/// The acts of commands and redirections. What a command writes by redirection
/// is an act of its own: who may run the command may not write any file with it.
fn plain_acts(tool: Tool, reading: &Reading, line: &mut Line<'_>) -> Vec<Act> {
    let mut acts = Vec::with_capacity(reading.commands.len());
    for command in &reading.commands {
        acts.push(command_act(tool, command, line));
        let kept = |word: &&Word| !matches!(word.text.as_str(), "/dev/null" | "/dev/stderr");
        for word in command.writes.iter().filter(kept) {
            acts.push(redirect_act(tool, word, &command.directories, line));
        }
    }
    for (word, directories) in &reading.writes {
        acts.push(redirect_act(tool, word, directories, line));
    }
    acts.extend(
        reading
            .runs
            .iter()
            .filter_map(|run| run_act(tool, run, line)),
    );
    acts
}

/// A shell runs what the session has written and nobody has judged.
fn run_act(tool: Tool, run: &RunFile, line: &Line<'_>) -> Option<Act> {
    let unjudged = line.unjudged?;
    let paths = files::places(&run.file, &run.directories);
    let path = paths.into_iter().flatten().find(|path| match run.by {
        RunBy::Shell => unjudged.holds(path),
        RunBy::Itself => unjudged.may_be_a_script(path),
    })?;
    let path = named(&path, line.repository);
    let mut act = Act::new(tool, Level::Write);
    act.argv = vec![format!("run {path}")];
    act.find(
        RiskKind::NotUnderstood,
        format!("this session wrote {path}, and its text was not judged as a script"),
    );
    Some(act)
}

fn redirect_act(tool: Tool, word: &Word, directories: &[String], line: &Line<'_>) -> Act {
    let mut act = Act::new(tool, Level::Write);
    files::write_word(&mut act, word, directories, line);
    act.argv = vec![">".to_owned(), word.text.clone()];
    act.certain = 1 + usize::from(word.exact);
    act
}

fn doubted(tool: Tool, reading: &Reading, text: &str) -> Option<Act> {
    if reading.doubts.is_empty() {
        return None;
    }
    let mut act = Act::new(tool, Level::Write);
    act.argv = vec![text.trim().to_owned()];
    for doubt in &reading.doubts {
        act.find(RiskKind::NotUnderstood, doubt);
    }
    Some(act)
}

fn command_act(tool: Tool, command: &SimpleCommand, line: &mut Line<'_>) -> Act {
    let mut act = Act::new(tool, Level::Read);
    act.argv = command.argv.iter().map(|word| word.text.clone()).collect();
    if let (Some(first), Some(program)) = (act.argv.first_mut(), command.program()) {
        *first = program.to_owned();
    }
    act.certain = command.argv.iter().take_while(|word| word.exact).count();
    act.is_fed = command.input != Input::None;
    act.hosts = hosts(command.arguments());
    for word in &command.writes {
        files::write_word(&mut act, word, &command.directories, line);
    }
    for word in command.reads.iter().chain(command.arguments()) {
        credentials(&mut act, word, &command.directories);
        if word.text.starts_with("/dev/tcp/") || word.text.starts_with("/dev/udp/") {
            act.find(RiskKind::Egress, &word.text);
        }
    }
    for (_, value) in &command.environment {
        credentials(&mut act, value, &command.directories);
    }
    lent::judge(&mut act, command);
    programs::judge(&mut act, command, line);
    act
}

fn credentials(act: &mut Act, word: &Word, directories: &[String]) {
    // `--file=~/.netrc` and `data=@~/.netrc` name one too.
    let text = word.text.rsplit(['=', '@']).next().unwrap_or(&word.text);
    if text.is_empty() || text.contains([' ', '\n']) {
        return;
    }
    let here = directories.first().map_or("/", String::as_str);
    let path = absolute(text, here);
    if is_credential_by_name(&path) || word.is_glob && is_credential(&path) {
        act.find(RiskKind::Credentials, text);
    }
}

/// Hosts in the arguments of a command: of addresses, and of `user@host:path`.
fn hosts(words: &[Word]) -> Vec<String> {
    let mut hosts = Vec::new();
    for word in words {
        let text = word.text.as_str();
        let host = if let Some((_, rest)) = text.split_once("://") {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
            authority.rsplit('@').next()
        } else if let Some((user, rest)) = text.split_once('@')
            && !user.contains(['/', '=', ' '])
            && !user.is_empty()
        {
            rest.split([':', '/']).next()
        } else {
            None
        };
        let host = host.map(|host| match host.rsplit_once(':') {
            Some((name, port)) if port.chars().all(|char| char.is_ascii_digit()) => name,
            _ => host,
        });
        if let Some(host) = host.filter(|host| host.contains('.') || *host == "localhost") {
            hosts.push(host.trim_end_matches('.').to_ascii_lowercase());
        }
    }
    hosts
}

/// Arguments that are no options.
fn operands<'w>(words: &'w [Word], valued: &[&str]) -> Vec<&'w Word> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut only = false;
    while let Some(word) = words.get(at) {
        at += 1;
        if only {
            found.push(word);
        } else if word.text == "--" && word.exact {
            only = true;
        } else if valued.contains(&word.text.as_str()) {
            at += 1;
        } else if word.text.len() > 1 && word.text.starts_with('-') {
        } else {
            found.push(word);
        }
    }
    found
}

/// The value after an option, also of `--option=value`.
fn value_of<'w>(words: &'w [Word], options: &[&str]) -> Option<&'w str> {
    for (at, word) in words.iter().enumerate() {
        if shell::is_option(&word.text, options) {
            return words.get(at + 1).map(|word| word.text.as_str());
        }
        if let Some((name, value)) = word.text.split_once('=')
            && options.contains(&name)
        {
            return Some(value);
        }
    }
    None
}

/// Whether one of these options is given; short ones also among others.
fn has(words: &[Word], options: &[&str]) -> bool {
    words.iter().any(|word| {
        let text = word.text.as_str();
        options.iter().any(|option| {
            let is_short = option.len() == 2 && option.starts_with('-');
            text == *option
                || text
                    .split_once('=')
                    .is_some_and(|(name, _)| name == *option && option.starts_with("--"))
                || is_short
                    && text.starts_with('-')
                    && !text.starts_with("--")
                    && text[1..].contains(&option[1..])
        })
    })
}
