//! The life of workspaces over an engine and links in memory; what is inside is
//! real: git and files of this machine.

mod idleness;
mod setup;

use std::path::PathBuf;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    adapters::{
        local_agent::{LocalAgent, VolumeCount},
        memory::{ManualClock, MemoryLinks, MemoryRuntime, MemoryStore},
    },
    domain::{
        setup::WorkspaceSetup,
        upkeep::Notice,
        workspace::{Desired, Observed, Provenance, Purpose, Repository},
    },
    ports::runtime::{ContainerStatus, RuntimeError},
    service::testing::host_git,
};

struct Bench {
    runtime: Arc<MemoryRuntime>,
    links: MemoryLinks,
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
    /// A repository to add, with a bundle of it.
    source: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let runtime = Arc::new(MemoryRuntime::with_image("image"));
        let source = tempfile::tempdir().unwrap();
        let repository = source.path();
        host_git(repository, &["init", "--quiet", "-b", "trunk"]);
        std::fs::write(repository.join("file"), "hello\n").unwrap();
        host_git(repository, &["add", "file"]);
        host_git(repository, &["commit", "--quiet", "-m", "one"]);
        let bundle = source.path().join("x.bundle").display().to_string();
        host_git(repository, &["bundle", "create", "-q", &bundle, "--all"]);
        Self {
            links: MemoryLinks::new(runtime.clone()),
            runtime,
            store: Arc::new(MemoryStore::new()),
            clock: Arc::new(ManualClock::default()),
            source,
        }
    }

    /// A daemon's workspaces over what the bench has; each call is a new life.
    async fn daemon(&self) -> Workspaces {
        self.links.drop_all();
        let options = WorkspacesOptions {
            default_image: "image".to_owned(),
            ..WorkspacesOptions::default()
        };
        let ports = WorkspacePorts {
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            links: Arc::new(self.links.clone()),
            clock: self.clock.clone(),
        };
        Workspaces::open(options, ports, TaskTracker::new())
            .await
            .unwrap()
    }

    fn add(&self, name: &str) -> AddRepository {
        AddRepository {
            key: uuid::Uuid::now_v7().to_string(),
            asker: Asker::Admin,
            name: Some(name.parse().unwrap()),
            reference: None,
            setup: SetupChoice::OwnFile,
            origin: RepositoryOrigin::File {
                source: "~/source".to_owned(),
                bundle: self.source.path().join("x.bundle"),
            },
        }
    }

    fn repository(&self, name: &str) -> Repository {
        Repository {
            name: name.parse().unwrap(),
            source: "~/source".to_owned(),
            commit: host_git(self.source.path(), &["rev-parse", "trunk"]),
            branch: "trunk".to_owned(),
            provenance: Provenance::Declared,
        }
    }

    fn agent(&self, id: &WorkspaceId) -> Arc<LocalAgent> {
        self.links.local_agent(id).unwrap()
    }

    fn inside(&self, id: &WorkspaceId, path: &str) -> PathBuf {
        self.agent(id).root().join(path)
    }
}

fn create(name: &str) -> CreateWorkspace {
    CreateWorkspace {
        id: WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
        name: name.parse().unwrap(),
        image: None,
        limits: Limits {
            cpu_millis: 0,
            memory_bytes: 0,
            pids: 0,
            disk_bytes: 0,
        },
        network: NetworkMode::None,
        user: None,
        egress: None,
        idle_stop: IdleStop::Default,
    }
}

async fn made(workspaces: &Workspaces, name: &str) -> WorkspaceId {
    let view = workspaces.create(create(name)).await.unwrap();
    assert_eq!(view.observed, Observed::Running);
    view.workspace.id.clone()
}

async fn observed(workspaces: &Workspaces, id: &WorkspaceId) -> Observed {
    workspaces.get(id).await.unwrap().observed
}

#[tokio::test]
async fn two_adds_of_one_repository_leave_the_first_one_whole() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let (one, other) = tokio::join!(
        workspaces.add_repository(&id, bench.add("repo")),
        workspaces.add_repository(&id, bench.add("repo")),
    );
    let (done, refused) = match (one, other) {
        (Ok(done), Err(refused)) | (Err(refused), Ok(done)) => (done, refused),
        both => panic!("exactly one of them makes it: {both:?}"),
    };
    assert_eq!(done.repository, bench.repository("repo"));
    assert!(
        matches!(refused, WorkspacesError::RepositoryExists(_)),
        "{refused}"
    );
    let file = std::fs::read_to_string(bench.inside(&id, "repo/file")).unwrap();
    assert_eq!(file, "hello\n");
}

