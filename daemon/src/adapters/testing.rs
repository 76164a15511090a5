//! What the tests of several adapters share.

use std::path::Path;

use nix::mount::{MsFlags, mount, umount};

/// A small file system that is unmounted when dropped, also by a panic.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts one of this size; says aloud when that cannot be done here.
    pub(crate) fn mount(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let kind = Some("tmpfs");
        match mount(
            kind,
            dir.path(),
            kind,
            MsFlags::empty(),
            Some(size.as_str()),
        ) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("SKIPPED: a small file system cannot be mounted here: {error}");
                None
            }
        }
    }

    /// Makes it larger.
    pub(crate) fn resize(&self, bytes: usize) {
        let size = format!("size={bytes}");
        let kind = Some("tmpfs");
        mount(
            kind,
            self.path(),
            kind,
            MsFlags::MS_REMOUNT,
            Some(size.as_str()),
        )
        .unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a store that a panic left open.
        if umount(self.0.path()).is_err() {
            let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
