//! Repositories fetched by the daemon, with the host's git and none of its
//! habits: no configuration of the host's, no hooks, no prompts, few protocols,
//! every object checked, bounded in time and size. Foreign code is never
//! checked out on the host: what comes out is a bundle of one branch.

use core::net::IpAddr;
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, process::Command};

use super::{
    git_login::Login,
    git_setup::{self, FetchedSetup},
};
use crate::domain::egress::{Host, Target};

/// How repositories are fetched.
#[derive(Debug, Clone)]
pub struct GitSourceOptions {
    /// Where fetched repositories are for a moment; `None` means the system's
    /// directory for temporary files.
    pub scratch_dir: Option<PathBuf>,
    /// Whether `file` URLs are allowed: they read the host's own disk.
    pub allow_file_urls: bool,
    /// Time that one fetch may take.
    pub fetch_timeout: Duration,
    /// Bytes on disk that one fetch may take.
    pub fetch_limit_bytes: u64,
}

impl Default for GitSourceOptions {
    fn default() -> Self {
        Self {
            scratch_dir: None,
            allow_file_urls: false,
            fetch_timeout: Duration::from_secs(15 * 60),
            fetch_limit_bytes: 20 << 30,
        }
    }
}

/// Why a repository was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitSourceError {
    /// Not a URL that the daemon fetches.
    #[error("`{url}` cannot be fetched: {why}")]
    UrlInvalid {
        /// Without credentials.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// Not for whoever asks.
    #[error("the repository {source_name} is not fetched for you: {why}")]
    Forbidden {
        /// Where from, without credentials.
        source_name: String,
        /// Why not.
        why: String,
    },
    /// Not there, or the network is not.
    #[error("the repository {source_name} cannot be fetched: {message}")]
    Unreachable {
        /// Where from, without credentials.
        source_name: String,
        /// What git said.
        message: String,
    },
    /// It wants a login.
    #[error("the repository {0} does not exist or wants a login")]
    NeedsLogin(String),
    /// It has no commit.
    #[error("the repository {0} has no commits")]
    Empty(String),
    /// It has no such branch, tag or commit.
    #[error("the repository {source_name} has no branch, tag or commit `{reference}`")]
    ReferenceUnknown {
        /// Where from, without credentials.
        source_name: String,
        /// What was asked for.
        reference: String,
    },
    /// Not a git bundle, or a broken one.
    #[error("the bundle is not a sound one: {0}")]
    BundleInvalid(String),
    /// Too large or too slow.
    #[error("fetching {source_name} was given up: {why}")]
    GivenUp {
        /// Where from, without credentials.
        source_name: String,
        /// The bound that was met.
        why: String,
    },
    /// The daemon's own trouble.
    #[error("git cannot be used on the daemon's host: {0}")]
    Host(String),
}

/// A URL that the daemon may fetch, its login apart: git is given the one in an
/// argument, which every process of the host can read, and asks for the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceUrl {
    shown: String,
    login: Option<Login>,
}

impl SourceUrl {
    const LONGEST: usize = 2_048;

    pub(super) fn parse(url: &str, allow_file: bool) -> Result<Self, GitSourceError> {
        let shown = without_credentials(url);
        let refuse = |why| {
            let url = shown.chars().take(200).collect();
            Err(GitSourceError::UrlInvalid { url, why })
        };
        if url.len() > Self::LONGEST || !url.is_ascii() {
            return refuse("URLs have at most 2048 characters, ASCII only");
        }
        if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return refuse("URLs have no spaces or control characters");
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse("give a URL such as https://host/path or ssh://git@host/path");
        };
        match scheme {
            "https" | "http" | "git" | "ssh" => {
                let host = rest.split('/').next().unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                if host.is_empty() || host.starts_with('-') {
                    return refuse("it names no host");
                }
            }
            "file" if allow_file => {}
            "file" => return refuse("file URLs are switched off in the daemon's configuration"),
            _ => return refuse("only https, http, git and ssh URLs are fetched"),
        }
        let Ok(login) = Login::of(scheme, rest) else {
            return refuse("its user or password is not percent-encoded text");
        };
        Ok(Self { shown, login })
    }

    /// Without user and password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The host and port that nobody's rights are enough for. Other protocols than
    /// HTTP go by the account's keys, or cannot be held to addresses.
    pub(super) fn target(&self) -> Result<Target, GitSourceError> {
        let forbidden = |why: &str| GitSourceError::Forbidden {
            source_name: self.shown.clone(),
            why: why.to_owned(),
        };
        let (port, rest) = match self.shown.split_once("://") {
            Some(("https", rest)) => (443, rest),
            Some(("http", rest)) => (80, rest),
            Some(_) | None => {
                return Err(forbidden(
                    "only an admin may name other URLs than https and http",
                ));
            }
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            // The colon is one of an address of version 6.
            Some((_, after)) if after.ends_with(']') => (authority, Some(port)),
            Some((host, after)) => (host, after.parse::<u16>().ok().filter(|port| *port > 0)),
            None => (authority, Some(port)),
        };
        let port = port.ok_or_else(|| forbidden("its port is none"))?;
        let known = Host::parse(host).map_err(|error| forbidden(&error.to_string()))?;
        // What is decided on is what git is given: no second spelling.
        if known.to_string() != host.to_ascii_lowercase() {
            return Err(forbidden("write its host in the usual form"));
        }
        Ok(Target { host: known, port })
    }
}

