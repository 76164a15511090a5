//! What a shell line does, as far as reasoning is judged by it. How it is read
//! is the policy's.

use crate::domain::{
    conversation::{Arguments, ToolCall},
    judges::is_test_file,
    policy::{Subject, classify},
    report::Framework,
    tools::{Tool, workspace_path},
};

/// A line that was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// As it was written.
    pub(super) text: String,
    /// Every command as words, in order, those that others run among them.
    pub(super) commands: Vec<Vec<String>>,
    /// Files of the repository that it certainly writes or deletes.
    pub(super) writes: Vec<Write>,
    /// Whether it has a git operation in it that changes something.
    pub(super) changes_git: bool,
}

impl Line {
    /// The line of a call that runs one.
    pub(super) fn of(call: &ToolCall, repository: &str) -> Option<Self> {
        let Arguments::Object(arguments) = &call.arguments else {
            return None;
        };
        if call.name != Tool::RunCommand.name() {
            return None;
        }
        let text = |key: &str| arguments.get(key).and_then(|value| value.as_str());
        let directory = workspace_path(repository, text("cwd").unwrap_or("."));
        Some(Self::read(text("command")?, &directory, repository))
    }

    /// A line that runs in a directory; both are absolute.
    pub(super) fn read(text: &str, directory: &str, repository: &str) -> Self {
        let subject = Subject::Line {
            line: text.to_owned(),
            directory: directory.to_owned(),
        };
        let acts = classify::acts(Tool::RunCommand, &subject, repository, &[]);
        let mut line = Self {
            text: text.to_owned(),
            commands: Vec::with_capacity(acts.len()),
            writes: Vec::new(),
            changes_git: false,
        };
        for act in acts {
            let program = base_name(act.argv.first().map_or("", String::as_str)).to_owned();
            line.changes_git |= match act.argv.as_slice() {
                // What could not be understood is here as it was written.
                [text] if text.contains(char::is_whitespace) => may_change_git(text),
                argv => changes_git(argv),
            };
            // A redirection is an act beside its command's.
            let is_redirection = program == ">";
            let at = line
                .commands
                .len()
                .saturating_sub(usize::from(is_redirection));
            let is_new = |path: &&String| {
                !is_redirection || line.writes.iter().all(|write| write.path != **path)
            };
            let certain = act.paths.iter().filter(|path| is_certain(path, &act.paths));
            for path in certain.filter(is_new).collect::<Vec<_>>() {
                line.writes.push(Write {
                    // It writes while what it reads from runs.
                    at: if program == "tee" { 0 } else { at },
                    in_place: is_in_place(&program, &act.argv, path),
                    path: path.clone(),
                    program: program.clone(),
                });
            }
            if !is_redirection {
                line.commands.push(act.argv);
            }
        }
        line
    }

    /// The program that it is about.
    pub(super) fn program(&self) -> &str {
        let programs = self.commands.iter().filter_map(|command| command.first());
        let mut programs = programs.map(|program| base_name(program));
        programs
            .find(|program| *program != "cd")
            .unwrap_or_default()
    }
}

/// A file that a line writes or deletes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Write {
    /// The command's place in the line.
    pub(super) at: usize,
    /// Below the repository.
    pub(super) path: String,
    /// Whether the file was there before.
    pub(super) in_place: bool,
    program: String,
}

impl Write {
    /// Whether it does what an edit would, and is not output of a program that
    /// lands in a file which was nobody's.
    pub(super) fn is_edit(&self, is_known: impl Fn(&str) -> bool) -> bool {
        const NO_TEXT: [&str; 3] = ["mkdir", "mkfifo", "touch"];
        const TEXT: [&str; 8] = [
            "cat", "cp", "echo", "install", "mv", "printf", "sed", "gsed",
        ];
        let program = self.program.as_str();
        if NO_TEXT.contains(&program) {
            return false;
        }
        let is_test = || {
            let is_file = base_name(&self.path).contains('.');
            let is_cache = ["__pycache__", ".pytest_cache"];
            let is_cache = is_cache.iter().any(|cache| self.path.contains(cache));
            is_file && !is_cache && is_test_file(&self.path)
        };
        self.in_place || TEXT.contains(&program) || is_known(&self.path) || is_test()
    }
}

/// Whether a command edits a file that it names.
fn is_in_place(program: &str, argv: &[String], path: &str) -> bool {
    let edits = match program {
        "sed" | "gsed" | "perl" | "ruby" => argv.iter().any(|word| {
            let options = ["-i", "-pi", "--in-place"];
            options.iter().any(|option| word.starts_with(option))
        }),
        "ed" | "ex" | "patch" => true,
        _ => false,
    };
    let mut words = argv.iter().map(|word| word.trim_start_matches("./"));
    edits && words.any(|word| !word.is_empty() && (path.ends_with(word) || word.ends_with(path)))
}

