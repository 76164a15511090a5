//! Finding the checks of a repository: a tool counts when its configuration is
//! in the repository and the tool itself in the workspace.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use crate::{
    domain::{
        checks::{CheckCommand, CheckKind, CheckPlan},
        exec::{ExecEvent, ExecSpec, OutputStream},
        files::{GlobQuery, ReadRange},
        ids::ExecId,
    },
    ports::agent::{AgentError, AgentPort},
};

/// Commands that a person gave; they win over what is detected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenChecks {
    /// The test command.
    pub tests: Option<Vec<String>>,
    /// The lint command.
    pub lint: Option<Vec<String>>,
}

/// Files at the top of a repository whose content says which tools it uses.
const CONFIGURATIONS: [&str; 8] = [
    "pyproject.toml",
    "setup.cfg",
    "tox.ini",
    "package.json",
    "Makefile",
    "makefile",
    "GNUmakefile",
    "Cargo.toml",
];

/// Programs that are looked for.
const PROGRAMS: [&str; 11] = [
    "python",
    "python3",
    "ruff",
    "mypy",
    "cargo",
    "cargo-clippy",
    "go",
    "npm",
    "make",
    "tsc",
    "node",
];

/// Finds the checks of a repository. What a person gave is taken as it is.
pub async fn detect(
    agent: &dyn AgentPort,
    directory: &str,
    given: &GivenChecks,
) -> Result<CheckPlan, AgentError> {
    let found = Repository::look(agent, directory).await?;
    let mut plan = CheckPlan {
        tests: found.tests(),
        lint: found.lint(),
        types: found.types(),
    };
    let by_hand = |kind: CheckKind, argv: &[String]| CheckCommand {
        name: kind.name().to_owned(),
        kind,
        argv: argv.to_vec(),
        why: "given".to_owned(),
    };
    if let Some(argv) = &given.tests {
        plan.tests = Some(by_hand(CheckKind::Tests, argv));
    }
    if let Some(argv) = &given.lint {
        plan.lint = vec![by_hand(CheckKind::Lint, argv)];
    }
    Ok(plan)
}

/// A command that was found, and why.
type Found = (Vec<String>, String);

/// What there is in a repository and in its workspace.
#[derive(Debug, Default)]
struct Repository {
    /// Names at its top.
    files: BTreeSet<String>,
    /// Contents of the [`CONFIGURATIONS`] that are there.
    contents: BTreeMap<String, String>,
    /// Python test files, relative.
    python_tests: Vec<String>,
    /// Of [`PROGRAMS`], and `python:pytest` where Python can import pytest.
    programs: BTreeSet<String>,
}

