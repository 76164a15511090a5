//! Which files of a repository judge the others: tests and CI, and what runs
//! them.
//!
//! For one run of a proof all of them are as they were on the base.

use crate::domain::report::TestReport;

mod inside;

pub use inside::{Inside, inside, is_no_code, is_script};

/// Whether a file has a say in what counts as passing: tests, fixtures,
/// configuration of test runners that lives in a file of its own, and CI.
///
/// Errs on the side of yes: such a file is put back to its base for one run and
/// listed in the evidence, which does an honest change no harm.
#[must_use]
pub fn is_test_file(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let (directories, name) = match path.rsplit_once('/') {
        Some((directories, name)) => (directories, name),
        None => ("", path.as_str()),
    };
    is_ci_file(&path)
        || directories.split('/').any(is_test_directory)
        || is_test_name(name)
        || is_runner_configuration(name)
}

/// Whether a file says how the tests are run: one that the test command names,
/// a make file, a package's scripts, settings of a runner beside much else, or
/// a module that stands in a runner's place.
///
/// Such a file can print a pass that no test has seen, so it is put back whole
/// with the tests. A change that needs it then fails that run, and says so; it
/// is for the person to allow.
#[must_use]
pub fn is_runner_file(path: &str, test_argv: &[String]) -> bool {
    if is_named(path, test_argv) {
        return true;
    }
    let path = path.to_ascii_lowercase();
    let name = path.rsplit('/').next().unwrap_or(&path);
    let is_metadata = |part: &str| {
        [".dist-info", ".egg-info"]
            .iter()
            .any(|end| part.ends_with(end))
    };
    takes_the_place_of_a_module(&path)
        || path.split('/').any(is_metadata)
        || RUNNER_PATHS.contains(&path.as_str())
        || RUNNER_NAMES.contains(&name)
        || [".mk", ".pth"].iter().any(|end| name.ends_with(end))
}

/// Whether a Python file at the top of the repository is found before a module that
/// runners of tests import: `python -m pytest` looks there first.
fn takes_the_place_of_a_module(path: &str) -> bool {
    let name = match path.split_once('/') {
        Some((directory, _)) => directory,
        None => match path.strip_suffix(".py") {
            Some(stem) => stem,
            None => return false,
        },
    };
    let is_python = path.ends_with(".py") || path.ends_with(".so") || path.ends_with(".pyc");
    is_python && PYTHON_RUNNERS.contains(&name)
}

/// Whether the report of a run names tests of a file, wherever that is.
#[must_use]
pub fn is_reported(path: &str, report: &TestReport) -> bool {
    let Some(module) = path.strip_suffix(".py").map(|stem| stem.replace('/', ".")) else {
        return false;
    };
    report.names.keys().any(|name| {
        let rest = name
            .strip_prefix(path)
            .or_else(|| name.strip_prefix(&module));
        rest.is_some_and(|rest| rest.starts_with([':', '.']))
    })
}

/// What pytest and unittest are made of, and what of Python's own they import that
/// nobody names a package of an application after.
const PYTHON_RUNNERS: [&str; 41] = [
    "pytest",
    "_pytest",
    "unittest",
    "pluggy",
    "iniconfig",
    "packaging",
    "exceptiongroup",
    "tomli",
    "pygments",
    "py",
    "xdist",
    "coverage",
    "doctest",
    "argparse",
    "ast",
    "atexit",
    "bdb",
    "contextlib",
    "dataclasses",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "importlib",
    "inspect",
    "io",
    "json",
    "linecache",
    "logging",
    "os",
    "pathlib",
    "pdb",
    "pprint",
    "re",
    "shutil",
    "sysconfig",
    "tempfile",
    "textwrap",
    "traceback",
    "typing",
    "warnings",
];

/// Names of files that say how tests are run, wherever they are.
const RUNNER_NAMES: [&str; 11] = [
    "makefile",
    "gnumakefile",
    "justfile",
    "rakefile",
    "package.json",
    ".npmrc",
    "pyproject.toml",
    "setup.cfg",
    "usercustomize.py",
    "rust-toolchain",
    "rust-toolchain.toml",
];

/// The same at the top of the repository alone.
const RUNNER_PATHS: [&str; 4] = [
    "compy.toml",
    ".cargo/config",
    ".cargo/config.toml",
    ".config/nextest.toml",
];

/// Whether a command names a file, as a path or as a Python module.
fn is_named(path: &str, argv: &[String]) -> bool {
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    let module = path.strip_suffix(".py").map(|stem| {
        let stem = stem.strip_suffix("/__main__").unwrap_or(stem);
        stem.replace('/', ".")
    });
    // A word may be a whole script, or `--option=file`.
    let separates = |c: char| c.is_whitespace() || ";&|()<>\"'=".contains(c);
    argv.iter()
        .flat_map(|word| word.split(separates))
        .map(|word| word.trim_start_matches("./"))
        .filter(|word| !word.is_empty())
        .any(|word| ends(path, word) || ends(word, path) || module.as_deref() == Some(word))
}

