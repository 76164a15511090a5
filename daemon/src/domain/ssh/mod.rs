//! SSH as far as keys are used for a workspace: the keys, and what an agent
//! answers with them. Bytes in, bytes out.

pub mod agent;
mod key;
mod rsa;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use self::key::{HostKey, HostKeyError, SshKey, SshKeyError, secrets_of};
