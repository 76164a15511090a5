//! The ports made real. Only `app` names these types.

pub mod agent;
pub mod audit;
pub mod blobs;
pub mod certificates;
pub mod chunks;
pub mod clock;
pub mod disk_space;
pub mod docker;
pub mod events;
mod fill;
pub mod forge;
pub mod git_relay;
#[cfg(any(test, feature = "test-util"))]
pub mod local_agent;
pub mod master_key;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
pub mod model;
pub mod sled;
#[cfg(test)]
mod testing;
pub mod world;
