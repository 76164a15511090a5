//! Snapshots as files: out of one daemon and into another.
//!
//! ```text
//! export   pin chunks -> manifest, chunks, image -> tar -> zstd -> client
//! import   client -> zstd -> tar -> every part verified -> journal: begun
//!          -> image to the engine -> chunks durable -> manifest
//! ```
//!
//! An archive is input: anybody may have made it. Nothing is journaled or known
//! to the engine before all of it was read and found to be what its manifest
//! says, and the manifest is stored last.

mod export;
mod format;
mod import;
mod read;
mod untrusted;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

pub use self::{format::ArchiveError, import::Imported};
use super::Snapshots;
use crate::ports::image_archive::ImageArchivePort;

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Archives {
    snapshots: Snapshots,
    images: Arc<dyn ImageArchivePort>,
    tasks: TaskTracker,
    /// Held from the choice of an imported snapshot's id until its manifest is
    /// stored.
    importing: Arc<Mutex<()>>,
}

impl Archives {
    /// Exports and imports snapshots; exports run on `tasks`.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        images: Arc<dyn ImageArchivePort>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            snapshots,
            images,
            tasks,
            importing: Arc::default(),
        }
    }
}
