//! Commands as durable objects.
//!
//! ```text
//!  table ---- command ---- progress (watched by attach)
//!    |           |
//!    |        driver ---- supervisor (from the pool) ---- the command's tree
//!    |           |                                          |
//!    '- spool <- keeper <- output (one pump a stream) <--- pipes -----'
//! ```
//!
//! The [`table`] finds a command by id, its driver owns it while anything of
//! it lives, its pumps move output to the [`spool`], where a [`keeper`] holds
//! each stream within the [`quotas`], and readers take it from there. Nothing
//! here knows gRPC.

pub(crate) mod attach;
mod command;
mod driver;
mod extent;
mod forgotten;
mod holes;
mod keeper;
mod memory;
mod orphans;
mod output;
mod pipe;
pub(crate) mod pool;
mod progress;
pub(crate) mod protocol;
mod quotas;
mod records;
mod secrets;
pub(crate) mod spec;
pub(crate) mod spool;
mod start;
mod stdin;
pub(crate) mod table;
mod timer;
