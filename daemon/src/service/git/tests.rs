//! Git over real repositories.

use super::*;
use crate::service::testing::{Bench, host_git};

#[tokio::test]
async fn a_branch_is_made_once_and_takes_the_work_along() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    bench.write("a.txt", "changed\n");
    let git = bench.git();
    assert_eq!(git.current_branch().await.unwrap().as_deref(), Some("main"));
    let session = &bench.session;
    let name = git
        .ensure_branch(&bench.step(1), session, "Fix it!")
        .await
        .unwrap();
    let end = &session.as_str()[session.as_str().len() - 8..];
    assert_eq!(name, format!("compy/fix-it-{end}"));
    bench.host_git(&["stash", "--quiet"]);
    bench.host_git(&["checkout", "--quiet", "main"]);
    let again = git
        .ensure_branch(&bench.step(2), session, "Fix it!")
        .await
        .unwrap();
    assert_eq!(git.current_branch().await.unwrap(), Some(again.clone()));
    assert_eq!(again, name);
    let exclude = bench.read(".git/info/exclude");
    assert_eq!(exclude.matches("__pycache__/").count(), 1);
}

#[tokio::test]
async fn committing_twice_commits_once_and_hooks_do_not_run() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    bench.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n");
    bench.host_git(&["config", "core.fileMode", "true"]);
    let hook = bench.app.join(".git/hooks/pre-commit");
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.write("new/b.txt", "b\n");
    // Hidden from git's own eyes.
    bench.host_git(&["update-index", "--assume-unchanged", "a.txt"]);
    bench.write("a.txt", "hidden\n");
    let git = bench.git();
    let made = git
        .commit_all(&bench.step(1), "fix: it\n\n# kept")
        .await
        .unwrap();
    assert!(matches!(made, CommitOutcome::Made(_)));
    assert_eq!(git.head_commit().await.unwrap(), made.commit());
    assert_eq!(
        bench.host_git(&["log", "-1", "--format=%B"]),
        "fix: it\n\n# kept"
    );
    let files = bench.host_git(&["show", "--name-only", "--format=", "HEAD"]);
    assert_eq!(files, "a.txt\nnew/b.txt");
    // The same step again, and another one.
    assert_eq!(
        git.commit_all(&bench.step(1), "fix: it\n\n# kept")
            .await
            .unwrap(),
        made
    );
    let none = git.commit_all(&bench.step(2), "more").await.unwrap();
    assert_eq!(none, CommitOutcome::AlreadySo(made.commit().to_owned()));
    assert_eq!(bench.host_git(&["rev-list", "--count", "HEAD"]), "2");
}

#[tokio::test]
async fn changes_and_diff_hold_new_and_deleted_files_and_odd_names() {
    let bench = Bench::new(&[("a.txt", "a\n"), ("b c.txt", "b\n")]);
    let base = bench.git().head_commit().await.unwrap();
    bench.write("a.txt", "a2\n");
    bench.remove("b c.txt");
    bench.write("-x\ty\n.txt", "new\n");
    let git = bench.git();
    let changed: Vec<(String, ChangeKind)> = git
        .changed_files(&base)
        .await
        .unwrap()
        .into_iter()
        .map(|file| (file.path, file.kind))
        .collect();
    assert_eq!(
        changed,
        [
            ("-x\ty\n.txt".to_owned(), ChangeKind::Added),
            ("a.txt".to_owned(), ChangeKind::Modified),
            ("b c.txt".to_owned(), ChangeKind::Deleted),
        ]
    );
    let diff = String::from_utf8(git.diff(&base).await.unwrap()).unwrap();
    assert!(diff.contains("-a\n+a2\n") && diff.contains("+new\n") && diff.contains("-b\n"));
    // Nothing of this is staged, and nothing is left of the asking.
    assert_eq!(bench.host_git(&["diff", "--cached", "--name-only"]), "");
    let leftovers = std::fs::read_dir(bench.app.join(".git")).unwrap();
    let leftovers = leftovers.flatten().filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("compy-index")
    });
    assert_eq!(leftovers.count(), 0);
}

#[tokio::test]
async fn a_bundle_on_the_host_has_the_branches() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    let git = bench.git();
    let name = git
        .ensure_branch(&bench.step(1), &bench.session, "x")
        .await
        .unwrap();
    bench.write("a.txt", "b\n");
    let commit = git.commit_all(&bench.step(1), "b").await.unwrap();
    let host = tempfile::tempdir().unwrap();
    let target = host.path().join("out.bundle");
    git.bundle(&["main", &name], &target).await.unwrap();
    let heads = host_git(
        &bench.app,
        &["bundle", "list-heads", target.to_str().unwrap()],
    );
    assert!(
        heads.contains(&format!("{} refs/heads/{name}", commit.commit())),
        "{heads}"
    );
    assert!(heads.contains("refs/heads/main"));
    let missing = git.bundle(&["gone"], &target).await.unwrap_err();
    assert!(
        matches!(
            missing,
            GitError::Refused {
                action: "bundle",
                ..
            }
        ),
        "{missing}"
    );
    let scratch = bench.app.parent().unwrap().join(".compy");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
}

#[tokio::test]
async fn an_empty_repository_is_refused_with_gits_words() {
    let bench = Bench::new(&[]);
    std::fs::remove_dir_all(bench.app.join(".git")).unwrap();
    bench.host_git(&["init", "--quiet"]);
    let error = bench.git().head_commit().await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("git rev-parse failed (exit 128)"),
        "{error}"
    );
}
