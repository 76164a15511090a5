//! How fast: `cargo test --release -p compyd --lib chunks::tests::figures -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::*;
use crate::ports::chunks::ChunkEncoding;

const CHUNKS: u64 = 10_720;
const BYTES: usize = 64 << 10;

/// Half of it noise, so that it compresses to about half, like a work tree.
fn content(number: u64) -> Chunk {
    let noise = chunk(number, BYTES / 2).decode().unwrap();
    let raw: Vec<u8> = noise.iter().flat_map(|byte| [*byte, b'x']).collect();
    Chunk::of(raw.into()).unwrap()
}

fn rate(elapsed: Duration) -> f64 {
    CHUNKS as f64 * BYTES as f64 / (1 << 20) as f64 / elapsed.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a claim"]
async fn figures() {
    let dir = tempfile::Builder::new()
        .prefix("compy-figures")
        .tempdir()
        .unwrap();
    let made: Vec<_> = (0..CHUNKS).map(content).collect();
    let raw: Vec<_> = (made.iter())
        .map(|chunk| Chunk {
            encoding: ChunkEncoding::Raw,
            data: chunk.decode().unwrap(),
            ..chunk.clone()
        })
        .collect();
    for (name, batch) in [("zstd", made), ("raw", raw)] {
        let root = dir.path().join(name);
        let chunks = FileChunks::open(&root, 0).unwrap();
        let hashes: Vec<_> = batch.iter().map(|chunk| chunk.hash).collect();

        let start = Instant::now();
        let mut writer = chunks.writer().await.unwrap();
        for chunk in &batch {
            writer.put(chunk.clone()).await.unwrap();
        }
        let put = start.elapsed();
        drop(writer.finish().await.unwrap());
        let finished = start.elapsed();

        let start = Instant::now();
        let mut writer = chunks.writer().await.unwrap();
        assert_eq!(writer.missing(hashes.clone()).await, Ok(Vec::new()));
        drop(writer.finish().await.unwrap());
        let second = start.elapsed();

        let start = Instant::now();
        let read = chunks.stream(hashes.clone());
        let bytes = read
            .try_fold(0, |sum, chunk| std::future::ready(Ok(sum + chunk.len())))
            .await
            .unwrap();
        let streamed = start.elapsed();
        assert_eq!(bytes, CHUNKS as usize * BYTES);

        let start = Instant::now();
        drop(FileChunks::open(&root, 0).unwrap());
        let opened = start.elapsed();

        let live: Vec<_> = hashes.iter().step_by(2).copied().collect();
        let start = Instant::now();
        let pruned = prune(&chunks, live, PruneMode::Remove).await.unwrap();
        let prune = start.elapsed();
        println!(
            "{name}: put {:.0} MiB/s, durable {:.0} MiB/s ({finished:.2?}), nothing new {second:.1?}, read {:.0} MiB/s, open {opened:.1?}, half pruned in {prune:.2?} ({} MB freed)",
            rate(put),
            rate(finished),
            rate(streamed),
            pruned.freed_bytes / 1_000_000,
        );
    }
}
