//! A crash at any point of a batch or a pruning.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use super::*;

/// Copies a store as a crash at this moment would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("tmp")).unwrap();
    for pack in packs(from) {
        fs::copy(&pack, to.join(pack.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_crash_between_a_new_pack_and_the_removal_of_the_old_ones_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let chunks = open(&after);
    let all: Vec<_> = (0..40).map(|n| chunk(n, 300)).collect();
    drop(put(&chunks, all.clone()).await.unwrap());
    copy(&after, &before);
    let live: Vec<_> = all.iter().step_by(2).collect();
    let hashes: Vec<_> = live.iter().map(|chunk| chunk.hash).collect();
    let pruned = prune(&chunks, hashes.clone(), PruneMode::Remove).await;
    let old: HashMap<_, _> = (packs(&before).into_iter())
        .map(|pack| (pack.file_name().unwrap().to_owned(), pack))
        .collect();
    let left: Vec<_> = packs(&after);
    let new: Vec<_> = (left.iter())
        .filter(|pack| !old.contains_key(pack.file_name().unwrap()))
        .collect();
    assert!(new.len() > 1 && old.len() > 3);

    // Each new pack is there before any that it replaces is gone; so whatever
    // number of new ones a crash finds, with all or only the needed old ones.
    for there in 0..=new.len() {
        let crashed = dir.path().join(format!("crashed-{there}"));
        copy(&before, &crashed);
        for pack in &new[..there] {
            fs::copy(pack, crashed.join(pack.file_name().unwrap())).unwrap();
        }
        fs::write(crashed.join("tmp/next"), b"half of the next one").unwrap();
        let chunks = open(&crashed);
        for chunk in &live {
            assert!(is_there(&chunks, chunk).await);
        }
        prune(&chunks, hashes.clone(), PruneMode::Remove)
            .await
            .unwrap();
        assert!(disk_bytes(&crashed) <= disk_bytes(&after) + 200);
        let chunks = open(&crashed);
        for chunk in &live {
            assert!(is_there(&chunks, chunk).await);
        }
    }
    assert_eq!(pruned.unwrap().chunks, 20);
}

/// The chunks of a batch of the child.
fn batch(number: u64) -> impl Iterator<Item = Chunk> {
    (0..10).map(move |n| chunk(10 * number + n, 700))
}

/// How many of the child's batches stay when it prunes.
const LIVE: u64 = 5;

/// The other process of the next test: told a directory and a number on its
/// standard input, it puts batches from there on for ever, prunes all but the
/// last ones after each, and prints what was acknowledged.
#[test]
#[ignore = "started by another test"]
fn child_that_puts_and_prunes_until_killed() {
    let mut order = String::new();
    std::io::stdin().lock().read_line(&mut order).unwrap();
    let Some((number, dir)) = order.trim().split_once(' ') else {
        return;
    };
    let mut number: u64 = number.parse().unwrap();
    let chunks = open(Path::new(dir));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        loop {
            drop(put(&chunks, batch(number)).await.unwrap());
            println!("ack {number}");
            std::io::stdout().flush().unwrap();
            let live = number.saturating_sub(LIVE - 1)..=number;
            // One of three chunks goes at once, so that packs are rewritten.
            let live = live.flat_map(|n| batch(n).filter(is_kept));
            let live: Vec<_> = live.map(|chunk| chunk.hash).collect();
            prune(&chunks, live, PruneMode::Remove).await.unwrap();
            number += 1;
        }
    });
}

fn is_kept(chunk: &Chunk) -> bool {
    !chunk.hash.as_bytes()[0].is_multiple_of(3)
}

#[tokio::test]
async fn kill_9_while_putting_and_pruning_loses_nothing_live() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("adapters::chunks::tests::crashes::child_that_puts_and_prunes_until_killed")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(
            child.stdin.take().unwrap(),
            "{next} {}",
            dir.path().display()
        )
        .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let until = next + 3 + 7 * round % 11;
        let mut acknowledged = None;
        let mut line = String::new();
        while acknowledged.is_none_or(|number| number < until) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child died");
            // libtest writes "test NAME ... " before the first line.
            if let Some((_, number)) = line.trim().rsplit_once("ack ") {
                acknowledged = Some(number.parse::<u64>().unwrap());
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(fastrand::u64(..3_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        for line in rest.lines() {
            if let Some(number) = line.strip_prefix("ack ")
                && rest.ends_with('\n')
            {
                acknowledged = Some(number.parse().unwrap());
            }
        }
        let last = acknowledged.unwrap();
        let chunks = open(dir.path());
        assert_eq!(unfinished(dir.path()), 0);
        for number in last.saturating_sub(LIVE - 2)..=last {
            for chunk in batch(number).filter(is_kept) {
                assert!(
                    is_there(&chunks, &chunk).await,
                    "round {round}, {number} of {last}"
                );
            }
        }
        next = last + 1;
    }
}
