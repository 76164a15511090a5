//! The chunks against their contract, damage, crashes, a full disk, a model
//! and a stopwatch.

mod crashes;
mod figures;
mod model;

use std::path::Path;

use super::*;
use crate::{
    adapters::testing::SmallDisk,
    ports::{
        chunks::PruneMode,
        contract::{
            self,
            chunks::{chunk, prune, put},
        },
    },
};

/// A store whose packs are full after a few small chunks.
fn open(root: &Path) -> FileChunks {
    FileChunks::open_with(root.to_owned(), 0, 4_000).unwrap()
}

fn unfinished(root: &Path) -> usize {
    fs::read_dir(root.join("tmp")).map_or(0, Iterator::count)
}

fn disk_bytes(root: &Path) -> u64 {
    let packs = packs(root);
    packs
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum()
}

async fn is_there(chunks: &FileChunks, chunk: &Chunk) -> bool {
    match chunks.read(&chunk.hash).await {
        Ok(raw) => {
            assert_eq!(Ok(raw), chunk.decode());
            true
        }
        Err(ChunkError::Missing(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn the_chunks_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = FileChunks::open(dir.path(), 0).unwrap();
    contract::chunks::check(Arc::new(chunks)).await;
    assert_eq!(unfinished(dir.path()), 0, "nothing is left behind");
}

#[tokio::test]
async fn the_chunks_keep_the_contract_in_many_small_packs() {
    let dir = tempfile::tempdir().unwrap();
    contract::chunks::check(Arc::new(open(dir.path()))).await;
    assert_eq!(unfinished(dir.path()), 0, "nothing is left behind");
}

#[tokio::test]
async fn what_a_batch_put_is_there_after_opening_again_and_an_open_batch_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..20).map(|n| chunk(n, 1_000)).collect();
    let chunks = open(dir.path());
    drop(put(&chunks, all.clone()).await.unwrap());
    assert!(packs(dir.path()).len() > 3);
    let mut left = chunks.writer().await.unwrap();
    for number in 100..120 {
        left.put(chunk(number, 1_000)).await.unwrap();
    }
    // As a crash leaves it: its packs are not removed.
    fs::write(dir.path().join("tmp/left"), b"half a pack").unwrap();
    let chunks = open(dir.path());
    assert_eq!(unfinished(dir.path()), 0);
    for chunk in &all {
        assert!(is_there(&chunks, chunk).await);
    }
    drop(put(&chunks, [chunk(50, 10)]).await.unwrap());
    let chunks = open(dir.path());
    assert!(
        is_there(&chunks, &chunk(50, 10)).await,
        "no name is used twice"
    );
    assert!(is_there(&chunks, &all[19]).await);
}

#[tokio::test]
async fn full_packs_are_made_durable_beside_the_next_and_named_together() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = FileChunks::open_with(dir.path().to_owned(), 0, 40_000).unwrap();
    let all: Vec<_> = (0..2_500).map(|n| chunk(n, 1_000)).collect();
    let mut writer = chunks.writer().await.unwrap();
    for chunk in &all {
        writer.put(chunk.clone()).await.unwrap();
    }
    assert_eq!(packs(dir.path()).len(), 0, "none has a name yet");
    let stored = writer.finish().await.unwrap();
    assert_eq!(stored.chunks, 2_500);
    assert!(packs(dir.path()).len() > 60);
    assert_eq!(unfinished(dir.path()), 0);
    let chunks = open(dir.path());
    for chunk in &all {
        assert!(is_there(&chunks, chunk).await);
    }
}

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_gives_the_space_of_its_full_packs_back() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = FileChunks::open_with(dir.path().to_owned(), 0, 40_000).unwrap();
    let mut writer = chunks.writer().await.unwrap();
    for number in 0..2_000 {
        writer.put(chunk(number, 1_000)).await.unwrap();
    }
    let wrong = Chunk {
        hash: ChunkHash::of(b"other"),
        ..chunk(1, 10)
    };
    writer.put(wrong).await.unwrap();
    let refused = writer.finish().await.unwrap_err();
    assert!(matches!(refused, ChunkError::Wrong { .. }), "{refused}");
    assert_eq!(unfinished(dir.path()), 0);
    assert_eq!(packs(dir.path()).len(), 0);
}

