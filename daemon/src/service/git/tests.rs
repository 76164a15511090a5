//! Git over real repositories.

use futures_util::StreamExt;

use super::*;
use crate::{
    domain::{
        artifact::ArtifactKind,
        recovery::{Catalogue, End, FailureType, FoundIn, Signs},
    },
    ports::forge::BUNDLED_BASE,
    service::testing::{Bench, host_git},
};

#[tokio::test]
async fn a_branch_is_made_once_and_takes_the_work_along() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    bench.write("a.txt", "changed\n");
    let git = bench.git();
    assert_eq!(git.current_branch().await.unwrap().as_deref(), Some("main"));
    let session = &bench.session;
    let wanted = BranchName::of(session, "Fix it!");
    let name = git.ensure_branch(&bench.step(1), &wanted, 1).await.unwrap();
    let end = &session.as_str()[session.as_str().len() - 8..];
    assert_eq!(name, format!("compy/fix-it-{end}"));
    bench.host_git(&["stash", "--quiet"]);
    bench.host_git(&["checkout", "--quiet", "main"]);
    let again = git.ensure_branch(&bench.step(2), &wanted, 1).await.unwrap();
    assert_eq!(git.current_branch().await.unwrap(), Some(again.clone()));
    assert_eq!(again, name);
}

#[tokio::test]
async fn a_branch_that_is_in_the_way_costs_one_try() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    bench.host_git(&["branch", "compy"]);
    let git = bench.git();
    let wanted = BranchName::of(&bench.session, "Fix it!");
    let refused = git.ensure_branch(&bench.step(1), &wanted, 1).await;
    let signs = refused.unwrap_err().to_string();
    let failure = Catalogue::with(None).unwrap().detect(&Signs {
        found_in: FoundIn::Git,
        end: End::Failed,
        output: signs.as_bytes(),
    });
    let kind = failure.map(|failure| failure.kind);
    assert_eq!(kind, Some(FailureType::BranchExists), "{signs}");
    let name = git.ensure_branch(&bench.step(2), &wanted, 2).await.unwrap();
    assert!(name.starts_with("compy-fix-it-"), "{name}");
    let known = BranchName::known(&name);
    assert_eq!(
        git.ensure_branch(&bench.step(3), &known, 1).await.unwrap(),
        name
    );
}

#[tokio::test]
async fn files_with_the_markers_of_a_merge_are_unmerged_until_they_are_gone() {
    let bench = Bench::new(&[("a b.txt", "a\n")]);
    bench.host_git(&["checkout", "--quiet", "-b", "other"]);
    bench.write("a b.txt", "theirs\n");
    bench.host_git(&["commit", "--quiet", "-am", "theirs"]);
    bench.host_git(&["checkout", "--quiet", "main"]);
    bench.write("a b.txt", "ours\n");
    bench.host_git(&["commit", "--quiet", "-am", "ours"]);
    let git = bench.git();
    assert_eq!(git.unmerged().await.unwrap(), Vec::<String>::new());
    let merge = "alias.try=!git merge --quiet other || true";
    bench.host_git(&["-c", merge, "try"]);
    assert_eq!(git.unmerged().await.unwrap(), ["a b.txt"]);
    bench.write("a b.txt", "both\n");
    assert_eq!(git.unmerged().await.unwrap(), Vec::<String>::new());
    // Nobody added it; it can be committed all the same.
    let step = bench.step(1);
    let wanted = BranchName::of(&bench.session, "merge");
    git.ensure_branch(&step, &wanted, 1).await.unwrap();
    let committed = git.commit_all(&step, "merge").await.unwrap();
    let content = bench.host_git(&["show", &format!("{}:a b.txt", committed.commit())]);
    assert_eq!(content, "both");
}

#[tokio::test]
async fn what_no_commit_should_have_is_left_out_and_nothing_else() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    bench.write("__pycache__/a.pyc", "x");
    bench.write("b.txt", "b\n");
    bench.write(".git/info/exclude", "b.txt\n");
    bench.write(".git/info/attributes", "*.txt ident\n");
    let dirty = bench.git().dirty().await.unwrap();
    let added = ChangedFile {
        path: "b.txt".to_owned(),
        kind: ChangeKind::Added,
    };
    assert_eq!(dirty, [added]);
    assert!(!bench.app.join(".git/info/attributes").exists());
}

#[tokio::test]
async fn of_a_long_file_the_start_is_read_and_its_size() {
    let long = "rule\n".repeat(100_000);
    let bench = Bench::new(&[("long.md", long.as_str()), ("sub/empty.md", "")]);
    let git = bench.git();
    let start = |path: &'static str| git.start_of_file_at("HEAD", path, 7);
    let expected = Some((b"rule\nru".to_vec(), 500_000));
    assert_eq!(start("long.md").await.unwrap(), expected);
    assert_eq!(start("sub/empty.md").await.unwrap(), Some((vec![], 0)));
    assert_eq!(start("sub").await.unwrap(), None);
    assert_eq!(start("none.md").await.unwrap(), None);
}

