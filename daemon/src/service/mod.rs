//! Use cases: what the daemon does when asked, and what it keeps true.

pub mod access;
pub mod artifacts;
pub mod audit;
pub mod checks;
pub mod ci;
pub mod commands;
pub mod credentials;
pub mod doctor;
pub mod egress;
pub mod events;
pub mod garbage;
pub mod git;
pub mod idle;
pub mod ledger;
pub mod observation;
pub mod policies;
pub mod proof;
pub mod redaction;
pub mod sessions;
pub mod snapshots;
pub mod stats;
pub mod step;
pub mod syntax;
#[cfg(test)]
pub(crate) mod testing;
pub mod workspaces;
