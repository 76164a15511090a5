//! Acting on files as an account instead of as root.
//!
//! The file-system ids of a thread decide what it may open and who owns what it
//! makes. With them set, the file tools can reach exactly what the account can
//! reach, whatever link is swapped in at the wrong moment, and no new file
//! needs another owner afterwards.

use nix::libc;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::accounts::Account;

/// Runs `work` with the file-system ids of the account, on this thread only.
/// Without root this is a plain call.
pub(crate) fn as_account<T>(account: &Account, work: impl FnOnce() -> T) -> T {
    as_ids(account.uid, account.gid, &account.groups, work)
}

/// The same with bare numbers.
pub(crate) fn as_ids<T>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T) -> T {
    if uid == 0 || !Uid::effective().is_root() {
        return work();
    }
    let _restore = Assumed::take(uid, gid, groups);
    work()
}

/// The ids that come back on drop, also when the work panics.
struct Assumed {
    uid: Uid,
    gid: Gid,
    groups: Vec<libc::gid_t>,
}

impl Assumed {
    fn take(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let old_groups = nix::unistd::getgroups()
            .unwrap_or_default()
            .into_iter()
            .map(Gid::as_raw)
            .collect();
        set_thread_groups(groups);
        // The user last: without root's file-system id nothing else may be set.
        let gid = setfsgid(Gid::from_raw(gid));
        let uid = setfsuid(Uid::from_raw(uid));
        Self {
            uid,
            gid,
            groups: old_groups,
        }
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        set_thread_groups(&self.groups);
    }
}

/// The libc wrapper would change every thread; the system call changes this
/// one. It cannot fail for root with a list this short.
fn set_thread_groups(groups: &[libc::gid_t]) {
    // SAFETY: the kernel reads `len` numbers from the slice.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result < 0 {
        eprintln!(
            "compy-agent: could not set the groups of a file tool: {}",
            std::io::Error::last_os_error()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn files_are_made_and_refused_as_the_account_and_root_comes_back() {
        if !Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (made, refused) = as_ids(1234, 1235, &[1236], || {
            std::fs::write(open.join("made"), "x").unwrap();
            (
                open.join("made"),
                std::fs::write(dir.path().join("no"), "x"),
            )
        });
        let meta = std::fs::metadata(made).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 1235));
        assert_eq!(
            refused.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        std::fs::write(dir.path().join("root-again"), "x").unwrap();
        assert_eq!(
            std::fs::metadata(dir.path().join("root-again"))
                .unwrap()
                .uid(),
            0
        );
    }
}
