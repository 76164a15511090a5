//! What every [`ChunkPort`] must do.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;

use crate::{
    domain::snapshot::hash::ChunkHash,
    ports::chunks::{
        CHUNK_BYTES_MAX, Chunk, ChunkEncoding, ChunkError, ChunkPin, ChunkPort, PruneMode,
        PruneOptions, Pruned,
    },
};

/// Checks an empty store of chunks against the whole contract.
///
/// # Panics
/// The store breaks the contract.
pub async fn check(chunks: Arc<dyn ChunkPort>) {
    batches(&*chunks).await;
    streams(&*chunks).await;
    what_is_wrong_is_refused(&*chunks).await;
    parallel_batches(chunks.clone()).await;
    pruning(&*chunks).await;
    pinned(&*chunks).await;
    pinned_while_pruning(&*chunks).await;
}

/// A chunk with this number and so many bytes, which compress badly.
#[must_use]
pub fn chunk(number: u64, bytes: usize) -> Chunk {
    let mut raw = vec![0; bytes];
    let mut reader = blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut raw);
    Chunk::of(raw.into()).unwrap()
}

/// Puts chunks as one batch.
///
/// # Errors
/// Whatever the store fails with.
pub async fn put(
    chunks: &dyn ChunkPort,
    batch: impl IntoIterator<Item = Chunk>,
) -> Result<ChunkPin, ChunkError> {
    let mut writer = chunks.writer().await?;
    for chunk in batch {
        writer.put(chunk).await?;
    }
    Ok(writer.finish().await?.pin)
}

/// Removes what is not live, down to the last byte.
///
/// # Errors
/// Whatever the store fails with.
pub async fn prune(
    chunks: &dyn ChunkPort,
    live: impl IntoIterator<Item = ChunkHash>,
    mode: PruneMode,
) -> Result<Pruned, ChunkError> {
    let options = PruneOptions {
        mode,
        waste_percent: 0,
    };
    let live = HashSet::from_iter(live);
    chunks.prune().await.run(live, options).await
}

