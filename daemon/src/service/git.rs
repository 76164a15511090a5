//! Git in a workspace: run there, as the workspace's user, never on the host.
//!
//! The repository and its configuration are under the model's hands, so hooks,
//! monitors, replaced objects and settings of the user are switched off, and
//! what the working tree is is asked of an index of our own: marks such as
//! `assume-unchanged` hide nothing. Questions leave no trace; what changes
//! something runs under an id made from its step, so that doing it again finds
//! it done.

use std::path::Path;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

pub use crate::domain::changes::{ChangeKind, ChangedFile};
use crate::domain::{
    changes::slug,
    checks::Site,
    exec::ExecSpec,
    ids::{ExecId, SessionId},
};

use super::{
    commands::{CommandError, CommandOutcome, CommandRequest, Commands, ViewBounds},
    step::StepContext,
};

/// Where the daemon keeps short-lived files in a workspace, beside the
/// repositories.
pub(crate) const SCRATCH: &str = "/workspace/.compy";

/// Git in one repository of one workspace. Cheap to clone.
#[derive(Clone)]
pub struct Git {
    commands: Commands,
    site: Site,
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// This step made it.
    Made(String),
    /// There was nothing to commit: this is the head.
    AlreadySo(String),
}

impl CommitOutcome {
    /// The head commit after the call.
    #[must_use]
    pub fn commit(&self) -> &str {
        match self {
            Self::Made(commit) | Self::AlreadySo(commit) => commit,
        }
    }
}

/// A changed file with its path as git has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawChange {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: ChangeKind,
}

impl RawChange {
    pub(crate) fn shown(&self) -> ChangedFile {
        ChangedFile {
            path: String::from_utf8_lossy(&self.path).into_owned(),
            kind: self.kind,
        }
    }
}

/// Starts a script with an index of its own, which is gone afterwards.
const OWN_INDEX: &str = r#"set -e
git_dir=$(git rev-parse --absolute-git-dir)
own_index=$(mktemp "$git_dir/compy-index.XXXXXX")
trap 'rm -f "$own_index" "$own_index.lock"' EXIT
rm -f "$own_index"
export GIT_INDEX_FILE="$own_index"
"#;

/// What no commit should pick up although the repository does not ignore it.
const JUNK: &str = "__pycache__/ *.py[co] .pytest_cache/ .mypy_cache/ .ruff_cache/ .coverage \
                    node_modules/ .DS_Store .nyc_output/ .tox/ .venv/ *.egg-info/";

impl Git {
    /// Git at a site.
    #[must_use]
    pub fn new(commands: Commands, site: Site) -> Self {
        Self { commands, site }
    }

    /// The commit at HEAD. Fails with [`GitError::Refused`] where there is none.
    pub async fn head_commit(&self) -> Result<String, GitError> {
        self.ask_object("rev-parse", &["rev-parse", "--verify", "HEAD^{commit}"])
            .await
    }

    /// The tree of a commit.
    pub async fn tree_of(&self, commit: &str) -> Result<String, GitError> {
        let tree = format!("{commit}^{{tree}}");
        self.ask_object("rev-parse", &["rev-parse", "--verify", &tree])
            .await
    }

    /// The branch checked out; `None` when HEAD is detached.
    pub async fn current_branch(&self) -> Result<Option<String>, GitError> {
        let output = self.ask("branch", &["branch", "--show-current"]).await?;
        Ok(line(&output))
    }

