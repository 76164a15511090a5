//! The real binary against a daemon's end of the link.

// Helpers unwrap like the tests they serve.
#![allow(clippy::unwrap_used)]

mod exec;
mod files;
mod harness;
mod link;
mod random_tree;
mod spool;
mod tree;
mod tunnel;
mod volume;
mod volume_tree;
mod volume_tree_random;