async fn is_there(chunks: &dyn ChunkPort, chunk: &Chunk) -> bool {
    match chunks.read(&chunk.hash).await {
        Ok(raw) => {
            assert_eq!(Ok(raw), chunk.decode());
            true
        }
        Err(ChunkError::Missing(hash)) => {
            assert_eq!(hash, chunk.hash);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

async fn batches(chunks: &dyn ChunkPort) {
    let empty = Chunk::of(Bytes::new()).unwrap();
    let compressed = Chunk::of(Bytes::from(vec![7; CHUNK_BYTES_MAX])).unwrap();
    assert_eq!(compressed.encoding, ChunkEncoding::Zstd);
    let all = [empty, compressed, chunk(1, CHUNK_BYTES_MAX), chunk(2, 3)];
    let hashes: Vec<_> = all.iter().map(|chunk| chunk.hash).collect();

    let mut writer = chunks.writer().await.unwrap();
    let absent = writer.missing(hashes.clone()).await.unwrap();
    assert_eq!(absent, hashes);
    for chunk in &all {
        writer.put(chunk.clone()).await.unwrap();
        writer.put(chunk.clone()).await.expect("twice is once");
    }
    assert_eq!(writer.missing(hashes.clone()).await, Ok(Vec::new()));
    for chunk in &all {
        assert!(!is_there(chunks, chunk).await, "not before it is finished");
    }
    let stored = writer.finish().await.unwrap();
    let bytes: usize = all.iter().map(|chunk| chunk.data.len()).sum();
    assert_eq!((stored.chunks, stored.stored_bytes), (4, bytes as u64));
    for chunk in &all {
        assert!(is_there(chunks, chunk).await);
    }

    let mut again = chunks.writer().await.unwrap();
    let new = chunk(3, 100);
    let asked = vec![hashes[0], new.hash, hashes[1]];
    assert_eq!(again.missing(asked).await, Ok(vec![new.hash]));
    again.put(all[2].clone()).await.unwrap();
    again.put(new.clone()).await.unwrap();
    let stored = again.finish().await.unwrap();
    assert_eq!(
        (stored.chunks, stored.stored_bytes),
        (1, new.data.len() as u64),
        "what is there is not written again"
    );

    let mut abandoned = chunks.writer().await.unwrap();
    let left = chunk(4, 100);
    abandoned.put(left.clone()).await.unwrap();
    drop(abandoned);
    assert!(!is_there(chunks, &left).await);
    let nothing = chunks.writer().await.unwrap().finish().await.unwrap();
    assert_eq!((nothing.chunks, nothing.stored_bytes), (0, 0));
}

async fn streams(chunks: &dyn ChunkPort) {
    let some: Vec<_> = (0..50).map(|n| chunk(100 + n, 10 + n as usize)).collect();
    drop(put(chunks, some.clone()).await.unwrap());
    let order: Vec<_> = [49, 0, 0].into_iter().chain(1..49).chain([49]).collect();
    let hashes = order.iter().map(|n| some[*n].hash).collect();
    let read: Vec<Bytes> = chunks.stream(hashes).try_collect().await.unwrap();
    let expected: Vec<_> = order.iter().map(|n| some[*n].decode().unwrap()).collect();
    assert_eq!(read, expected);

    let absent = chunk(999, 10).hash;
    let mut hashes: Vec<_> = some.iter().map(|chunk| chunk.hash).collect();
    hashes[20] = absent;
    let read: Result<Vec<Bytes>, _> = chunks.stream(hashes).try_collect().await;
    assert_eq!(read, Err(ChunkError::Missing(absent)));
    let nothing: Vec<_> = chunks.stream(Vec::new()).collect().await;
    assert_eq!(nothing, Vec::new());
}

async fn what_is_wrong_is_refused(chunks: &dyn ChunkPort) {
    let sound = chunk(200, 1_000);
    let forged = Chunk {
        hash: ChunkHash::of(b"of somebody else"),
        ..sound.clone()
    };
    let endless = Chunk {
        raw_bytes: u32::MAX,
        ..chunk(201, 1_000)
    };
    for wrong in [forged, endless] {
        let hash = wrong.hash;
        let outcome = put(chunks, [sound.clone(), wrong]).await;
        match outcome.unwrap_err() {
            ChunkError::Wrong { hash: named, .. } => assert_eq!(named, hash),
            other => panic!("{other}"),
        }
        assert!(!is_there(chunks, &sound).await, "all of the batch or none");
        assert_eq!(chunks.read(&hash).await, Err(ChunkError::Missing(hash)));
    }
}

async fn parallel_batches(chunks: Arc<dyn ChunkPort>) {
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let chunks = chunks.clone();
        let batch = [chunk(300, 5_000), chunk(301 + number, 5_000)];
        writers.spawn(async move { put(&*chunks, batch).await.map(drop) });
    }
    while let Some(done) = writers.join_next().await {
        assert_eq!(done.unwrap(), Ok(()));
    }
    for number in 300..309 {
        assert!(is_there(&*chunks, &chunk(number, 5_000)).await);
    }
}

async fn pruning(chunks: &dyn ChunkPort) {
    let all: Vec<_> = (0..20).map(|n| chunk(400 + n, 2_000)).collect();
    drop(put(chunks, all.clone()).await.unwrap());
    let live: Vec<_> = all.iter().step_by(2).map(|chunk| chunk.hash).collect();
    let measured = prune(chunks, live.clone(), PruneMode::Measure)
        .await
        .unwrap();
    assert!(is_there(chunks, &all[1]).await, "measuring changes nothing");
    let pruned = prune(chunks, live.clone(), PruneMode::Remove)
        .await
        .unwrap();
    assert_eq!(measured, pruned);
    assert!(pruned.chunks >= 10, "{pruned:?}");
    assert!(pruned.freed_bytes >= 10 * 2_000, "{pruned:?}");
    for (number, chunk) in all.iter().enumerate() {
        assert_eq!(is_there(chunks, chunk).await, number % 2 == 0);
    }
    let again = prune(chunks, live, PruneMode::Remove).await.unwrap();
    assert_eq!((again.chunks, again.freed_bytes), (0, 0));
    drop(put(chunks, [all[1].clone()]).await.unwrap());
    assert!(
        is_there(chunks, &all[1]).await,
        "what is gone can come back"
    );
}

async fn pinned(chunks: &dyn ChunkPort) {
    let (old, new, unwanted) = (chunk(500, 900), chunk(501, 900), chunk(502, 900));
    drop(put(chunks, [old.clone(), unwanted.clone()]).await.unwrap());
    let mut writer = chunks.writer().await.unwrap();
    assert_eq!(writer.missing(vec![old.hash]).await, Ok(Vec::new()));
    writer.put(new.clone()).await.unwrap();

    prune(chunks, [], PruneMode::Remove).await.unwrap();
    assert!(is_there(chunks, &old).await, "an open batch relies on it");
    assert!(!is_there(chunks, &unwanted).await);
    let gone = vec![old.hash, unwanted.hash];
    let missing = writer.missing(gone).await;
    assert_eq!(missing, Ok(vec![unwanted.hash]), "what is gone is missing");

    let pin = writer.finish().await.unwrap().pin;
    prune(chunks, [], PruneMode::Remove).await.unwrap();
    for chunk in [&old, &new] {
        assert!(is_there(chunks, chunk).await, "the manifest may come yet");
    }
    drop(pin);
    prune(chunks, [new.hash], PruneMode::Remove).await.unwrap();
    assert!(is_there(chunks, &new).await);
    assert!(!is_there(chunks, &old).await);
}

async fn pinned_while_pruning(chunks: &dyn ChunkPort) {
    let (before, during) = (chunk(600, 900), chunk(601, 900));
    let pin = put(chunks, [before.clone()]).await.unwrap();
    let pruning = chunks.prune().await;
    // The manifests may have been read by now, without these.
    drop(pin);
    drop(put(chunks, [during.clone()]).await.unwrap());
    let options = PruneOptions {
        mode: PruneMode::Remove,
        waste_percent: 0,
    };
    pruning.run(HashSet::new(), options).await.unwrap();
    for chunk in [&before, &during] {
        assert!(is_there(chunks, chunk).await);
    }
    drop(chunks.prune().await);
    assert!(is_there(chunks, &before).await, "begun and not run");
    prune(chunks, [], PruneMode::Remove).await.unwrap();
    for chunk in [&before, &during] {
        assert!(!is_there(chunks, chunk).await, "the pins are gone");
    }
}
