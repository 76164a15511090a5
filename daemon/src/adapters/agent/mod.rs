//! The daemon as the client of the agents in its workspaces.
//!
//! [`LinkHub`] owns the listeners and admits diallers; an [`AgentLink`] is one
//! admitted connection, spoken to as [`AgentPort`](crate::ports::agent). How
//! the bytes of a link come to be is the hub's alone: a second way to dial (the
//! stdio of one long exec) yields the same byte stream and the same link.
//!
//! Everything an agent answers is untrusted: sizes are bounded, ids and offsets
//! checked, and an answer that breaks the contract fails its call and nothing
//! else.

mod admission;
mod convert;
mod exec_stream;
#[cfg(test)]
mod hostile_tests;
mod hub;
mod link;
mod refusal;
mod trees;
mod tunnel;

pub use hub::{LinkHub, LinkHubOptions};
pub use link::AgentLink;