/// Whether a path is one file of the repository, known to the letter, and not
/// the same file of a directory that the command may run in as well.
fn is_certain(path: &str, all: &[String]) -> bool {
    let is_elsewhere = |other: &String| {
        let rest = other.strip_suffix(path);
        rest.is_some_and(|rest| rest.ends_with('/'))
    };
    !path.starts_with(['/', '~'])
        && !path.starts_with(".git/")
        && path != "."
        && !path.contains(['*', '?', '['])
        && !all.iter().any(is_elsewhere)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Git's operations that change something, each with the words after which it
/// only tells.
const CHANGING: [(&str, &[&str]); 38] = [
    ("add", &["-n", "--dry-run"]),
    ("am", &[]),
    ("apply", &["--check", "--stat"]),
    ("bisect", &["log", "view"]),
    ("branch", LISTING),
    ("checkout", &[]),
    ("checkout-index", &[]),
    ("cherry-pick", &[]),
    ("clean", &["-n", "--dry-run"]),
    ("commit", &["--dry-run"]),
    ("commit-tree", &[]),
    ("fast-import", &[]),
    ("filter-branch", &[]),
    ("gc", &[]),
    ("merge", &[]),
    ("mv", &[]),
    ("notes", &["list", "show"]),
    ("prune", &["-n"]),
    ("pull", &[]),
    ("push", &["-n", "--dry-run"]),
    ("read-tree", &[]),
    ("rebase", &["--show-current-patch"]),
    ("reflog", &["show"]),
    ("replace", &["-l", "--list"]),
    ("reset", &[]),
    ("restore", &[]),
    ("revert", &[]),
    ("rm", &["-n", "--dry-run"]),
    ("sparse-checkout", &["list"]),
    ("stash", &["list", "show"]),
    ("submodule", &["status", "summary"]),
    ("switch", &[]),
    ("symbolic-ref", &[]),
    ("tag", LISTING),
    ("update-index", &["--refresh"]),
    ("update-ref", &[]),
    ("worktree", &["list"]),
    ("write-tree", &[]),
];

/// Options with which branches and tags are listed.
const LISTING: &[&str] = &[
    "-l",
    "--list",
    "--show-current",
    "--contains",
    "--no-contains",
    "--merged",
    "--no-merged",
    "--points-at",
];

fn changes_git(argv: &[String]) -> bool {
    let mut words = argv.iter().map(String::as_str);
    if words.next().map(base_name) != Some("git") {
        return false;
    }
    // `git -C DIR commit`
    let mut operation = None;
    while let Some(word) = words.next() {
        match word {
            "-C" | "-c" | "--git-dir" | "--work-tree" | "--namespace" => _ = words.next(),
            option if option.starts_with('-') => {}
            word => {
                operation = Some(word);
                break;
            }
        }
    }
    let Some(operation) = operation else {
        return false;
    };
    // Which one it is, is not known before it runs.
    if operation.contains('$') {
        return true;
    }
    let found = CHANGING.iter().find(|(name, _)| *name == operation);
    let Some((name, tells)) = found else {
        return false;
    };
    let rest: Vec<&str> = words.collect();
    let given = rest.iter().filter(|word| !word.starts_with('-')).count();
    let only_tells = rest.iter().any(|word| tells.contains(word))
        || match *name {
            "branch" | "tag" | "reflog" | "notes" | "submodule" => given == 0,
            "symbolic-ref" => given < 2 && rest.iter().all(|word| *word != "-d"),
            _ => false,
        };
    !only_tells
}

/// The same of a text that could not be read.
fn may_change_git(text: &str) -> bool {
    let words: Vec<&str> = text
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
        .collect();
    let git = words.iter().position(|word| *word == "git");
    let rest = git.map_or(&[][..], |at| &words[at + 1..]);
    rest.iter()
        .any(|word| CHANGING.iter().any(|(name, _)| name == word))
}

/// Whether a command runs tests: those of its own that a session has, or what
/// its words say is a run of tests.
pub(super) fn runs_tests(argv: &[String], own: &[Vec<String>]) -> bool {
    const TELLS: [&str; 7] = [
        "--co",
        "--collect-only",
        "--help",
        "--list",
        "--listTests",
        "--no-run",
        "--version",
    ];
    let only_tells = argv.iter().any(|word| TELLS.contains(&word.as_str()));
    let is_own = own.iter().any(|own| argv.starts_with(own));
    !only_tells && (is_own || is_test_program(argv))
}

fn is_test_program(argv: &[String]) -> bool {
    const BUILDERS: [&str; 27] = [
        "bazel", "bun", "bundle", "cabal", "composer", "deno", "dotnet", "dune", "gmake", "gradle",
        "gradlew", "just", "lein", "make", "meson", "mix", "mvn", "mvnw", "ninja", "npm", "pnpm",
        "rake", "sbt", "stack", "swift", "yarn", "zig",
    ];
    const INTERPRETERS: [&str; 8] = [
        "bash", "node", "perl", "php", "python", "python3", "ruby", "sh",
    ];
    const RUNNERS: [&str; 9] = [
        "ava", "bats", "ctest", "nox", "phpunit", "prove", "rspec", "tap", "tox",
    ];
    let Some((program, arguments)) = argv.split_first() else {
        return false;
    };
    let program = base_name(program);
    let names_tests = |word: &str| {
        let mut parts = word.split([':', '-', '_', '.']);
        parts.any(|part| part == "test" || part == "tests")
    };
    Framework::of(argv).is_some()
        || RUNNERS.contains(&program)
        // `./run-tests`, and not `test -f`.
        || program != "test" && names_tests(program)
        || BUILDERS.contains(&program)
            && arguments.iter().any(|word| names_tests(word) || word == "check")
        || INTERPRETERS.contains(&program)
            && arguments.iter().any(|word| word == "test" || is_test_file(word))
}

/// The last command that a program and its arguments come to.
pub(super) fn command_of(argv: &[String], repository: &str) -> Option<Vec<String>> {
    let subject = Subject::Argvs {
        argvs: vec![argv.to_vec()],
        directory: repository.to_owned(),
    };
    let acts = classify::acts(Tool::RunCommand, &subject, repository, &[]);
    let mut commands = acts.into_iter().map(|act| act.argv);
    commands.rfind(|argv| !argv.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: &str = "/workspace/repo";

    fn line(text: &str) -> Line {
        Line::read(text, REPOSITORY, REPOSITORY)
    }

    #[test]
    fn git_is_found_wherever_it_is() {
        for text in [
            "git commit -m x",
            "git -C . commit -m x",
            "sh -c \"git commit -m x\"",
            "/usr/bin/git commit -m x",
            "/opt/git/bin/git commit",
            "'git' tag v1",
            "git update-ref refs/heads/x HEAD",
            "cd x && git add -A",
            "git branch -d x",
            "env A=b git stash",
        ] {
            assert!(line(text).changes_git, "{text}");
        }
        for text in [
            "git status && git diff",
            "git log --oneline | head",
            "git branch --show-current",
            "git branch -a",
            "git tag",
            "git stash list",
            "echo git commit",
            "git -c core.pager=cat show HEAD",
        ] {
            assert!(!line(text).changes_git, "{text}");
        }
    }

    fn edits(text: &str) -> Vec<(String, bool)> {
        let known = |path: &str| path == "sum.py";
        let writes = line(text).writes.into_iter();
        writes
            .filter(|write| write.is_edit(known))
            .map(|write| (write.path, write.in_place))
            .collect()
    }

    #[test]
    fn files_of_the_repository_that_a_line_writes_are_edits() {
        for (text, path, in_place) in [
            ("sed -i s/a/b/ tests/test_x.py", "tests/test_x.py", true),
            ("cd src; sed -i -e s/a/b/ a.py", "src/a.py", true),
            ("sh -c 'echo x >> sum.py'", "sum.py", false),
            ("cat > new.py <<'END'\nx = 1\nEND", "new.py", false),
            ("sed s/a/b/ sum.py > other.py", "other.py", false),
            ("python make.py > tests/data.json", "tests/data.json", false),
            ("rm ./sum.py", "sum.py", false),
        ] {
            assert_eq!(edits(text), [(path.to_owned(), in_place)], "{text}");
        }
        for text in [
            "pytest -q > out.txt",
            "make 2>&1 | tee build.log",
            "echo x > /tmp/x",
            "echo x >> ../marks",
            "rm -rf tests/__pycache__ build",
            "mkdir -p tests/data && touch tests/data/x",
            "rm -rf /tmp/o && cp -r . /tmp/o && cd /tmp/o && sed -i s/a/b/ sum.py",
        ] {
            assert_eq!(edits(text), [], "{text}");
        }
    }

    #[test]
    fn a_script_that_a_line_writes_and_runs_is_run_after_it_was_written() {
        let text = "cat > .venv/bin/python <<'END'\n#!/bin/sh\n\
                    rm -rf /tmp/m && cp -r . /tmp/m && cd /tmp/m\n\
                    sed -i s/a/b/ sum.py\nexec python \"$@\"\nEND\n\
                    .venv/bin/python -m pytest -q";
        let line = line(text);
        let edits = line.writes.iter().filter(|write| write.is_edit(|_| true));
        let edited = edits.map(|write| write.at).max().unwrap();
        let rest = &line.commands[edited..];
        assert!(rest.iter().any(|argv| runs_tests(argv, &[])), "{line:?}");
    }

    #[test]
    fn tests_are_run_by_what_runs_them() {
        let runs = |text: &str| line(text).commands.iter().any(|argv| runs_tests(argv, &[]));
        for text in [
            "python -m pytest -q",
            "cd x && timeout 60 .venv/bin/python -m pytest -q | tail -n 3",
            "python -m pytest -q & sleep 1",
            "make test",
            "npm run test:unit",
            "cargo nextest run",
            "./run-tests --fast",
            "python manage.py test",
            "tox -e py312",
        ] {
            assert!(runs(text), "{text}");
        }
        for text in [
            "true",
            "echo test",
            "echo '8 passed'",
            "test -f x",
            "python -m pytest --collect-only",
            "make",
            "cat tests/test_x.py",
        ] {
            assert!(!runs(text), "{text}");
        }
    }
}
