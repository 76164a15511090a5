//! Whether an overlay does what a volume does. The daemon has put the files of
//! [`compyd_proto::trial`] into its lower directory.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use compyd_proto::trial;

/// Says on standard error what does not work.
pub(crate) fn run(directory: &Path) -> ExitCode {
    match check(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn check(directory: &Path) -> Result<(), String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let root = fs::symlink_metadata(directory).map_err(failed("look at the root"))?;
    let found = (root.mode() & 0o7777, root.uid(), root.gid());
    if found != (trial::ROOT_MODE, trial::ROOT_OWNER, trial::ROOT_OWNER) {
        let (mode, uid, gid) = found;
        return Err(format!(
            "the root has mode {mode:o}, owner {uid} and group {gid}, not those it was given"
        ));
    }
    let inode = |name: &str| fs::symlink_metadata(directory.join(name)).map(|meta| meta.ino());
    let before = inode(trial::FILE).map_err(failed("look at a file"))?;
    OpenOptions::new()
        .append(true)
        .open(directory.join(trial::FILE))
        .and_then(|mut file| file.write_all(b"upper\n"))
        .map_err(failed("write to a file"))?;
    let other = directory.join(trial::OTHER_NAME);
    let content = fs::read(other).map_err(failed("read a file by its other name"))?;
    if content != [trial::CONTENT, b"upper\n"].concat() {
        return Err("a write breaks a hard link".to_owned());
    }
    if inode(trial::FILE).map_err(failed("look at a file again"))? != before {
        return Err("a write changes a file's number".to_owned());
    }
    let (from, to) = (directory.join(trial::DIRECTORY), directory.join("renamed"));
    fs::rename(from, &to).map_err(failed("rename a directory"))?;
    let moved = fs::read_dir(to).map_err(failed("list a renamed directory"))?;
    match moved.count() {
        1 => Ok(()),
        count => Err(format!("a renamed directory holds {count} names, not 1")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_does_not_work_is_named() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join(trial::DIRECTORY)).unwrap();
        fs::write(root.join(trial::FILE), trial::CONTENT).unwrap();
        assert!(check(root).unwrap_err().contains("the root has mode"));
        std::os::unix::fs::chown(root, Some(trial::ROOT_OWNER), Some(trial::ROOT_OWNER)).unwrap();
        fs::set_permissions(root, PermissionsExt::from_mode(trial::ROOT_MODE)).unwrap();
        fs::write(root.join(trial::OTHER_NAME), trial::CONTENT).unwrap();
        assert_eq!(check(root).unwrap_err(), "a write breaks a hard link");
        fs::remove_file(root.join(trial::OTHER_NAME)).unwrap();
        fs::write(root.join(trial::FILE), trial::CONTENT).unwrap();
        fs::hard_link(root.join(trial::FILE), root.join(trial::OTHER_NAME)).unwrap();
        assert_eq!(check(root), Ok(()));
    }
}
