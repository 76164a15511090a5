//! The daemon dies at any moment, and so does what is under a session: it goes
//! on where it was, ends as it would have ended, and does nothing twice.

mod boundaries;
mod long_session;
mod trouble;
