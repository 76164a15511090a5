//! Trees beside the one that is checked out: what proofs need, other contents
//! in the working tree for a while.

use super::{
    ANSWER_MAX_BYTES, ChangeKind, FileAt, Git, GitError, OWN_INDEX, RawChange, line, object,
};

/// The tree that is arranged for a run; absent when none is.
const ARRANGED: &str = "refs/compy/arranged";

impl Git {
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

    /// Files of a commit, in the order of the paths, each of so many bytes at most.
    pub(crate) async fn files_at(
        &self,
        commit: &str,
        paths: &[&[u8]],
        max_bytes: usize,
    ) -> Result<Vec<FileAt>, GitError> {
        let script = r#"set -e
commit=$1; most=$2; shift 2
for path in "$@"; do
  found=$(git ls-tree "$commit" -- ":(top,literal)$path")
  case "$found" in 100*) ;; *) echo -; continue;; esac
  object=${found#* blob }; object=${object%%[!0-9a-f]*}
  size=$(git cat-file -s "$object")
  if [ "$size" -gt "$most" ]; then echo +; continue; fi
  echo "$size"; git cat-file blob "$object"
done"#;
        let unexpected = || GitError::Unexpected {
            action: "cat-file",
            message: "not the files that were asked for".to_owned(),
        };
        let most = max_bytes.to_string();
        let mut files = Vec::new();
        for some in paths.chunks((ANSWER_MAX_BYTES / 2 / max_bytes).max(1)) {
            let arguments = [&[commit.as_bytes(), most.as_bytes()], some].concat();
            let answer = self.ask_raw("cat-file", script, &arguments).await?;
            let mut rest = &answer[..];
            for _ in some {
                let end = rest.iter().position(|byte| *byte == b'\n');
                let (said, after) = rest.split_at(end.ok_or_else(unexpected)?);
                rest = &after[1..];
                files.push(match said {
                    b"-" => FileAt::Nothing,
                    b"+" => FileAt::TooLarge,
                    size => {
                        let size = std::str::from_utf8(size).ok();
                        let size = size.and_then(|size| size.parse().ok());
                        let content = size.and_then(|size| rest.split_at_checked(size));
                        let (content, after) = content.ok_or_else(unexpected)?;
                        rest = after;
                        FileAt::Content(content.to_vec())
                    }
                });
            }
        }
        Ok(files)
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

    /// Undoes [`arrange`](Self::arrange) of this tree; another one that is
    /// arranged, and may be under a run, is left alone.
    pub(crate) async fn disarrange_tree(&self, tree: &str) -> Result<(), GitError> {
        let output = self
            .ask(
                "for-each-ref",
                &["for-each-ref", "--format=%(objectname)", ARRANGED],
            )
            .await?;
        if line(&output).as_deref() == Some(tree) {
            self.disarrange().await?;
        }
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

    /// Takes back everything that differs from HEAD, ignored files left out.
    pub(crate) async fn tidy(&self) -> Result<(), GitError> {
        let tree = self.worktree_tree().await?;
        let changes = self.changes("HEAD", &tree).await?;
        self.take_back(&changes).await
    }
}