/// Whether a file tells CI what to do.
#[must_use]
pub fn is_ci_file(path: &str) -> bool {
    const FILES: [&str; 8] = [
        ".gitlab-ci.yml",
        ".travis.yml",
        "azure-pipelines.yml",
        "jenkinsfile",
        ".drone.yml",
        "appveyor.yml",
        "bitbucket-pipelines.yml",
        "cloudbuild.yaml",
    ];
    const DIRECTORIES: [&str; 5] = [
        ".github/workflows/",
        ".github/actions/",
        ".circleci/",
        ".buildkite/",
        ".ci/",
    ];
    let path = path.to_ascii_lowercase();
    FILES.contains(&path.as_str()) || DIRECTORIES.iter().any(|each| path.starts_with(each))
}

fn is_test_directory(directory: &str) -> bool {
    matches!(
        directory,
        "test"
            | "tests"
            | "testing"
            | "spec"
            | "specs"
            | "__tests__"
            | "__mocks__"
            | "__snapshots__"
            | "__fixtures__"
            | "testdata"
            | "test-data"
            | "test_data"
            | "fixtures"
            | "e2e"
    )
}

fn is_test_name(name: &str) -> bool {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    match extension {
        "py" => {
            stem == "conftest"
                || stem == "test"
                || stem == "tests"
                || matches!(stem, "runtests" | "runtest")
                || stem.starts_with("test_")
                || stem.ends_with("_test")
                || stem.ends_with("_tests")
        }
        "rs" if matches!(stem, "test" | "tests") => true,
        "go" | "rs" | "c" | "cc" | "cpp" => stem.ends_with("_test") || stem.ends_with("_tests"),
        "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" | "mts" | "cts" => {
            [".test", ".spec", "_test", "-test"]
                .iter()
                .any(|end| stem.ends_with(end))
                || stem == "test"
        }
        "java" | "kt" => stem.ends_with("test") || stem.ends_with("tests"),
        "rb" => stem.ends_with("_spec") || stem.ends_with("_test"),
        "snap" => true,
        // Wrappers: `run_tests.sh`, `test.sh`.
        "sh" | "bash" => stem
            .split(['-', '_', '.'])
            .any(|word| matches!(word, "test" | "tests" | "runtest" | "runtests")),
        _ => false,
    }
}

/// Whether a file is the configuration of a test runner, or hooks of one.
#[must_use]
pub fn is_runner_configuration(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(
        name,
        "conftest.py"
            | "pytest.ini"
            | ".pytest.ini"
            | "pytest.toml"
            | ".pytest.toml"
            | "tox.ini"
            | "noxfile.py"
            | "sitecustomize.py"
    ) || [
        "jest.config.",
        "jest.setup.",
        "vitest.config.",
        "vitest.setup.",
        "vite.config.",
        "setuptests.",
        ".mocharc",
        "karma.conf.",
    ]
    .iter()
    .any(|start| name.to_ascii_lowercase().starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_judge_others_are_told_from_the_rest() {
        for path in [
            "tests/test_slug.py",
            "tests/data/case.json",
            "test_slug.py",
            "src/pkg/conftest.py",
            "pkg/slug_test.go",
            "pkg/testdata/golden.txt",
            "web/button.spec.ts",
            "web/__tests__/button.tsx",
            "src/parser_tests.rs",
            "pytest.ini",
            "jest.config.js",
            "web/setupTests.ts",
            "vite.config.ts",
            "pytest.toml",
            ".github/workflows/ci.yml",
            ".gitlab-ci.yml",
            "Tests/Case.java",
            "spec/models/user_spec.rb",
            "run_tests.sh",
            "runtests.py",
        ] {
            assert!(is_test_file(path), "{path}");
        }
        for path in [
            "src/slugify.py",
            "src/latest.py",
            "src/contest.py",
            "README.md",
            "pyproject.toml",
            "docs/protest.md",
            "src/attestation/mod.rs",
            "deploy.sh",
        ] {
            assert!(!is_test_file(path), "{path}");
        }
        assert!(is_ci_file(".ci/run") && !is_ci_file("src/.ci/run"));
    }

    #[test]
    fn files_that_say_how_tests_run_are_told_from_the_rest() {
        let argv: Vec<String> = ["sh", "-c", "cd ci && ./verify.sh --config=etc/a.toml"]
            .map(str::to_owned)
            .to_vec();
        for path in [
            "Makefile",
            "sub/rules.mk",
            "web/package.json",
            "pyproject.toml",
            ".cargo/config.toml",
            "compy.toml",
            "unittest.py",
            "_pytest/main.py",
            "pluggy/__init__.py",
            "iniconfig.py",
            "json/decoder.py",
            "x-1.dist-info/entry_points.txt",
            "ci/verify.sh",
            "etc/a.toml",
            "evil.pth",
        ] {
            assert!(is_runner_file(path, &argv), "{path}");
        }
        for path in [
            "src/slug.py",
            "src/unittest.py",
            "unittests.py",
            "json/case.json",
            "textkit/json.py",
            "Cargo.toml",
            "go.mod",
            "README.md",
            "x.sh",
            ".config/other.toml",
        ] {
            assert!(!is_runner_file(path, &argv), "{path}");
        }
        let module = ["python3", "-m", "tools.check"].map(str::to_owned);
        assert!(is_runner_file("tools/check.py", &module));
        assert!(is_runner_file("tools/check/__main__.py", &module));
        let absolute = ["/workspace/app/go.sh"].map(str::to_owned);
        assert!(is_runner_file("go.sh", &absolute));
    }
}
