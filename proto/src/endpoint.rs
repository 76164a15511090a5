//! Where the daemon listens and its clients dial when nobody says otherwise:
//! one function, so that both sides always mean the same socket.

use std::path::PathBuf;

/// The daemon's default unix socket for an account.
///
/// `runtime_dir` is the value of `XDG_RUNTIME_DIR`, if it is set; an empty or
/// relative one counts as unset, as the XDG specification asks. Root always
/// gets `/run/compy/compyd.sock`, so that a daemon started at boot and a root
/// shell in a desktop session meet.
///
/// The path's parent is the daemon's to create, with mode 0700.
pub fn default_socket_path(runtime_dir: Option<&str>, uid: u32) -> PathBuf {
    if uid == 0 {
        return PathBuf::from("/run/compy/compyd.sock");
    }
    match runtime_dir {
        Some(dir) if dir.starts_with('/') => PathBuf::from(dir).join("compy/compyd.sock"),
        Some(_) | None => PathBuf::from(format!("/tmp/compy-{uid}/compyd.sock")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_runtime_directory_else_in_tmp_and_for_root_in_run() {
        let path = |dir, uid| default_socket_path(dir, uid).display().to_string();
        assert_eq!(
            path(Some("/run/user/1000"), 1000),
            "/run/user/1000/compy/compyd.sock"
        );
        assert_eq!(path(None, 1000), "/tmp/compy-1000/compyd.sock");
        assert_eq!(path(Some(""), 1000), "/tmp/compy-1000/compyd.sock");
        assert_eq!(path(Some("rel"), 1000), "/tmp/compy-1000/compyd.sock");
        assert_eq!(path(Some("/run/user/0"), 0), "/run/compy/compyd.sock");
        assert_eq!(path(None, 0), "/run/compy/compyd.sock");
    }
}
