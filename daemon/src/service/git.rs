//! Git in a workspace: run there, as the workspace's user, never on the host.
//!
//! The repository and its configuration are under the model's hands, so hooks,
//! monitors, replaced objects and settings of the user are switched off, and
//! what the working tree is is asked of an index of our own: marks such as
//! `assume-unchanged` hide nothing. Questions leave no trace; what changes
//! something runs under an id made from its step, so that doing it again finds
//! it done.

mod bundle;
mod trees;

use tokio_util::sync::CancellationToken;

pub use self::bundle::BundleSpace;
pub use crate::domain::changes::{ChangeKind, ChangedFile};
use crate::domain::{
    changes::slug,
    checks::Site,
    exec::ExecSpec,
    ids::{ArtifactId, ExecId, SessionId},
};

use super::{
    artifacts::ArtifactAbout,
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

/// What a session's branch is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchName {
    wanted: String,
    /// Where a branch called as the first part of the wanted name is in its way.
    otherwise: String,
}

impl BranchName {
    /// `compy/<task>-<end of the session's id>`.
    #[must_use]
    pub fn of(session: &SessionId, task: &str) -> Self {
        let id = session.as_str();
        let name = format!("{}-{}", slug(task), &id[id.len().saturating_sub(8)..]);
        Self {
            wanted: format!("compy/{name}"),
            otherwise: format!("compy-{name}"),
        }
    }