#[tokio::test]
async fn adds_of_different_repositories_do_not_take_each_others_bundles() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let adds = ["r1", "r2", "r3", "r4"].map(|name| workspaces.add_repository(&id, bench.add(name)));
    for added in futures_util::future::join_all(adds).await {
        added.unwrap();
    }
    let record = workspaces.resolve("a").unwrap();
    let expected = ["r1", "r2", "r3", "r4"].map(|name| bench.repository(name));
    assert_eq!(record.repositories, expected);
    let left = std::fs::read_dir(bench.inside(&id, ".compy/import")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn what_an_add_left_that_was_cut_off_ends_before_the_next_one_begins() {
    use crate::{domain::exec::ExecSpec, ports::agent::AgentPort as _};
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    // A git that runs on, and what it was to check out.
    let cut_off = async |name: &str| {
        let own = bench.inside(&id, &format!(".compy/import/{name}"));
        std::fs::create_dir_all(own.join("tree")).unwrap();
        std::fs::write(own.join("bundle"), "half").unwrap();
        let import = format!("compy-import-{}", uuid::Uuid::now_v7().simple());
        let spec = ExecSpec::new(["sleep", "300"]);
        for exec in [import.as_str(), &format!("compy-import-{name}")] {
            let started = bench.agent(&id).start(&exec.parse().unwrap(), &spec).await;
            started.unwrap();
        }
    };
    let left = async || {
        let lying = std::fs::read_dir(bench.inside(&id, ".compy/import"));
        let running = bench.agent(&id).list(true).await.unwrap();
        (lying.map_or(0, Iterator::count), running.len())
    };
    cut_off("one").await;
    assert_eq!(left().await, (1, 2));
    let added = workspaces.add_repository(&id, bench.add("repo")).await;
    assert_eq!(added.unwrap().repository, bench.repository("repo"));
    assert_eq!(left().await, (0, 1), "a command of somebody else's runs on");
    // Nobody asks for it again.
    cut_off("two").await;
    let next = bench.daemon().await;
    next.agent(&id).await.unwrap();
    assert_eq!(left().await, (0, 2));
}

#[tokio::test]
async fn an_add_that_fails_leaves_nothing_behind() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    bench.agent(&id).only_programs_of("/nonexistent");
    let error = workspaces.add_repository(&id, bench.add("repo")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, WorkspacesError::Checkout(_)), "{error}");
    assert!(!bench.inside(&id, "repo").exists());
    assert_eq!(workspaces.resolve("a").unwrap().repositories, []);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_leaves_nothing_behind() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    bench.links.silence(true);
    let error = workspaces.create(create("a")).await.unwrap_err();
    assert!(
        matches!(error, WorkspacesError::AgentSilent { .. }),
        "{error}"
    );
    assert!(workspaces.list().await.is_empty());
    assert_eq!(bench.runtime.volumes(), 0);
    bench.links.silence(false);
    made(&workspaces, "a").await;
}

#[tokio::test]
async fn an_image_that_keeps_files_where_no_snapshot_has_them_is_refused() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let paths = ["/data", "/var/lib/db"];
    bench.runtime.declare_volumes("image", &paths);
    let error = workspaces.create(create("a")).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("/data, /var/lib/db"), "{said}");
    assert!(
        matches!(error, WorkspacesError::ImageVolumes { .. }),
        "{error}"
    );
    assert!(workspaces.list().await.is_empty());
    assert_eq!(bench.runtime.volumes(), 0);
    bench.runtime.declare_volumes("image", &[]);
    made(&workspaces, "a").await;
}

#[tokio::test]
async fn an_engine_that_is_down_refuses_a_create_and_changes_nothing() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    bench.runtime.take_down();
    let error = workspaces.create(create("a")).await.unwrap_err();
    assert!(
        matches!(
            error,
            WorkspacesError::Runtime(RuntimeError::Unavailable(_))
        ),
        "{error}"
    );
    assert!(workspaces.list().await.is_empty());
}

