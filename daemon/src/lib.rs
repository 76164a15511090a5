//! The Compy daemon as a library: `main.rs` is a thin shell around [`app`], so
//! that tests can run the whole daemon in their own process.
//!
//! Data flows one way. `api` decodes a request and calls a `service`; the
//! service asks `domain` to decide and acts through a port; `adapters`
//! implement the ports and are known to `app` alone.
#![forbid(unsafe_code)]

pub mod adapters;
pub mod api;
pub mod app;
pub mod arguments;
pub mod config;
pub mod domain;
#[cfg(any(test, feature = "test-util"))]
pub mod fuzz;
pub mod metrics;
pub mod ports;
pub mod service;