    /// That of a branch that is there.
    #[must_use]
    pub fn known(name: &str) -> Self {
        Self {
            wanted: name.to_owned(),
            otherwise: name.to_owned(),
        }
    }
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileAt {
    /// Its bytes.
    Content(Vec<u8>),
    /// It has more bytes than were asked for.
    TooLarge,
    /// The commit has no regular file there.
    Nothing,
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

/// Makes the rules that no commit has ours: what a commit should not pick up
/// although the repository does not ignore it, and nothing that was written
/// there to hide files, or to change them on their way in and out.
const OWN_RULES: &str = r#"set -e
exclude=$(git rev-parse --git-path info/exclude)
rm -rf "$exclude" "$(git rev-parse --git-path info/attributes)"
mkdir -p "${exclude%/*}"
printf '%s\n' '# made by compy' '__pycache__/' '*.py[co]' .pytest_cache/ .mypy_cache/ .ruff_cache/ \
  .coverage node_modules/ .DS_Store .nyc_output/ .tox/ .venv/ '*.egg-info/' > "$exclude"
"#;

/// Bytes of an answer of git at most; one that is longer is an error.
const ANSWER_MAX_BYTES: usize = 8 << 20;

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

    /// A regular file of a commit, of so many bytes at most.
    pub(crate) async fn file_at(
        &self,
        commit: &str,
        path: &str,
        max_bytes: usize,
    ) -> Result<FileAt, GitError> {
        // A byte before the content tells an empty file from none.
        let script = r#"set -e
case "$(git ls-tree "$1" -- "$2")" in 100*) ;; *) exit 0;; esac
if [ "$(git cat-file -s "$1:$2")" -gt "$3" ]; then printf +; exit 0; fi
printf =; git cat-file blob "$1:$2""#;
        let arguments = [commit, path, &max_bytes.to_string()];
        let answer = (self.ask_plain_script("cat-file", script, &arguments)).await?;
        Ok(match answer.split_first() {
            None => FileAt::Nothing,
            Some((b'+', _)) => FileAt::TooLarge,
            Some((_, content)) => FileAt::Content(content.to_vec()),
        })
    }

    /// The start of a regular file of a commit, of so many bytes at most, and how
    /// many the file has; `None` where the commit has no regular file there.
    pub(crate) async fn start_of_file_at(
        &self,
        commit: &str,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, GitError> {
        let script = r#"set -e
case "$(git ls-tree "$1" -- "$2")" in 100*) ;; *) exit 0;; esac
git cat-file -s "$1:$2"
git cat-file blob "$1:$2" | head -c "$3""#;
        let arguments = [commit, path, &max_bytes.to_string()];
        let answer = (self.ask_plain_script("cat-file", script, &arguments)).await?;
        let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&answer[..end]).ok();
        let size = size.and_then(|size| size.trim().parse().ok());
        let size = size.ok_or_else(|| GitError::Unexpected {
            action: "cat-file",
            message: "not the size of a file".to_owned(),
        })?;
        Ok(Some((answer[end + 1..].to_vec(), size)))
    }

    /// Paths of files of a commit, from the top, that an extended regular expression
    /// matches; `None` where they take more bytes than this.
    pub(crate) async fn paths_like(
        &self,
        commit: &str,
        pattern: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<String>>, GitError> {
        // Odd names are in quotes, so that nothing that ends with a name matches.
        let script = r#"git -c core.quotePath=false ls-tree -r --name-only "$1" |
  { grep -E -e "$2" || true; } | head -c "$3""#;
        let most = (max_bytes + 1).to_string();
        let arguments = [commit, pattern, &most];
        let answer = (self.ask_plain_script("ls-tree", script, &arguments)).await?;
        let text = String::from_utf8_lossy(&answer);
        let is_whole = answer.len() <= max_bytes;
        Ok(is_whole.then(|| text.lines().map(str::to_owned).collect()))
    }

    /// Paths of what is at the top of a commit and in these directories, each
    /// ending with `/`; one that is not there has nothing.
    pub(crate) async fn paths_in(
        &self,
        commit: &str,
        directories: &[String],
    ) -> Result<Vec<String>, GitError> {
        let script = r#"set -e
commit=$1; shift
git ls-tree -z --name-only "$commit"
if [ $# -gt 0 ]; then git ls-tree -z --name-only "$commit" -- "$@"; fi"#;
        let directories = directories.iter().map(String::as_str);
        let arguments: Vec<&str> = [commit].into_iter().chain(directories).collect();
        let answer = (self.ask_plain_script("ls-tree", script, &arguments)).await?;
        let names = answer
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    /// The branch checked out; `None` when HEAD is detached.
    pub async fn current_branch(&self) -> Result<Option<String>, GitError> {
        let output = self.ask("branch", &["branch", "--show-current"]).await?;
        Ok(line(&output))
    }

    /// Makes and checks out the session's branch, or finds it. Uncommitted
    /// changes come along. A second try takes another name where a branch is in
    /// the way of the first. Returns the name.
    pub async fn ensure_branch(
        &self,
        step: &StepContext,
        name: &BranchName,
        attempt: u32,
    ) -> Result<String, GitError> {
        let script = r#"set -e
name=$1
if [ "$3" -gt 1 ] && git show-ref --verify --quiet "refs/heads/${1%%/*}"; then name=$2; fi
# After a merge whose files were mended and not added no branch can be checked out.
if [ -n "$(git ls-files --unmerged)" ]; then git read-tree HEAD; fi
if [ "$(git branch --show-current)" = "$name" ]; then :
elif git show-ref --verify --quiet "refs/heads/$name"; then git checkout --quiet "$name"
else git checkout --quiet -b "$name"; fi
printf %s "$name""#;
        let output = self
            .script(
                "checkout",
                step.exec("git-branch"),
                script,
                &[&name.wanted, &name.otherwise, &attempt.to_string()],
                &step.cancel,
            )
            .await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Files that a merge could not put together and that still hold its
    /// markers.
    pub async fn unmerged(&self) -> Result<Vec<String>, GitError> {
        let script = r#"export GIT_OPTIONAL_LOCKS=0
git diff --name-only --diff-filter=U -z |
  xargs -0 -r grep -lE --null -e '^(<<<<<<<|>>>>>>>) ' -- || true"#;
        let files = self.ask_plain_script("diff", script, &[]).await?;
        let names = files
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
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

    /// Keeps the diff from a commit to the working tree, new files included, as
    /// an artifact, however long it is.
    pub async fn keep_diff(
        &self,
        base: &str,
        about: ArtifactAbout,
    ) -> Result<ArtifactId, GitError> {
        let tree = self.worktree_tree().await?;
        let argv = [
            "git",
            "diff",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--find-renames",
            base,
            &tree,
        ];
        let outcome = self
            .ask_outcome(&argv.map(str::as_bytes), Some(about))
            .await?;
        match outcome.artifact.clone() {
            Some(diff) if outcome.exit.status.is_success() => Ok(diff.id),
            Some(_) | None => Err(refused("diff", &outcome)),
        }
    }

    /// The tree that the working tree, new files included, would be committed
    /// as.
    pub async fn worktree_tree(&self) -> Result<String, GitError> {
        let script = format!("{OWN_RULES}git read-tree HEAD\ngit add -A\ngit write-tree");
        let output = self.ask_script("write-tree", &script, &[]).await?;
        object("write-tree", &output)
    }

    /// Commits every change; where there is none it finds the head.
    pub async fn commit_all(
        &self,
        step: &StepContext,
        message: &str,
    ) -> Result<CommitOutcome, GitError> {
        // The index starts from HEAD, so that nothing is hidden in it.
        let script = r#"git read-tree HEAD
git add -A
if git diff --cached --quiet HEAD; then echo already
else git commit --quiet --no-verify --cleanup=whitespace -m "$1" >&2; echo made; fi
git rev-parse --verify HEAD"#;
        let output = self
            .script(
                "commit",
                step.exec("git-commit"),
                &format!("{OWN_RULES}{script}"),
                &[message],
                &step.cancel,
            )
            .await?;
        let text = String::from_utf8_lossy(&output);
        let unexpected = || GitError::Unexpected {
            action: "commit",
            message: text.trim().chars().take(200).collect(),
        };
        let (what, commit) = text.split_once('\n').ok_or_else(unexpected)?;
        let commit = object("commit", commit.as_bytes())?;
        match what {
            "made" => Ok(CommitOutcome::Made(commit)),
            "already" => Ok(CommitOutcome::AlreadySo(commit)),
            _ => Err(unexpected()),
        }
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
        answer(action, self.ask_outcome(argv, None).await?)
    }

    async fn ask_outcome(
        &self,
        argv: &[&[u8]],
        about: Option<ArtifactAbout>,
    ) -> Result<CommandOutcome, GitError> {
        let exec = new_exec();
        let never = CancellationToken::new();
        let outcome = self.run(exec.clone(), argv, about, &never).await?;
        if let Ok(agent) = self.commands.workspaces().agent(&self.site.workspace).await {
            // Only tidiness: the agent forgets it in time by itself.
            let _ = agent.remove(&exec).await;
        }
        Ok(outcome)
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
        answer(action, self.run(exec, &argv, None, cancel).await?)
    }

    async fn run(
        &self,
        exec: ExecId,
        argv: &[&[u8]],
        about: Option<ArtifactAbout>,
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
            about,
            bounds: ViewBounds::default(),
            apart: Some(ANSWER_MAX_BYTES),
            progress: None,
        };
        Ok(self.commands.run(request, cancel).await?)
    }
}

/// The id of a command that answers a question.
fn new_exec() -> ExecId {
    let id = format!("git-{}", uuid::Uuid::now_v7().simple());
    id.parse().expect("hex digits are a valid exec id")
}

fn environment() -> Vec<(String, Vec<u8>)> {
    const SETTINGS: [(&str, &str); 12] = [
        ("core.hooksPath", "/dev/null"),
        ("core.excludesFile", "/dev/null"),
        ("core.attributesFile", "/dev/null"),
        ("core.bare", "false"),
        ("core.fsmonitor", "false"),
        ("core.ignoreStat", "false"),
        ("core.sparseCheckout", "false"),
        ("commit.gpgSign", "false"),
        ("safe.directory", "*"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.detachedHead", "false"),
    ];
    const VARIABLES: [(&str, &str); 12] = [
        // Not the `core.worktree` of the repository's own configuration.
        ("GIT_WORK_TREE", "."),
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
    if !outcome.exit.status.is_success() {
        return Err(refused(action, &outcome));
    }
    outcome.stdout.ok_or(GitError::TooMuch {
        action,
        max_bytes: ANSWER_MAX_BYTES,
    })
}

fn refused(action: &'static str, outcome: &CommandOutcome) -> GitError {
    GitError::Refused {
        action,
        ended: outcome.exit.status.to_string(),
        message: outcome.view.trim().to_owned(),
    }
}

/// The id of an object.
fn object(action: &'static str, output: &[u8]) -> Result<String, GitError> {
    let text = String::from_utf8_lossy(output);
    let id = text.trim();
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
    /// Its answer is longer than any that is of use.
    #[error("git {action} answered with more than {max_bytes} bytes; the change is too large")]
    TooMuch {
        /// What was asked.
        action: &'static str,
        /// What is taken at most.
        max_bytes: usize,
    },
    /// It could not be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The repository is too large to be published.
    #[error(
        "the history to publish takes more than {max_bytes} bytes; keep large files out of the \
         repository, or raise session.bundle_max"
    )]
    BundleTooLarge {
        /// What is taken at most.
        max_bytes: u64,
    },
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
