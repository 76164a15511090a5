//! Tests that cannot run here say so; they never pass quietly.

/// Says aloud that the test that calls it was skipped, and why.
pub fn skip(why: impl std::fmt::Display) {
    eprintln!("SKIPPED: {why}");
}

/// Whether the account is root: mounts and second engines need it.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
