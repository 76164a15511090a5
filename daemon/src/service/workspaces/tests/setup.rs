//! Setups of repositories: run once, kept, started from, run again.

use std::{collections::BTreeMap, path::Path};

use async_trait::async_trait;

use super::*;
use crate::{
    domain::{
        ids::SnapshotId,
        setup::{SetupKey, SetupResult, SetupState},
    },
    ports::{
        agent::AgentPort as _,
        workspaces::{CleanRepository, WorkspacesPort as _},
    },
};

/// Counts its runs in a file that git ignores, and copies an input.
const COUNTING: &str = r#"
[setup]
initialize = ["echo run >> built/runs", "cp lock built/lock"]
inputs = ["lock"]
maintenance = ["echo start >> built/starts"]
"#;

/// Keeps copies of what is in `/workspace`.
struct Shelf {
    links: MemoryLinks,
    dir: tempfile::TempDir,
    kept: Mutex<BTreeMap<SetupKey, SnapshotId>>,
    workspaces: Mutex<Option<Workspaces>>,
}

impl Shelf {
    fn root(&self, id: &WorkspaceId) -> PathBuf {
        self.links.local_agent(id).unwrap().root().to_owned()
    }

    fn copy(from: &Path, to: &Path) {
        let script = r#"mkdir -p "$2" && find "$2" -mindepth 1 -delete && cp -a "$1/." "$2""#;
        let done = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .args([from, to])
            .status();
        assert!(done.unwrap().success());
    }
}

#[async_trait]
impl BakedSetups for Shelf {
    async fn find(&self, key: &SetupKey) -> Option<SnapshotId> {
        self.kept.lock().unwrap().get(key).cloned()
    }

    async fn restore(&self, workspace: &WorkspaceId, snapshot: &SnapshotId) -> Result<(), String> {
        let from = self.dir.path().join(snapshot.as_str());
        Self::copy(&from, &self.root(workspace));
        Ok(())
    }

    async fn keep(
        &self,
        workspace: &WorkspaceId,
        key: &SetupKey,
    ) -> Result<Option<SnapshotId>, String> {
        let workspaces = self.workspaces.lock().unwrap().clone().unwrap();
        if !workspaces.record(workspace).unwrap().setup.pristine {
            return Ok(None);
        }
        let snapshot = SnapshotId::from_uuid(uuid::Uuid::now_v7());
        let to = self.dir.path().join(snapshot.as_str());
        Self::copy(&self.root(workspace), &to);
        let mut kept = self.kept.lock().unwrap();
        kept.insert(key.clone(), snapshot.clone());
        Ok(Some(snapshot))
    }
}

struct Setups {
    bench: Bench,
    shelf: Arc<Shelf>,
}

impl Setups {
    /// A repository with this setup file, a `lock` and a directory that git
    /// ignores.
    fn new(file: &str) -> Self {
        let bench = Bench::new();
        let shelf = Arc::new(Shelf {
            links: bench.links.clone(),
            dir: tempfile::tempdir().unwrap(),
            kept: Mutex::default(),
            workspaces: Mutex::default(),
        });
        let setups = Self { bench, shelf };
        setups.commit(&[
            ("compy.toml", file),
            ("lock", "1\n"),
            (".gitignore", "built/*\n!built/.keep\n"),
            ("built/.keep", ""),
        ]);
        setups
    }

    fn source(&self) -> &Path {
        self.bench.source.path()
    }

    fn git(&self, arguments: &[&str]) -> String {
        host_git(self.source(), arguments)
    }

    /// Commits files, and makes the bundle anew.
    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.source().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            self.git(&["add", "-f", &path.display().to_string()]);
        }
        self.git(&["commit", "--quiet", "-m", "more"]);
        let bundle = self.source().join("x.bundle").display().to_string();
        self.git(&["bundle", "create", "-q", &bundle, "--all"]);
        self.git(&["rev-parse", "HEAD"])
    }

    async fn daemon(&self) -> Workspaces {
        let daemon = self.bench.daemon().await;
        *self.shelf.workspaces.lock().unwrap() = Some(daemon.clone());
        daemon.set_baked_setups(self.shelf.clone());
        daemon
    }

    fn read(&self, id: &WorkspaceId, path: &str) -> String {
        std::fs::read_to_string(self.bench.inside(id, path)).unwrap_or_default()
    }
}

fn state(workspaces: &Workspaces, id: &WorkspaceId) -> SetupState {
    let record = workspaces.record(id).unwrap();
    let setup = record.setup.repositories.values().next();
    setup.expect("there is a setup").state.clone()
}

