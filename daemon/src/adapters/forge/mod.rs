//! Forges.

pub mod local;
#[cfg(feature = "test-util")]
pub mod lossy;