/// With whose rights a URL is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FetchRights {
    /// Those of the daemon's account: its home, its keys, its way to the world.
    Account,
    /// Nobody's: a login comes with the URL or not at all, and the target is at
    /// these addresses whatever a name server says next.
    Nobody(Target, Vec<IpAddr>),
}

impl FetchRights {
    /// The setting that holds git to the addresses; `None` for one that is an
    /// address itself.
    fn resolved(&self) -> Option<String> {
        match self {
            Self::Nobody(target, addresses) if matches!(target.host, Host::Name(_)) => {
                let addresses = addresses.iter().map(|address| match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                });
                let addresses = addresses.collect::<Vec<_>>().join(",");
                Some(format!("http.curloptResolve={target}:{addresses}"))
            }
            Self::Nobody(..) | Self::Account => None,
        }
    }
}

/// A URL without its user information.
pub(super) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        // An ssh user is part of the address and no secret; a password is.
        Some((user, host)) if scheme == "ssh" => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{path}")
        }
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Branch, tag or commit; `None` means HEAD.
    pub(super) reference: Option<&'a str>,
    /// Whose setup file counts.
    pub(super) setup: WantedSetup<'a>,
}

/// Whose setup file counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum WantedSetup<'a> {
    /// That of the commit that the reference names.
    OwnFile,
    /// That of another commit.
    FileOf(&'a str),
    /// Nobody's.
    None,
}

/// What a bundle holds.
#[derive(Debug)]
pub(super) struct FetchedBundle {
    /// The bundle; gone when this is dropped.
    pub(super) path: PathBuf,
    /// Commit that the branch ends at, in hex.
    pub(super) commit: String,
    /// The only branch in it.
    pub(super) branch: String,
    /// Whether the commit has submodules, which are not in it.
    pub(super) has_submodules: bool,
    /// What it says of its setup.
    pub(super) setup: FetchedSetup,
    _dir: TempDir,
}

/// Fetches repositories.
#[derive(Debug)]
pub(super) struct GitSource {
    options: GitSourceOptions,
}

impl GitSource {
    pub(super) fn new(options: GitSourceOptions) -> Self {
        Self { options }
    }

    pub(super) fn allows_file_urls(&self) -> bool {
        self.options.allow_file_urls
    }

