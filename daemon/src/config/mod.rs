//! The daemon's settings: defaults, then a file, then the environment, then
//! flags; parsed into types before anything starts.
//!
//! [`keys`] is the one table of what can be set; [`mod@load`] merges the sources
//! and reports every mistake at once; [`Settings`] is the result. Nothing here
//! reads the process's environment or its user: `main` passes them in.

mod keys;
mod load;
mod print;
mod values;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

pub use self::{
    load::{Flags, Surroundings, load},
    print::{effective, sample},
};
use crate::domain::{
    audit::AuditUpkeep,
    budget::{self, PriceRule},
    compaction::WindowRule,
    edits::EditFormats,
    egress::{Network, Policy},
    exec::SpoolLimits,
    model_name::ModelName,
    secret::Secret,
    session::options::Budget,
    workspace::{Limits, NetworkMode},
};

/// Everything that can be set, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where clients are served; at least one.
    pub listen: Vec<ListenAddress>,
    /// Logs.
    pub log: LogSettings,
    /// How long a shutdown waits for what is under way.
    pub shutdown_grace: Duration,
    /// What workspaces get when nobody says otherwise.
    pub workspace: WorkspaceSettings,
    /// What workspaces reach.
    pub egress: EgressSettings,
    /// What the output of commands may take in a workspace.
    pub exec: SpoolLimits,
    /// The container engine.
    pub engine: EngineSettings,
    /// Language models.
    pub model: ModelSettings,
    /// What sessions may use when nobody says otherwise.
    pub session: SessionSettings,
    /// What sessions may spend.
    pub budget: BudgetSettings,
    /// Snapshots.
    pub snapshots: SnapshotsSettings,
    /// Stored credentials.
    pub credentials: CredentialsSettings,
    /// Repositories.
    pub repository: RepositorySettings,
    /// The disk with the data.
    pub disk: DiskSettings,
    /// More names and addresses that clients reach the daemon by.
    pub tls_names: Vec<String>,
    /// What callers on other machines may use.
    pub remote: RemoteSettings,
    /// Where metrics are served; `None` means nowhere.
    pub metrics: Option<SocketAddr>,
    /// The audit log.
    pub audit: AuditUpkeep,
    /// Garbage.
    pub gc: GcSettings,
    /// What is odd and was accepted, for people.
    pub warnings: Vec<String>,
    /// Each key with its value and where it came from, secrets hidden.
    pub origins: Vec<Origin>,
}

/// Where clients are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A port of this machine without TLS; a loopback address.
    Tcp(SocketAddr),
    /// A port of this machine with TLS.
    Tls(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Tls(address) => write!(f, "https://{address}"),
        }
    }
}

/// What callers on other machines may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSettings {
    /// Calls of a token in a second.
    pub calls_per_second: u32,
    /// Calls of a token that are open at once.
    pub streams: usize,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Connections of everybody.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_address: usize,
    /// Connections of one token.
    pub connections_per_token: usize,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// What is logged, as tracing's filter directives.
    pub filter: String,
    /// How.
    pub format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
}

/// What workspaces get when nobody says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkspaceSettings {
    /// After how long without use it is stopped; `None` means never.
    pub idle_stop: Option<Duration>,
    /// Reference of the image.
    pub image: String,
    /// Limits.
    pub limits: Limits,
    /// Network.
    pub network: NetworkMode,
    /// A CA bundle that containers trust besides their own.
    pub extra_ca_file: Option<PathBuf>,
    /// The static agent's binary.
    pub agent_file: PathBuf,
}

/// What workspaces reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSettings {
    /// Of those that say nothing.
    pub default: Policy,
    /// Networks that are reached although they are not public.
    pub allow_networks: Vec<Network>,
}

/// The container engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Its address, `unix:///PATH`; `None` means the engine's own default.
    pub host: Option<String>,
    /// Labels on every container and volume, on top of the daemon's own.
    pub labels: BTreeMap<String, String>,
}

