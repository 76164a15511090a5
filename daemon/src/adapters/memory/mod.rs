//! The ports in memory, for tests: fakes that pass the same contract suites as
//! the real adapters, and that can be told to fail like a full disk.

mod audit;
mod blobs;
mod chunks;
mod clock;
mod images;
mod links;
mod runtime;
mod store;

pub use self::{
    audit::MemoryAudit, blobs::MemoryBlobs, chunks::MemoryChunks, clock::ManualClock,
    images::MemoryImages, links::MemoryLinks, runtime::MemoryRuntime, store::MemoryStore,
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{ids::SnapshotId, snapshot::journal::ImageRef},
        ports::{contract, store::StorePort as _},
    };

    #[tokio::test]
    async fn the_store_keeps_the_contract() {
        contract::store::check(Arc::new(MemoryStore::new())).await;
    }

    #[tokio::test]
    async fn the_blobs_keep_the_contract() {
        contract::blobs::check(Arc::new(MemoryBlobs::new())).await;
    }

    #[tokio::test]
    async fn the_chunks_keep_the_contract() {
        contract::chunks::check(Arc::new(MemoryChunks::new())).await;
    }

    #[tokio::test]
    async fn the_runtime_keeps_the_contract() {
        let runtime = Arc::new(MemoryRuntime::with_image("image"));
        let plan = || {
            let link_dir = std::path::Path::new("/nonexistent");
            contract::runtime::plan("image", link_dir)
        };
        contract::runtime::check(runtime, plan(), plan()).await;
    }

    #[tokio::test]
    async fn what_snapshots_need_of_the_runtime_keeps_the_contract() {
        let runtime = MemoryRuntime::with_image("image");
        let plan = contract::runtime::plan("image", std::path::Path::new("/nonexistent"));
        contract::snapshot_runtime::check(&runtime, &plan).await;
    }

    #[tokio::test]
    async fn the_images_keep_the_contract() {
        let runtime = Arc::new(MemoryRuntime::default());
        let snapshot = SnapshotId::from_uuid(uuid::Uuid::now_v7());
        runtime.add_committed(&snapshot);
        let (images, image) = (MemoryImages::new(runtime.clone()), ImageRef::of(&snapshot));
        contract::image_archive::check(&images, &*runtime, &image, &MemoryImages::id()).await;
    }

    #[tokio::test]
    async fn a_full_disk_refuses_writes_until_it_is_freed() {
        let store = MemoryStore::new();
        let workspace = contract::store::workspace(1, "a");
        store.fill_disk();
        assert!(store.add_workspace(&workspace).await.is_err());
        store.free_disk();
        store.add_workspace(&workspace).await.unwrap();
    }
}
