//! Repositories to work on.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A git repository in a directory of the host.
#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// A repository with these files in one commit.
    ///
    /// # Panics
    /// When git or the disk refuses.
    #[must_use]
    pub fn with_files(path: PathBuf, files: &[(&str, &str)]) -> Self {
        for (name, content) in files {
            let file = path.join(name);
            let parent = file.parent().expect("a file has a directory");
            std::fs::create_dir_all(parent).expect("directories can be made");
            std::fs::write(file, content).expect("files can be written");
        }
        let repository = Self::empty(path);
        repository.commit("first");
        repository
    }

    /// The sample: a small library with a test that fails.
    ///
    /// # Panics
    /// When git or the disk refuses.
    #[must_use]
    pub fn sample(path: PathBuf) -> Self {
        copy(&sample_directory(), &path);
        let repository = Self::empty(path);
        repository.commit("textkit 0.3.0");
        repository
    }

    /// A repository without a commit, or what is at the path made one.
    ///
    /// # Panics
    /// When git or the disk refuses.
    #[must_use]
    pub fn empty(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("directories can be made");
        let repository = Self { path };
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, as an argument.
    ///
    /// # Panics
    /// When the path is no text.
    #[must_use]
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("temporary paths are text")
    }

    /// Commits everything that is there.
    ///
    /// # Panics
    /// When git refuses.
    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    /// Runs git in it and gives what it prints.
    ///
    /// # Panics
    /// When git refuses.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.path, args)
    }
}

/// Runs git in a directory and gives what it prints, trimmed.
///
/// # Panics
/// When git refuses.
pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args([
            "-c",
            "user.name=Tester",
            "-c",
            "user.email=tester@example.com",
            "-c",
            "safe.directory=*",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .output()
        .expect("git is installed");
    assert!(
        output.status.success(),
        "git {args:?} in {}: {}",
        directory.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Where this crate's files are.
#[must_use]
pub fn source_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sample_directory() -> PathBuf {
    source_directory().join("sample")
}

/// The script that fixes the sample.
#[must_use]
pub fn sample_script() -> PathBuf {
    source_directory().join("sample-fix.jsonl")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directories can be made");
    for entry in std::fs::read_dir(from).expect("the sample is there") {
        let entry = entry.expect("the sample can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            // What a test run by hand left there is no part of it.
            if entry.file_name() != "__pycache__" && entry.file_name() != ".pytest_cache" {
                copy(&entry.path(), &target);
            }
        } else {
            std::fs::copy(entry.path(), target).expect("the sample can be copied");
        }
    }
}