/// A small pack and where its records end.
async fn small_pack(root: &Path) -> (PathBuf, Vec<(Chunk, usize)>) {
    let batch = [chunk(1, 40), chunk(2, 0), chunk(3, 60)];
    drop(put(&open(root), batch.clone()).await.unwrap());
    let [pack] = packs(root).try_into().unwrap();
    let mut end = 8;
    let ends = batch.map(|chunk| {
        end += record::HEADER_BYTES + chunk.data.len();
        (chunk, end)
    });
    (pack, ends.into())
}

#[tokio::test]
async fn of_a_pack_cut_at_any_byte_every_whole_record_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, records) = small_pack(dir.path()).await;
    let whole = fs::read(&pack).unwrap();
    for cut in 0..=whole.len() {
        for zeros in [0, 100] {
            let mut torn = whole[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            fs::write(&pack, &torn).unwrap();
            let chunks = open(dir.path());
            for (chunk, end) in &records {
                // Zeros may stand for what was cut.
                let there = *end <= cut || (torn.len() >= *end && torn[..*end] == whole[..*end]);
                assert_eq!(is_there(&chunks, chunk).await, there, "cut at {cut}");
            }
            let new = chunk(9, 10);
            let all = records.iter().map(|(chunk, _)| chunk.clone()).chain([new]);
            drop(put(&chunks, all.clone()).await.unwrap());
            for chunk in all {
                assert!(is_there(&chunks, &chunk).await, "a batch heals it");
            }
            for made in &packs(dir.path())[1..] {
                fs::remove_file(made).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_record_is_named_with_its_pack_and_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, records) = small_pack(dir.path()).await;
    let whole = fs::read(&pack).unwrap();
    let damaged = ChunkError::Damaged {
        hash: records[0].0.hash,
        pack: pack.display().to_string(),
    };
    for offset in 8..records[0].1 {
        fs::write(&pack, &whole).unwrap();
        flip(&pack, offset);
        let chunks = open(dir.path());
        let read = chunks.read(&records[0].0.hash).await;
        assert_eq!(read, Err(damaged.clone()), "damaged at {offset}");
        assert!(is_there(&chunks, &records[2].0).await);
    }
}

#[tokio::test]
async fn a_pack_without_its_index_is_read_past_what_is_damaged_and_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, records) = small_pack(dir.path()).await;
    let data_at = 8 + record::HEADER_BYTES;
    flip(&pack, data_at);
    let index_at = records[2].1;
    flip(&pack, index_at);
    let chunks = open(dir.path());
    let mut there = Vec::new();
    for (chunk, _) in &records {
        there.push(is_there(&chunks, chunk).await);
    }
    assert_eq!(there, [false, true, true]);

    let live = records.iter().map(|(chunk, _)| chunk.hash);
    prune(&chunks, live, PruneMode::Remove).await.unwrap();
    assert!(!pack.exists());
    for chunks in [chunks, open(dir.path())] {
        for (chunk, _) in &records[1..] {
            assert!(is_there(&chunks, chunk).await);
        }
    }
}

#[tokio::test]
async fn a_pack_with_a_damaged_live_chunk_is_kept_when_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, records) = small_pack(dir.path()).await;
    flip(&pack, 8 + record::HEADER_BYTES);
    let chunks = open(dir.path());
    let live = [records[0].0.hash, records[2].0.hash];
    prune(&chunks, live, PruneMode::Remove).await.unwrap();
    assert!(pack.exists(), "it may be mended from a copy");
    for chunks in [chunks, open(dir.path())] {
        let read = chunks.read(&live[0]).await;
        assert!(matches!(read, Err(ChunkError::Damaged { .. })), "{read:?}");
        assert!(is_there(&chunks, &records[2].0).await);
    }
}

#[tokio::test]
async fn a_pack_of_a_newer_daemon_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, _) = small_pack(dir.path()).await;
    let mut bytes = fs::read(&pack).unwrap();
    bytes[7] = b'2';
    fs::write(&pack, &bytes).unwrap();
    let error = FileChunks::open(dir.path(), 0).unwrap_err();
    let named = pack.display().to_string();
    assert_eq!(error, ChunkError::NewerFormat { pack: named });
    assert_eq!(fs::read(&pack).unwrap(), bytes);
}

