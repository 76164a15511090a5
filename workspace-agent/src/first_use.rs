//! What the init of a fresh container sets right before anything runs: the
//! owner of new volumes, temporary directories that everybody may use, and the
//! directory of the link, which nobody may list.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use compyd_proto::link;

use crate::accounts::Account;

const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Prepares the container for `user`. Failures are said and survived: a
/// workspace with a wrong owner is still of more use than none.
pub(crate) fn prepare(user: &Account, work_dir: &Path) {
    for directory in [work_dir, &user.home] {
        if directory != Path::new("/") {
            report(directory, give_if_new(directory, user));
        }
    }
    for directory in TEMPORARY.map(Path::new) {
        report(directory, open_to_all(directory));
    }
    if let Some(directory) = Path::new(link::LINK_DIR).parent() {
        report(directory, close_to_listing(directory));
    }
}

fn report(directory: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!(
            "compy-agent: could not prepare {}: {error}",
            directory.display()
        );
    }
}

/// Gives a directory that root owns and that holds nothing to the user.
fn give_if_new(directory: &Path, user: &Account) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let is_new = std::fs::symlink_metadata(directory)?.uid() == 0
        && std::fs::read_dir(directory)?
            .flatten()
            .all(|entry| entry.file_name() == "lost+found");
    if is_new && user.uid != 0 {
        std::os::unix::fs::lchown(directory, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn open_to_all(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let meta = std::fs::symlink_metadata(directory)?;
    if meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o7777 != 0o1777 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// Lets everybody through a directory and nobody else than root list it. It is
/// mounted that way, but a runtime gives a mount the mode of the directory it
/// finds in its place, and images of snapshots have one.
fn close_to_listing(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, Permissions::from_mode(0o711))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_given_and_a_used_one_is_not() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let user = Account {
            name: "dev".into(),
            uid: 1000,
            gid: 1001,
            home: "/".into(),
            shell: "/bin/sh".into(),
            groups: vec![],
        };
        let new = dir.path().join("new");
        give_if_new(&new, &user).unwrap();
        let meta = std::fs::metadata(&new).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1000, 1001));

        let used = dir.path().join("used");
        std::fs::create_dir(&used).unwrap();
        std::fs::write(used.join("file"), "").unwrap();
        give_if_new(&used, &user).unwrap();
        assert_eq!(std::fs::metadata(&used).unwrap().uid(), 0);

        open_to_all(&used).unwrap();
        assert_eq!(std::fs::metadata(&used).unwrap().mode() & 0o7777, 0o1777);
    }
}
