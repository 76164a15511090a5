//! The real daemon, agent, engine and client, driven as users drive them.
//!
//! One module per feature. Where the machine lacks what a test needs (an
//! engine, the image, the agent, root, a package registry) the test says
//! `SKIPPED` and why.

#![allow(clippy::unwrap_used)] // Every line of this crate is a test.

mod approvals;
mod archives;
mod arrows;
mod audit;
mod cheats;
mod cognition;
mod compaction;
mod compyd;
mod control;
mod credentials;
mod diff;
mod disk;
mod durability;
mod edge;
mod egress;
mod engine_trouble;
mod exec;
mod garbage;
mod host_credentials;
mod lifecycle;
mod limits;
mod lost_answers;
mod main_job;
mod metrics;
mod model_http;
mod model_trouble;
mod overlays;
mod proof;
mod prune;
mod published_library;
mod random_chain;
#[path = "../../workspace-agent/tests/agent/random_tree.rs"]
mod random_tree;
mod recovery;
mod remote;
mod repairs;
mod repositories;
mod requests;
mod rollback;
mod setup;
mod snapshot_credentials;
mod snapshots;
mod stuck;
mod tools;
mod workspaces;