#[tokio::test]
async fn a_create_cut_off_by_the_engine_is_taken_back_by_the_reconciler() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    bench.runtime.take_down_after(3);
    workspaces.create(create("a")).await.unwrap_err();
    let view = workspaces.list().await;
    assert_eq!(view[0].observed, Observed::Deleting);
    bench.runtime.bring_back();
    workspaces.reconcile().await.unwrap();
    assert!(workspaces.list().await.is_empty());
    assert_eq!(bench.runtime.volumes(), 0);
    made(&workspaces, "a").await;
}

#[tokio::test]
async fn a_stop_that_the_engine_missed_is_made_up_for() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    bench.runtime.take_down();
    workspaces.stop(&id).await.unwrap_err();
    bench.runtime.answer_again();
    assert_eq!(bench.runtime.status(&id), Some(ContainerStatus::Running));
    workspaces.reconcile().await.unwrap();
    assert_eq!(bench.runtime.status(&id), Some(ContainerStatus::Exited));
    assert_eq!(observed(&workspaces, &id).await, Observed::Stopped);
}

#[tokio::test]
async fn a_deletion_that_the_engine_missed_is_finished_by_the_next_daemon() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    bench.runtime.take_down();
    workspaces.delete(&id, false).await.unwrap_err();
    assert_eq!(workspaces.resolve("a").unwrap().desired, Desired::Deleted);
    bench.runtime.answer_again();
    let next = bench.daemon().await;
    next.reconcile().await.unwrap();
    assert!(matches!(
        next.resolve("a"),
        Err(WorkspacesError::Unknown(_))
    ));
    assert_eq!(bench.runtime.status(&id), None);
    assert_eq!(bench.runtime.volumes(), 0);
}

#[tokio::test]
async fn a_deletion_may_be_asked_for_while_the_reconciler_finishes_it() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    bench.runtime.take_down();
    workspaces.delete(&id, false).await.unwrap_err();
    bench.runtime.answer_again();
    let next = bench.daemon().await;
    let lock = next.lock_of(&id);
    let reconciler = lock.lock().await;
    let mut deletion = std::pin::pin!(next.delete(&id, false));
    assert!(deletion.as_mut().now_or_never().is_none());
    let workspace = next.record(&id).unwrap();
    next.take_down(&workspace).await.unwrap();
    drop(reconciler);
    deletion.await.unwrap();
    assert_eq!(bench.runtime.volumes(), 0);
    assert!(matches!(
        next.delete(&id, false).await,
        Err(WorkspacesError::Unknown(_))
    ));
}

#[tokio::test]
async fn a_clean_copy_whose_deletion_was_cut_off_is_deleted_and_not_used() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "checks-1").await;
    let found = workspaces.clean_named("checks-1").await.unwrap();
    assert_eq!(found.unwrap().id, id);
    bench.runtime.take_down();
    workspaces.delete(&id, false).await.unwrap_err();
    bench.runtime.answer_again();
    assert!(workspaces.clean_named("checks-1").await.unwrap().is_none());
    assert_eq!(bench.runtime.volumes(), 0);
}

/// How the reconciler hears of a container's end.
#[derive(Clone, Copy)]
enum ToldBy {
    Link,
    Engine,
}

#[tokio::test]
async fn a_container_that_was_killed_comes_back_as_its_link_was_lost() {
    comes_back_by_itself(ToldBy::Link).await;
}

#[tokio::test]
async fn a_container_that_was_killed_comes_back_as_the_engine_says_so() {
    comes_back_by_itself(ToldBy::Engine).await;
}

