//! Ids, states, events, transitions and policies.
//!
//! Pure: nothing here knows tokio, tonic, bollard, sled, a clock or a network.

pub mod artifact;
pub mod changes;
pub mod checks;
pub mod context;
pub mod conversation;
pub mod criteria;
pub mod disk;
pub mod egress;
pub mod exec;
pub mod files;
pub mod forge;
pub mod idle;
pub mod ids;
pub mod judges;
pub mod model_name;
pub mod prompts;
pub mod proof;
pub mod report;
pub mod secret;
pub mod session;
pub mod setup;
pub mod setup_file;
pub mod snapshot;
pub mod stage;
pub mod todo;
pub mod tools;
pub mod upkeep;
pub mod workflow;
pub mod workspace;
pub mod workspace_event;