/// Language models.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The model of sessions that name none.
    pub default: Option<ModelName>,
    /// Base URL of an OpenAI-compatible server, without a slash at its end;
    /// `None` for OpenAI's own.
    pub openai_base_url: Option<String>,
    /// Base URL of Anthropic's API, without a slash at its end; `None` for
    /// Anthropic's own.
    pub anthropic_base_url: Option<String>,
    /// Key for OpenAI-compatible servers.
    pub openai_api_key: Option<Secret>,
    /// Key for Anthropic's API.
    pub anthropic_api_key: Option<Secret>,
    /// How long a reply may stand still.
    pub idle_timeout: Duration,
    /// Output cap of each call, in tokens.
    pub max_output_tokens: u32,
    /// How often a failed call is tried again.
    pub retries: u32,
    /// How much models can be told; the first rule that is for a model counts.
    pub windows: Vec<WindowRule>,
    /// The share of its window, in per cent, from which on a conversation is
    /// compacted.
    pub compact_percent: u8,
    /// How models write edits.
    pub edit_formats: EditFormats,
    /// Where each session's replies are written; `None` for nowhere.
    pub record_dir: Option<PathBuf>,
}

/// What sessions may use when nobody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// Steps.
    pub max_steps: u32,
    /// Time.
    pub max_time: Duration,
    /// Tokens of a repository's own rules that a model is told at most.
    pub rules_tokens: u32,
    /// Bytes of what is brought from a workspace to be published.
    pub bundle_max_bytes: u64,
    /// How long a run of tests, lint or types may take.
    pub check_timeout: Duration,
    /// A person's own entries of the catalogue of failures.
    pub patterns_file: Option<PathBuf>,
    /// A person's own policy.
    pub policy_file: Option<PathBuf>,
}

/// Stored credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsSettings {
    /// Where the master key is.
    pub key: KeySource,
    /// Whether credentials are deleted whose master key is lost.
    pub forget_lost: bool,
}

/// Where the master key of stored credentials is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file, which is made when it is not there.
    File(PathBuf),
    /// In the configuration or the environment.
    Given(Secret),
    /// In what a program prints; its name and its arguments.
    Command(Vec<String>),
}

/// What sessions may spend when nobody says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Of one session.
    pub of_a_session: Budget,
    /// Of all sessions of a day.
    pub of_a_day: budget::Limits,
    /// What models cost.
    pub prices: Vec<PriceRule>,
}

/// Snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotsSettings {
    /// Whether volumes may lie over copies of trees.
    pub overlays: bool,
    /// What copies of trees may take on disk that nothing lies over.
    pub copies_max_bytes: u64,
    /// Layers that snapshots may put on an image before they are made one.
    pub layers_max: u32,
}

/// Repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Whether the daemon fetches from `file://` URLs, which are its own
    /// host's files.
    pub allow_file_urls: bool,
}

/// The disk with the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// Free bytes below which work is paused.
    pub low_water_bytes: u64,
}

/// What nothing needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcSettings {
    /// How often it is collected.
    pub every: Duration,
    /// How old something in the engine is at least before it goes then.
    pub grace: Duration,
}

/// A key's value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The key: "workspace.memory".
    pub key: &'static str,
    /// Its values as given; more than one only for lists.
    pub values: Vec<String>,
    /// Where they came from.
    pub source: Source,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(String),
    /// A command-line flag, by name.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} mistake{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
pub struct ConfigError(pub Vec<Mistake>);

fn list(mistakes: &[Mistake]) -> String {
    mistakes
        .iter()
        .map(|mistake| format!("\n  - {mistake}"))
        .collect()
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// A value that its key cannot have.
    #[error("{source_of_it}: {key} = \"{value}\": {problem}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value, hidden for secrets.
        value: String,
        /// Where it came from.
        source_of_it: Source,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A key, table or variable that does not exist.
    #[error("{source_of_it}: there is no {name}{}", nearest.map(|it| format!(", did you mean {it}?")).unwrap_or_default())]
    Unknown {
        /// What was given.
        name: String,
        /// Where.
        source_of_it: Source,
        /// The closest one that exists.
        nearest: Option<&'static str>,
    },
    /// A file that cannot be read or is no TOML.
    #[error("file {}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
