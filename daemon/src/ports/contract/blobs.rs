//! What every [`BlobPort`] must do.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::ports::blobs::{BlobError, BlobHash, BlobPort, PIECE_BYTES};

/// Checks an empty store of blobs against the whole contract.
///
/// # Panics
/// The store breaks the contract.
pub async fn check(blobs: Arc<dyn BlobPort>) {
    for content in [
        Bytes::new(),
        Bytes::from_static(b"\xff\x00not utf-8"),
        Bytes::from(vec![7; 3 * PIECE_BYTES + 5]),
    ] {
        put_and_read(&*blobs, content).await;
    }
    unknown(&*blobs).await;
    writers(&*blobs).await;
    removal(&*blobs).await;
    parallel(blobs.clone()).await;
}

async fn put_and_read(blobs: &dyn BlobPort, content: Bytes) {
    let hash = blobs.put(content.clone()).await.unwrap();
    assert_eq!(hash, BlobHash::of(&content));
    assert_eq!(blobs.put(content.clone()).await, Ok(hash.clone()));
    assert_eq!(blobs.size(&hash).await, Ok(Some(content.len() as u64)));
    assert_eq!(blobs.read(&hash, 0, usize::MAX).await, Ok(content.clone()));
    let middle = content.len() / 2;
    let end = (middle + 3).min(content.len());
    assert_eq!(
        blobs.read(&hash, middle as u64, 3).await,
        Ok(content.slice(middle..end))
    );
    assert_eq!(blobs.read(&hash, u64::MAX, 3).await, Ok(Bytes::new()));
    let pieces: Vec<Bytes> = blobs.stream(&hash).try_collect().await.unwrap();
    assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
    assert_eq!(pieces.concat(), content);
}

async fn unknown(blobs: &dyn BlobPort) {
    let hash = BlobHash::of(b"never stored");
    assert_eq!(blobs.size(&hash).await, Ok(None));
    let missing = BlobError::Missing(hash.clone());
    assert_eq!(blobs.read(&hash, 0, 1).await, Err(missing.clone()));
    let streamed: Result<Vec<Bytes>, _> = blobs.stream(&hash).try_collect().await;
    assert_eq!(streamed, Err(missing));
}

async fn writers(blobs: &dyn BlobPort) {
    let mut writer = blobs.begin().await.unwrap();
    for piece in ["one ", "two ", "", "three"] {
        writer.write(Bytes::from(piece)).await.unwrap();
    }
    let hash = BlobHash::of(b"one two three");
    assert_eq!(blobs.size(&hash).await, Ok(None), "not before it is whole");
    assert_eq!(writer.finish().await, Ok((hash.clone(), 13)));
    assert_eq!(
        blobs.read(&hash, 4, 3).await,
        Ok(Bytes::from_static(b"two"))
    );

    let mut abandoned = blobs.begin().await.unwrap();
    abandoned
        .write(Bytes::from_static(b"abandoned"))
        .await
        .unwrap();
    drop(abandoned);
    let hash = BlobHash::of(b"abandoned");
    assert_eq!(blobs.size(&hash).await, Ok(None));
}

async fn removal(blobs: &dyn BlobPort) {
    let hash = blobs.put(Bytes::from_static(b"unnamed")).await.unwrap();
    let found = async || {
        let listed = blobs.list().await.unwrap();
        listed.into_iter().find(|blob| blob.hash == hash)
    };
    let put_at_ms = found().await.unwrap().put_at_ms;
    assert_eq!(found().await.unwrap().size_bytes, 7);
    assert_eq!(blobs.remove(&hash, put_at_ms).await, Ok(false), "too young");
    assert_eq!(blobs.size(&hash).await, Ok(Some(7)));
    assert_eq!(blobs.remove(&hash, put_at_ms + 1).await, Ok(true));
    assert_eq!(blobs.size(&hash).await, Ok(None));
    assert_eq!(found().await, None);
    assert_eq!(blobs.remove(&hash, i64::MAX).await, Ok(true), "absent");
    assert_eq!(blobs.put(Bytes::from_static(b"unnamed")).await, Ok(hash));
}

async fn parallel(blobs: Arc<dyn BlobPort>) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let blobs = blobs.clone();
        writers.spawn(async move { blobs.put(Bytes::from_static(b"the same")).await });
    }
    while let Some(done) = writers.join_next().await {
        assert_eq!(done.unwrap(), Ok(BlobHash::of(b"the same")));
    }
}