    /// Makes and checks out the session's branch, or finds it:
    /// `compy/<task>-<end of the session's id>`. Uncommitted changes come
    /// along. Returns the name.
    pub async fn ensure_branch(
        &self,
        step: &StepContext,
        session: &SessionId,
        task: &str,
    ) -> Result<String, GitError> {
        let id = session.as_str();
        let name = format!("compy/{}-{}", slug(task), &id[id.len().saturating_sub(8)..]);
        let script = r#"set -e
exclude=$(git rev-parse --git-path info/exclude)
mkdir -p "$(dirname "$exclude")"
if ! grep -qs '^# made by compy$' "$exclude"; then
  set -f
  { echo '# made by compy'; for each in $2; do echo "$each"; done; } >> "$exclude"
fi
[ "$(git branch --show-current)" = "$1" ] && exit 0
if git show-ref --verify --quiet "refs/heads/$1"; then git checkout --quiet "$1"
else git checkout --quiet -b "$1"; fi"#;
        self.script(
            "checkout",
            step.exec("git-branch"),
            script,
            &[&name, JUNK],
            &step.cancel,
        )
        .await?;
        Ok(name)
    }

    /// Files that differ from HEAD or are new, ignored ones left out.
    pub async fn dirty(&self) -> Result<Vec<ChangedFile>, GitError> {
        self.changed_files("HEAD").await
    }

    /// Files of the working tree, new ones included, that differ from a commit.
    pub async fn changed_files(&self, base: &str) -> Result<Vec<ChangedFile>, GitError> {
        let tree = self.worktree_tree().await?;
        let changes = self.changes(base, &tree).await?;
        Ok(changes.iter().map(RawChange::shown).collect())
    }

    /// The diff from a commit to the working tree, new files included; at most
    /// 8 MiB of it.
    pub async fn diff(&self, base: &str) -> Result<Vec<u8>, GitError> {
        let tree = self.worktree_tree().await?;
        self.ask(
            "diff",
            &[
                "diff",
                "--no-color",
                "--no-ext-diff",
                "--no-textconv",
                "--find-renames",
                base,
                &tree,
            ],
        )
        .await
    }

    /// The tree that the working tree, new files included, would be committed
    /// as.
    pub async fn worktree_tree(&self) -> Result<String, GitError> {
        let script = "git read-tree HEAD\ngit add -A\ngit write-tree";
        let output = self.ask_script("write-tree", script, &[]).await?;
        object("write-tree", &output)
    }

    /// Commits every change; where there is none it finds the head.
    pub async fn commit_all(
        &self,
        step: &StepContext,
        message: &str,
    ) -> Result<CommitOutcome, GitError> {
        // The index starts from HEAD, so that nothing is hidden in it.
        let script = r#"set -e
git read-tree HEAD
git add -A
if git diff --cached --quiet HEAD; then echo already
else git commit --quiet --no-verify --cleanup=whitespace -m "$1" >&2; echo made; fi
git rev-parse --verify HEAD"#;
        let output = self
            .script(
                "commit",
                step.exec("git-commit"),
                script,
                &[message],
                &step.cancel,
            )
            .await?;
        let text = String::from_utf8_lossy(&output);
        let unexpected = || GitError::Unexpected {
            action: "commit",
            message: text.trim().to_owned(),
        };
        // Warnings may come before.
        let lines: Vec<&str> = text.lines().collect();
        let [.., what, commit] = lines.as_slice() else {
            return Err(unexpected());
        };
        let commit = object("commit", commit.as_bytes())?;
        match *what {
            "made" => Ok(CommitOutcome::Made(commit)),
            "already" => Ok(CommitOutcome::AlreadySo(commit)),
            _ => Err(unexpected()),
        }
    }