/// Everything that git says of a repository, but for the import's key.
fn look(directory: &Path) -> Vec<String> {
    [
        &["status", "--porcelain"][..],
        &["log", "--all", "--format=%H %D"],
        &["for-each-ref"],
        &["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"],
        &["remote", "-v"],
        &["fsck", "--unreachable", "--no-progress", "--no-reflogs"],
        &["ls-files", "-s"],
        &["config", "compy.source"],
    ]
    .into_iter()
    .map(|arguments| host_git(directory, arguments))
    .collect()
}

#[tokio::test]
async fn the_second_workspace_starts_from_the_first_ones_setup_at_its_own_commit() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let one = made(&daemon, "one").await;
    let added = daemon.add_repository(&one, setups.bench.add("repo")).await;
    let notes = added.unwrap().notes;
    assert!(notes[0].contains("the result is kept as sn-"), "{notes:?}");
    assert_eq!(setups.read(&one, "repo/built/runs"), "run\n");
    assert_eq!(setups.read(&one, "repo/built/starts"), "start\n");

    let commit = setups.commit(&[("file", "other\n"), ("new", "new\n")]);
    let two = made(&daemon, "two").await;
    let added = daemon.add_repository(&two, setups.bench.add("repo")).await;
    let added = added.unwrap();
    assert_eq!(added.repository.commit, commit);
    assert!(
        added.notes[0].contains("started from sn-"),
        "{:?}",
        added.notes
    );
    assert_eq!(
        setups.read(&two, "repo/built/runs"),
        "run\n",
        "not run again"
    );
    assert_eq!(setups.read(&two, "repo/built/starts"), "start\n");
    assert_eq!(setups.read(&two, "repo/file"), "other\n");
    assert_eq!(setups.read(&two, "repo/new"), "new\n");
    let record = daemon.record(&two).unwrap();
    assert_eq!(record.repositories, [added.repository]);

    // What git says is what it says of a fresh check-out.
    let fresh = made(&daemon, "fresh").await;
    let mut add = setups.bench.add("repo");
    add.setup = SetupChoice::Skip;
    daemon.add_repository(&fresh, add).await.unwrap();
    assert_eq!(setups.read(&fresh, "repo/built/runs"), "", "left out");
    let of = |id| look(&setups.bench.inside(id, "repo"));
    assert_eq!(of(&two), of(&fresh));
}

#[tokio::test]
async fn nothing_that_came_after_the_wanted_commit_is_left() {
    let setups = Setups::new(COUNTING);
    let old = setups.git(&["rev-parse", "HEAD"]);
    setups.git(&["branch", "old"]);
    setups.git(&["tag", "first"]);
    setups.commit(&[("secret", "the answer\n")]);
    setups.git(&["tag", "second"]);
    setups.commit(&[("file", "3\n")]);
    let daemon = setups.daemon().await;
    let one = made(&daemon, "one").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&one, add).await.unwrap();

    let (two, fresh) = (made(&daemon, "two").await, made(&daemon, "fresh").await);
    for (id, setup) in [(&two, SetupChoice::OwnFile), (&fresh, SetupChoice::Skip)] {
        let add = AddRepository {
            reference: Some("old".to_owned()),
            setup,
            ..setups.bench.add("repo")
        };
        let added = daemon.add_repository(id, add).await.unwrap();
        assert_eq!(added.repository.commit, old);
    }
    let of = |id| look(&setups.bench.inside(id, "repo"));
    assert_eq!(of(&two), of(&fresh));
    assert!(!setups.bench.inside(&two, "repo/secret").exists());
    let blob = setups.git(&["rev-parse", "HEAD:secret"]);
    let inside = setups.bench.inside(&two, "repo");
    let known = std::process::Command::new("git")
        .args(["cat-file", "-e", &blob])
        .current_dir(inside)
        .output();
    assert!(!known.unwrap().status.success(), "its content is gone too");
    assert_eq!(setups.read(&two, "repo/built/runs"), "run\n");
}

