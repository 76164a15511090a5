//! Where an account of an image lives, by the image's `/etc/passwd`.

/// Homes where no volume belongs: it would hide the system or another volume.
const NO_HOME: [&str; 6] = [
    "/",
    "/nonexistent",
    "/workspace",
    "/tmp",
    "/var/tmp",
    "/dev/null",
];

/// Home of `USER` or `USER:GROUP`, a name or a number; `None` when the account
/// has no entry, or a home that cannot be a volume.
pub(super) fn home(passwd: &str, user: &str) -> Option<String> {
    let user = user.split(':').next().unwrap_or(user);
    let home = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?;
        let home = fields.nth(2)?;
        (name == user || uid == user).then_some(home)
    })?;
    let home = home.trim_end_matches('/');
    let sound = home.starts_with('/')
        && home.bytes().all(|b| !b.is_ascii_control())
        && !home.split('/').any(|part| part == "..")
        && !NO_HOME.contains(&home);
    sound.then(|| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        broken\n\
        up:x:7:7::/home/../etc:/bin/sh\n\
        bare:x:8:8::/:/bin/sh\n\
        dev:x:1000:1000::/home/dev:/bin/bash\n";

    #[test]
    fn the_home_is_found_by_name_and_by_number() {
        assert_eq!(home(PASSWD, "dev"), Some("/home/dev".to_owned()));
        assert_eq!(home(PASSWD, "1000"), Some("/home/dev".to_owned()));
        assert_eq!(home(PASSWD, "1000:50"), Some("/home/dev".to_owned()));
        assert_eq!(home(PASSWD, "root"), Some("/root".to_owned()));
    }

    #[test]
    fn a_home_that_cannot_be_a_volume_is_none() {
        for user in ["nobody", "up", "bare", "broken", "4711", ""] {
            assert_eq!(home(PASSWD, user), None, "{user}");
        }
        assert_eq!(home("", "dev"), None);
    }
}
