//! What a fault of the engine itself leaves: it is killed in the middle of a
//! commit, or the disk that it keeps everything on is full.

use compyd_tests::{programs::Programs, second_engine::SecondEngine};

use super::*;

/// An engine of the test's own, on that disk if any, and a daemon on it with a
/// workspace `w`.
async fn on_an_engine(disk: Option<&SmallDisk>) -> Option<(SecondEngine, Daemon)> {
    if Programs::beside_the_test().agent.is_none() {
        skip("there is no static agent: make agent");
        return None;
    }
    let mut engine = match SecondEngine::prepare().await {
        Ok(engine) => engine,
        Err(why) => {
            skip(why);
            return None;
        }
    };
    if let Some(disk) = disk {
        engine = engine.with_data_on(disk.path());
    }
    if let Err(why) = engine.start().await {
        skip(why);
        return None;
    }
    engine.load_image().await;
    let daemon = Daemon::start_bare(Options::default().engine(engine.host())).await;
    daemon.workspace("w", &[]).await;
    bash(&daemon, "w", FILL).await;
    Some((engine, daemon))
}

#[tokio::test]
async fn an_engine_killed_in_the_middle_of_a_commit_leaves_nothing() {
    let Some((mut engine, mut daemon)) = on_an_engine(None).await else {
        return;
    };
    // It takes a while to commit.
    let large = "echo one > /opt/installed; head -c 700000000 /dev/urandom > /opt/large";
    root(&daemon, "w", large).await;
    let look = bash(&daemon, "w", LOOK).await;
    for daemon_dies_too in [false, true] {
        let resumed = |daemon: &Daemon| daemon.log().matches(Point::SnapshotResumed.name()).count();
        let before = resumed(&daemon);
        let nothing = Path::new("");
        let made = Made::of(
            Call::Snapshot,
            daemon.channel(),
            &daemon,
            nothing,
            String::new(),
        );
        let made = tokio::spawn(made);
        // It stands still for the commit, which takes longer than this.
        wait::until("the commit", STEP_MAX, async || {
            assert!(!made.is_finished(), "it was quicker than the test");
            (!paused(&daemon).await.is_empty()).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let quicker = "the commit was quicker than the test";
        assert_eq!(resumed(&daemon), before, "{quicker}");
        if daemon_dies_too {
            daemon.kill().await;
        }
        engine.kill().await;
        let what = format!("a killed engine, and daemon: {daemon_dies_too}");
        assert_eq!(ended(&what, made).await, Undone, "{what}");
        engine.start().await.expect("it started before");
        if daemon_dies_too {
            daemon.restart().await;
        }
        nobody_stands_still(&daemon).await;
        wait::until("w runs", STEP_MAX, async || {
            let state = daemon.workspace_now("w").await.state();
            (state == WorkspaceState::Running).then_some(())
        })
        .await;
        // What a living daemon could not settle at once it tries every 10 s.
        wait::until("the helper is gone", STEP_MAX, async || {
            let engine = daemon.engine().await;
            let containers = engine.containers(Some(daemon.run_name())).await;
            (containers.len() == 1).then_some(())
        })
        .await;
        assert_eq!(ids(&daemon, "w").await, [] as [String; 0], "{what}");
        leftovers(&daemon, 1, 0).await;
        assert_eq!(bash(&daemon, "w", LOOK).await, look, "{what}");
    }
    let whole = id(&snapshot(&daemon, "w").await);
    let fork = ["workspace", "fork", "w", "f", "--snapshot", &whole];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    assert_eq!(bash(&daemon, "f", LOOK).await, look);
    let large = "stat -c %s /opt/large; sha256sum < /opt/large";
    assert_eq!(
        root(&daemon, "f", large).await,
        root(&daemon, "w", large).await
    );
}

#[tokio::test]
async fn an_engine_whose_disk_is_full_makes_nothing_and_goes_on_afterwards() {
    let disk = match SmallDisk::new("3g") {
        Ok(disk) => disk,
        Err(why) => return skip(why),
    };
    let Some((_engine, mut daemon)) = on_an_engine(Some(&disk)).await else {
        return;
    };
    bash(&daemon, "w", "echo first > /workspace/mark").await;
    root(&daemon, "w", "echo one > /opt/installed").await;
    let first_look = bash(&daemon, "w", LOOK).await;
    let first = id(&snapshot(&daemon, "w").await);
    bash(&daemon, "w", "echo second > /workspace/mark").await;
    let large = "echo two > /opt/installed; head -c 30000000 /dev/urandom > /opt/large";
    root(&daemon, "w", large).await;
    let look = bash(&daemon, "w", LOOK).await;

    disk.fill();
    for call in [Call::Snapshot, Call::Restore, Call::Fork] {
        let what = format!("{call:?} on a full disk");
        let (channel, nowhere) = (daemon.channel(), Path::new(""));
        let made = Made::of(call, channel, &daemon, nowhere, first.clone()).await;
        eprintln!("{what}: {}", made.said);
        assert!(!made.worked, "{what}: it says that it worked");
        let full = made.said.contains("the container engine's disk is full");
        assert!(full, "{what}: {}", made.said);
        nobody_stands_still(&daemon).await;
    }
    disk.free();

    // What not even the engine could remove then.
    daemon.restart().await;
    wait::until("what was begun is gone", STEP_MAX, async || {
        let engine = daemon.engine().await;
        let containers = engine.containers(Some(daemon.run_name())).await;
        (containers.len() == 1).then_some(())
    })
    .await;
    wait::until("w runs", STEP_MAX, async || {
        let state = daemon.workspace_now("w").await.state();
        (state == WorkspaceState::Running).then_some(())
    })
    .await;
    assert_eq!(ids(&daemon, "w").await, [first.as_str()]);
    leftovers(&daemon, 1, 1).await;
    assert_eq!(bash(&daemon, "w", LOOK).await, look);
    // Everything works again.
    let second = id(&snapshot(&daemon, "w").await);
    for (name, snapshot, look) in [("one", &first, &first_look), ("two", &second, &look)] {
        let fork = ["workspace", "fork", "w", name, "--snapshot", snapshot];
        let _ = daemon.compyctl(&fork).await.expect_code(0);
        assert_eq!(bash(&daemon, name, LOOK).await, *look);
    }
}
