//! gRPC: one file per service of `compy.v1`, and what they share.

pub mod access;
pub mod activity;
pub mod approval;
pub mod artifact;
pub mod audit;
mod audited;
mod connections;
pub mod convert;
pub mod credential;
mod incoming;
mod measure;
mod methods;
pub mod policy;
pub mod requests;
pub mod server;
pub mod session;
pub mod setup;
mod shutdown;
pub mod snapshot;
pub mod status;
pub mod system;
pub mod time;
pub mod token;
pub mod workspace;
