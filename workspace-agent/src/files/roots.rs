//! Which paths the file tools may reach: those below a root once every
//! symbolic link on the way is resolved.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::errors::{AgentError, Reason};

/// Links followed before a path counts as a loop, as in the kernel.
const MAX_LINKS: usize = 40;
const MAX_PATH_BYTES: usize = 4096;

/// The roots; relative paths start at the first one.
#[derive(Debug)]
pub(super) struct Roots {
    roots: Vec<PathBuf>,
}

impl Roots {
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// The real path of what `path` names, links resolved. What does not exist
    /// is resolved as far as it does, so that it can be made there.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, AgentError> {
        let absolute = self.absolute(path)?;
        let real = resolve_links(&absolute, MAX_LINKS)
            .map_err(|error| AgentError::io("resolve", &absolute, &error))?;
        self.check(path, real)
    }

    /// The same, or the first root when `path` is empty.
    pub(super) fn resolve_or_base(&self, path: &str) -> Result<PathBuf, AgentError> {
        self.resolve(if path.is_empty() { "." } else { path })
    }

    /// The same of a file that is changed: no link may stand on the way. Whoever
    /// allowed the change has seen the path that was named, and no other.
    pub(super) fn resolve_unlinked(&self, path: &str) -> Result<PathBuf, AgentError> {
        let real = self.resolve(path)?;
        let named = self.absolute(path)?;
        let below = |root: &PathBuf| {
            let rest = named.strip_prefix(root).ok()?;
            Some(root.canonicalize().ok()?.join(rest))
        };
        // A root may be reached through a link itself.
        let named = self.roots.iter().find_map(below).unwrap_or(named);
        if named == real {
            return Ok(real);
        }
        Err(AgentError::new(
            Reason::PathLinked,
            format!(
                "{path:?} leads through a symbolic link to {real}, and files are changed under their own names only: name {real}",
                real = real.display()
            ),
        )
        .with("path", real.display()))
    }

    /// The path of the entry itself: links on the way are resolved, the last
    /// one is not.
    pub(super) fn resolve_link(&self, path: &str) -> Result<PathBuf, AgentError> {
        let absolute = self.absolute(path)?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return self.resolve(path);
        };
        let parent = resolve_links(parent, MAX_LINKS)
            .map_err(|error| AgentError::io("resolve", &absolute, &error))?;
        self.check(path, parent.join(name))
    }

    /// Makes a path absolute and takes `.` and `..` out of it. `..` is taken
    /// out by the letter, before links are followed: what a caller wrote is
    /// what it gets.
    fn absolute(&self, path: &str) -> Result<PathBuf, AgentError> {
        let invalid =
            |why: &str| AgentError::new(Reason::PathInvalid, format!("the path {path:?} {why}"));
        if path.is_empty() {
            return Err(invalid("is empty; name a file or directory"));
        }
        if path.contains('\0') {
            return Err(invalid("holds a NUL byte"));
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(invalid("is longer than 4,096 bytes"));
        }
        let mut absolute = PathBuf::from("/");
        for component in self.roots[0].join(path).components() {
            match component {
                Component::Normal(name) => absolute.push(name),
                Component::ParentDir => {
                    absolute.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(absolute)
    }

    fn check(&self, asked: &str, real: PathBuf) -> Result<PathBuf, AgentError> {
        if self.contains(&real) {
            return Ok(real);
        }
        let roots: Vec<String> = self
            .roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        Err(AgentError::new(
            Reason::PathOutsideRoots,
            format!(
                "{asked:?} leads to {}, which is outside the directories the file tools may reach ({}); use a path inside them, or a command",
                real.display(),
                roots.join(", ")
            ),
        ))
    }

    fn contains(&self, real: &Path) -> bool {
        self.roots.iter().any(|root| {
            // A root may be reached through a link itself.
            let root = root.canonicalize().unwrap_or_else(|_| root.clone());
            real.starts_with(root)
        })
    }
}

/// Follows every link of a path without `..`; the part that does not exist
/// stays as it is.
fn resolve_links(path: &Path, links_left: usize) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(real) => return Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    if let Ok(target) = std::fs::read_link(path) {
        // A link to something that does not exist, or whose own way does not.
        let left = links_left
            .checked_sub(1)
            .ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ELOOP))?;
        return resolve_links(&plain(&parent.join(target)), left);
    }
    Ok(resolve_links(parent, links_left)?.join(name))
}