async fn comes_back_by_itself(told_by: ToldBy) {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let stop = CancellationToken::new();
    let reconciler = {
        let (workspaces, stop) = (workspaces.clone(), stop.clone());
        tokio::spawn(async move { workspaces.run_reconciler(stop).await })
    };
    // What happens before it listens the first look finds, or nobody.
    while bench.links.listeners() == 0 || bench.runtime.listeners() == 0 {
        tokio::task::yield_now().await;
    }
    match told_by {
        ToldBy::Link => {
            bench
                .runtime
                .set_status_silently(&id, ContainerStatus::Exited);
            bench.links.lose(&id);
        }
        ToldBy::Engine => bench.runtime.set_status(&id, ContainerStatus::Exited),
    }
    tokio::time::timeout(Duration::from_secs(20), async {
        while observed(&workspaces, &id).await != Observed::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    reconciler.await.unwrap();
}

#[tokio::test]
async fn a_look_finds_those_that_are_not_as_they_should_be_and_no_others() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let (running, stopped) = (made(&workspaces, "a").await, made(&workspaces, "b").await);
    workspaces.stop(&stopped).await.unwrap();
    assert_eq!(workspaces.look().await.unwrap(), []);

    let ended = ContainerStatus::Exited;
    bench.runtime.set_status_silently(&running, ended);
    assert_eq!(
        workspaces.look().await.unwrap(),
        std::slice::from_ref(&running)
    );
    workspaces.reconcile().await.unwrap();
    assert_eq!(workspaces.look().await.unwrap(), []);
    workspaces.note_up(&running, Up::No);
    assert_eq!(
        workspaces.look().await.unwrap(),
        std::slice::from_ref(&running)
    );
    workspaces.reconcile().await.unwrap();

    let runs = ContainerStatus::Running;
    bench.runtime.set_status_silently(&stopped, runs);
    assert_eq!(
        workspaces.look().await.unwrap(),
        std::slice::from_ref(&stopped)
    );
    workspaces.reconcile().await.unwrap();
    bench.runtime.lose(&stopped);
    assert_eq!(workspaces.look().await.unwrap(), [stopped]);

    // Whoever has just begun has seen nothing yet.
    let next = bench.daemon().await;
    assert!(next.look().await.unwrap().contains(&running));
}

#[tokio::test]
async fn a_container_that_was_removed_is_made_again_running_or_stopped() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let (running, stopped) = (made(&workspaces, "a").await, made(&workspaces, "b").await);
    workspaces.stop(&stopped).await.unwrap();
    for id in [&running, &stopped] {
        bench.runtime.lose(id);
        assert_eq!(observed(&workspaces, id).await, Observed::Missing);
    }
    workspaces.reconcile().await.unwrap();
    assert_eq!(observed(&workspaces, &running).await, Observed::Running);
    assert_eq!(observed(&workspaces, &stopped).await, Observed::Stopped);
}

#[tokio::test]
async fn a_container_that_the_engine_could_not_remove_is_made_again() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    bench.runtime.set_status(&id, ContainerStatus::Broken);
    workspaces.reconcile().await.unwrap();
    assert_eq!(observed(&workspaces, &id).await, Observed::Running);
    workspaces.stop(&id).await.unwrap();
    bench.runtime.set_status(&id, ContainerStatus::Broken);
    workspaces.reconcile().await.unwrap();
    assert_eq!(observed(&workspaces, &id).await, Observed::Stopped);
}

/// As long as the engine is at it, nothing can take its place.
#[tokio::test]
async fn a_container_that_is_being_removed_is_made_again_after_that_whatever_was_wanted() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let (running, stopped) = (made(&workspaces, "a").await, made(&workspaces, "b").await);
    let (paused, lost) = (made(&workspaces, "c").await, made(&workspaces, "d").await);
    workspaces.stop(&stopped).await.unwrap();
    workspaces.pause(&paused).await.unwrap();
    let all = [&running, &stopped, &paused, &lost];
    let mut before = Vec::new();
    for id in all {
        let container = bench.runtime.find(id).await.unwrap().unwrap().id;
        bench.runtime.get_stuck(&container.0);
        bench.runtime.set_status(id, ContainerStatus::Broken);
        before.push(container);
    }
    // Nobody knows of the last one any more but its labels.
    bench.store.remove_workspace(&lost).await.unwrap();
    let workspaces = bench.daemon().await;
    workspaces.reconcile().await.unwrap();
    for id in all {
        assert_eq!(observed(&workspaces, id).await, Observed::Missing);
    }

    bench.runtime.come_loose();
    let settled = async {
        // One that was tried just now is left alone for a moment.
        while observed(&workspaces, &running).await != Observed::Running {
            workspaces.reconcile().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(20), settled).await;
    settled.expect("it is made again");
    for id in [&stopped, &paused, &lost] {
        assert_eq!(observed(&workspaces, id).await, Observed::Stopped);
    }
    for (id, before) in all.into_iter().zip(before) {
        let container = bench.runtime.find(id).await.unwrap().unwrap().id;
        assert_ne!(container, before, "{id}");
    }
}

