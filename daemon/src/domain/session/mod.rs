//! Sessions: a task given to a model, as an append-only log of events.
//!
//! ```text
//!            log ──apply──> SessionState ──decide──> Next
//!             ^                  │                    │
//!             │                  └──respond── Request │ Record: append as it is
//!             └───────── events <──outcome── Outcome <┘ Perform: act, then append
//! ```
//!
//! Everything here is pure: [`state`] folds the log, [`decide`] says what comes
//! next, [`outcome`] turns what an effect brought into events, [`request`]
//! answers people, and [`gate`] is what every tool call passes. The driver in `service::sessions` only appends and acts, so
//! that a session can be replayed, resumed after any event, and tested without
//! any part of the world.

pub mod audited;
pub mod briefing;
pub mod calls;
pub mod checkpoint;
pub mod decide;
pub mod event;
pub mod gate;
pub mod options;
pub mod outcome;
pub mod pull_request;
pub mod request;
pub mod spending;
pub mod state;
pub mod work;

#[cfg(test)]
mod tests;
