//! Where a path lies.

use super::guarded;

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The repository itself, or all that is in it.
    WholeRepository,
    /// What git keeps in the repository.
    GitInternals,
    /// In the repository, at this path relative to it.
    Repository(String),
    /// Where anybody keeps what need not last.
    Scratch,
    /// Everything else.
    Outside,
}

/// Where an absolute path lies; `repository` is absolute.
pub(super) fn place(path: &str, repository: &str) -> Place {
    if let Some(rest) = path.strip_prefix(repository)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let rest = rest.trim_start_matches('/');
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        return match rest {
            "" | "{*,.*}" => Place::WholeRepository,
            _ if below.is_empty() && guarded::stands_for_all(first) => Place::WholeRepository,
            _ if guarded::is_git(first) || guarded::may_be_git(first) => Place::GitInternals,
            rest => Place::Repository(rest.to_owned()),
        };
    }
    const SCRATCH: [&str; 5] = ["/tmp/", "/var/tmp/", "/dev/shm/", "~/.cache/", "/dev/fd/"];
    const DEVICES: [&str; 7] = [
        "/dev/null",
        "/dev/stdout",
        "/dev/stderr",
        "/dev/stdin",
        "/dev/tty",
        "/dev/zero",
        "/dev/full",
    ];
    if SCRATCH.iter().any(|directory| path.starts_with(directory)) || DEVICES.contains(&path) {
        return Place::Scratch;
    }
    Place::Outside
}

/// Whether a path outside belongs to the system or to a user's settings that
/// programs run from.
pub(super) fn is_system(path: &str) -> bool {
    const SYSTEM: [&str; 13] = [
        "/etc",
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/boot",
        "/dev",
        "/proc",
        "/sys",
        "/root",
        "/var/spool",
        "/run",
    ];
    const SETTINGS: [&str; 10] = [
        "~/.bashrc",
        "~/.profile",
        "~/.bash_profile",
        "~/.zshrc",
        "~/.zprofile",
        "~/.gitconfig",
        "~/.bash_aliases",
        "~/.config/git",
        "~/.config/fish",
        "~/.local/bin",
    ];
    path == "/"
        || path == "~"
        || SYSTEM.iter().chain(&SETTINGS).any(|directory| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}
