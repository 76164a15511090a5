//! What every implementation of a port must do, as suites that the fake and
//! the real adapter both pass. They panic with what was broken.
#![allow(clippy::unwrap_used)]

pub mod blobs;
pub mod chunks;
pub mod image_archive;
pub mod runtime;
pub mod snapshot_runtime;
pub mod store;