#[tokio::test]
async fn what_a_workspace_may_reach_changes_while_something_is_done_to_it_and_stays_so() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let held = workspaces.hold(&id).await;
    let before = Workspace::clone(&*workspaces.record(&id).unwrap());
    let changing = workspaces.set_egress(&id, Some(Policy::Open));
    let changed = tokio::time::timeout(Duration::from_secs(10), changing).await;
    let changed = changed.expect("it waits for nobody").unwrap();
    assert_eq!(changed.workspace.egress, Policy::Open);
    // Whoever holds the lock writes down what they read before.
    let mut after = before;
    after.idle_stop = IdleStop::Never;
    let saved = workspaces.save(after).await.unwrap();
    drop(held);
    assert_eq!(
        (&saved.egress, saved.idle_stop),
        (&Policy::Open, IdleStop::Never)
    );
    let stored = bench.store.workspace(&id).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&*saved));
}

/// The engine lists a container, and the workspace is deleted right after.
#[tokio::test]
async fn a_container_that_is_gone_by_now_is_not_adopted() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    workspaces.delete(&id, false).await.unwrap();
    workspaces.adopt(&id).await.unwrap();
    assert!(workspaces.list().await.is_empty());
}

#[tokio::test]
async fn a_container_that_a_person_stopped_stays_stopped_when_that_is_wanted() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    workspaces.stop(&id).await.unwrap();
    let starts = bench.runtime.starts();
    workspaces.reconcile().await.unwrap();
    assert_eq!(bench.runtime.starts(), starts);
    assert_eq!(observed(&workspaces, &id).await, Observed::Stopped);
}

#[tokio::test]
async fn workspaces_are_adopted_when_the_store_is_lost() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let running = made(&workspaces, "running").await;
    let stopped = made(&workspaces, "stopped").await;
    workspaces.stop(&stopped).await.unwrap();
    let before = workspaces.resolve("running").unwrap();

    let lost = Bench {
        store: Arc::new(MemoryStore::new()),
        ..bench
    };
    let next = lost.daemon().await;
    next.reconcile().await.unwrap();
    let mut expected = Workspace {
        // Nobody knows any more what was done in it.
        setup: WorkspaceSetup::default(),
        ..Workspace::clone(&before)
    };
    expected.upkeep.notice = Some(Notice::Adopted);
    assert_eq!(*next.resolve("running").unwrap(), expected);
    assert_eq!(observed(&next, &running).await, Observed::Running);
    assert_eq!(observed(&next, &stopped).await, Observed::Stopped);
    assert_eq!(
        next.resolve("stopped").unwrap().definition.purpose,
        Purpose::Project
    );
}

#[tokio::test]
async fn an_adopted_workspace_shows_the_repositories_in_it() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let running = made(&workspaces, "running").await;
    let stopped = made(&workspaces, "stopped").await;
    for id in [&running, &stopped] {
        workspaces
            .add_repository(id, bench.add("repo"))
            .await
            .unwrap();
    }
    workspaces.stop(&stopped).await.unwrap();

    let lost = Bench {
        store: Arc::new(MemoryStore::new()),
        ..bench
    };
    let next = lost.daemon().await;
    next.reconcile().await.unwrap();
    let repositories = |name: &str| next.resolve(name).unwrap().repositories.clone();
    // The workspace itself says where it came from: that is nobody's word.
    let found = lost.repository("repo").claimed();
    assert_eq!(repositories("running"), std::slice::from_ref(&found));
    assert_eq!(repositories("stopped"), []);
    next.start(&stopped).await.unwrap();
    assert_eq!(repositories("stopped"), [found]);
}

#[tokio::test]
async fn a_repository_that_was_cloned_inside_is_found_without_its_password() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    workspaces
        .add_repository(&id, bench.add("known"))
        .await
        .unwrap();
    let root = bench.agent(&id).root().to_owned();
    let source = bench.source.path().display().to_string();
    host_git(&root, &["clone", "--quiet", &source, "inside"]);
    let url = "https://me:secret@host/inside";
    host_git(&root.join("inside"), &["remote", "set-url", "origin", url]);
    std::fs::create_dir(root.join("no-repository")).unwrap();
    let found = workspaces.find_repositories(&id).await.unwrap();
    let inside = Repository {
        source: "https://host/inside".to_owned(),
        ..bench.repository("inside").claimed()
    };
    assert_eq!(found.repositories, [inside, bench.repository("known")]);
    assert_eq!(workspaces.resolve("a").unwrap(), found);
}