#[tokio::test]
async fn a_source_that_is_only_claimed_shares_no_setup_with_it() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let add = |asker| AddRepository {
        asker,
        ..setups.bench.add("repo")
    };
    let added = async |name: &str, asker| {
        let id = made(&daemon, name).await;
        let added = daemon.add_repository(&id, add(asker)).await.unwrap();
        added.notes[0].clone()
    };
    // Faked: other files under the same source, with the same inputs.
    setups.commit(&[("file", "harm\n")]);
    let faked = added("faked", Asker::Other).await;
    assert!(faked.contains("is kept as sn-"), "{faked}");
    setups.commit(&[("file", "hello\n")]);
    let owner = added("owner", Asker::Admin).await;
    assert!(owner.contains("its setup was run"), "{owner}");
    let again = added("again", Asker::Admin).await;
    assert!(again.contains("started from sn-"), "{again}");
    // Nobody's word is nobody's root: only the very same files share one.
    let claimed = added("claimed", Asker::Other).await;
    assert!(claimed.contains("its setup was run"), "{claimed}");
    let same = added("same", Asker::Other).await;
    assert!(same.contains("started from sn-"), "{same}");
}

#[tokio::test]
async fn changed_inputs_and_commands_are_run_anew() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let first = made(&daemon, "first").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&first, add).await.unwrap();
    setups.commit(&[("lock", "2\n")]);
    let changed = made(&daemon, "changed").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&changed, add).await.unwrap();
    assert_eq!(setups.read(&changed, "repo/built/lock"), "2\n");
    assert!(matches!(
        state(&daemon, &changed),
        SetupState::Done {
            result: SetupResult::Running { kept: Some(_) }
        }
    ));
    // Another directory, another result.
    let elsewhere = made(&daemon, "elsewhere").await;
    let add = setups.bench.add("other");
    daemon.add_repository(&elsewhere, add).await.unwrap();
    assert_eq!(setups.read(&elsewhere, "other/built/runs"), "run\n");
    assert_eq!(setups.shelf.kept.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn lock_files_of_every_directory_count_where_a_file_names_no_inputs() {
    let setups = Setups::new("[setup]\ninitialize = [\"echo run >> built/runs\"]\n");
    let daemon = setups.daemon().await;
    let added = async |name: &str| {
        let id = made(&daemon, name).await;
        let added = daemon.add_repository(&id, setups.bench.add("repo")).await;
        added.unwrap().notes[0].clone()
    };
    let first = added("first").await;
    assert!(first.contains("its setup was run"), "{first}");
    for (name, path, runs) in [
        ("lock", "web/package-lock.json", true),
        ("source", "web/index.js", false),
        ("requirements", "api/requirements/base.txt", true),
    ] {
        setups.commit(&[(path, "1\n")]);
        let said = added(name).await;
        assert_eq!(said.contains("its setup was run"), runs, "{path}: {said}");
        assert_eq!(said.contains("started from sn-"), !runs, "{path}: {said}");
    }
}

#[tokio::test]
async fn a_workspace_that_was_used_neither_gives_nor_takes() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let used = made(&daemon, "used").await;
    drop(daemon.agent(&used).await.unwrap());
    let added = daemon.add_repository(&used, setups.bench.add("repo")).await;
    assert_eq!(added.unwrap().notes, ["its setup was run"]);
    assert!(setups.shelf.kept.lock().unwrap().is_empty());

    let giver = made(&daemon, "giver").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&giver, add).await.unwrap();
    assert_eq!(setups.shelf.kept.lock().unwrap().len(), 1);
    // A second repository of the same workspace is set up where it is.
    let second = made(&daemon, "second").await;
    for (name, expected) in [("other", "run\n"), ("repo", "run\n")] {
        let add = setups.bench.add(name);
        daemon.add_repository(&second, add).await.unwrap();
        let path = format!("{name}/built/runs");
        assert_eq!(setups.read(&second, &path), expected);
    }
    assert!(setups.bench.inside(&second, "other/file").exists());
}

