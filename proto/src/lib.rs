//! The gRPC contracts of Compy, and the facts both ends of the link share.
//!
//! Everything in [`v1`] and [`agent`] is generated from the `.proto` files,
//! which carry the documentation.

pub mod endpoint;
pub mod link;
pub mod pipe;
pub mod tree;
pub mod trial;

/// `compy.v1`: what clients speak to the daemon.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("compy.v1");
}

/// `compy.agent.v1`: what the daemon speaks to the agent in a workspace.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod agent {
    tonic::include_proto!("compy.agent.v1");
}

/// The encoded descriptors of every proto, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/compy.descriptors.bin"));
