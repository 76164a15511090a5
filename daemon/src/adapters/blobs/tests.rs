//! The blobs against their contract, a crash and a full disk.

use super::*;
use crate::{adapters::testing::SmallDisk, ports::contract};

#[tokio::test]
async fn the_blobs_keep_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(dir.path(), 0).unwrap();
    contract::blobs::check(Arc::new(blobs)).await;
    assert_eq!(unfinished(dir.path()), 0, "nothing is left behind");
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(dir.path(), 0).unwrap();
    let whole = blobs.put(Bytes::from_static(b"whole")).await.unwrap();
    fs::write(dir.path().join("tmp/left"), b"half").unwrap();
    let blobs = FileBlobs::open(dir.path(), 0).unwrap();
    assert_eq!(unfinished(dir.path()), 0);
    assert_eq!(blobs.size(&whole).await, Ok(Some(5)));
}

#[tokio::test]
async fn below_the_low_water_mark_no_blob_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(dir.path(), u64::MAX).unwrap();
    let refused = blobs.put(Bytes::from_static(b"x")).await;
    assert!(matches!(refused, Err(BlobError::DiskFull(_))));
}

#[tokio::test]
async fn a_full_disk_fails_a_blob_and_works_again_once_there_is_space() {
    let Some(disk) = SmallDisk::mount(4 << 20) else {
        return;
    };
    let root = disk.path().join("blobs");
    let blobs = FileBlobs::open(&root, 0).unwrap();
    let kept = blobs.put(Bytes::from_static(b"kept")).await.unwrap();
    let large = Bytes::from(vec![1; 6 << 20]);
    let refused = blobs.put(large.clone()).await;
    assert!(matches!(refused, Err(BlobError::DiskFull(_))));
    let mut writer = blobs.begin().await.unwrap();
    let refused = writer.write(large).await;
    assert!(matches!(refused, Err(BlobError::DiskFull(_))));
    assert!(writer.finish().await.is_err(), "a cut blob gets no name");
    assert_eq!(unfinished(&root), 0, "a failed blob gives its space back");
    let small = Bytes::from(vec![2; 1 << 20]);
    let hash = blobs.put(small.clone()).await.unwrap();
    assert_eq!(blobs.read(&hash, 0, usize::MAX).await, Ok(small));
    assert_eq!(blobs.size(&kept).await, Ok(Some(4)));
}
