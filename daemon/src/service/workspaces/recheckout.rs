//! Putting another commit where a baked setup has left one: as a fresh check-out
//! would have it, but for what the setup made beside the repository's own files.

use uuid::Uuid;

use super::{
    GitSourceError, WorkspacesError,
    checkout::{Checkouts, IMPORT_DIR, Import, archive_of, directory_of},
    git_source::FetchedBundle,
};

/// Moves the repository in `$1` to branch `$3` of the bundle `$2`, at commit
/// `$4`. Every other ref goes, and so does what only they reached: a workspace
/// must not hold what came after its commit. Hooks and settings that the setup
/// made stay. Ends with the import's key, `$7`: until then it is to be done again.
const SCRIPT: &str = r#"
cd "$1"
rm -f .git/index.lock .git/HEAD.lock
g() { git -c core.hooksPath=/dev/null -c gc.auto=0 "$@"; }
old=$(g rev-parse --verify --quiet 'HEAD^{commit}' || :)
g fetch --quiet --force --no-tags "$2" "+refs/heads/$3:refs/compy/wanted"
g checkout --quiet --force --detach "$4"
g for-each-ref --format='option no-deref%0adelete %(refname)' | g update-ref --stdin
g fetch --quiet --force "$2" "+refs/heads/$3:refs/heads/$3" '+refs/tags/*:refs/tags/*'
g symbolic-ref HEAD "refs/heads/$3"
g remote | while read -r remote; do g remote remove "$remote"; done
if [ -n "$6" ]; then
  g remote add origin "$6"
  g update-ref "refs/remotes/origin/$3" "$4"
  g symbolic-ref refs/remotes/origin/HEAD "refs/remotes/origin/$3"
  g branch --quiet --set-upstream-to="origin/$3" "$3"
fi
rm -rf .git/logs .git/FETCH_HEAD .git/ORIG_HEAD
if [ -z "$old" ] || ! g merge-base --is-ancestor "$old" "$4"; then
  g repack -a -d --quiet
  g prune --expire=now
fi
test "$(g rev-parse HEAD)" = "$4"
g config compy.source "$5"
g config compy.import "$7"
"#;

impl Checkouts<'_> {
    /// Puts what was fetched in place of the commit that a baked setup was made
    /// with. Done again after it was cut off, it comes to the same.
    pub(super) async fn replace(
        &self,
        fetched: &FetchedBundle,
        import: &Import<'_>,
    ) -> Result<(), WorkspacesError> {
        let own = format!("{IMPORT_DIR}/{}", Uuid::now_v7().simple());
        let archive = archive_of(&fetched.path, "bundle")
            .await
            .map_err(|error| GitSourceError::Host(error.to_string()))?;
        let directory = directory_of(import.name);
        let bundle = format!("{own}/bundle");
        let done = match self.agent.upload(&own, None, archive).await {
            Ok(_) => {
                let argv = [
                    "sh",
                    "-eu",
                    "-c",
                    SCRIPT,
                    "sh",
                    &directory,
                    &bundle,
                    &fetched.branch,
                    &fetched.commit,
                    import.source,
                    import.origin.unwrap_or_default(),
                    import.key,
                ];
                self.must(&argv).await.map(drop)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = self.must(&["rm", "-rf", "--", &own]).await {
            tracing::warn!(directory = own, %error, "cannot clean up after a checkout");
        }
        done
    }
}
