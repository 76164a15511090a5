//! Accounts of the container, read from `/etc/passwd` and `/etc/group`.
//!
//! The files are parsed here and never through libc: a static glibc would load
//! name services, and those may reach for the network.

use std::path::{Path, PathBuf};

/// An account that commands and file tools can act as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name, or the number in decimal when there is no entry.
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Absolute.
    pub(crate) home: PathBuf,
    pub(crate) shell: String,
    /// Supplementary groups, the primary one included.
    pub(crate) groups: Vec<u32>,
}

/// The account does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccountError {
    #[error(
        "there is no user {0:?} in the container's passwd file; name one that exists or give a number"
    )]
    UserUnknown(String),
    #[error(
        "there is no group {0:?} in the container's group file; name one that exists or give a number"
    )]
    GroupUnknown(String),
}

/// The two files. They are read at each look-up, because commands change them.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
}

impl Default for Accounts {
    fn default() -> Self {
        Self::below(Path::new("/etc"))
    }
}

impl Accounts {
    fn below(etc: &Path) -> Self {
        Self {
            passwd: etc.join("passwd"),
            group: etc.join("group"),
        }
    }

    /// Finds `USER` or `USER:GROUP`, each a name or a number. A number without
    /// an entry is an account too, as for the engine: group 0, home `/`.
    pub(crate) fn find(&self, who: &str) -> Result<Account, AccountError> {
        let passwd = read_lossy(&self.passwd);
        let group = read_lossy(&self.group);
        let (user, wanted_group) = match who.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (who, None),
        };
        let mut account =
            find_user(&passwd, user).ok_or_else(|| AccountError::UserUnknown(user.to_owned()))?;
        if let Some(wanted) = wanted_group {
            account.gid = find_group(&group, wanted)
                .ok_or_else(|| AccountError::GroupUnknown(wanted.to_owned()))?;
            account.groups = vec![account.gid];
        } else {
            account.groups = groups_of(&group, &account.name, account.gid);
        }
        Ok(account)
    }
}

fn read_lossy(path: &Path) -> String {
    // A missing file is an image without accounts, which is fine.
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn find_user(passwd: &str, wanted: &str) -> Option<Account> {
    let number: Option<u32> = wanted.parse().ok();
    let entries: Vec<Account> = passwd.lines().filter_map(parse_user).collect();
    entries
        .iter()
        .find(|account| account.name == wanted)
        .or_else(|| entries.iter().find(|account| Some(account.uid) == number))
        .cloned()
        .or_else(|| match (wanted, number) {
            ("root", _) | (_, Some(0)) => Some(Account {
                name: "root".into(),
                uid: 0,
                gid: 0,
                home: "/root".into(),
                shell: "/bin/sh".into(),
                groups: Vec::new(),
            }),
            (_, Some(uid)) => Some(Account {
                name: uid.to_string(),
                uid,
                gid: 0,
                home: "/".into(),
                shell: "/bin/sh".into(),
                groups: Vec::new(),
            }),
            (_, None) => None,
        })
}

fn parse_user(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _password, uid, gid, _gecos, home, shell] = fields[..] else {
        return None;
    };
    if name.is_empty() {
        return None;
    }
    Some(Account {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: if home.starts_with('/') { home } else { "/" }.into(),
        shell: if shell.is_empty() { "/bin/sh" } else { shell }.to_owned(),
        groups: Vec::new(),
    })
}

fn find_group(group: &str, wanted: &str) -> Option<u32> {
    group
        .lines()
        .filter_map(parse_group)
        .find(|(name, _, _)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .or_else(|| wanted.parse().ok())
}

fn groups_of(group: &str, user: &str, primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for (_, gid, members) in group.lines().filter_map(parse_group) {
        if members.split(',').any(|member| member == user) && !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (tempfile::TempDir, Accounts) {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(
            etc.path().join("passwd"),
            "root:x:0:0:root:/root:/bin/bash\nbroken line\ndev:x:1000:1001:,,,:/home/dev:/bin/zsh\nbare:x:7:8::relative:\n",
        )
        .unwrap();
        std::fs::write(
            etc.path().join("group"),
            "root:x:0:\ndocker:x:999:dev,other\nwheel:x:10:other\naudio:x:29:other,dev\n",
        )
        .unwrap();
        let accounts = Accounts::below(etc.path());
        (etc, accounts)
    }

    #[test]
    fn a_name_and_its_number_are_the_same_account_with_all_groups() {
        let (_etc, accounts) = sample();
        let dev = Account {
            name: "dev".into(),
            uid: 1000,
            gid: 1001,
            home: "/home/dev".into(),
            shell: "/bin/zsh".into(),
            groups: vec![1001, 999, 29],
        };
        assert_eq!(accounts.find("dev").unwrap(), dev);
        assert_eq!(accounts.find("1000").unwrap(), dev);
    }

    #[test]
    fn a_group_after_the_colon_replaces_all_groups() {
        let (_etc, accounts) = sample();
        let account = accounts.find("dev:docker").unwrap();
        assert_eq!((account.gid, account.groups), (999, vec![999]));
        assert_eq!(accounts.find("dev:4321").unwrap().gid, 4321);
        assert_eq!(
            accounts.find("dev:nobody"),
            Err(AccountError::GroupUnknown("nobody".into()))
        );
    }

    #[test]
    fn a_number_without_entry_is_an_account_and_a_name_is_not() {
        let (_etc, accounts) = sample();
        let account = accounts.find("4242").unwrap();
        assert_eq!(
            (account.name.as_str(), account.uid, account.gid),
            ("4242", 4242, 0)
        );
        assert_eq!(account.home, Path::new("/"));
        assert_eq!(
            accounts.find("nobody"),
            Err(AccountError::UserUnknown("nobody".into()))
        );
    }

    #[test]
    fn root_exists_in_an_image_without_accounts() {
        let empty = tempfile::tempdir().unwrap();
        let root = Accounts::below(empty.path()).find("root").unwrap();
        assert_eq!((root.uid, root.home.as_path()), (0, Path::new("/root")));
    }

    #[test]
    fn empty_fields_get_usable_values() {
        let (_etc, accounts) = sample();
        let bare = accounts.find("bare").unwrap();
        assert_eq!(
            (bare.home.as_path(), bare.shell.as_str()),
            (Path::new("/"), "/bin/sh")
        );
    }
}
