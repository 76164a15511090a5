//! Trees beside the one that is checked out: what proofs need, other contents
//! in the working tree for a while.

use std::collections::HashMap;

use super::{
    ANSWER_MAX_BYTES, ChangeKind, FileAt, Git, GitError, OWN_INDEX, RawChange, line, object,
};

/// A file of a commit.
struct Blob {
    object: String,
    bytes: usize,
}

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
    /// Neither a directory nor a link is one.
    pub(crate) async fn files_at(
        &self,
        commit: &str,
        paths: &[&[u8]],
        max_bytes: usize,
    ) -> Result<Vec<FileAt>, GitError> {
        let mut files = Vec::new();
        if paths.is_empty() {
            // Git would list all there are.
            return Ok(files);
        }
        let listed = self.blobs_at(commit, paths).await?;
        let mut at = 0;
        while at < paths.len() {
            // As many as one answer holds.
            let (mut wanted, mut bytes) = (Vec::new(), 0);
            let begun = at;
            while let Some(path) = paths.get(at) {
                if let Some(blob) = listed.get(*path).filter(|blob| blob.bytes <= max_bytes) {
                    bytes += blob.bytes;
                    if bytes > ANSWER_MAX_BYTES / 2 && !wanted.is_empty() {
                        break;
                    }
                    wanted.push(blob.object.as_str());
                }
                at += 1;
            }
            let mut contents = self.contents(&wanted).await?.into_iter();
            for path in &paths[begun..at] {
                files.push(match listed.get(*path) {
                    None => FileAt::Nothing,
                    Some(blob) if blob.bytes > max_bytes => FileAt::TooLarge,
                    Some(_) => FileAt::Content(contents.next().ok_or_else(other_files)?),
                });
            }
        }
        Ok(files)
    }

    /// What a commit has at these paths, where that is a file.
    async fn blobs_at(
        &self,
        commit: &str,
        paths: &[&[u8]],
    ) -> Result<HashMap<Vec<u8>, Blob>, GitError> {
        let mut argv: Vec<&[u8]> = vec![b"git", b"ls-tree", b"-l", b"-z", b"--full-tree"];
        argv.extend([commit.as_bytes(), b"--"]);
        argv.extend(paths);
        let listing = self.ask_command("ls-tree", &argv).await?;
        let entries = listing.split(|byte| *byte == 0);
        let files = entries.filter(|entry| entry.starts_with(b"100"));
        files
            .map(|entry| {
                let tab = entry.iter().position(|byte| *byte == b'\t');
                let (told, path) = entry.split_at_checked(tab?)?;
                let told = std::str::from_utf8(told).ok()?;
                let mut words = told.split_ascii_whitespace().skip(2);
                let object = words.next()?.to_owned();
                let bytes = words.next()?.parse().ok()?;
                Some((path[1..].to_vec(), Blob { object, bytes }))
            })
            .map(|entry| entry.ok_or_else(other_files))
            .collect()
    }

    /// The contents of blobs, in their order.
    async fn contents(&self, objects: &[&str]) -> Result<Vec<Vec<u8>>, GitError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        // What a command prints may lose credentials on its way, so that no size
        // tells where a content ends.
        let mark = format!("blob {}", uuid::Uuid::now_v7().simple());
        let script = r#"mark=$1; shift; printf '%s\n' "$@" | git cat-file --batch="$mark""#;
        let mut arguments = vec![mark.as_bytes()];
        arguments.extend(objects.iter().map(|each| each.as_bytes()));
        let answer = self.ask_raw("cat-file", script, &arguments).await?;
        let mark = format!("{mark}\n");
        let contents = split(&answer, mark.as_bytes());
        let [begin, contents @ ..] = contents.as_slice() else {
            return Err(other_files());
        };
        if !begin.is_empty() || contents.len() != objects.len() {
            return Err(other_files());
        }
        let content = |each: &&[u8]| each.strip_suffix(b"\n").map(<[u8]>::to_vec);
        let contents = contents
            .iter()
            .map(|each| content(each).ok_or_else(other_files));
        contents.collect()
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

/// An answer about files that is not about those that were asked for.
fn other_files() -> GitError {
    GitError::Unexpected {
        action: "cat-file",
        message: "not the files that were asked for".to_owned(),
    }
}

fn split<'a>(text: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let mut begin = 0;
    let mut parts = Vec::new();
    for at in memchr::memmem::find_iter(text, mark) {
        parts.push(&text[begin..at]);
        begin = at + mark.len();
    }
    parts.push(&text[begin..]);
    parts
}
