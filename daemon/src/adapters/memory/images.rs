//! Images of an engine in memory: a config that names layers, and layers.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::MemoryRuntime;
use crate::{
    domain::{
        ids::SnapshotId,
        snapshot::{hash::ChunkHash, journal::ImageRef},
    },
    ports::{
        image_archive::{ImageArchivePort, ImageLoadError, ImageLoading, ImagePart},
        runtime::RuntimeError,
        snapshot_runtime::{CommittedImage, SnapshotRuntimePort as _},
    },
};

/// The images of an engine in memory: each has the same two layers.
#[derive(Debug, Clone)]
pub struct MemoryImages {
    runtime: Arc<MemoryRuntime>,
    disk_full: Arc<Mutex<bool>>,
}

/// The layers of every image.
const LAYERS: [&[u8]; 2] = [b"the lower layer", b"the upper layer"];

impl MemoryImages {
    /// The images that this engine has committed.
    #[must_use]
    pub fn new(runtime: Arc<MemoryRuntime>) -> Self {
        Self {
            runtime,
            disk_full: Arc::default(),
        }
    }

    /// The content id of every image.
    #[must_use]
    pub fn id() -> String {
        id_of(&config())
    }

    /// From now on no layer has room.
    pub fn fill_disk(&self) {
        *self
            .disk_full
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
    }
}

fn config() -> Bytes {
    let names: Vec<String> = LAYERS
        .iter()
        .map(|l| ChunkHash::of(l).to_string())
        .collect();
    names.join(" ").into()
}

fn id_of(config: &[u8]) -> String {
    format!("memory:{}", ChunkHash::of(config))
}

#[async_trait]
impl ImageArchivePort for MemoryImages {
    fn save(&self, image: &ImageRef) -> BoxStream<'static, Result<ImagePart, RuntimeError>> {
        let (runtime, image) = (self.runtime.clone(), image.clone());
        let parts = async move {
            match runtime.committed().await {
                Ok(known) if known.contains(&image) => {}
                Ok(_) => return vec![Err(RuntimeError::ImageMissing(image.0))],
                Err(error) => return vec![Err(error)],
            }
            let layers = LAYERS.iter().flat_map(|layer| {
                let bytes = layer.len() as u64;
                let data = ImagePart::Data(Bytes::from_static(layer));
                [ImagePart::Layer { bytes }, data]
            });
            let parts = layers.chain([ImagePart::Config(config())]);
            parts.map(Ok).collect()
        };
        stream::once(parts).flat_map(stream::iter).boxed()
    }

    async fn load(&self) -> Result<Box<dyn ImageLoading>, ImageLoadError> {
        Ok(Box::new(MemoryLoading {
            images: self.clone(),
            layers: Vec::new(),
        }))
    }
}

struct MemoryLoading {
    images: MemoryImages,
    /// What each has, and how much is still to come.
    layers: Vec<(BytesMut, u64)>,
}

fn wrong(why: &str) -> ImageLoadError {
    ImageLoadError::Wrong(why.to_owned())
}

#[async_trait]
impl ImageLoading for MemoryLoading {
    async fn layer(&mut self, bytes: u64) -> Result<(), ImageLoadError> {
        let full = *(self.images.disk_full.lock()).unwrap_or_else(PoisonError::into_inner);
        if full || bytes > 1 << 30 {
            return Err(ImageLoadError::DiskFull("memory".to_owned()));
        }
        self.layers.push((BytesMut::new(), bytes));
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), ImageLoadError> {
        let (layer, left) = self.layers.last_mut().ok_or_else(|| wrong("no layer"))?;
        *left = (left.checked_sub(data.len() as u64)).ok_or_else(|| wrong("a long layer"))?;
        layer.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(
        self: Box<Self>,
        config: Bytes,
        id: &str,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, ImageLoadError> {
        if id_of(&config) != id {
            return Err(wrong("another config"));
        }
        let named = String::from_utf8_lossy(&config).into_owned();
        let mut named: Vec<&str> = named.split(' ').collect();
        for (layer, left) in &self.layers {
            let hash = ChunkHash::of(layer).to_string();
            match named.iter().position(|name| *name == hash) {
                Some(place) if *left == 0 => drop(named.remove(place)),
                Some(_) | None => return Err(wrong("a layer that is none of it")),
            }
        }
        if !named.is_empty() {
            return Err(wrong("a layer is not there"));
        }
        self.images.runtime.committed().await?;
        self.images.runtime.add_committed(snapshot);
        Ok(CommittedImage {
            id: id.to_owned(),
            size_bytes: 2,
            new_bytes: 1,
        })
    }
}
