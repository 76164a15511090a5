//! What a workspace is, what it should be doing, and what it is seen doing.

use serde::{Deserialize, Serialize};

use super::{
    egress::Policy,
    idle::IdleStop,
    ids::{RepositoryName, SnapshotId, WorkspaceId, WorkspaceName},
    setup::WorkspaceSetup,
    snapshot::journal::{Generation, ImageRef},
    upkeep::Upkeep,
    workspace_event::StopCause,
};

/// A workspace as the store keeps it: the desired state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its definition.
    pub definition: WorkspaceDefinition,
    /// What it should be doing.
    pub desired: Desired,
    /// Repositories in it, by name.
    pub repositories: Vec<Repository>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// What it may reach. Not of its definition: labels must not widen it, so
    /// one that is adopted by them comes back closed.
    #[serde(default)]
    pub egress: Policy,
    /// Its container and volumes among those that restores have made.
    #[serde(default)]
    pub generation: Generation,
    /// Image of a snapshot that its container is made from; `None` means the
    /// definition's.
    #[serde(default)]
    pub base: Option<ImageRef>,
    /// The snapshot that it was last at, by a snapshot, a restore or a fork.
    #[serde(default)]
    pub snapshot: Option<SnapshotId>,
    /// When it is stopped because nobody uses it.
    #[serde(default)]
    pub idle_stop: IdleStop,
    /// Why it was stopped last, where it should be stopped.
    #[serde(default)]
    pub stop_cause: Option<StopCause>,
    /// How far the setups of its repositories are.
    #[serde(default)]
    pub setup: WorkspaceSetup,
    /// The daemon's own notes.
    #[serde(default)]
    pub upkeep: Upkeep,
}

impl Workspace {
    /// The image that its container is made from.
    #[must_use]
    pub fn image(&self) -> &str {
        match &self.base {
            Some(base) => &base.0,
            None => &self.definition.image,
        }
    }
}

/// What a workspace is made from; part of its container's labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceDefinition {
    /// Its name.
    pub name: WorkspaceName,
    /// Reference of the image, as given or as configured.
    pub image: String,
    /// Limits, defaults filled in.
    pub limits: Limits,
    /// Its network.
    pub network: NetworkMode,
    /// Account that commands run as; `None` means the image's.
    pub user: Option<String>,
    /// Why it exists.
    pub purpose: Purpose,
}

/// Why a workspace exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A person asked for it; it lives until deleted.
    Project,
    /// The daemon made it for one run of checks and deletes it afterwards.
    Checks,
}

/// What a workspace should be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Its agent should answer.
    Running,
    /// No process should run.
    Stopped,
    /// Every process should be frozen, until a person lets them go on.
    Paused,
    /// Nothing should be left of it.
    Deleted,
}

/// What a workspace is seen doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// The container or its agent is on the way up.
    Starting,
    /// The agent answers.
    Running,
    /// No process runs.
    Stopped,
    /// All processes are frozen.
    Paused,
    /// It is being deleted.
    Deleting,
    /// The engine has no container for it.
    Missing,
}

impl Observed {
    /// Whether its agent answers: a frozen one does not.
    #[must_use]
    pub fn answers(self) -> bool {
        match self {
            Self::Running => true,
            Self::Starting | Self::Stopped | Self::Paused | Self::Deleting | Self::Missing => false,
        }
    }
}

/// What a workspace may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a CPU, 10 to 1,024,000.
    pub cpu_millis: u32,
    /// Bytes, at least 32 MiB; no swap beyond it.
    pub memory_bytes: u64,
    /// Processes and threads, 16 to 1,000,000.
    pub pids: u32,
    /// Bytes of its volumes and of its root file system beyond the image, at
    /// least 1 MiB; 0 is no limit. The engine does not hold it, the daemon does.
    #[serde(default)]
    pub disk_bytes: u64,
}

/// A limit out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the limit {limit} is {given}, out of its range {range}")]
pub struct LimitError {
    /// Which limit.
    pub limit: &'static str,
    /// The value given.
    pub given: u64,
    /// The range, in words.
    pub range: &'static str,
}

impl Limits {
    /// Checks every range.
    ///
    /// # Errors
    /// The first limit that is out of its range.
    pub fn validate(&self) -> Result<(), LimitError> {
        let checks = [
            (
                "cpu (thousandths of a CPU)",
                u64::from(self.cpu_millis),
                10,
                1_024_000,
                "10 to 1024000",
            ),
            (
                "memory (bytes)",
                self.memory_bytes,
                32 << 20,
                1 << 50,
                "32 MiB to 1 PiB",
            ),
            ("pids", u64::from(self.pids), 16, 1_000_000, "16 to 1000000"),
            (
                "disk (bytes)",
                // None at all is in range.
                if self.disk_bytes == 0 {
                    1 << 20
                } else {
                    self.disk_bytes
                },
                1 << 20,
                1 << 50,
                "1 MiB to 1 PiB",
            ),
        ];
        for (limit, given, least, most, range) in checks {
            if !(least..=most).contains(&given) {
                return Err(LimitError {
                    limit,
                    given,
                    range,
                });
            }
        }
        Ok(())
    }
}

/// How a workspace reaches the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// No network device but loopback.
    None,
    /// The engine's default bridge.
    Bridge,
}

/// A repository in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Directory below `/workspace`.
    pub name: RepositoryName,
    /// Where it came from, without credentials: a URL or a client's path. As far
    /// as credentials go, [`vouched_source`](Self::vouched_source) counts.
    pub source: String,
    /// Commit that was checked out, in hex.
    pub commit: String,
    /// Branch that was checked out.
    pub branch: String,
    /// Who says that it came from there.
    #[serde(default)]
    pub provenance: Provenance,
}

/// Who says that a repository came from its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// An older daemon did not write it down. It counts as nobody's word.
    #[default]
    Unrecorded,
    /// Whoever brought it, the files of its workspace, or an archive.
    Claimed,
    /// The daemon fetched it from there.
    Fetched,
    /// Somebody who may set the credentials of every project brought it.
    Declared,
}

impl Repository {
    /// Where it came from, if the daemon vouches for that: what it may have of a
    /// project, and what it shares with other workspaces, hangs on this alone.
    #[must_use]
    pub fn vouched_source(&self) -> Option<&str> {
        match self.provenance {
            Provenance::Fetched | Provenance::Declared => Some(&self.source),
            Provenance::Unrecorded | Provenance::Claimed => None,
        }
    }

    /// The same from elsewhere, where what is said of its source is nobody's word.
    #[must_use]
    pub fn claimed(self) -> Self {
        Self {
            provenance: Provenance::Claimed,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_out_of_range_name_the_limit() {
        let sound = Limits {
            cpu_millis: 2_000,
            memory_bytes: 4 << 30,
            pids: 4096,
            disk_bytes: 0,
        };
        assert_eq!(sound.validate(), Ok(()));
        let broken = Limits {
            disk_bytes: 5,
            ..sound
        };
        assert!(broken.validate().unwrap_err().to_string().contains("disk"));
        let broken = Limits { pids: 3, ..sound };
        assert!(broken.validate().unwrap_err().to_string().contains("pids"));
        let broken = Limits {
            memory_bytes: 5,
            ..sound
        };
        assert!(
            broken
                .validate()
                .unwrap_err()
                .to_string()
                .contains("memory")
        );
    }
}
