//! Verbs about the daemon itself.

pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod version;