impl Repository {
    async fn look(agent: &dyn AgentPort, directory: &str) -> Result<Self, AgentError> {
        let listing = agent.list_directory(directory, Some(10_000)).await?;
        let files = listing.entries.into_iter().map(|file| file.path).collect();
        let mut repository = Self {
            files,
            ..Self::default()
        };
        for name in CONFIGURATIONS {
            if repository.has(name) {
                let path = format!("{directory}/{name}");
                // One that cannot be read, being no text, configures nothing.
                match agent.read_file(&path, &ReadRange::default()).await {
                    Ok(file) => {
                        repository.contents.insert(name.to_owned(), file.content);
                    }
                    Err(AgentError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for pattern in ["**/test_*.py", "**/*_test.py"] {
            let query = GlobQuery {
                pattern: pattern.to_owned(),
                path: Some(directory.to_owned()),
                max_matches: Some(50),
                include_ignored: false,
            };
            let found = agent.glob(&query).await?;
            let paths = found.entries.into_iter().map(|file| file.path);
            repository.python_tests.extend(paths);
        }
        repository.programs = programs(agent).await?;
        Ok(repository)
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains(name)
    }

    fn can(&self, program: &str) -> bool {
        self.programs.contains(program)
    }

    /// Whether a configuration file has a line that begins like this.
    fn says(&self, file: &str, beginning: &str) -> bool {
        self.contents.get(file).is_some_and(|content| {
            content
                .lines()
                .any(|line| line.trim_start().starts_with(beginning))
        })
    }

    fn python(&self) -> Option<&'static str> {
        ["python", "python3"]
            .into_iter()
            .find(|name| self.can(name))
    }

    fn tests(&self) -> Option<CheckCommand> {
        let (argv, why) = self
            .pytest()
            .or_else(|| self.cargo_test())
            .or_else(|| self.go_test())
            .or_else(|| self.npm_script("test", &["test"]))
            .or_else(|| self.unittest())
            .or_else(|| self.make_test())?;
        Some(CheckCommand {
            name: "tests".to_owned(),
            kind: CheckKind::Tests,
            argv,
            why,
        })
    }

    fn pytest(&self) -> Option<Found> {
        let python = self.python()?;
        if !self.can("python:pytest") {
            return None;
        }
        let files = ["pytest.ini", ".pytest.ini", "conftest.py"];
        let sections = [
            ("pyproject.toml", "[tool.pytest"),
            ("setup.cfg", "[tool:pytest]"),
            ("tox.ini", "[pytest]"),
        ];
        let why = files
            .into_iter()
            .find(|file| self.has(file))
            .map(|file| format!("there is a {file}"))
            .or_else(|| {
                sections
                    .into_iter()
                    .find(|(file, section)| self.says(file, section))
                    .map(|(file, section)| format!("{file} has {section}"))
            })
            .or_else(|| {
                // pytest runs unittest's tests as well.
                let first = self.python_tests.first()?;
                Some(format!("there are tests such as {first}"))
            })?;
        Some((words(&[python, "-m", "pytest", "-q"]), why))
    }

    fn unittest(&self) -> Option<Found> {
        let python = self.python()?;
        let first = self.python_tests.first()?;
        let below_tests = self
            .python_tests
            .iter()
            .all(|path| path.contains("/tests/"));
        let argv = if self.has("tests") && below_tests {
            words(&[
                python, "-m", "unittest", "discover", "-s", "tests", "-t", ".",
            ])
        } else {
            words(&[python, "-m", "unittest", "discover"])
        };
        Some((
            argv,
            format!("there are tests such as {first}, and no pytest"),
        ))
    }

    fn cargo_test(&self) -> Option<Found> {
        let found = self.has("Cargo.toml") && self.can("cargo");
        found.then(|| {
            (
                words(&["cargo", "test"]),
                "there is a Cargo.toml".to_owned(),
            )
        })
    }

    fn go_test(&self) -> Option<Found> {
        let found = self.has("go.mod") && self.can("go");
        found.then(|| {
            let argv = words(&["go", "test", "-v", "./..."]);
            (argv, "there is a go.mod".to_owned())
        })
    }

    fn npm_script(&self, script: &str, arguments: &[&str]) -> Option<Found> {
        let package = self
            .contents
            .get("package.json")
            .filter(|_| self.can("npm"))?;
        let package: serde_json::Value = serde_json::from_str(package).ok()?;
        let command = package.get("scripts")?.get(script)?.as_str()?;
        // What `npm init` writes.
        if command.is_empty() || command.contains("no test specified") {
            return None;
        }
        let argv = words(&["npm"])
            .into_iter()
            .chain(words(arguments))
            .collect();
        Some((argv, format!("package.json has the script {script}")))
    }

    fn make_test(&self) -> Option<Found> {
        let file = ["GNUmakefile", "makefile", "Makefile"]
            .into_iter()
            .find(|file| self.says(file, "test:"))?;
        self.can("make").then(|| {
            let why = format!("{file} has the target test");
            (words(&["make", "test"]), why)
        })
    }

    fn lint(&self) -> Vec<CheckCommand> {
        let ruff = self
            .configured(
                &["ruff.toml", ".ruff.toml"],
                &[("pyproject.toml", "[tool.ruff")],
            )
            .filter(|_| self.can("ruff"))
            .map(|why| (words(&["ruff", "check", "."]), why));
        let clippy = self
            .configured(
                &["clippy.toml", ".clippy.toml"],
                &[("Cargo.toml", "[lints"), ("Cargo.toml", "[workspace.lints")],
            )
            .filter(|_| self.has("Cargo.toml") && self.can("cargo") && self.can("cargo-clippy"))
            .map(|why| (words(&["cargo", "clippy", "--all-targets"]), why));
        let npm = self.npm_script("lint", &["run", "lint"]);
        named(
            CheckKind::Lint,
            [("ruff", ruff), ("clippy", clippy), ("npm", npm)],
        )
    }

    fn types(&self) -> Vec<CheckCommand> {
        let sections = [("pyproject.toml", "[tool.mypy"), ("setup.cfg", "[mypy")];
        let mypy = self
            .configured(&["mypy.ini", ".mypy.ini"], &sections)
            .filter(|_| self.can("mypy"))
            .map(|why| {
                // Where the configuration does not say what to check.
                let says_what = ["files", "packages", "modules"].iter().any(|key| {
                    sections.iter().any(|(file, section)| {
                        self.says(file, section) && self.says(file, &format!("{key} ="))
                    })
                });
                let argv = if says_what {
                    words(&["mypy"])
                } else {
                    words(&["mypy", "."])
                };
                (argv, why)
            });
        let tsc = self
            .configured(&["tsconfig.json"], &[])
            .filter(|_| self.can("tsc"))
            .map(|why| (words(&["tsc", "--noEmit"]), why));
        named(CheckKind::Types, [("mypy", mypy), ("tsc", tsc)])
    }

    /// Why a tool counts as configured: one of these files, or sections.
    fn configured(&self, files: &[&str], sections: &[(&str, &str)]) -> Option<String> {
        let file = files.iter().find(|file| self.has(file));
        let section = sections
            .iter()
            .find(|(file, section)| self.says(file, section));
        file.map(|file| format!("there is a {file}"))
            .or_else(|| section.map(|(file, section)| format!("{file} has {section}")))
    }
}

fn named<const N: usize>(kind: CheckKind, found: [(&str, Option<Found>); N]) -> Vec<CheckCommand> {
    let commands = found.into_iter().filter_map(|(tool, found)| {
        let (argv, why) = found?;
        Some(CheckCommand {
            name: format!("{}-{tool}", kind.name()),
            kind,
            argv,
            why,
        })
    });
    commands.collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Asks the workspace which programs it has.
async fn programs(agent: &dyn AgentPort) -> Result<BTreeSet<String>, AgentError> {
    let script = r#"for each in "$@"; do command -v "$each" >/dev/null 2>&1 && echo "$each"; done
for each in python python3; do
  if "$each" -c 'import pytest' >/dev/null 2>&1; then echo python:pytest; break; fi
done
exit 0"#;
    let mut argv = vec!["sh", "-c", script, "sh"];
    argv.extend(PROGRAMS);
    let mut spec = ExecSpec::new(argv);
    spec.timeout_ms = Some(60_000);
    let id = format!("detect-{}", uuid::Uuid::now_v7().simple());
    let exec: ExecId = id.parse().expect("hex digits are a valid exec id");
    let mut output = Vec::new();
    let mut events = agent.run(&exec, &spec);
    let mut ended = false;
    while let Some(event) = events.next().await {
        match event? {
            ExecEvent::Output {
                stream: OutputStream::Stdout,
                data,
                ..
            } if output.len() < 64 << 10 => output.extend_from_slice(&data),
            ExecEvent::Exited(_) => ended = true,
            ExecEvent::Output { .. } | ExecEvent::Attached(_) | ExecEvent::Gap(_) => {}
        }
    }
    if !ended {
        let text = "the stream ended before the command did".to_owned();
        return Err(AgentError::Unreachable(text));
    }
    agent.remove(&exec).await?;
    let text = String::from_utf8_lossy(&output);
    Ok(text.lines().map(str::to_owned).collect())
}
