//! Verbs about the daemon itself.

pub(crate) mod doctor;
pub(crate) mod version;