#[tokio::test]
async fn paths_of_a_commit_are_found_by_a_pattern_and_by_directory() {
    let bench = Bench::new(&[("a.py", ""), ("src/é.py", ""), ("src/b/c.txt", "")]);
    let git = bench.git();
    let found = git.paths_like("HEAD", r"\.py$", 100).await.unwrap();
    assert_eq!(found.unwrap(), ["a.py", "src/é.py"]);
    let none = git.paths_like("HEAD", r"\.go$", 100).await.unwrap();
    assert_eq!(none, Some(vec![]));
    assert_eq!(git.paths_like("HEAD", r"\.py$", 4).await.unwrap(), None);
    let directories = ["src/", "none/"].map(str::to_owned);
    let found = git.paths_in("HEAD", &directories).await.unwrap();
    assert_eq!(found, ["a.py", "src", "src/b", "src/é.py"]);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error_and_not_half_an_answer() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    let git = bench.git();
    let script = "yes 0123456789 | head -c 9000000";
    let error = git.ask_plain_script("diff-tree", script, &[]).await;
    assert_eq!(
        error.unwrap_err(),
        GitError::TooMuch {
            action: "diff-tree",
            max_bytes: 8 << 20
        }
    );
    let warned = git.ask_plain_script("x", "echo warning >&2; echo out", &[]);
    assert_eq!(warned.await.unwrap(), b"out\n");
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
    let about = bench.step(1).about(ArtifactKind::Diff, "changes");
    let diff = git.keep_diff(&base, about).await.unwrap();
    let artifacts = bench.commands.artifacts();
    let pieces: Vec<_> = artifacts.stream(&diff).await.unwrap().1.collect().await;
    let diff: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
    let diff = String::from_utf8(diff).unwrap();
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
async fn a_bundle_on_the_host_has_the_branch_and_the_commit_it_began_from() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    let git = bench.git();
    let base = git.head_commit().await.unwrap();
    let name = git
        .ensure_branch(&bench.step(1), &BranchName::of(&bench.session, "x"), 1)
        .await
        .unwrap();
    bench.write("a.txt", "b\n");
    let commit = git.commit_all(&bench.step(1), "b").await.unwrap();
    let host = tempfile::tempdir().unwrap();
    let target = host.path().join("out.bundle");
    bench.host_git(&["branch", "--force", "main", &name]);
    let never = CancellationToken::new();
    git.bundle(&name, &base, &target, 1 << 20, &never)
        .await
        .unwrap();
    let heads = host_git(
        &bench.app,
        &["bundle", "list-heads", target.to_str().unwrap()],
    );
    let wanted = [
        format!("{base} {BUNDLED_BASE}"),
        format!("{} refs/heads/{name}", commit.commit()),
    ];
    let mut heads: Vec<&str> = heads.lines().collect();
    heads.sort_by_key(|line| !line.contains(BUNDLED_BASE));
    assert_eq!(heads, wanted);
    let large = git.bundle(&name, &base, &target, 100, &never).await;
    assert_eq!(
        large.unwrap_err(),
        GitError::BundleTooLarge { max_bytes: 100 }
    );
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let cancelled = git.bundle(&name, &base, &target, 1 << 20, &cancelled).await;
    assert_eq!(cancelled, Err(CommandError::Cancelled.into()));
    let missing = git.bundle("gone", &base, &target, 1 << 20, &never).await;
    let missing = missing.unwrap_err();
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

#[tokio::test]
async fn files_of_a_commit_are_read_whatever_they_are_called() {
    let names = ["a b.txt", ":(top)c", "d\ne", "*", "sub/f", "\u{e4}\tg"];
    let large = "l".repeat(3_000);
    let bench = Bench::new(&names.map(|name| (name, name)));
    bench.write("large", &large);
    bench.write("empty", "");
    std::os::unix::fs::symlink("a b.txt", bench.app.join("link")).unwrap();
    bench.host_git(&["add", "--all"]);
    bench.host_git(&["commit", "--quiet", "-m", "more"]);
    // Not what is in the working tree.
    bench.write("a b.txt", "changed");
    let git = bench.git();
    let mut paths: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    paths.extend([&b"large"[..], b"empty", b"link", b"sub", b"none"]);
    let contents = names.map(|name| FileAt::Content(name.into()));
    let rest = |large| {
        let nothing = [FileAt::Nothing, FileAt::Nothing, FileAt::Nothing];
        [
            [large, FileAt::Content(Vec::new())].to_vec(),
            nothing.to_vec(),
        ]
        .concat()
    };
    for (most, large) in [
        (2_999, FileAt::TooLarge),
        (3_000, FileAt::Content(large.into_bytes())),
    ] {
        let found = git.files_at("HEAD", &paths, most).await.unwrap();
        assert_eq!(found, [contents.to_vec(), rest(large)].concat());
    }
    assert_eq!(git.files_at("HEAD", &[], 10).await.unwrap(), []);
}

#[tokio::test]
async fn more_files_than_one_answer_holds_are_read_in_several() {
    let bench = Bench::new(&[("a.txt", "a\n")]);
    let names: Vec<String> = (0..12).map(|number| format!("file-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        bench.write(name, &format!("{number}\n").repeat(300_000));
    }
    bench.host_git(&["add", "--all"]);
    bench.host_git(&["commit", "--quiet", "-m", "more"]);
    let paths: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let found = bench.git().files_at("HEAD", &paths, 1 << 20).await.unwrap();
    for (number, file) in found.iter().enumerate() {
        let wanted = format!("{number}\n").repeat(300_000).into_bytes();
        assert!(*file == FileAt::Content(wanted), "{number}");
    }
    assert_eq!(found.len(), names.len());
}
