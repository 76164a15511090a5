//! What every [`ImageArchivePort`] must do.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use uuid::Uuid;

use crate::{
    domain::{ids::SnapshotId, snapshot::journal::ImageRef},
    ports::{
        image_archive::{ImageArchivePort, ImageLoadError, ImagePart},
        runtime::RuntimeError,
        snapshot_runtime::{CommittedImage, SnapshotRuntimePort},
    },
};

/// More than any disk has.
const TOO_MANY_BYTES: u64 = 1 << 60;

/// An image in memory.
#[derive(Debug, Clone)]
struct Parts {
    config: Bytes,
    layers: Vec<Bytes>,
}

/// Takes a small image that the runtime has committed, with this content id,
/// through the archive and back, whole and damaged.
///
/// # Panics
/// The archive breaks the contract.
pub async fn check(
    archive: &dyn ImageArchivePort,
    runtime: &dyn SnapshotRuntimePort,
    image: &ImageRef,
    id: &str,
) {
    let missing = ImageRef::of(&new_snapshot());
    let refused = archive.save(&missing).next().await;
    assert_eq!(refused, Some(Err(RuntimeError::ImageMissing(missing.0))));

    let whole = save(archive, image).await;
    damaged(archive, runtime, &whole, id).await;
    drop(archive.load().await.unwrap());

    let snapshot = new_snapshot();
    let tag = ImageRef::of(&snapshot);
    let loaded = load(archive, &whole, id, &snapshot).await.unwrap();
    assert!(loaded.size_bytes >= loaded.new_bytes);
    assert!(runtime.committed().await.unwrap().contains(&tag));
    // What comes out again is the same content.
    let again = save(archive, &tag).await;
    let sorted = |mut parts: Parts| {
        parts.layers.sort();
        parts.layers
    };
    assert_eq!(sorted(again), sorted(whole));
    runtime.remove_image(&tag).await.unwrap();
    let left = runtime.committed().await.unwrap();
    assert!(!left.contains(&tag) && left.contains(image), "{left:?}");
}

fn new_snapshot() -> SnapshotId {
    SnapshotId::from_uuid(Uuid::now_v7())
}

/// The parts of an image: a config, and layers as long as they say.
async fn save(archive: &dyn ImageArchivePort, image: &ImageRef) -> Parts {
    let mut config = None;
    let mut layers: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut parts = archive.save(image);
    while let Some(part) = parts.try_next().await.unwrap() {
        match part {
            ImagePart::Config(bytes) => {
                assert_eq!(config.replace(bytes), None, "two configs");
            }
            ImagePart::Layer { bytes } => layers.push((bytes, Vec::new())),
            ImagePart::Data(data) => {
                let (_, layer) = layers.last_mut().expect("data belongs to a layer");
                layer.extend_from_slice(&data);
            }
        }
    }
    assert!(!layers.is_empty(), "no layer");
    let whole = |(bytes, layer): (u64, Vec<u8>)| {
        assert_eq!(bytes, layer.len() as u64);
        Bytes::from(layer)
    };
    Parts {
        config: config.expect("an image has a config"),
        layers: layers.into_iter().map(whole).collect(),
    }
}

async fn load(
    archive: &dyn ImageArchivePort,
    parts: &Parts,
    id: &str,
    snapshot: &SnapshotId,
) -> Result<CommittedImage, ImageLoadError> {
    let mut loading = archive.load().await?;
    for layer in &parts.layers {
        loading.layer(layer.len() as u64).await?;
        for piece in layer.chunks(1 << 16) {
            loading.data(Bytes::copy_from_slice(piece)).await?;
        }
    }
    loading.finish(parts.config.clone(), id, snapshot).await
}

/// Nothing that is not the image is taken, and nothing of it is left.
async fn damaged(
    archive: &dyn ImageArchivePort,
    runtime: &dyn SnapshotRuntimePort,
    whole: &Parts,
    id: &str,
) {
    let change = |change: fn(&mut Parts)| {
        let mut parts = whole.clone();
        change(&mut parts);
        parts
    };
    let flipped = |bytes: &Bytes| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().expect("it is not empty") ^= 1;
        Bytes::from(bytes)
    };
    let mut other_layer = whole.clone();
    other_layer.layers[0] = flipped(&whole.layers[0]);
    let mut other_config = whole.clone();
    other_config.config = flipped(&whole.config);
    let broken = [
        ("a changed layer", other_layer),
        ("a changed config", other_config),
        ("a layer less", change(|parts| drop(parts.layers.pop()))),
        (
            "a layer cut short",
            change(|parts| {
                let layer = &mut parts.layers[0];
                layer.truncate(layer.len() - 1);
            }),
        ),
        (
            "a layer more",
            change(|parts| parts.layers.push(Bytes::from_static(b"more"))),
        ),
    ];
    for (what, parts) in broken {
        let snapshot = new_snapshot();
        let refused = load(archive, &parts, id, &snapshot).await;
        assert!(
            matches!(refused, Err(ImageLoadError::Wrong(_))),
            "{what}: {refused:?}"
        );
        let left = runtime.committed().await.unwrap();
        assert!(!left.contains(&ImageRef::of(&snapshot)), "{what}");
    }
    let mut loading = archive.load().await.unwrap();
    let refused = loading.data(Bytes::from_static(b"before a layer")).await;
    assert!(
        matches!(refused, Err(ImageLoadError::Wrong(_))),
        "{refused:?}"
    );
    let mut loading = archive.load().await.unwrap();
    loading.layer(1).await.unwrap();
    let refused = loading.data(Bytes::from_static(b"two")).await;
    assert!(
        matches!(refused, Err(ImageLoadError::Wrong(_))),
        "{refused:?}"
    );
    let mut loading = archive.load().await.unwrap();
    let refused = loading.layer(TOO_MANY_BYTES).await;
    assert!(
        matches!(refused, Err(ImageLoadError::DiskFull(_))),
        "{refused:?}"
    );
}