    /// A directory for a bundle that a client streams.
    pub(super) fn scratch(&self) -> Result<TempDir, GitSourceError> {
        let made = match &self.options.scratch_dir {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| tempfile::tempdir_in(dir)),
            None => tempfile::tempdir(),
        };
        made.map_err(|error| GitSourceError::Host(error.to_string()))
    }

    /// Bytes that a streamed bundle may have.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.options.fetch_limit_bytes
    }

    /// Fetches a URL and bundles what is wanted of it.
    pub(super) async fn fetch_url(
        &self,
        url: &SourceUrl,
        wanted: Wanted<'_>,
        rights: &FetchRights,
    ) -> Result<FetchedBundle, GitSourceError> {
        let protocols = match rights {
            FetchRights::Nobody(..) => {
                holds_to_addresses(&url.shown).await?;
                "https:http"
            }
            FetchRights::Account if self.options.allow_file_urls => "https:http:git:ssh:file",
            FetchRights::Account => "https:http:git:ssh",
        };
        let fetch = Fetch {
            source: &url.shown,
            shown: &url.shown,
            login: url.login.as_ref(),
            protocols,
            rights,
        };
        self.fetch(&fetch, wanted).await
    }

    /// Checks a bundle on the host and bundles what is wanted of it.
    pub(super) async fn fetch_bundle(
        &self,
        bundle: &Path,
        shown: &str,
        wanted: Wanted<'_>,
    ) -> Result<FetchedBundle, GitSourceError> {
        let path = bundle.display().to_string();
        let git = Git {
            dir: None,
            login: None,
            protocols: "file",
            nobody: None,
        };
        let heads = git.run(&["bundle", "list-heads", &path]).await?;
        if !heads.status.success() {
            return Err(GitSourceError::BundleInvalid(said(&heads)));
        }
        if heads.stdout.is_empty() {
            return Err(GitSourceError::Empty(shown.to_owned()));
        }
        let fetch = Fetch {
            source: &path,
            shown,
            login: None,
            protocols: "file",
            rights: &FetchRights::Account,
        };
        match self.fetch(&fetch, wanted).await {
            Err(GitSourceError::Unreachable { message, .. }) => {
                Err(GitSourceError::BundleInvalid(message))
            }
            other => other,
        }
    }

    async fn fetch(
        &self,
        fetch: &Fetch<'_>,
        wanted: Wanted<'_>,
    ) -> Result<FetchedBundle, GitSourceError> {
        let dir = self.scratch()?;
        let bare = dir.path().join("fetched.git");
        self.clone_bare(fetch, &bare).await?;
        let git = Git {
            dir: Some(&bare),
            login: None,
            protocols: fetch.protocols,
            nobody: None,
        };
        let (commit, branch) = resolve(&git, fetch, wanted.reference).await?;
        let modules = format!("{commit}:.gitmodules");
        let has_submodules = git
            .run(&["cat-file", "-e", &modules])
            .await?
            .status
            .success();

        let setup = match wanted.setup {
            WantedSetup::OwnFile => git_setup::read(&git, &commit, &commit).await?,
            WantedSetup::FileOf(other) => git_setup::read(&git, other, &commit).await?,
            WantedSetup::None => FetchedSetup::None,
        };

        // One branch that ends at the commit and the tags on its way: nothing
        // that came after it is in the workspace.
        let head = format!("refs/heads/{branch}");
        git.must(&["update-ref", &head, &commit]).await?;
        let merged = format!("--merged={commit}");
        let tags = git
            .must(&["for-each-ref", "--format=%(refname)", &merged, "refs/tags"])
            .await?;
        let path = dir.path().join("repository.bundle");
        let target = path.display().to_string();
        let mut arguments = vec!["bundle", "create", "--quiet", &target, &head];
        arguments.extend(tags.lines());
        git.must(&arguments).await?;
        drop(tokio::fs::remove_dir_all(&bare).await);
        Ok(FetchedBundle {
            path,
            commit,
            branch,
            has_submodules,
            setup,
            _dir: dir,
        })
    }

    async fn clone_bare(&self, fetch: &Fetch<'_>, bare: &Path) -> Result<(), GitSourceError> {
        let target = bare.display().to_string();
        let git = Git {
            dir: None,
            login: fetch.login,
            protocols: fetch.protocols,
            nobody: match fetch.rights {
                FetchRights::Account => None,
                FetchRights::Nobody(..) => Some(Nobody {
                    home: bare.with_file_name("home"),
                    resolved: fetch.rights.resolved(),
                }),
            },
        };
        let arguments = [
            "clone",
            "--bare",
            "--quiet",
            "--no-local",
            "--template=",
            "--",
            fetch.source,
            &target,
        ];
        let given_up = |why: String| GitSourceError::GivenUp {
            source_name: fetch.shown.to_owned(),
            why,
        };
        let bounds = self.options.fetch_timeout;
        let output = tokio::select! {
            output = git.run(&arguments) => output?,
            () = tokio::time::sleep(bounds) => {
                return Err(given_up(format!("it took more than {} s", bounds.as_secs())));
            }
            () = grown_beyond(bare, self.options.fetch_limit_bytes) => {
                let limit = self.options.fetch_limit_bytes >> 20;
                return Err(given_up(format!("it is larger than {limit} MiB")));
            }
        };
        if output.status.success() {
            return Ok(());
        }
        Err(classify(fetch, &said(&output)))
    }
}

