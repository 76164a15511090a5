//! What the daemon puts into the lower volume of an overlay, and the agent
//! looks for, when they try whether overlay volumes work.

/// Mode of the root, which no other directory has by chance.
pub const ROOT_MODE: u32 = 0o1751;
/// Owner and group of the root.
pub const ROOT_OWNER: u32 = 4711;
/// A file with two names.
pub const FILE: &str = "file";
/// Its other name.
pub const OTHER_NAME: &str = "directory/name";
/// A directory with something in it.
pub const DIRECTORY: &str = "directory";
/// What is in the file.
pub const CONTENT: &[u8] = b"lower\n";
