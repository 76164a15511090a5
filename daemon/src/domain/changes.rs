//! Changed files of a repository, and which of them judge the others.

use serde::{Deserialize, Serialize};

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, mode or kind changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// A file that differs. A rename is a deletion and an addition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Relative to the repository; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// Whether a file has a say in what counts as passing: tests, fixtures,
/// configuration of test runners that lives in a file of its own, and CI.
///
/// Errs on the side of yes: such a file is put back to its base for one run and
/// listed in the evidence, which does an honest change no harm. Files that
/// configure a test runner beside much else (`pyproject.toml`, `package.json`)
/// are no test files; the names of the tests that must still pass watch them.
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
        _ => false,
    }
}

fn is_runner_configuration(name: &str) -> bool {
    matches!(
        name,
        "pytest.ini" | ".pytest.ini" | "tox.ini" | "noxfile.py" | "sitecustomize.py"
    ) || ["jest.config.", "vitest.config.", ".mocharc", "karma.conf."]
        .iter()
        .any(|start| name.starts_with(start))
}

/// A task's text as part of a branch name: at most 40 characters of `a-z0-9-`,
/// "task" when nothing is left.
#[must_use]
pub fn slug(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut slug = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() > LONGEST {
            break;
        }
    }
    if slug.len() > LONGEST {
        // Whole words, where there is more than one.
        slug.truncate(LONGEST);
        if let Some((words, _)) = slug.rsplit_once('-') {
            slug = words.to_owned();
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "task".to_owned()
    } else {
        slug.to_owned()
    }
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
        ] {
            assert!(!is_test_file(path), "{path}");
        }
        assert!(is_ci_file(".ci/run") && !is_ci_file("src/.ci/run"));
    }

    #[test]
    fn slugs_are_short_and_plain() {
        assert_eq!(slug("Fix `max_length` — now!"), "fix-max-length-now");
        assert_eq!(slug("修复"), "task");
        assert_eq!(
            slug(&"word ".repeat(30)),
            "word-word-word-word-word-word-word-word"
        );
        assert_eq!(slug(&"x".repeat(99)), "x".repeat(40));
    }
}