/// One fetch: what git is given, what people are shown.
struct Fetch<'a> {
    source: &'a str,
    shown: &'a str,
    login: Option<&'a Login>,
    protocols: &'static str,
    rights: &'a FetchRights,
}

/// The commit and the branch to check out.
async fn resolve(
    git: &Git<'_>,
    fetch: &Fetch<'_>,
    reference: Option<&str>,
) -> Result<(String, String), GitSourceError> {
    let unknown = |reference: &str| GitSourceError::ReferenceUnknown {
        source_name: fetch.shown.to_owned(),
        reference: reference.chars().take(100).collect(),
    };
    let Some(reference) = reference else {
        if let Some(commit) = commit_of(git, "HEAD").await? {
            let branch = git.run(&["symbolic-ref", "--short", "-q", "HEAD"]).await?;
            let branch = String::from_utf8_lossy(&branch.stdout).trim().to_owned();
            let branch = if branch.is_empty() {
                detached(&commit)
            } else {
                branch
            };
            return Ok((commit, branch));
        }
        // HEAD may point to a branch that is not there; the only one will do.
        let heads = git
            .must(&["for-each-ref", "--format=%(refname:short)", "refs/heads"])
            .await?;
        let heads: Vec<&str> = heads.lines().collect();
        return match heads.as_slice() {
            [] => Err(GitSourceError::Empty(fetch.shown.to_owned())),
            [only] => {
                let commit = commit_of(git, &format!("refs/heads/{only}")).await?;
                let commit = commit.ok_or_else(|| unknown(only))?;
                Ok((commit, (*only).to_owned()))
            }
            _ => Err(unknown("HEAD")),
        };
    };
    let plain = !reference.is_empty()
        && reference.len() <= 250
        && !reference.starts_with('-')
        && reference
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"~^:?*[\\@{".contains(&b))
        && !reference.contains("..");
    if !plain {
        return Err(unknown(reference));
    }
    if let Some(commit) = commit_of(git, &format!("refs/heads/{reference}")).await? {
        return Ok((commit, reference.to_owned()));
    }
    let tag = format!("refs/tags/{reference}");
    for name in [tag.as_str(), reference] {
        if let Some(commit) = commit_of(git, name).await? {
            let branch = detached(&commit);
            return Ok((commit, branch));
        }
    }
    Err(unknown(reference))
}

/// A branch for a commit that was asked for without one.
fn detached(commit: &str) -> String {
    let short: String = commit.chars().take(12).collect();
    format!("at-{short}")
}

async fn commit_of(git: &Git<'_>, name: &str) -> Result<Option<String>, GitSourceError> {
    let name = format!("{name}^{{commit}}");
    let output = git
        .run(&["rev-parse", "--verify", "--quiet", &name])
        .await?;
    let commit = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((output.status.success() && !commit.is_empty()).then_some(commit))
}

/// What git's words mean. They are English: it runs in the C locale.
fn classify(fetch: &Fetch<'_>, message: &str) -> GitSourceError {
    const LOGIN: [&str; 7] = [
        "could not read Username",
        "could not read Password",
        "Authentication failed",
        "terminal prompts disabled",
        "Permission denied (",
        "HTTP 401",
        "error: 403",
    ];
    let source_name = fetch.shown.to_owned();
    let message = message.replace(fetch.source, fetch.shown);
    if LOGIN.iter().any(|words| message.contains(words)) {
        return GitSourceError::NeedsLogin(source_name);
    }
    if message.contains("not allowed") && message.contains("transport") {
        let why = "its protocol is not allowed";
        return GitSourceError::UrlInvalid {
            url: source_name,
            why,
        };
    }
    GitSourceError::Unreachable {
        source_name,
        message,
    }
}

/// The last words of a command, short.
fn said(output: &Output) -> String {
    const SHOWN: usize = 600;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Cloning into"))
        .collect();
    let from = lines.len().saturating_sub(4);
    lines[from..].join("; ").chars().take(SHOWN).collect()
}

/// Git of the host, with nothing of the host's in it.
pub(super) struct Git<'a> {
    dir: Option<&'a Path>,
    login: Option<&'a Login>,
    protocols: &'static str,
    /// Set when it goes to the network without the account's rights.
    nobody: Option<Nobody>,
}

/// Git that goes to the network without the account's rights.
struct Nobody {
    /// A home where nothing is: without one, libraries look the account's up.
    home: PathBuf,
    /// The setting that holds it to addresses.
    resolved: Option<String>,
}