#[tokio::test]
async fn a_setup_that_fails_leaves_the_repository_and_is_run_again_when_mended() {
    let file = "[setup]\ninitialize = [\"echo fine\", \"echo no such wheel; test -f mended\"]";
    let setups = Setups::new(file);
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let add = || AddRepository {
        key: "request-1".to_owned(),
        ..setups.bench.add("repo")
    };
    let error = daemon.add_repository(&id, add()).await.unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(error, WorkspacesError::SetupFailed { .. }),
        "{said}"
    );
    let expected = "`echo no such wheel; test -f mended`: exit 1\nno such wheel";
    assert!(said.ends_with(expected), "{said}");
    let view = daemon.get(&id).await.unwrap();
    assert_eq!(view.workspace.repositories.len(), 1);
    assert!(view.reason.unwrap().contains("no such wheel"));
    let again = daemon.add_repository(&id, add()).await.unwrap_err();
    assert_eq!(
        again.to_string(),
        said,
        "the same request has the same answer"
    );

    std::fs::write(setups.bench.inside(&id, "repo/mended"), "").unwrap();
    let notes = daemon
        .set_up(&id, None, "request-2", Again::IfNotDone)
        .await;
    assert_eq!(notes.unwrap(), ["its setup was run"]);
    assert_eq!(daemon.get(&id).await.unwrap().reason, None);
    assert!(setups.shelf.kept.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_setup_is_run_again_when_it_is_asked_for_and_not_otherwise() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&id, add).await.unwrap();
    let runs = |again, key: &'static str| {
        let daemon = daemon.clone();
        let (id, setups) = (id.clone(), &setups);
        async move {
            daemon.set_up(&id, None, key, again).await.unwrap();
            setups.read(&id, "repo/built/runs").lines().count()
        }
    };
    assert_eq!(runs(Again::IfNotDone, "a").await, 1);
    assert_eq!(runs(Again::Always, "b").await, 2);
    assert_eq!(runs(Again::Always, "b").await, 2, "the same request");
    let nobody = daemon.set_up(&id, Some("x".parse().unwrap()), "c", Again::Always);
    let error = nobody.await.unwrap_err();
    assert!(
        matches!(error, WorkspacesError::RepositoryUnknown(_)),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_setup_file_is_said_and_the_repository_is_there() {
    let setups = Setups::new("[setup]\ninitialise = []\n");
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let error = daemon.add_repository(&id, setups.bench.add("repo")).await;
    let said = error.unwrap_err().to_string();
    assert!(said.contains("line 2: unknown key `initialise`"), "{said}");
    assert!(setups.bench.inside(&id, "repo/file").exists());
}

#[tokio::test]
async fn maintenance_is_done_at_each_start_and_not_when_the_daemon_comes_back() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&id, add).await.unwrap();
    let starts = || setups.read(&id, "repo/built/starts").lines().count();
    assert_eq!(starts(), 1);
    daemon.stop(&id).await.unwrap();
    drop(daemon.agent(&id).await.unwrap());
    assert_eq!(starts(), 2, "started on use");

    let next = setups.daemon().await;
    next.reconcile().await.unwrap();
    drop(next.agent(&id).await.unwrap());
    assert_eq!(starts(), 2, "the container runs on");

    // The container ended while nobody looked.
    let container = setups.bench.runtime.find(&id).await.unwrap().unwrap();
    setups.bench.runtime.stop(&container.id, 0).await.unwrap();
    next.reconcile().await.unwrap();
    assert_eq!(starts(), 3, "started by the reconciler");

    // What it is now counts, and a failure keeps nobody out.
    let file = setups.bench.inside(&id, "repo/compy.toml");
    std::fs::write(&file, "[setup]\nmaintenance = [\"echo broken; exit 7\"]").unwrap();
    next.stop(&id).await.unwrap();
    drop(next.agent(&id).await.unwrap());
    let reason = next.get(&id).await.unwrap().reason.unwrap();
    assert_eq!(
        reason,
        "the maintenance of repo failed: `echo broken; exit 7`: exit 7\nbroken"
    );
    std::fs::remove_file(&file).unwrap();
    next.stop(&id).await.unwrap();
    drop(next.agent(&id).await.unwrap());
    assert_eq!(next.get(&id).await.unwrap().reason, None);
}

#[tokio::test]
async fn maintenance_that_takes_too_long_is_ended() {
    let file = "[setup]\nmaintenance = [\"sleep 600\"]\nmaintenance_timeout = \"1s\"";
    let setups = Setups::new(file);
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let added = daemon.add_repository(&id, setups.bench.add("repo")).await;
    let notes = added.unwrap().notes;
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("`sleep 600`"), "{notes:?}");
    let ended = async {
        while !setups.bench.agent(&id).list(true).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    ended.expect("the command is ended");
}

