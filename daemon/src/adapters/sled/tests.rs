//! The store against its contract, `kill -9`, a full disk and a stopwatch.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::*;
use crate::{adapters::testing::SmallDisk, domain::snapshot::MANIFEST_FORMAT, ports::contract};

fn session(number: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(number))
}

fn open(dir: &Path) -> SledStore {
    SledStore::open(SledOptions::in_dir(dir)).unwrap()
}

#[tokio::test]
async fn the_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::store::check(Arc::new(open(dir.path()))).await;
}

#[tokio::test]
async fn what_was_written_is_there_after_closing_and_opening() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = contract::store::workspace(1, "kept");
    let store = open(dir.path());
    store.add_workspace(&workspace).await.unwrap();
    store
        .append(&session(1), 1, vec![b"one".to_vec(), vec![9; 2 << 20]])
        .await
        .unwrap();
    store.close().await;
    assert!(store.workspaces().await.is_err(), "closed means closed");
    let store = open(dir.path());
    assert_eq!(store.workspaces().await, Ok(vec![workspace]));
    let events = store.events(&session(1), 1, 9).await.unwrap();
    assert_eq!(events, [b"one".to_vec(), vec![9; 2 << 20]]);
    store
        .append(&session(1), 3, vec![b"three".to_vec()])
        .await
        .expect("the log goes on where it ended");
}

#[tokio::test]
async fn a_snapshot_of_a_newer_daemon_is_refused_as_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let newer = Snapshot {
        format: MANIFEST_FORMAT + 1,
        ..contract::store::snapshot(1, 1)
    };
    store.put_snapshot(&newer).await.unwrap();
    let expected = StoreError::NewerFormat {
        dir: dir.path().display().to_string(),
        found: MANIFEST_FORMAT + 1,
        known: MANIFEST_FORMAT,
    };
    assert_eq!(store.snapshot(&newer.id).await, Err(expected.clone()));
    assert_eq!(store.snapshots(None).await, Err(expected));
}

#[tokio::test]
async fn below_the_low_water_mark_nothing_is_written_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(&session(1), 1, vec![vec![1]]).await.unwrap();
    store.close().await;
    let options = SledOptions {
        low_water_bytes: u64::MAX,
        ..SledOptions::in_dir(dir.path())
    };
    let store = SledStore::open(options).unwrap();
    let refused = store.append(&session(1), 2, vec![vec![2]]).await;
    assert!(matches!(refused, Err(StoreError::DiskFull(_))));
    assert_eq!(store.events(&session(1), 1, 9).await, Ok(vec![vec![1]]));
}