impl Git<'_> {
    pub(super) async fn run(&self, arguments: &[&str]) -> Result<Output, GitSourceError> {
        let output = self.command(arguments).output().await;
        output.map_err(|error| GitSourceError::Host(format!("{error}; install git")))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        /// What a host's administrator says about its trust; the rest of the
        /// environment stays out.
        const PASSED: [&str; 5] = [
            "PATH",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "GIT_SSL_CAINFO",
            "CURL_CA_BUNDLE",
        ];
        /// Who the account is, and its way to the network. A proxy would look names
        /// up for itself.
        const OF_THE_ACCOUNT: [&str; 9] = [
            "HOME",
            "SSH_AUTH_SOCK",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "NO_PROXY",
            "all_proxy",
        ];
        const CONFIGURATION: [&str; 9] = [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "transfer.fsckObjects=true",
            "fetch.fsckObjects=true",
            "fetch.recurseSubmodules=false",
            "credential.helper=",
            "http.lowSpeedLimit=1000",
            "http.lowSpeedTime=60",
            "gc.auto=0",
        ];
        /// No second host by a redirect or an alternate, and none of the account's
        /// tickets.
        const OF_NOBODY: [&str; 2] = ["http.followRedirects=false", "http.emptyAuth=false"];
        let of_the_account: &[&str] = match self.nobody {
            None => &OF_THE_ACCOUNT,
            Some(_) => &[],
        };
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(
                (PASSED.iter().chain(of_the_account))
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS", "/bin/false")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20")
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(dir) = self.dir {
            command.env("GIT_DIR", dir);
        }
        for setting in CONFIGURATION {
            command.args(["-c", setting]);
        }
        if let Some(nobody) = &self.nobody {
            command.env("HOME", &nobody.home);
            let resolved = nobody.resolved.as_deref();
            for setting in OF_NOBODY.into_iter().chain(resolved) {
                command.args(["-c", setting]);
            }
        }
        if let Some(login) = self.login {
            login.offer(&mut command);
        }
        command.args(arguments);
        command
    }

    /// A command that only this daemon's trouble can fail.
    pub(super) async fn must(&self, arguments: &[&str]) -> Result<String, GitSourceError> {
        let output = self.run(arguments).await?;
        if !output.status.success() {
            return Err(GitSourceError::Host(said(&output)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same for one that may print much; `None` when that is more than these
    /// bytes.
    ///
    /// # Cancel safety
    /// Dropped, it ends the command.
    pub(super) async fn must_within(
        &self,
        arguments: &[&str],
        most_bytes: usize,
    ) -> Result<Option<String>, GitSourceError> {
        let host = |error: std::io::Error| GitSourceError::Host(format!("{error}; install git"));
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(host)?;
        let stdout = child.stdout.take().expect("its output is piped");
        let mut printed = Vec::new();
        let mut bounded = stdout.take(most_bytes as u64 + 1);
        bounded.read_to_end(&mut printed).await.map_err(host)?;
        if printed.len() > most_bytes {
            return Ok(None);
        }
        let status = child.wait().await.map_err(host)?;
        if !status.success() {
            let what = arguments.join(" ");
            return Err(GitSourceError::Host(format!("git {what}: {status}")));
        }
        Ok(Some(String::from_utf8_lossy(&printed).into_owned()))
    }
}

/// Whether the host's git can be held to addresses: older ones take no notice.
async fn holds_to_addresses(shown: &str) -> Result<(), GitSourceError> {
    const SINCE: (u32, u32) = (2, 37);
    let git = Git {
        dir: None,
        login: None,
        protocols: "",
        nobody: None,
    };
    let version = git.must(&["version"]).await?;
    let numbers = version.trim().rsplit(' ').find_map(|word| {
        let mut numbers = word.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    match numbers {
        Some(version) if version >= SINCE => Ok(()),
        Some(_) | None => Err(GitSourceError::Forbidden {
            source_name: shown.to_owned(),
            why: "git of the daemon's host is older than 2.37".to_owned(),
        }),
    }
}

/// Ends when a directory has grown beyond a limit.
async fn grown_beyond(dir: &Path, limit_bytes: u64) {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let dir = dir.to_owned();
        let size = tokio::task::spawn_blocking(move || size_bytes(&dir)).await;
        if size.is_ok_and(|size| size > limit_bytes) {
            return;
        }
    }
}

fn size_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
#[path = "git_source_tests.rs"]
mod tests;
