//! Commands as durable objects, over the whole path: client, daemon, link,
//! agent, engine.

mod kills;
mod shell;
mod spool;
mod streams;
mod verbs;
