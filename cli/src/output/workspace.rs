//! Workspaces as compyctl prints them.

use std::time::Duration;

use compyd_proto::v1::idle_stop::When;
use compyd_proto::v1::{
    EgressPolicy, IdleStop, NetworkMode, Repository, RepositorySetup, SetupState, Workspace,
    WorkspaceState,
};
use serde::Serialize;

use super::{bytes, table::Table, time};

/// A workspace in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct WorkspaceView {
    /// `ws-` and 32 hex digits.
    pub(crate) id: String,
    /// Unique name.
    pub(crate) name: String,
    /// `starting`, `running`, `stopped`, `paused`, `deleting`, `missing`.
    pub(crate) state: String,
    /// More about the state; may be empty.
    pub(crate) state_reason: String,
    /// Image it was made from.
    pub(crate) image: String,
    /// `none` or `bridge`.
    pub(crate) network: String,
    /// What it may reach: `none`, `allow` or `open`.
    pub(crate) egress: String,
    /// The hosts of `allow`.
    pub(crate) allow: Vec<String>,
    /// Thousandths of a CPU; 0 is the daemon's default.
    pub(crate) cpu_millis: u32,
    /// Bytes; 0 is the daemon's default.
    pub(crate) memory_bytes: u64,
    /// Processes and threads; 0 is the daemon's default.
    pub(crate) pids: u32,
    /// Bytes that its files may use; 0 is no limit.
    pub(crate) disk_limit_bytes: u64,
    /// When it is stopped as idle: `30m`, `never`, or `default`.
    pub(crate) idle_stop: String,
    /// Account of its commands; empty means the image's.
    pub(crate) user: String,
    /// What is below /workspace.
    pub(crate) repositories: Vec<RepositoryView>,
    /// Id with the engine; may be empty.
    pub(crate) container_id: String,
    /// When it was created.
    pub(crate) created_at: Option<String>,
}

/// A repository in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct RepositoryView {
    /// Directory below /workspace.
    pub(crate) name: String,
    /// URL or the client's path.
    pub(crate) source: String,
    /// Branch checked out at first.
    pub(crate) branch: String,
    /// Commit checked out at first.
    pub(crate) commit: String,
    /// What came of its compy.toml; left out when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) setup: Option<SetupView>,
}

/// A repository's setup in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct SetupView {
    /// `unknown`, `restoring`, `initializing`, `ran`, `restored`, `failed`.
    pub(crate) state: String,
    /// What failed, and its last words; may be empty.
    pub(crate) problem: String,
    /// The snapshot that keeps the result, or that it came from; may be empty.
    pub(crate) snapshot_id: String,
    /// Why the last maintenance failed; may be empty.
    pub(crate) maintenance_problem: String,
}

impl From<RepositorySetup> for SetupView {
    fn from(setup: RepositorySetup) -> Self {
        SetupView {
            state: match setup.state() {
                SetupState::Unspecified => "unknown",
                SetupState::Restoring => "restoring",
                SetupState::Initializing => "initializing",
                SetupState::Ran => "ran",
                SetupState::Restored => "restored",
                SetupState::Failed => "failed",
            }
            .to_owned(),
            problem: setup.problem,
            snapshot_id: setup.snapshot_id,
            maintenance_problem: setup.maintenance_problem,
        }
    }
}

impl SetupView {
    /// For a person, in one piece.
    fn sentence(&self) -> String {
        let from = &self.snapshot_id;
        let mut sentence = match self.state.as_str() {
            "ran" if from.is_empty() => "done".to_owned(),
            "ran" => format!("done, kept as {from}"),
            "restored" => format!("was there, from {from}"),
            "failed" => format!("failed: {}", self.problem),
            state => state.to_owned(),
        };
        if !self.maintenance_problem.is_empty() {
            sentence.push_str(&format!(
                "; maintenance failed: {}",
                self.maintenance_problem
            ));
        }
        sentence
    }
}

impl From<Repository> for RepositoryView {
    fn from(repository: Repository) -> Self {
        RepositoryView {
            name: repository.name,
            source: repository.source,
            branch: repository.branch,
            commit: repository.commit,
            setup: repository.setup.map(Into::into),
        }
    }
}

