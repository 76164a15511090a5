//! A real published library with a known bug, as its authors released it.
//!
//! `parse` 1.12.0 has `compile(format, case_sensitive=True)` and forgets the
//! argument; 1.12.1 passes it on. Both are fetched by pip as source
//! distributions and pinned by hash. The test that fails is ours, written from
//! the entry in their history.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::repository::Repository;

/// Name of the library.
pub const NAME: &str = "parse";
/// What its users were told about the bug.
pub const TASK: &str = "parse.compile() ignores case_sensitive=True: \
    compile('x', case_sensitive=True).parse('X') must be None";
/// The command that proves the task.
pub const TEST_COMMAND: &str = "python -m pytest -q test_parse.py test_compile.py";
/// The line with the bug.
pub const BUG: &str = "return Parser(format, extra_types=extra_types)\n\n\n# Copyright";
/// The same line in the next release.
pub const FIX: &str = "return Parser(format, extra_types=extra_types, case_sensitive=case_sensitive)\n\n\n# Copyright";

const BEFORE: (&str, &str) = (
    "1.12.0",
    "1b68657434d371e5156048ca4a0c5aea5afc6ca59a2fea4dd1a575354f617142",
);
const AFTER: (&str, &str) = (
    "1.12.1",
    "a5fca7000c6588d77bc65c28f3f21bfce03b5e44daa8f9f07c17fe364990d717",
);

const TEST: &str = "\
import parse


def test_compile_matches_without_case_when_nobody_asks():
    assert parse.compile('x').parse('X') is not None


def test_compile_matches_with_case_when_asked():
    assert parse.compile('x', case_sensitive=True).parse('X') is None
";

/// The release with the bug as a repository, with the test that fails.
///
/// # Errors
/// Says why the registry gives it not; the test counts as skipped.
///
/// # Panics
/// When what the registry gives is not what was pinned, or the next release
/// does not have the fix.
pub fn repository(directory: &Path) -> Result<Repository, String> {
    let before = fetch(directory, BEFORE)?;
    let after = fetch(directory, AFTER)?;
    let source = |release: &Path| {
        std::fs::read_to_string(release.join("parse.py")).expect("the release holds parse.py")
    };
    assert!(
        source(&before).contains(BUG) && source(&after).contains(FIX),
        "the releases are not what they were"
    );
    std::fs::write(before.join("test_compile.py"), TEST).expect("the test can be written");
    let repository = Repository::empty(before);
    repository.commit("parse 1.12.0");
    Ok(repository)
}

fn fetch(directory: &Path, (version, hash): (&str, &str)) -> Result<PathBuf, String> {
    let requirements = directory.join(format!("{NAME}-{version}.txt"));
    std::fs::write(
        &requirements,
        format!("{NAME}=={version} --hash=sha256:{hash}\n"),
    )
    .expect("the requirements can be written");
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--no-binary", ":all:"])
        .args(["--require-hashes", "--timeout", "15", "--retries", "1"])
        .arg("--dest")
        .arg(directory)
        .arg("--requirement")
        .arg(&requirements)
        .output()
        .map_err(|error| format!("there is no python3 to fetch {NAME} with: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains("DO NOT MATCH THE HASHES"),
        "the registry gives something else than was pinned: {said}"
    );
    if !output.status.success() {
        let line = said.lines().last().unwrap_or_default();
        return Err(format!(
            "no package registry gives {NAME} {version}: {line}"
        ));
    }
    let archive = directory.join(format!("{NAME}-{version}.tar.gz"));
    let unpacked = Command::new("tar")
        .args(["-x", "--no-same-owner", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(directory)
        .status()
        .expect("tar is installed");
    assert!(unpacked.success(), "{} can be unpacked", archive.display());
    Ok(directory.join(format!("{NAME}-{version}")))
}
