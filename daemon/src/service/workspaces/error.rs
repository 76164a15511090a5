//! Why a request about workspaces was not done.

use super::GitSourceError;
use crate::{
    domain::{
        ids::{RepositoryName, WorkspaceName},
        workspace::LimitError,
    },
    ports::{agent::AgentError, links::LinkError, runtime::RuntimeError, store::StoreError},
};

/// Why a request about workspaces was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WorkspacesError {
    /// Neither a name nor an id of a workspace.
    #[error("there is no workspace `{0}`")]
    Unknown(String),
    /// Another workspace has the name.
    #[error("a workspace named {0} exists")]
    NameTaken(WorkspaceName),
    /// A limit out of its range.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// Sessions run in it.
    #[error("{sessions} session(s) run in workspace {name}")]
    Busy {
        /// The workspace.
        name: WorkspaceName,
        /// How many.
        sessions: usize,
    },
    /// It is being deleted.
    #[error("workspace {0} is being deleted")]
    Deleting(WorkspaceName),
    /// It is stopped, and what was asked does not start it.
    #[error("workspace {0} was stopped")]
    Stopped(WorkspaceName),
    /// A person paused it, and use does not undo that.
    #[error("workspace {0} is paused")]
    Paused(WorkspaceName),
    /// Its files are above its disk limit.
    #[error(
        "workspace {name} is over its disk limit: its files use {used_bytes} of {limit_bytes} bytes"
    )]
    DiskLimit {
        /// The workspace.
        name: WorkspaceName,
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The engine.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The image keeps files where no snapshot would have them.
    #[error(
        "image `{image}` declares volumes of its own at {}: no snapshot would hold what is written there, and a restore would lose it",
        paths.join(", ")
    )]
    ImageVolumes {
        /// The image.
        image: String,
        /// Where.
        paths: Vec<String>,
    },
    /// Its container ended before the agent answered.
    #[error("the container of workspace {name} ended before its agent answered")]
    ContainerEnded {
        /// The workspace.
        name: WorkspaceName,
        /// The container.
        container: String,
    },
    /// Its agent does not answer.
    #[error("workspace {name} runs but {source}")]
    AgentSilent {
        /// The workspace.
        name: WorkspaceName,
        /// The container.
        container: String,
        /// Why.
        source: LinkError,
    },
    /// The link cannot be made ready.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Rules for a workspace that nothing would hold to them.
    #[error(
        "a workspace on the bridge reaches everything by itself; rules hold with network none only"
    )]
    EgressOnBridge,
    /// Its agent carries no connections.
    #[error(
        "the agent of workspace {0} carries no connections; stop and start the workspace to give it this daemon's agent"
    )]
    NoTunnel(WorkspaceName),
    /// A repository of this name is there.
    #[error("/workspace/{0} exists in the workspace")]
    RepositoryExists(RepositoryName),
    /// The repository cannot be fetched.
    #[error(transparent)]
    Source(#[from] GitSourceError),
    /// The repository could not be unpacked inside.
    #[error("git failed inside the workspace: {0}")]
    Checkout(String),
    /// There is no such repository, or there are several and none was named.
    #[error("the workspace has no repository `{0}`, or more than the one that was meant")]
    RepositoryUnknown(String),
    /// The repository is there, and what its setup file wants done is not.
    #[error("{repository} is in the workspace, but its setup failed: {problem}")]
    SetupFailed {
        /// The repository.
        repository: RepositoryName,
        /// The command, how it ended, and its last words; or what is wrong with
        /// the setup file.
        problem: String,
    },
    /// What it lost cannot be brought back now.
    #[error("what the workspace lost cannot be brought back: {0}")]
    Salvage(String),
    /// A task of the daemon's ended without an outcome.
    #[error("the daemon dropped the work: {0}")]
    Dropped(String),
}

impl WorkspacesError {
    /// Neither a name nor an id; what was given is cut to a sound length.
    pub(super) fn unknown(given: &str) -> Self {
        const SHOWN: usize = 80;
        let mut shown: String = given.chars().take(SHOWN).collect();
        if shown.len() < given.len() {
            shown.push('…');
        }
        Self::Unknown(shown)
    }
}
