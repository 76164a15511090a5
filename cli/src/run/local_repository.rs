//! A git repository on this machine: is it one, what of it is taken along,
//! and its bundle. Runs the person's own `git`; knows nothing of the daemon.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use tokio::process::Command;

use crate::exit::Failure;
use crate::values::split_reference;

/// A repository with at least one commit.
#[derive(Debug)]
pub(crate) struct LocalRepository {
    /// Absolute: its top level, or its git directory when it is bare.
    path: PathBuf,
    /// Branch, tag or commit to check out.
    reference: String,
    /// What the bundle holds, as arguments of `git bundle create`.
    bundled: Vec<String>,
}

impl LocalRepository {
    /// Looks at `PATH[#REF]`. Warns on standard error about what will not be
    /// taken along.
    pub(crate) async fn open(text: &str) -> Result<Self, Failure> {
        let (directory, reference) = match split_reference(text) {
            // A directory may have a `#` in its name.
            _ if Path::new(text).exists() => (text, ""),
            split => split,
        };
        let path = std::fs::canonicalize(directory).map_err(|error| {
            Failure::usage(
                format!("the repository {directory:?} cannot be found: {error}"),
                "--repo PATH of a git repository, or a URL such as https://HOST/OWNER/NAME.git",
            )
        })?;
        let answer = git(
            &path,
            &[
                "rev-parse",
                "--is-bare-repository",
                "--is-shallow-repository",
                "--absolute-git-dir",
            ],
        )
        .await?;
        if !answer.ok {
            return Err(Failure::usage(
                format!(
                    "{} is not a usable git repository: {}",
                    path.display(),
                    answer.error
                ),
                format!(
                    "cd {} && git init && git add . && git commit",
                    path.display()
                ),
            ));
        }
        let mut facts = answer.output.lines();
        let bare = facts.next() == Some("true");
        let shallow = facts.next() == Some("true");
        let git_dir = PathBuf::from(facts.next().unwrap_or_default());
        if shallow {
            return Err(Failure::usage(
                format!(
                    "{} is a shallow clone; its history is not complete",
                    path.display()
                ),
                format!("git -C {} fetch --unshallow", path.display()),
            ));
        }
        let top = if bare {
            git_dir
        } else {
            let answer = git(&path, &["rev-parse", "--show-toplevel"]).await?;
            if answer.ok {
                PathBuf::from(answer.output)
            } else {
                git_dir
            }
        };
        let (reference, bundled) = choose(&top, reference).await?;
        let repository = LocalRepository {
            path: top,
            reference,
            bundled,
        };
        if !bare {
            repository.warn_about_changes().await?;
        }
        repository.warn_about_submodules().await?;
        Ok(repository)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Branch, tag or commit to check out; never empty.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// The directory's name without `.git`.
    pub(crate) fn base_name(&self) -> &str {
        let mut path = self.path.as_path();
        if path.file_name().is_some_and(|name| name == ".git") {
            path = path.parent().unwrap_or(path);
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("repository");
        name.strip_suffix(".git").unwrap_or(name)
    }

    /// Writes the bundle to a temporary file, so that an upload that breaks
    /// can send the same bytes again. It has no name any more when this returns:
    /// nothing is left over however this program ends.
    pub(crate) async fn bundle(&self) -> Result<Bundle, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("compyctl-")
            .tempdir()
            .map_err(|error| {
                Failure::local(
                    format!(
                        "no temporary directory for the bundle of {}: {error}",
                        self.path.display()
                    ),
                    "free some space, or set TMPDIR to a directory that has it",
                )
            })?;
        let path = directory.path().join("repository.bundle");
        let file = path.display().to_string();
        let mut arguments = vec!["bundle", "create", "-q", file.as_str()];
        arguments.extend(self.bundled.iter().map(String::as_str));
        let answer = git(&self.path, &arguments).await?;
        if !answer.ok {
            return Err(Failure::local(
                format!(
                    "git cannot bundle {}: {}",
                    self.path.display(),
                    answer.error
                ),
                "`git fsck` in it; or free space where temporary files go",
            ));
        }
        let file = std::fs::File::open(&path).map_err(|error| {
            Failure::local(
                format!("the bundle of {} is gone: {error}", self.path.display()),
                "try again",
            )
        })?;
        Ok(Bundle(Arc::new(file)))
    }

    async fn warn_about_changes(&self) -> Result<(), Failure> {
        let answer = git(
            &self.path,
            &["--no-optional-locks", "status", "--porcelain"],
        )
        .await?;
        let changes = answer.output.lines().count();
        if changes > 0 {
            eprintln!(
                "warning: {changes} uncommitted {} in {} not included; commit first to take them along",
                if changes == 1 { "change" } else { "changes" },
                self.path.display(),
            );
        }
        Ok(())
    }

    async fn warn_about_submodules(&self) -> Result<(), Failure> {
        let modules = format!("{}:.gitmodules", self.reference);
        if git(&self.path, &["cat-file", "-e", &modules]).await?.ok {
            eprintln!(
                "warning: submodules of {} are not included; their directories will be empty",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// A bundle, in a file that has no name any more.
#[derive(Debug, Clone)]
pub(crate) struct Bundle(Arc<std::fs::File>);

impl Bundle {
    /// The bytes from `offset` on, at most so many; none at the end.
    pub(crate) async fn read(&self, offset: u64, most: usize) -> std::io::Result<Bytes> {
        let file = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; most];
            let count = file.read_at(&mut bytes, offset)?;
            bytes.truncate(count);
            Ok(Bytes::from(bytes))
        });
        read.await.map_err(std::io::Error::other)?
    }
}

/// What to check out, and what the bundle must hold for that.
async fn choose(path: &Path, reference: &str) -> Result<(String, Vec<String>), Failure> {
    let head = git(path, &["rev-parse", "-q", "--verify", "HEAD^{commit}"]).await?;
    if reference.is_empty() {
        if !head.ok {
            return Err(Failure::usage(
                format!("the repository {} has no commits", path.display()),
                "commit something first: git add . && git commit",
            ));
        }
        let branch = git(path, &["symbolic-ref", "-q", "--short", "HEAD"]).await?;
        return Ok(if branch.ok {
            let full = format!("refs/heads/{}", branch.output);
            (branch.output, vec!["HEAD".into(), full])
        } else {
            (head.output, vec!["HEAD".into()])
        });
    }
    for kind in ["refs/heads/", "refs/tags/"] {
        let full = format!("{kind}{reference}");
        if git(
            path,
            &["rev-parse", "-q", "--verify", &format!("{full}^{{commit}}")],
        )
        .await?
        .ok
        {
            let mut bundled = vec![full];
            if head.ok {
                bundled.insert(0, "HEAD".into());
            }
            return Ok((reference.to_owned(), bundled));
        }
    }
    let commit = git(
        path,
        &[
            "rev-parse",
            "-q",
            "--verify",
            "--end-of-options",
            &format!("{reference}^{{commit}}"),
        ],
    )
    .await?;
    if !commit.ok {
        return Err(Failure::usage(
            format!(
                "there is no branch, tag or commit {reference:?} in {}",
                path.display()
            ),
            format!("git -C {} branch --all", path.display()),
        ));
    }
    // A bundle holds what named references reach, so all of them go along.
    Ok((commit.output, vec!["--all".into()]))
}

/// What git said.
#[derive(Debug)]
struct GitAnswer {
    ok: bool,
    /// Standard output without the last line end.
    output: String,
    /// Last line of standard error.
    error: String,
}

async fn git(directory: &Path, arguments: &[&str]) -> Result<GitAnswer, Failure> {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // Set inside git hooks; they would win over the directory.
    for variable in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
    ] {
        command.env_remove(variable);
    }
    let output = command.output().await.map_err(|error| {
        Failure::local(
            format!("git cannot be run: {error}"),
            "install git, or name a URL that the daemon can fetch",
        )
    })?;
    Ok(GitAnswer {
        ok: output.status.success(),
        output: String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned(),
        error: String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .lines()
            .find(|line| line.starts_with("fatal:"))
            .map_or_else(|| output.status.to_string(), str::to_owned),
    })
}