#[tokio::test]
async fn a_daemon_that_ends_in_the_middle_is_followed_by_one_that_goes_on() {
    let file = "[setup]\ninitialize = [\"echo run >> built/runs; \
                while ! test -f built/go; do sleep 0.05; done; echo end >> built/runs\"]";
    let setups = Setups::new(file);
    let daemon = setups.daemon().await;
    let id = made(&daemon, "w").await;
    let (adding, workspace) = (daemon.clone(), id.clone());
    let add = setups.bench.add("repo");
    let add = tokio::spawn(async move { adding.add_repository(&workspace, add).await });
    let begun = async {
        while setups.read(&id, "repo/built/runs").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, begun).await.unwrap();
    add.abort();
    assert!(add.await.unwrap_err().is_cancelled());

    let next = setups.daemon().await;
    assert_eq!(state(&next, &id), SetupState::Initializing);
    next.resume_setups();
    std::fs::write(setups.bench.inside(&id, "repo/built/go"), "").unwrap();
    let done = async {
        while state(&next, &id) == SetupState::Initializing {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, done).await.unwrap();
    assert_eq!(setups.read(&id, "repo/built/runs"), "run\nend\n");
    assert!(matches!(
        state(&next, &id),
        SetupState::Done {
            result: SetupResult::Running { kept: Some(_) }
        }
    ));
}

#[tokio::test]
async fn a_restore_that_a_kill_cut_off_before_its_commit_is_finished_by_the_next_request() {
    let setups = Setups::new(COUNTING);
    let daemon = setups.daemon().await;
    let one = made(&daemon, "one").await;
    let add = setups.bench.add("repo");
    daemon.add_repository(&one, add).await.unwrap();
    let commit = setups.commit(&[("file", "other\n")]);

    // As it is after the restore: the old commit, under the old key.
    let two = made(&daemon, "two").await;
    let mut record = Workspace::clone(&daemon.record(&two).unwrap());
    let kept = setups.shelf.kept.lock().unwrap().clone();
    let (key, snapshot) = kept.into_iter().next().unwrap();
    setups.shelf.restore(&two, &snapshot).await.unwrap();
    let mut setup = daemon.record(&one).unwrap().setup.repositories.clone();
    for setup in setup.values_mut() {
        let (snapshot, key) = (snapshot.clone(), key.clone());
        setup.state = SetupState::Restoring { snapshot, key };
    }
    record.setup.repositories = setup;
    record.snapshot = Some(snapshot.clone());
    bench_store(&setups)
        .update_workspace(&record)
        .await
        .unwrap();

    let next = setups.daemon().await;
    let add = setups.bench.add("repo");
    let added = next.add_repository(&two, add).await.unwrap();
    assert_eq!(added.repository.commit, commit);
    assert_eq!(setups.read(&two, "repo/file"), "other\n");
    assert_eq!(setups.read(&two, "repo/built/runs"), "run\n");
    assert_eq!(
        state(&next, &two),
        SetupState::Done {
            result: SetupResult::Restoring { snapshot }
        }
    );
}

fn bench_store(setups: &Setups) -> &MemoryStore {
    &setups.bench.store
}

#[tokio::test]
async fn clean_workspaces_are_set_up_by_the_base_and_give_nothing_away() {
    let setups = Setups::new(COUNTING);
    let base = setups.git(&["rev-parse", "HEAD"]);
    setups.git(&["checkout", "--quiet", "-b", "change"]);
    let cheat = "[setup]\ninitialize = [\"echo cheat > built/cheat\"]";
    setups.commit(&[("compy.toml", cheat), ("lock", "2\n")]);
    let daemon = setups.daemon().await;
    let project = made(&daemon, "project").await;
    let add = AddRepository {
        reference: Some("trunk".to_owned()),
        ..setups.bench.add("repo")
    };
    daemon.add_repository(&project, add).await.unwrap();
    let bundle = setups.source().join("x.bundle");
    let name = "repo".parse().unwrap();
    let clean = async |key: &str, branch: &str| {
        let repository = CleanRepository {
            name: &name,
            bundle: &bundle,
            branch,
            setup_at: &base,
        };
        let made = daemon.create_clean(&project, key, &repository).await;
        made.unwrap()
    };
    // The change's inputs, the base's commands.
    let changed = clean("changed", "change").await;
    assert_eq!(setups.read(&changed, "repo/built/lock"), "2\n");
    assert_eq!(setups.read(&changed, "repo/built/runs"), "run\n");
    assert!(!setups.bench.inside(&changed, "repo/built/cheat").exists());
    assert_eq!(clean("changed", "change").await, changed);
    assert_eq!(setups.shelf.kept.lock().unwrap().len(), 1, "the project's");
    // Equal inputs: the project's setup is there.
    let same = clean("same", "trunk").await;
    assert!(matches!(
        state(&daemon, &same),
        SetupState::Done {
            result: SetupResult::Restoring { .. }
        }
    ));
}