#[tokio::test]
async fn a_pack_with_little_garbage_is_left_and_its_garbage_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = FileChunks::open(dir.path(), 0).unwrap();
    let all: Vec<_> = (0..10).map(|n| chunk(n, 10_000)).collect();
    drop(put(&chunks, all.clone()).await.unwrap());
    let prune_at = |live: &[Chunk], waste_percent| {
        let live = live.iter().map(|chunk| chunk.hash).collect();
        let options = crate::ports::chunks::PruneOptions {
            mode: PruneMode::Remove,
            waste_percent,
        };
        let chunks = chunks.clone();
        async move { chunks.prune().await.run(live, options).await.unwrap() }
    };
    let before = packs(dir.path());
    let pruned = prune_at(&all[1..], 20).await;
    assert_eq!((pruned.chunks, pruned.freed_bytes), (0, 0));
    assert_eq!(packs(dir.path()), before);
    let mut writer = chunks.writer().await.unwrap();
    let missing = writer.missing(vec![all[0].hash]).await;
    assert_eq!(missing, Ok(Vec::new()));
    drop(writer);

    let bytes = disk_bytes(dir.path());
    let pruned = prune_at(&all[3..], 20).await;
    assert_eq!(pruned.chunks, 3);
    assert_ne!(packs(dir.path()), before);
    assert_eq!(disk_bytes(dir.path()) + pruned.freed_bytes, bytes);
}

#[tokio::test]
async fn a_chunk_is_read_while_pruning_moves_it() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = open(dir.path());
    let all: Vec<_> = (0..200).map(|n| chunk(n, 500)).collect();
    drop(put(&chunks, all.clone()).await.unwrap());
    let mut live: Vec<_> = all.iter().map(|chunk| chunk.hash).collect();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let (chunks, stop, last) = (chunks.clone(), stop.clone(), all[199].clone());
        tokio::spawn(async move {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                assert!(is_there(&chunks, &last).await);
            }
        })
    };
    while live.len() > 1 {
        live.remove(0);
        let pruned = prune(&chunks, live.clone(), PruneMode::Remove).await;
        assert_eq!(pruned.unwrap().chunks, 1);
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    reader.await.unwrap();
}

#[tokio::test]
async fn below_the_low_water_mark_no_batch_is_begun_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let kept = chunk(1, 100);
    drop(put(&open(dir.path()), [kept.clone()]).await.unwrap());
    let chunks = FileChunks::open(dir.path(), u64::MAX).unwrap();
    let refused = put(&chunks, [chunk(2, 100)]).await.unwrap_err();
    assert!(matches!(refused, ChunkError::DiskFull(_)), "{refused}");
    assert!(is_there(&chunks, &kept).await);
    let pruned = prune(&chunks, [], PruneMode::Remove).await.unwrap();
    assert_eq!(pruned.chunks, 1, "what is whole garbage goes without room");
}

#[tokio::test]
async fn a_full_disk_fails_a_batch_and_works_again_once_there_is_space() {
    let Some(disk) = SmallDisk::mount(4 << 20) else {
        return;
    };
    let root = disk.path().join("chunks");
    let chunks = FileChunks::open(&root, 0).unwrap();
    let kept: Vec<_> = (0..16).map(|n| chunk(n, 100_000)).collect();
    drop(put(&chunks, kept.clone()).await.unwrap());
    let large = (100..150).map(|n| chunk(n, 100_000));
    let refused = put(&chunks, large).await.unwrap_err();
    assert!(matches!(refused, ChunkError::DiskFull(_)), "{refused}");
    assert_eq!(unfinished(&root), 0, "a failed batch gives its space back");
    assert!(!is_there(&chunks, &chunk(100, 100_000)).await);

    let small: Vec<_> = (200..222).map(|n| chunk(n, 100_000)).collect();
    drop(put(&chunks, small.clone()).await.unwrap());
    // No room to rewrite: nothing live is lost, and what is garbage whole goes.
    let half = kept.iter().step_by(2).map(|chunk| chunk.hash);
    let live: Vec<_> = half.chain(small.iter().map(|chunk| chunk.hash)).collect();
    let full = prune(&chunks, live.clone(), PruneMode::Remove).await;
    assert!(matches!(full, Err(ChunkError::DiskFull(_))), "{full:?}");
    for chunks in [chunks, FileChunks::open(&root, 0).unwrap()] {
        for chunk in kept.iter().step_by(2).chain(&small) {
            assert!(is_there(&chunks, chunk).await);
        }
        assert_eq!(unfinished(&root), 0);
    }
    disk.resize(16 << 20);
    let chunks = FileChunks::open(&root, 0).unwrap();
    let pruned = prune(&chunks, live, PruneMode::Remove).await.unwrap();
    assert_eq!(pruned.chunks, 8);
    for chunk in kept.iter().step_by(2).chain(&small) {
        assert!(is_there(&chunks, chunk).await);
    }
}