impl From<Workspace> for WorkspaceView {
    fn from(workspace: Workspace) -> Self {
        let limits = workspace.limits.unwrap_or_default();
        let egress = workspace.egress.clone().unwrap_or_default();
        WorkspaceView {
            egress: match egress.policy() {
                EgressPolicy::Unspecified | EgressPolicy::None => "none",
                EgressPolicy::AllowList => "allow",
                EgressPolicy::Open => "open",
            }
            .to_owned(),
            allow: egress.allow,
            state: state_name(workspace.state()).to_owned(),
            network: match workspace.network() {
                NetworkMode::Unspecified | NetworkMode::None => "none",
                NetworkMode::Bridge => "bridge",
            }
            .to_owned(),
            created_at: time(workspace.created_at.as_ref()),
            id: workspace.id,
            name: workspace.name,
            state_reason: workspace.state_reason,
            image: workspace.image,
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            disk_limit_bytes: limits.disk_bytes,
            idle_stop: idle_stop(workspace.idle_stop),
            user: workspace.user,
            repositories: workspace.repositories.into_iter().map(Into::into).collect(),
            container_id: workspace.container_id,
        }
    }
}

/// When a workspace is stopped as idle.
fn idle_stop(idle_stop: Option<IdleStop>) -> String {
    match idle_stop.and_then(|idle_stop| idle_stop.when) {
        None => "default".to_owned(),
        Some(When::Never(_)) => "never".to_owned(),
        Some(When::AfterMs(ms)) => {
            humantime::format_duration(Duration::from_millis(ms)).to_string()
        }
    }
}

/// The stable name of a state.
pub(crate) fn state_name(state: WorkspaceState) -> &'static str {
    match state {
        WorkspaceState::Unspecified => "unknown",
        WorkspaceState::Starting => "starting",
        WorkspaceState::Running => "running",
        WorkspaceState::Stopped => "stopped",
        WorkspaceState::Paused => "paused",
        WorkspaceState::Deleting => "deleting",
        WorkspaceState::Missing => "missing",
    }
}

/// Workspaces, one line each.
pub(crate) fn list_table(workspaces: &[WorkspaceView]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        "NETWORK",
        "REPOSITORIES",
        "IMAGE",
        "CREATED",
    ]);
    for workspace in workspaces {
        let repositories: Vec<_> = workspace
            .repositories
            .iter()
            .map(|r| r.name.as_str())
            .collect();
        table.row([
            &workspace.name,
            &workspace.state,
            &workspace.network,
            &repositories.join(","),
            &workspace.image,
            workspace.created_at.as_deref().unwrap_or_default(),
        ]);
    }
    table
}

/// One workspace, one fact a line.
pub(crate) fn detail_table(workspace: &WorkspaceView) -> Table {
    let or_default = |set: bool, text: String| if set { text } else { "daemon's default".into() };
    let mut table = Table::plain();
    table.row(["name", &workspace.name]);
    table.row(["id", &workspace.id]);
    table.row([
        "state",
        &match workspace.state_reason.as_str() {
            "" => workspace.state.clone(),
            reason => format!("{} ({reason})", workspace.state),
        },
    ]);
    table.row(["image", &workspace.image]);
    table.row(["network", &workspace.network]);
    table.row([
        "egress",
        &match workspace.allow.as_slice() {
            [] => workspace.egress.clone(),
            hosts => format!("{}: {}", workspace.egress, hosts.join(" ")),
        },
    ]);
    table.row([
        "cpus",
        &or_default(
            workspace.cpu_millis > 0,
            format!("{}", f64::from(workspace.cpu_millis) / 1000.0),
        ),
    ]);
    table.row([
        "memory",
        &or_default(workspace.memory_bytes > 0, bytes(workspace.memory_bytes)),
    ]);
    table.row([
        "pids",
        &or_default(workspace.pids > 0, workspace.pids.to_string()),
    ]);
    table.row([
        "disk",
        &match workspace.disk_limit_bytes {
            0 => "no limit".to_owned(),
            limit => bytes(limit),
        },
    ]);
    table.row(["idle stop", &workspace.idle_stop]);
    table.row([
        "user",
        match workspace.user.as_str() {
            "" => "the image's",
            user => user,
        },
    ]);
    table.row(["container", &workspace.container_id]);
    table.row([
        "created",
        workspace.created_at.as_deref().unwrap_or_default(),
    ]);
    for repository in &workspace.repositories {
        table.row([
            "repository",
            &format!(
                "{} at {} ({}) from {}",
                repository.name,
                repository.commit.get(..12).unwrap_or(&repository.commit),
                repository.branch,
                repository.source
            ),
        ]);
        if let Some(setup) = &repository.setup {
            table.row(["setup", &setup.sentence()]);
        }
    }
    table
}