/// Takes `..` out of a link's target.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            // What a parent really is shows only once it is resolved.
            plain = plain.canonicalize().unwrap_or(plain);
            plain.pop();
        } else {
            plain.push(component);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Fixture {
        _dir: tempfile::TempDir,
        root: PathBuf,
        outside: PathBuf,
        roots: Roots,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (root, outside) = (base.join("root"), base.join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        Fixture {
            roots: Roots::new(vec![root.clone()]),
            _dir: dir,
            root,
            outside,
        }
    }

    fn reason(result: Result<PathBuf, AgentError>) -> Reason {
        result.unwrap_err().reason()
    }

    #[test]
    fn paths_inside_are_made_absolute_and_real() {
        let f = fixture();
        std::fs::create_dir(f.root.join("a")).unwrap();
        symlink("a", f.root.join("link")).unwrap();
        for path in ["a/new", "./a/./new", "link/new", "x/../a/new"] {
            assert_eq!(
                f.roots.resolve(path).unwrap(),
                f.root.join("a/new"),
                "{path}"
            );
        }
        let absolute = f.root.join("a").display().to_string();
        assert_eq!(f.roots.resolve(&absolute).unwrap(), f.root.join("a"));
        assert_eq!(f.roots.resolve_or_base("").unwrap(), f.root);
        assert_eq!(
            f.roots.resolve("deep/er/new").unwrap(),
            f.root.join("deep/er/new")
        );
    }

    #[test]
    fn every_way_out_is_refused() {
        let f = fixture();
        symlink(&f.outside, f.root.join("absolute")).unwrap();
        symlink("../outside", f.root.join("relative")).unwrap();
        symlink("../outside/secret", f.root.join("file")).unwrap();
        symlink("../outside/new", f.root.join("dangling")).unwrap();
        symlink("absolute/deeper", f.root.join("twice")).unwrap();
        for path in [
            "..",
            "../outside/secret",
            "/etc/passwd",
            "/nowhere/at/all",
            "absolute/secret",
            "relative/new",
            "file",
            "dangling",
            "twice",
            "a/../../outside/secret",
        ] {
            assert_eq!(
                reason(f.roots.resolve(path)),
                Reason::PathOutsideRoots,
                "{path}"
            );
        }
        let sibling = format!("{}-not", f.root.display());
        assert_eq!(reason(f.roots.resolve(&sibling)), Reason::PathOutsideRoots);
    }

    #[test]
    fn the_link_itself_is_inside_whatever_it_points_to() {
        let f = fixture();
        symlink("/etc", f.root.join("etc")).unwrap();
        assert_eq!(f.roots.resolve_link("etc").unwrap(), f.root.join("etc"));
        assert_eq!(
            reason(f.roots.resolve_link("etc/passwd")),
            Reason::PathOutsideRoots
        );
    }

    #[test]
    fn a_change_is_of_the_file_that_is_named() {
        let f = fixture();
        std::fs::create_dir(f.root.join("a")).unwrap();
        symlink("a", f.root.join("link")).unwrap();
        symlink("a/new", f.root.join("file")).unwrap();
        symlink(&f.outside, f.root.join("out")).unwrap();
        let real = f.root.join("a/new");
        for path in ["a/new", "./link/../a/new", &real.display().to_string()] {
            assert_eq!(f.roots.resolve_unlinked(path).unwrap(), real, "{path}");
        }
        for path in ["link/new", "file"] {
            let error = f.roots.resolve_unlinked(path).unwrap_err();
            assert_eq!(error.reason(), Reason::PathLinked, "{path}");
            assert!(error.to_string().contains(&*real.to_string_lossy()));
        }
        let out = f.roots.resolve_unlinked("out/secret");
        assert_eq!(reason(out), Reason::PathOutsideRoots);

        let base = f.root.parent().unwrap();
        symlink(&f.root, base.join("way")).unwrap();
        let linked = Roots::new(vec![base.join("way")]);
        assert_eq!(linked.resolve_unlinked("a/new").unwrap(), real);
    }

    #[test]
    fn loops_and_nonsense_are_refused() {
        let f = fixture();
        symlink("b", f.root.join("a")).unwrap();
        symlink("a", f.root.join("b")).unwrap();
        assert_eq!(reason(f.roots.resolve("a")), Reason::Io);
        assert_eq!(reason(f.roots.resolve("")), Reason::PathInvalid);
        assert_eq!(reason(f.roots.resolve("a\0b")), Reason::PathInvalid);
        assert_eq!(
            reason(f.roots.resolve(&"x/".repeat(3000))),
            Reason::PathInvalid
        );
        assert_eq!(
            reason(f.roots.resolve(&"x".repeat(300))),
            Reason::PathInvalid
        );
        std::fs::write(f.root.join("plain"), "").unwrap();
        assert_eq!(
            reason(f.roots.resolve("plain/below")),
            Reason::NotADirectory
        );
    }
}