#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged_and_work_goes_on_by_itself() {
    let Some(disk) = SmallDisk::mount(48 << 20) else {
        return;
    };
    let store = open(&disk.path().join("store"));
    let log = session(1);
    let event = |n: u64| [n.to_be_bytes().to_vec(), vec![b'x'; 20_000]].concat();
    let mut acknowledged = 0;
    for (round, ballast) in ["first", "second"].into_iter().enumerate() {
        // Once the store fills the disk, once somebody else does, to the brim.
        if round == 1 {
            fill(&disk.path().join(ballast));
        }
        let error = loop {
            assert!(acknowledged < 5_000, "the disk never filled up");
            let next = acknowledged + 1;
            match store.append(&log, next, vec![event(next)]).await {
                Ok(()) => acknowledged = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
        let there = store.events(&log, 1, usize::MAX).await.unwrap();
        let all: Vec<_> = (1..=acknowledged).map(event).collect();
        assert!(there == all, "readers see exactly what was acknowledged");
        if round == 0 {
            assert!(acknowledged > 10, "{acknowledged}");
            // Grows the disk; the second time the ballast goes.
            disk.resize(96 << 20);
        } else {
            std::fs::remove_file(disk.path().join(ballast)).unwrap();
        }
        acknowledged += 1;
        store
            .append(&log, acknowledged, vec![event(acknowledged)])
            .await
            .expect("there is space again");
    }
    store.close().await;
    let store = open(&disk.path().join("store"));
    let there = store.events(&log, 1, usize::MAX).await.unwrap();
    let all: Vec<_> = (1..=acknowledged).map(event).collect();
    assert!(there == all, "nothing is lost after a restart");
    store.close().await;
}

#[tokio::test]
async fn a_store_on_a_full_disk_is_not_opened_and_says_why() {
    let Some(disk) = SmallDisk::mount(24 << 20) else {
        return;
    };
    fill(&disk.path().join("ballast"));
    let refused = SledStore::open(SledOptions::in_dir(disk.path().join("store")));
    assert!(matches!(refused, Err(StoreError::DiskFull(_))));
}

/// Writes until nothing more goes.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// The other process of the next test: told a directory on its standard input,
/// it appends for ever and prints each sequence number that was acknowledged.
#[test]
#[ignore = "started by another test"]
fn child_that_appends_until_killed() {
    let mut dir = String::new();
    std::io::stdin().lock().read_line(&mut dir).unwrap();
    if dir.trim().is_empty() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(dir.trim()));
        let log = session(1);
        let mut next = store.events(&log, 1, usize::MAX).await.unwrap().len() as u64 + 1;
        loop {
            let event = format!("event {next} {}", "x".repeat(next as usize % 3_000));
            store.append(&log, next, vec![event.into()]).await.unwrap();
            println!("ack {next}");
            std::io::stdout().flush().unwrap();
            next += 1;
        }
    });
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0_u64;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("adapters::sled::tests::child_that_appends_until_killed")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{}", dir.path().display()).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let until = acknowledged + 5 + 7 * round % 40;
        let mut line = String::new();
        while acknowledged < until {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child died");
            // libtest writes "test NAME ... " before the first line.
            if let Some((_, number)) = line.trim().rsplit_once("ack ") {
                acknowledged = number.parse().unwrap();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        for line in rest.lines() {
            if let Some(number) = line.strip_prefix("ack ")
                && rest.ends_with('\n')
            {
                acknowledged = number.parse().unwrap();
            }
        }
        let store = open(dir.path());
        let events = store.events(&session(1), 1, usize::MAX).await.unwrap();
        assert!(
            events.len() as u64 >= acknowledged,
            "round {round}: {acknowledged} acknowledged, {} there",
            events.len()
        );
        for (number, event) in (1_u64..).zip(&events) {
            assert!(event.starts_with(format!("event {number} ").as_bytes()));
        }
        acknowledged = events.len() as u64;
        store.close().await;
    }
}

/// `cargo test --release -p compyd --lib sled::tests::figures -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a claim"]
async fn figures() {
    let dir = tempfile::Builder::new()
        .prefix("compy-figures")
        .tempdir()
        .unwrap();
    let event = vec![b'x'; 400];
    let store = Arc::new(open(&dir.path().join("store")));
    let mut bare = std::fs::File::create(dir.path().join("bare")).unwrap();
    for round in 0..3 {
        let window = Duration::from_secs(2);
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < window {
            bare.write_all(&event).unwrap();
            bare.sync_data().unwrap();
            count += 1;
        }
        let bare_rate = f64::from(count) / start.elapsed().as_secs_f64();

        let log = session(round + 1);
        let start = Instant::now();
        let mut one = 0_u64;
        while start.elapsed() < window {
            one += 1;
            store.append(&log, one, vec![event.clone()]).await.unwrap();
        }
        let one_rate = one as f64 / start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..32 {
            let (store, event) = (store.clone(), event.clone());
            writers.spawn(async move {
                let log = session(1_000 * (round + 1) + number);
                let mut next = 0;
                while start.elapsed() < window {
                    next += 1;
                    store.append(&log, next, vec![event.clone()]).await.unwrap();
                }
                next
            });
        }
        let many: u64 = writers.join_all().await.into_iter().sum();
        let many_rate = many as f64 / start.elapsed().as_secs_f64();

        let start = Instant::now();
        assert_eq!(store.events(&log, 1, 1_000).await.unwrap().len(), 1_000);
        let replay = start.elapsed();
        println!(
            "bare {bare_rate:.0}/s, one session {one_rate:.0}/s ({:.0} %), 32 sessions {many_rate:.0}/s ({:.1} times one), 1000 events in {replay:?}",
            100.0 * one_rate / bare_rate,
            many_rate / one_rate,
        );
    }
}
