//! Images of root file systems, out of an engine and into one.
//!
//! An image is its config, a document that names the layers by the sha256 of
//! their archives, and the layers. Its id is the sha256 of the config: whoever
//! knows the id can tell whether the rest is what it was.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{runtime::RuntimeError, snapshot_runtime::CommittedImage};
use crate::domain::{ids::SnapshotId, snapshot::journal::ImageRef};

/// Longest config of an image, in bytes.
pub const CONFIG_BYTES_MAX: usize = 4 << 20;

/// An engine's images as streams.
#[async_trait]
pub trait ImageArchivePort: Send + Sync {
    /// The parts of an image, in any order of its layers and its config.
    fn save(&self, image: &ImageRef) -> BoxStream<'static, Result<ImagePart, RuntimeError>>;

    /// Begins to take in an image. Fails with [`ImageLoadError::DiskFull`].
    async fn load(&self) -> Result<Box<dyn ImageLoading>, ImageLoadError>;
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImagePart {
    /// The config.
    Config(Bytes),
    /// A layer begins.
    Layer {
        /// Bytes of its archive.
        bytes: u64,
    },
    /// The next bytes of the last layer.
    Data(Bytes),
}

/// An image being taken in. Dropped without `finish`, nothing of it is left.
#[async_trait]
pub trait ImageLoading: Send {
    /// Begins a layer of so many bytes. Fails with [`ImageLoadError::DiskFull`]
    /// before any of them is taken when they have no room.
    async fn layer(&mut self, bytes: u64) -> Result<(), ImageLoadError>;

    /// Adds the next bytes of the last layer.
    async fn data(&mut self, data: Bytes) -> Result<(), ImageLoadError>;

    /// Verifies that the parts are the image `id`, and makes it known to the
    /// engine as the image of a snapshot of this daemon, tagged
    /// [`ImageRef::of`] the snapshot. Its id is another where its labels named
    /// another daemon or snapshot. Cut off, the engine may still come to have
    /// it.
    async fn finish(
        self: Box<Self>,
        config: Bytes,
        id: &str,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, ImageLoadError>;
}

/// Why an image was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageLoadError {
    /// The parts are not the image that they should be.
    #[error("its image is not whole: {0}")]
    Wrong(String),
    /// The disk is full.
    #[error("the disk with {0} has no room for the image; free some space")]
    DiskFull(String),
    /// A layer cannot be kept for the engine.
    #[error("cannot keep a layer of the image in {directory}: {message}")]
    Io {
        /// Where.
        directory: String,
        /// The cause.
        message: String,
    },
    /// The engine.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
