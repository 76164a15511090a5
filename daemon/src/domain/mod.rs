//! Ids, states, events, transitions and policies.
//!
//! Pure: nothing here knows tokio, tonic, bollard, sled, a clock or a network.

pub mod access;
pub mod artifact;
pub mod audit;
pub mod backoff;
pub mod budget;
pub mod changes;
pub mod checks;
pub mod cognition;
pub mod compaction;
pub mod context;
pub mod conversation;
pub mod credential;
pub mod criteria;
pub mod disk;
pub mod edits;
pub mod egress;
pub mod exec;
pub mod files;
pub mod forge;
pub mod idle;
pub mod ids;
pub mod judges;
pub mod model_name;
pub mod orphans;
pub mod policy;
pub mod prompts;
pub mod proof;
pub mod recovery;
pub mod redaction;
pub mod report;
pub mod secret;
pub mod session;
pub mod setup;
pub mod setup_file;
pub mod snapshot;
pub mod ssh;
pub mod stage;
pub mod todo;
pub mod tools;
pub mod upkeep;
pub mod workflow;
pub mod workspace;
pub mod workspace_event;
