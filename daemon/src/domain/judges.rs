//! Which files of a repository judge the others: tests and CI, and what runs
//! them.
//!
//! For one run of a proof all of them are as they were on the base.

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
    let shadows = ["pytest", "_pytest", "unittest"].iter().any(|runner| {
        path.strip_prefix(runner)
            .is_some_and(|rest| rest == ".py" || rest.starts_with('/'))
    });
    shadows
        || RUNNER_PATHS.contains(&path.as_str())
        || RUNNER_NAMES.contains(&name)
        || [".mk", ".pth"].iter().any(|end| name.ends_with(end))
}

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
            | "tox.ini"
            | "noxfile.py"
            | "sitecustomize.py"
    ) || ["jest.config.", "vitest.config.", ".mocharc", "karma.conf."]
        .iter()
        .any(|start| name.starts_with(start))
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
