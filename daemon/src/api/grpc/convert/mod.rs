//! Wire types to the domain's and back, by hand: a change of a proto cannot
//! reshape the domain.

pub mod activity;
pub mod cognition;
pub mod diff;
pub mod session;
pub mod snapshot;
pub mod workspace;
