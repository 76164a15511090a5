//! A disk that a test fills up and frees again.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::skip::is_root;

/// A small file system of its own, in memory. Dropped, it is gone.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    /// One of this size: `96m`.
    ///
    /// # Errors
    /// Says what this machine lacks.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    pub fn new(size: &str) -> Result<Self, String> {
        if !is_root() {
            return Err("only root can mount a small disk to fill".to_owned());
        }
        let directory = tempfile::tempdir().expect("there is room for a temporary directory");
        let mount = directory.path().join("disk");
        std::fs::create_dir(&mount).expect("the temporary directory can be written");
        let options = format!("size={size},mode=0711");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&mount)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if !mounted.status.success() {
            let said = String::from_utf8_lossy(&mounted.stderr);
            return Err(format!("this machine mounts no tmpfs: {}", said.trim()));
        }
        Ok(Self {
            mount,
            _directory: directory,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes all the room there is, down to the last byte.
    ///
    /// # Panics
    /// When the file for that cannot be made.
    pub fn fill(&self) {
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a file can be made on the small disk");
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0x55; size];
            while file.write_all(&piece).is_ok() {}
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Panics
    /// When it is not full.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the disk was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.mount)
            .status();
    }
}
