//! What the end-to-end tests stand on: the real daemon on temporary data, the
//! real client, repositories and scripts to work with.
//!
//! A test starts a [`Daemon`](daemon::Daemon) or, where the machine lacks what
//! it needs, says that it was skipped and returns. Whatever a test made is
//! removed when its daemon is dropped, also by a panic: containers and volumes
//! carry the label `compy.test=<run>`, and what a killed test left behind is
//! removed by the next one that starts.

pub mod bench;
pub mod compyctl;
pub mod daemon;
pub mod engine;
pub mod exec;
pub mod git_https;
pub mod lossy;
pub mod policy;
pub mod programs;
pub mod published;
pub mod recovery;
pub mod remote;
pub mod repository;
pub mod script;
pub mod second_engine;
pub mod sessions;
pub mod skip;
pub mod small_disk;
pub mod terminal;
pub mod wait;
pub mod world;

/// A fresh id for a mutating request.
#[must_use]
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
