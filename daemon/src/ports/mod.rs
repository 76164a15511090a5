//! What the daemon needs from the world, in its own words, each port with its
//! own error.

pub mod agent;
pub mod audit;
pub mod blobs;
pub mod chunks;
pub mod clock;
pub mod command_secrets;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
pub mod forge;
pub mod git_relay;
pub mod host_credentials;
pub mod image_archive;
pub mod inventory;
pub mod links;
pub mod master_key;
pub mod model;
pub mod runtime;
pub mod snapshot_runtime;
pub mod store;
pub mod trees;
pub mod tunnel;
pub mod workspaces;
pub mod world;