#[tokio::test]
async fn who_brings_a_bundle_decides_what_its_source_is_worth() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let add = |name: &str, asker| AddRepository {
        key: "request-1".to_owned(),
        asker,
        origin: RepositoryOrigin::File {
            source: "https://git.example/api".to_owned(),
            bundle: bench.source.path().join("x.bundle"),
        },
        ..bench.add(name)
    };
    let of = async |name, asker| {
        let added = workspaces.add_repository(&id, add(name, asker)).await;
        added.unwrap().repository
    };
    let claimed = of("claimed", Asker::Other).await;
    assert_eq!(claimed.source, "https://git.example/api");
    assert_eq!(claimed.vouched_source(), None);
    // The same request again is answered from the record; an admin gives their word.
    assert_eq!(of("claimed", Asker::Other).await, claimed);
    let vouched = of("claimed", Asker::Admin).await;
    assert_eq!(vouched.vouched_source(), Some("https://git.example/api"));
    let declared = of("declared", Asker::Admin).await;
    assert_eq!(declared.vouched_source(), Some("https://git.example/api"));
    assert_eq!(of("declared", Asker::Other).await, declared);
    // What is inside says that it was brought for a request: nobody else does.
    let inside = bench.inside(&id, "declared");
    let other = bench.inside(&id, "faked");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&inside, &other])
        .status();
    assert!(copied.unwrap().success());
    assert_eq!(of("faked", Asker::Other).await.vouched_source(), None);
}

#[test]
fn whoever_reaches_some_workspaces_only_brings_nothing_to_a_project() {
    let url = RepositoryOrigin::Url("https://git.example/api".to_owned());
    for (asker, expected) in [
        (Asker::Admin, Provenance::Fetched),
        (Asker::Other, Provenance::Fetched),
        (Asker::OfSome, Provenance::Claimed),
    ] {
        let provenance = repositories::provenance_of(&url, asker);
        assert_eq!(provenance, expected, "{asker:?}");
    }
}

/// Admits the addresses of nothing, and says who asked.
#[derive(Default)]
struct NoHosts(Mutex<Vec<String>>);

#[async_trait]
impl Fetches for NoHosts {
    async fn admit(
        &self,
        _: &WorkspaceId,
        target: &crate::domain::egress::Target,
    ) -> Result<Vec<core::net::IpAddr>, String> {
        self.0.lock().unwrap().push(target.to_string());
        Err("it is a loopback address".to_owned())
    }

    fn with_account(&self, _: &WorkspaceId, url: &str) {
        self.0.lock().unwrap().push(format!("account: {url}"));
    }
}

#[tokio::test]
async fn the_daemons_account_fetches_for_admins_alone() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "a").await;
    let fetched = async |url: &str, asker| {
        let add = AddRepository {
            asker,
            origin: RepositoryOrigin::Url(url.to_owned()),
            ..bench.add("repo")
        };
        let error = workspaces.add_repository(&id, add).await.unwrap_err();
        let WorkspacesError::Source(error) = error else {
            panic!("{error}");
        };
        error
    };
    let forbidden = |error: &GitSourceError| matches!(error, GitSourceError::Forbidden { .. });
    let url = "http://127.0.0.1:1/a";
    // As long as nobody decides, nothing is fetched.
    assert!(forbidden(&fetched(url, Asker::Other).await));
    let hosts = Arc::new(NoHosts::default());
    workspaces.set_fetches(hosts.clone());
    assert!(forbidden(&fetched(url, Asker::Other).await));
    assert!(forbidden(
        &fetched("ssh://git@127.0.0.1:1/a", Asker::Other).await
    ));
    assert!(!forbidden(&fetched(url, Asker::Admin).await));
    let asked = hosts.0.lock().unwrap().clone();
    assert_eq!(asked, ["127.0.0.1:1", "account: http://127.0.0.1:1/a"]);
}

#[tokio::test]
async fn what_an_older_daemon_did_not_say_is_the_local_users_word_where_nobody_else_got_in() {
    use crate::domain::access::{Role, Token};
    let token = Token {
        name: "ci".parse().unwrap(),
        key: "0".repeat(12),
        hash: [0; 32],
        role: Role::Author,
        workspaces: Vec::new(),
        created_at_ms: 0,
        expires_at_ms: None,
        last_used_at_ms: None,
    };
    for (tokens, expected) in [
        (vec![], Provenance::Declared),
        (vec![token], Provenance::Claimed),
    ] {
        let bench = Bench::new();
        let workspaces = bench.daemon().await;
        let id = made(&workspaces, "a").await;
        let added = workspaces.add_repository(&id, bench.add("repo")).await;
        let mut old = Workspace::clone(&*workspaces.resolve("a").unwrap());
        old.repositories = vec![Repository {
            provenance: Provenance::Unrecorded,
            ..added.unwrap().repository
        }];
        bench.store.update_workspace(&old).await.unwrap();
        bench.store.put_tokens(&tokens).await.unwrap();
        let next = bench.daemon().await;
        let now = next.resolve("a").unwrap();
        assert_eq!(now.repositories[0].provenance, expected);
        let stored = bench.store.workspace(&id).await.unwrap().unwrap();
        assert_eq!(stored.repositories, now.repositories);
    }
}

