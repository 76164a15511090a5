//! The edge: decode, call a service, encode. No decisions.

pub mod grpc;
pub mod metrics;
