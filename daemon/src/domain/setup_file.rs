//! `compy.toml`: what a repository says about itself.
//!
//! ```toml
//! [setup]
//! initialize = ["pip install -r requirements.txt"]   # once, and kept
//! maintenance = ["git fetch --quiet"]                # at each start
//! inputs = ["requirements.txt"]                      # what `initialize` depends on
//!
//! [commands]
//! test = "python -m pytest -q"
//! lint = "ruff check ."
//!
//! [knowledge]
//! text = "Run the tests with -q."
//! files = ["docs/CONVENTIONS.md"]
//! ```
//!
//! The file is a repository's, so it is untrusted: bounded, and read strictly,
//! every mistake with its line. What its commands may do is what everything in
//! the workspace may do.

mod read;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The file's name, at the top of a repository.
pub const SETUP_FILE: &str = "compy.toml";
/// Bytes of the file at most.
pub const SETUP_FILE_MAX_BYTES: usize = 64 << 10;
/// Commands of one list at most.
pub const COMMANDS_MAX: usize = 64;
/// Bytes of one command at most.
pub const COMMAND_MAX_BYTES: usize = 8 << 10;
/// Paths of `inputs` at most.
pub const INPUTS_MAX: usize = 64;
/// Files of `[knowledge]` at most.
pub const KNOWLEDGE_FILES_MAX: usize = 16;
/// Time that each command of `initialize` may take when the file says nothing.
pub const INITIALIZE_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// Time that all of `maintenance` may take when the file says nothing: the
/// workspace lets nobody in meanwhile.
pub const MAINTENANCE_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// Names of files that `initialize` depends on where the file does not say,
/// whatever directory they are in. Files of requirements are known by more than
/// their name.
pub const DEFAULT_INPUTS: [&str; 58] = [
    ".node-version",
    ".npmrc",
    ".nvmrc",
    ".python-version",
    ".ruby-version",
    ".tool-versions",
    ".yarnrc.yml",
    "Cargo.lock",
    "Cargo.toml",
    "Gemfile",
    "Gemfile.lock",
    "Package.resolved",
    "Package.swift",
    "Pipfile",
    "Pipfile.lock",
    "build.gradle",
    "build.gradle.kts",
    "bun.lock",
    "bun.lockb",
    "composer.json",
    "composer.lock",
    "conda-lock.yml",
    "deno.json",
    "deno.lock",
    "environment.yaml",
    "environment.yml",
    "flake.lock",
    "go.mod",
    "go.sum",
    "go.work",
    "go.work.sum",
    "gradle.lockfile",
    "libs.versions.toml",
    "mix.exs",
    "mix.lock",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "package.json",
    "packages.lock.json",
    "pdm.lock",
    "pixi.lock",
    "pixi.toml",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    "poetry.lock",
    "pom.xml",
    "pubspec.lock",
    "pubspec.yaml",
    "pylock.toml",
    "pyproject.toml",
    "rust-toolchain",
    "rust-toolchain.toml",
    "settings.gradle",
    "settings.gradle.kts",
    "setup.cfg",
    "setup.py",
    "uv.lock",
    "yarn.lock",
];

/// A setup file that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupFile {
    /// Run once for a repository, in order; the result is kept.
    pub initialize: Vec<SetupCommand>,
    /// Run at each start of the container, in order.
    pub maintenance: Vec<SetupCommand>,
    /// Files and directories that `initialize` depends on, relative to the
    /// repository; `None` means [`DEFAULT_INPUTS`] and files of
    /// requirements, wherever they are.
    pub inputs: Option<Vec<String>>,
    /// Time that each command of `initialize` may take, 1 s to 2 h.
    pub timeout: Duration,
    /// Time that all of `maintenance` may take, 1 s to 10 min.
    pub maintenance_timeout: Duration,
    /// Program and arguments of the tests.
    pub test: Option<Vec<String>>,
    /// Program and arguments of the linter.
    pub lint: Option<Vec<String>>,
    /// What an agent should know.
    pub knowledge: Knowledge,
}

impl Default for SetupFile {
    fn default() -> Self {
        Self {
            initialize: Vec::new(),
            maintenance: Vec::new(),
            inputs: None,
            timeout: INITIALIZE_TIMEOUT,
            maintenance_timeout: MAINTENANCE_TIMEOUT,
            test: None,
            lint: None,
            knowledge: Knowledge::default(),
        }
    }
}

/// A shell command of a setup file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupCommand {
    /// For `sh -eu -c`, run in the repository's directory.
    pub run: String,
    /// Account in the workspace; `None` means the workspace's own.
    #[serde(default)]
    pub user: Option<String>,
}

/// What an agent should know about a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Text for the agent.
    pub text: String,
    /// Text files of the repository, relative to it, that go after the text.
    pub files: Vec<String>,
}

/// A setup file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{SETUP_FILE} cannot be used: {}", lines(.problems))]
pub struct SetupFileError {
    /// Every mistake, in the order of lines. Not empty.
    pub problems: Vec<SetupFileProblem>,
}

/// One mistake in a setup file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupFileProblem {
    /// Line, from 1; 0 when it is the file as a whole.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for SetupFileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

fn lines(problems: &[SetupFileProblem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

impl SetupFile {
    /// Reads a file's content.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn parse(content: &[u8]) -> Result<Self, SetupFileError> {
        read::read(content)
    }

    /// Whether a change of these files, relative to the repository, asks for
    /// another setup.
    #[must_use]
    pub fn is_changed_by(&self, changed: &[String]) -> bool {
        let is_input = |path: &String| path == SETUP_FILE || self.depends_on(path);
        !self.initialize.is_empty() && changed.iter().any(is_input)
    }

    /// Whether `initialize` depends on a file, relative to the repository.
    #[must_use]
    pub fn depends_on(&self, path: &str) -> bool {
        match &self.inputs {
            Some(inputs) => inputs.iter().any(|input| {
                let rest = path.strip_prefix(input.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
            None => is_installed_by(path),
        }
    }
}

/// Whether a file is one that tools which install dependencies read or write.
fn is_installed_by(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_requirements = || {
        let names_them = name.contains("requirements") || name.starts_with("constraints");
        let is_among_them = directory.rsplit('/').next() == Some("requirements");
        name.ends_with(".txt") && (names_them || is_among_them)
    };
    DEFAULT_INPUTS.contains(&name) || is_requirements()
}