#[tokio::test]
async fn a_create_and_an_add_that_were_cut_off_go_on_with_the_same_ids() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let request = create("a");
    // The record is written and the daemon is killed: nothing is taken back.
    bench.runtime.take_down_after(2);
    let record = workspaces.create(request.clone()).await;
    record.unwrap_err();
    bench.runtime.answer_again();
    let begun = workspaces.resolve("a").unwrap();
    assert_eq!(begun.desired, Desired::Deleted);
    let undeleted = crate::domain::workspace::Workspace {
        desired: Desired::Running,
        ..(*begun).clone()
    };
    bench.store.update_workspace(&undeleted).await.unwrap();

    let next = bench.daemon().await;
    let view = next.create(request.clone()).await.unwrap();
    assert_eq!(view.observed, Observed::Running);
    assert_eq!(view.workspace.id, request.id);
    let again = next.create(request.clone()).await.unwrap();
    assert_eq!(again.workspace, view.workspace);

    let add = || AddRepository {
        key: "request-1".to_owned(),
        ..bench.add("repo")
    };
    let first = next.add_repository(&request.id, add()).await.unwrap();
    // The checkout is there and its record is not.
    bench.store.update_workspace(&undeleted).await.unwrap();
    let third = bench.daemon().await;
    let again = third.add_repository(&request.id, add()).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(third.resolve("a").unwrap().repositories, [first.repository]);
    let other = third.add_repository(&request.id, bench.add("repo")).await;
    assert!(matches!(other, Err(WorkspacesError::RepositoryExists(_))));
}

#[tokio::test]
async fn clean_workspaces_are_found_by_key_and_those_without_use_go() {
    use crate::ports::workspaces::{CleanRepository, WorkspacesPort as _};
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let id = made(&workspaces, "project").await;
    let (name, bundle) = (
        "repo".parse().unwrap(),
        bench.source.path().join("x.bundle"),
    );
    let clean = async |key| {
        let repository = CleanRepository {
            name: &name,
            bundle: &bundle,
            branch: "trunk",
            setup_at: "trunk",
        };
        let made = workspaces.create_clean(&id, key, &repository);
        made.await.unwrap()
    };
    let (used, unused) = (clean("used").await, clean("unused").await);
    assert_eq!(clean("used").await, used);
    workspaces.keep_clean(&["used".to_owned()]).await.unwrap();
    assert!(workspaces.record(&used).is_ok() && workspaces.record(&id).is_ok());
    assert!(workspaces.record(&unused).is_err());
    workspaces.delete_clean_of("used").await.unwrap();
    workspaces.delete_clean_of("used").await.unwrap();
    assert!(workspaces.record(&used).is_err());
    assert_eq!(bench.runtime.volumes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_whose_disk_is_never_counted_keeps_no_other_from_its_limit() {
    let bench = Bench::new();
    let workspaces = bench.daemon().await;
    let limited = async |name| {
        let mut wanted = create(name);
        wanted.limits.disk_bytes = 1 << 20;
        let view = workspaces.create(wanted).await.unwrap();
        view.workspace.id.clone()
    };
    let (slow, other) = (limited("slow").await, limited("other").await);
    bench.agent(&slow).count_volumes_as(VolumeCount::Never);
    bench.agent(&other).count_volumes_as(VolumeCount::Bytes(0));
    let stop = CancellationToken::new();
    let watching = tokio::spawn({
        let (workspaces, stop) = (workspaces.clone(), stop.clone());
        async move { workspaces.watch_disks(stop).await }
    });
    // It was looked at, and is due again, while the first look at the slow one
    // goes on.
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench
        .agent(&other)
        .count_volumes_as(VolumeCount::Bytes(2 << 20));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let view = workspaces.get(&other).await.unwrap();
    let reason = view.reason.unwrap_or_default();
    assert!(reason.contains("above its disk limit"), "{reason}");
    stop.cancel();
    watching.await.unwrap();
}