    /// Writes a bundle of these branches with all their history to a file on
    /// the host.
    pub async fn bundle(&self, branches: &[&str], target: &Path) -> Result<(), GitError> {
        let path = format!("{SCRATCH}/bundle-{}", uuid::Uuid::now_v7().simple());
        let script = r#"set -e
target=$1; shift; mkdir -p "${target%/*}"
git bundle create --quiet "$target" "$@""#;
        let references: Vec<String> = branches
            .iter()
            .map(|branch| format!("refs/heads/{branch}"))
            .collect();
        let mut arguments = vec![path.as_str()];
        arguments.extend(references.iter().map(String::as_str));
        let made = self.ask_plain_script("bundle", script, &arguments).await;
        let fetched = match made {
            Ok(_) => self.fetch(&path, target).await,
            Err(error) => Err(error),
        };
        let removed = self.ask_plain_script("rm", r#"rm -f "$1""#, &[&path]).await;
        fetched.and(removed.map(|_| ()))
    }

    /// Brings one file of the workspace to the host.
    async fn fetch(&self, path: &str, target: &Path) -> Result<(), GitError> {
        let host = |error: std::io::Error| GitError::Host {
            path: target.display().to_string(),
            message: error.to_string(),
        };
        let agent = self
            .commands
            .workspaces()
            .agent(&self.site.workspace)
            .await
            .map_err(CommandError::from)?;
        let archive = tempfile::NamedTempFile::new_in(target.parent().unwrap_or(Path::new(".")))
            .map_err(host)?;
        let mut file = tokio::fs::File::from_std(archive.reopen().map_err(host)?);
        let mut pieces = agent.download(path);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(CommandError::from)?;
            file.write_all(&piece).await.map_err(host)?;
        }
        file.flush().await.map_err(host)?;
        let target = target.to_owned();
        let unpack = tokio::task::spawn_blocking(move || unpack_one(archive.path(), &target));
        unpack
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(host)
    }

    // What proofs need: other contents in the working tree for a while.

    /// Files that differ between two commits or trees.
    pub(crate) async fn changes(&self, from: &str, to: &str) -> Result<Vec<RawChange>, GitError> {
        let output = self
            .ask(
                "diff-tree",
                &[
                    "diff-tree",
                    "-r",
                    "-z",
                    "--no-renames",
                    "--name-status",
                    from,
                    to,
                ],
            )
            .await?;
        let mut fields = output.split(|byte| *byte == 0);
        let mut changes = Vec::new();
        while let (Some(status @ [_, ..]), Some(path)) = (fields.next(), fields.next()) {
            let kind = match status {
                b"A" => ChangeKind::Added,
                b"D" => ChangeKind::Deleted,
                _ => ChangeKind::Modified,
            };
            let path = path.to_vec();
            changes.push(RawChange { path, kind });
        }
        Ok(changes)
    }

