//! Where the programs under test are, and what the environment tells tests:
//! the agent, the engine, and whether to run at full counts. Nothing else reads
//! the environment.

use std::path::{Path, PathBuf};

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub compyd: PathBuf,
    /// The client.
    pub compyctl: PathBuf,
    /// The static agent; `None` where it was not built.
    pub agent: Option<PathBuf>,
}

impl Programs {
    /// The programs beside the running test.
    ///
    /// # Panics
    /// When the daemon and the client were not built; `make test` builds them.
    #[must_use]
    pub fn beside_the_test() -> Self {
        let test = std::env::current_exe().expect("the test knows where it is");
        let profile = test
            .ancestors()
            .find(|directory| directory.join("compyd").is_file())
            .unwrap_or_else(|| {
                panic!(
                    "there is no compyd beside {}: cargo build --workspace --bins",
                    test.display()
                )
            });
        Self::in_directory(profile)
    }

    /// The programs of a profile's directory: `target/debug`.
    #[must_use]
    pub fn in_directory(profile: &Path) -> Self {
        Self {
            compyd: profile.join("compyd"),
            compyctl: profile.join("compyctl"),
            agent: agent(profile),
        }
    }
}

/// `COMPY_TEST_AGENT`, else the agent beside the daemon, else the newest that
/// `make agent` has built.
fn agent(profile: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("COMPY_TEST_AGENT").map(PathBuf::from) {
        return named.is_file().then_some(named);
    }
    let beside = profile.join("compy-agent");
    if beside.is_file() {
        return Some(beside);
    }
    let target = profile.parent()?;
    let built = std::fs::read_dir(target)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("agent/compy-agent"))
        .filter(|path| path.is_file());
    built.max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
}

/// Whether kill and soak tests run at their full counts (`make torture`).
#[must_use]
pub fn torture() -> bool {
    std::env::var_os("COMPY_TORTURE").is_some_and(|value| !value.is_empty() && value != "0")
}

/// The engine that tests use instead of the machine's own: `DOCKER_HOST`, as
/// everywhere. It needs the image of workspaces.
#[must_use]
pub fn engine_host() -> Option<String> {
    let named = std::env::var("DOCKER_HOST").ok();
    named.filter(|host| !host.is_empty())
}
