//! What makes one machine another: its machine-id and its ssh host keys.
//!
//! Containers that come from one image or one snapshot would share both. The
//! machine-id is made of the workspace's id, so it tells at each start whether
//! the files are still another machine's: those of the image, or those of the
//! workspace that this one was forked from. Its host keys go with it.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start waits for host keys. On a machine with little of a processor
/// they take longer, and come when they are made.
const KEYGEN_WAIT: Duration = Duration::from_secs(10);

/// Gives the file system below `root` an identity of its own. Failures are said
/// and survived.
pub(crate) fn prepare(workspace_id: &str, root: &Path) {
    let Some(machine_id) = machine_id(workspace_id) else {
        return;
    };
    let file = root.join("etc/machine-id");
    if !root.join("etc").is_dir() {
        return;
    }
    let has_it = std::fs::read_to_string(&file).is_ok_and(|found| found.trim() == machine_id);
    // The id last: cut off before, all of it is done again. Keys that cannot be
    // made are missing, and no reason to go by another machine's id.
    let keys = match has_it {
        true => finish_host_keys(root),
        false => renew_host_keys(root),
    };
    if let Err(error) = keys {
        eprintln!("compy-agent: could not give the machine host keys of its own: {error}");
    }
    if has_it {
        return;
    }
    if let Err(error) = write_id(&file, machine_id) {
        eprintln!("compy-agent: could not give the machine an id of its own: {error}");
    }
}

/// The 32 hex digits of a workspace's id.
fn machine_id(workspace_id: &str) -> Option<&str> {
    let digits = workspace_id.strip_prefix("ws-")?;
    let sound = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    sound.then_some(digits)
}

fn write_id(file: &Path, machine_id: &str) -> io::Result<()> {
    let unready = file.with_file_name(".machine-id.compy");
    std::fs::write(&unready, format!("{machine_id}\n"))?;
    std::fs::set_permissions(&unready, Permissions::from_mode(0o444))?;
    std::fs::rename(&unready, file)
}

/// There while host keys are being made: a machine that has its id already may
/// have been killed before it had all of them.
fn unfinished(root: &Path) -> PathBuf {
    root.join("etc/ssh/.host-keys.compy")
}

/// Removes ssh host keys, and makes new ones where there were some.
fn renew_host_keys(root: &Path) -> io::Result<()> {
    let Ok(entries) = std::fs::read_dir(root.join("etc/ssh")) else {
        return Ok(());
    };
    let entries = entries.collect::<io::Result<Vec<_>>>()?;
    let old = entries
        .iter()
        .filter(|entry| is_host_key(&entry.file_name()));
    let old: Vec<PathBuf> = old.map(std::fs::DirEntry::path).collect();
    if old.is_empty() {
        return finish_host_keys(root);
    }
    std::fs::write(unfinished(root), "")?;
    for key in old {
        std::fs::remove_file(key)?;
    }
    finish_host_keys(root)
}

/// Makes the host keys that were begun and are missing.
fn finish_host_keys(root: &Path) -> io::Result<()> {
    let unfinished = unfinished(root);
    if !unfinished.exists() {
        return Ok(());
    }
    let keygen = root.join("usr/bin/ssh-keygen");
    if !keygen.is_file() {
        return std::fs::remove_file(unfinished);
    }
    let mut child = Command::new(keygen)
        .args([OsStr::new("-A"), OsStr::new("-f"), root.as_os_str()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > KEYGEN_WAIT {
            std::thread::spawn(move || child.wait().and_then(|_| std::fs::remove_file(unfinished)));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(unfinished)
}

fn is_host_key(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let name = name.strip_suffix(b".pub").unwrap_or(name);
    name.starts_with(b"ssh_host_") && name.ends_with(b"_key")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "ws-0123456789abcdef0123456789abcdef";

    #[test]
    fn another_machines_identity_is_replaced_once() {
        let root = tempfile::tempdir().unwrap();
        let ssh = root.path().join("etc/ssh");
        std::fs::create_dir_all(&ssh).unwrap();
        std::fs::write(root.path().join("etc/machine-id"), "another\n").unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config"] {
            std::fs::write(ssh.join(name), "old").unwrap();
        }
        prepare(ID, root.path());
        let read = |name: &str| std::fs::read_to_string(root.path().join("etc").join(name)).ok();
        assert_eq!(
            read("machine-id").as_deref(),
            Some("0123456789abcdef0123456789abcdef\n")
        );
        assert_eq!(read("ssh/ssh_host_rsa_key"), None);
        assert_eq!(read("ssh/ssh_host_rsa_key.pub"), None);
        assert_eq!(read("ssh/sshd_config").as_deref(), Some("old"));

        std::fs::write(ssh.join("ssh_host_rsa_key"), "its own").unwrap();
        prepare(ID, root.path());
        assert_eq!(read("ssh/ssh_host_rsa_key").as_deref(), Some("its own"));
    }

    #[test]
    fn an_id_does_not_wait_for_keys_that_cannot_be_made() {
        let root = tempfile::tempdir().unwrap();
        let (ssh, programs) = (root.path().join("etc/ssh"), root.path().join("usr/bin"));
        std::fs::create_dir_all(&ssh).unwrap();
        std::fs::create_dir_all(&programs).unwrap();
        std::fs::write(root.path().join("etc/machine-id"), "another\n").unwrap();
        std::fs::write(ssh.join("ssh_host_rsa_key"), "another's").unwrap();
        std::fs::write(programs.join("ssh-keygen"), "no program").unwrap();
        prepare(ID, root.path());
        let id = std::fs::read_to_string(root.path().join("etc/machine-id")).unwrap();
        assert_eq!(id, "0123456789abcdef0123456789abcdef\n");
        assert!(!ssh.join("ssh_host_rsa_key").exists());
    }

    #[test]
    fn keys_that_a_kill_kept_from_being_made_are_made_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let (ssh, programs) = (root.path().join("etc/ssh"), root.path().join("usr/bin"));
        std::fs::create_dir_all(&ssh).unwrap();
        std::fs::create_dir_all(&programs).unwrap();
        let keygen = programs.join("ssh-keygen");
        let script = "#!/bin/sh\n: > \"$3/etc/ssh/ssh_host_ed25519_key\"\n";
        std::fs::write(&keygen, script).unwrap();
        std::fs::set_permissions(&keygen, Permissions::from_mode(0o755)).unwrap();
        prepare(ID, root.path());
        let key = ssh.join("ssh_host_ed25519_key");
        assert!(!key.exists(), "there were none");

        std::fs::write(unfinished(root.path()), "").unwrap();
        prepare(ID, root.path());
        assert!(key.exists());
        assert!(!unfinished(root.path()).exists());
    }

    #[test]
    fn without_a_workspaces_id_or_without_etc_nothing_is_done() {
        let root = tempfile::tempdir().unwrap();
        prepare(ID, root.path());
        assert!(!root.path().join("etc").exists());
        std::fs::create_dir(root.path().join("etc")).unwrap();
        for id in ["", "ws-1", "ws-0123456789abcdef0123456789abcdeg"] {
            prepare(id, root.path());
            assert!(!root.path().join("etc/machine-id").exists(), "{id}");
        }
    }
}