    /// The tree of `from` with these paths as they are in `with`, absent where
    /// they are absent there.
    pub(crate) async fn mixed_tree(
        &self,
        from: &str,
        with: &str,
        paths: &[Vec<u8>],
    ) -> Result<String, GitError> {
        let script = r#"from=$1; with=$2; shift 2
git read-tree "$from"
if [ $# -gt 0 ]; then
  git update-index --force-remove -- "$@"
  git ls-tree -r -z "$with" -- "$@" | git update-index -z --index-info
fi
git write-tree"#;
        let mut arguments = vec![from.as_bytes(), with.as_bytes()];
        arguments.extend(paths.iter().map(Vec::as_slice));
        let script = format!("{OWN_INDEX}{script}");
        let output = self.ask_raw("write-tree", &script, &arguments).await?;
        object("write-tree", &output)
    }

    /// Puts a tree into the working tree, which must be as HEAD is. The mark
    /// that says so is durable before the first file changes.
    pub(crate) async fn arrange(&self, tree: &str) -> Result<(), GitError> {
        let script = r#"set -e
git update-ref refs/compy/arranged "$1"
git read-tree HEAD
git update-index -q --refresh
git read-tree -m -u HEAD "$1""#;
        self.ask_plain_script("read-tree", script, &[tree]).await?;
        Ok(())
    }

    /// Undoes [`arrange`](Self::arrange), also half of one: files that it
    /// changed are as in HEAD again, others are not touched. Nothing arranged
    /// is accepted. Runs to its end whatever is cancelled.
    pub(crate) async fn disarrange(&self) -> Result<(), GitError> {
        // The lock is left by a git that was killed: while something is
        // arranged nobody else works here.
        let script = r#"set -e
tree=$(git rev-parse --quiet --verify refs/compy/arranged) || exit 0
rm -f "$(git rev-parse --git-path index.lock)"
top=$(git rev-parse --show-toplevel)
cd "$top"
git read-tree HEAD
git diff-tree -r -z --no-renames --name-only --diff-filter=A HEAD "$tree" | xargs -0 -r rm -f --
git diff-tree -r -z --no-renames --name-only --diff-filter=a HEAD "$tree" | git checkout-index -f -z --stdin
git update-index -q --refresh || true
git update-ref -d refs/compy/arranged"#;
        self.ask_plain_script("checkout-index", script, &[]).await?;
        Ok(())
    }

    /// Takes back changes of the working tree against HEAD: new files go,
    /// others are as in HEAD again.
    pub(crate) async fn take_back(&self, changes: &[RawChange]) -> Result<(), GitError> {
        let paths = |added: bool| {
            changes
                .iter()
                .filter(move |change| (change.kind == ChangeKind::Added) == added)
                .map(|change| change.path.as_slice())
        };
        let added: Vec<&[u8]> = paths(true).collect();
        let others: Vec<&[u8]> = paths(false).collect();
        if !added.is_empty() {
            self.ask_raw("clean", r#"rm -f -- "$@""#, &added).await?;
        }
        if !others.is_empty() {
            let script = "git read-tree HEAD\ngit checkout-index -f -- \"$@\"";
            self.ask_raw("checkout-index", script, &others).await?;
        }
        Ok(())
    }

    // How git is run.

    async fn ask_object(&self, action: &'static str, argv: &[&str]) -> Result<String, GitError> {
        object(action, &self.ask(action, argv).await?)
    }

    /// Runs git for an answer; nothing is left of the command.
    async fn ask(&self, action: &'static str, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
        let mut argv: Vec<&[u8]> = vec![b"git"];
        argv.extend(arguments.iter().map(|each| each.as_bytes()));
        self.ask_command(action, &argv).await
    }

    async fn ask_script(
        &self,
        action: &'static str,
        script: &str,
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitError> {
        self.ask_plain_script(action, &format!("{OWN_INDEX}{script}"), arguments)
            .await
    }

    async fn ask_plain_script(
        &self,
        action: &'static str,
        script: &str,
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitError> {
        let arguments: Vec<&[u8]> = arguments.iter().map(|each| each.as_bytes()).collect();
        self.ask_raw(action, script, &arguments).await
    }

    async fn ask_raw(
        &self,
        action: &'static str,
        script: &str,
        arguments: &[&[u8]],
    ) -> Result<Vec<u8>, GitError> {
        let mut argv: Vec<&[u8]> = vec![b"sh", b"-c", script.as_bytes(), b"sh"];
        argv.extend(arguments);
        self.ask_command(action, &argv).await
    }

    async fn ask_command(&self, action: &'static str, argv: &[&[u8]]) -> Result<Vec<u8>, GitError> {
        let id = format!("git-{}", uuid::Uuid::now_v7().simple());
        let exec: ExecId = id.parse().expect("hex digits are a valid exec id");
        let never = CancellationToken::new();
        let outcome = self.run(exec.clone(), argv, &never).await?;
        if let Ok(agent) = self.commands.workspaces().agent(&self.site.workspace).await {
            // Only tidiness: the agent forgets it in time by itself.
            let _ = agent.remove(&exec).await;
        }
        answer(action, outcome)
    }

    /// Runs a script under an id that is known beforehand.
    async fn script(
        &self,
        action: &'static str,
        exec: ExecId,
        script: &str,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, GitError> {
        let mut argv: Vec<&[u8]> = vec![b"sh", b"-c", script.as_bytes(), b"sh"];
        argv.extend(arguments.iter().map(|each| each.as_bytes()));
        answer(action, self.run(exec, &argv, cancel).await?)
    }

    async fn run(
        &self,
        exec: ExecId,
        argv: &[&[u8]],
        cancel: &CancellationToken,
    ) -> Result<CommandOutcome, GitError> {
        let mut spec = ExecSpec::new(argv);
        spec.cwd = Some(self.site.directory.clone());
        spec.environment = environment();
        spec.timeout_ms = Some(300_000);
        let request = CommandRequest {
            workspace: self.site.workspace.clone(),
            exec,
            spec,
            about: None,
            bounds: ViewBounds::default(),
            progress: None,
        };
        Ok(self.commands.run(request, cancel).await?)
    }
}

fn environment() -> Vec<(String, Vec<u8>)> {
    const SETTINGS: [(&str, &str); 9] = [
        ("core.hooksPath", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("core.ignoreStat", "false"),
        ("core.sparseCheckout", "false"),
        ("commit.gpgSign", "false"),
        ("safe.directory", "*"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.detachedHead", "false"),
    ];
    const VARIABLES: [(&str, &str); 11] = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_LITERAL_PATHSPECS", "1"),
        ("GIT_PAGER", "cat"),
        ("LC_ALL", "C"),
        ("GIT_AUTHOR_NAME", "Compy"),
        ("GIT_AUTHOR_EMAIL", "compy@localhost"),
        ("GIT_COMMITTER_NAME", "Compy"),
        ("GIT_COMMITTER_EMAIL", "compy@localhost"),
    ];
    let mut environment: Vec<(String, Vec<u8>)> = VARIABLES
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let count = SETTINGS.len().to_string().into_bytes();
    environment.push(("GIT_CONFIG_COUNT".to_owned(), count));
    for (number, (key, value)) in SETTINGS.iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{number}"), key.as_bytes().to_vec()));
        environment.push((
            format!("GIT_CONFIG_VALUE_{number}"),
            value.as_bytes().to_vec(),
        ));
    }
    environment
}

fn answer(action: &'static str, outcome: CommandOutcome) -> Result<Vec<u8>, GitError> {
    if outcome.exit.status.is_success() {
        return Ok(outcome.output);
    }
    Err(GitError::Refused {
        action,
        ended: outcome.exit.status.to_string(),
        message: outcome.view.trim().to_owned(),
    })
}

/// The id of an object: the last line, after what may have been warned of.
fn object(action: &'static str, output: &[u8]) -> Result<String, GitError> {
    let text = String::from_utf8_lossy(output);
    let id = text.lines().last().unwrap_or_default().trim();
    let hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex && matches!(id.len(), 40 | 64) {
        return Ok(id.to_owned());
    }
    Err(GitError::Unexpected {
        action,
        message: text.trim().chars().take(200).collect(),
    })
}

fn line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let text = text.lines().last()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Unpacks the only file of a tar archive.
fn unpack_one(archive: &Path, target: &Path) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive)?);
    let mut entries = archive.entries()?;
    let mut entry = entries
        .next()
        .ok_or_else(|| std::io::Error::other("the workspace sent an empty archive"))??;
    if !entry.header().entry_type().is_file() {
        return Err(std::io::Error::other(
            "the workspace sent something else than a file",
        ));
    }
    std::io::copy(&mut entry, &mut std::fs::File::create(target)?)?;
    Ok(())
}

/// Why git did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// It ran and refused.
    #[error("git {action} failed ({ended}): {message}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// How it ended.
        ended: String,
        /// The end of its output.
        message: String,
    },
    /// Its answer makes no sense.
    #[error("git {action} answered something else than expected: {message}")]
    Unexpected {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        message: String,
    },
    /// It could not be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file on the host.
    #[error("cannot write the bundle {path}: {message}")]
    Host {
        /// The file.
        path: String,
        /// The cause.
        message: String,
    },
}

#[cfg(test)]
mod tests;
